"""The benchmark: what it times beside what, what it concludes, and what it leaves behind."""

import json
import subprocess
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from experiments import (
    benchmark,
    benchmark_numbers,
    benchmark_race,
    benchmark_report,
    cli,
)
from experiments.benchmark import Settings
from experiments.benchmark_start import FirstResult
from experiments.contenders import NotMeasuredError

SMALL = ("--dataset", "mnist_sample", "--train-size", "640")


# What is timed beside what, with processes that only say how long they took


class Pretended:
    """Stands in for `Worker`: a contender whose seconds are known.

    A turn takes `SECONDS`, times one in the first, two in the second and so on: a machine that
    grows slower, on which ratios within a round stay what they are. Of a process's two turns the
    first warms up.
    """

    SECONDS = {  # noqa: RUF012
        "jax_lenet": 0.5,
        "torch": 1.0,
        "torch_dataloader": 1.5,
        "flax": 8.0,
        "torch_compile": 0.8,
        "torch_cuda_graph": 0.4,
    }
    platform = "cpu"
    dies: tuple[str, ...] = ()
    log: list = []  # noqa: RUF012
    caches: list = []  # noqa: RUF012
    rounds: Counter = Counter()  # noqa: RUF012

    def __init__(self, cores, devices=None, cache=None):
        self.caches.append(cache)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        pass

    def build(self, job):
        self.job, self.warm = job, False
        self.seconds = self.SECONDS[job.contender]
        return {"prepare_seconds": 0.7, "compile_seconds": 2.0, "devices": 1, "cores": [0]}

    def ask(self, do, key="", epochs=1):
        if do == "machine":
            device = {"platform": self.platform, "kind": "A"}
            return {"jax_device": device, "matmul_rate": 1e10, "cores": [0], "environment": {}}
        if do == "flops":
            return {"flops": 1e9 if self.job.contender == "jax_lenet" else None}
        if do == "time_shares":
            return {"reason": "no profiler"}
        name = self.job.contender
        self.log.append((name, self.job.train_size, epochs))
        if self.warm:
            self.rounds[name] += 1
            if name in self.dies and self.rounds[name] == 2:
                raise NotMeasuredError("its process was ended by SIGKILL")
        seconds = self.seconds * self.rounds[name] if self.warm else self.seconds
        self.warm = True
        return {
            "train_seconds": [seconds] * epochs,
            "test_seconds": [seconds / 10] * epochs,
            "train_loss": 1.5,
            "test_accuracy": 0.9,
            # The first process, which compiles, takes the most.
            "peak_rss_bytes": 700_000_000 if self.rounds[name] else 900_000_000,
            "peak_device_bytes": None if self.platform == "cpu" else 5,
        }


def first_of(job, sample, cores, starts):
    """Stands in for `first_result`."""
    return FirstResult(4.0, None if job.contender.startswith("torch") else 2.0)


def peak_of(arguments, cores):
    """Stands in for `peak_of_study`."""
    if arguments != ["--dataset", "mnist_sample"]:
        raise NotMeasuredError(f"asked for {arguments}")
    return 1_400_000_000


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Return a function that runs the program with `Pretended`, and gives its benchmark.json."""
    monkeypatch.setattr(benchmark, "Worker", Pretended)
    monkeypatch.setattr(benchmark_race, "Worker", Pretended)
    monkeypatch.setattr(benchmark, "first_result", first_of)
    monkeypatch.setattr(Pretended, "log", [])
    monkeypatch.setattr(Pretended, "caches", [])
    monkeypatch.setattr(Pretended, "rounds", Counter())
    monkeypatch.setattr(benchmark, "first_result_of_study", lambda *_: FirstResult(9.0, 3.0))
    monkeypatch.setattr(benchmark, "peak_of_study", peak_of)

    def run(**settings):
        settings = {
            "dataset": "mnist_sample",
            "variants": ("LeNet",),
            "seeds_at_once": (1,),
            **settings,
        }
        benchmark.main(Settings(out=tmp_path / "out", overwrite=True, **settings))
        return json.loads((tmp_path / "out" / "benchmark.json").read_text())

    return run


def test_contenders_take_turns(pretend):
    pretend(repeats=3)
    names = [name for name, *_ in Pretended.log]
    order = ["jax_lenet", "torch", "torch_dataloader", "flax"]
    turns = [name for name in order for _ in range(2)]  # each process's first warms up
    assert names == order + turns * 3 + ["jax_lenet"]  # the last is the profile's
    epochs = [epochs for *_, epochs in Pretended.log[4:12]]
    # Of at most three, as many as fit into four seconds.
    assert epochs == [1, 3, 1, 3, 1, 2, 1, 1]


def test_every_turn_has_a_process_of_its_own_and_only_the_first_compiles(pretend):
    pretend(repeats=3)
    raced = Pretended.caches[1:-1]  # the first looks at the machine, the last profiles
    assert len(raced) == 4 * (1 + 3)
    assert len(set(raced)) == 1  # one folder for all, which nothing else has
    assert None not in raced
    assert Pretended.caches[0] is Pretended.caches[-1] is None


def test_seconds_are_medians_and_ratios_are_within_rounds(pretend):
    rows = pretend(repeats=7)["rows"]
    ours, torch, _, flax = rows
    assert ours["train_turns"] == pytest.approx([0.5 * n for n in range(1, 8)])
    assert (ours["train_seconds"], torch["train_seconds"]) == pytest.approx((2.0, 4.0))
    assert ours["test_seconds"] == pytest.approx(0.2)
    for part in ("train", "test"):
        # The machine slowed down sevenfold, but in every round the ratios were two and 16.
        for found, expected in (("ratio_to_torch", 2), ("ratio_to_flax", 16)):
            ratio = ours[found][part]
            numbers = [ratio[name] for name in ("estimate", "low", "high")]
            assert numbers == pytest.approx([expected] * 3)
            assert ratio["n"] == 7
            assert ratio["fastest"] == pytest.approx(expected)
        assert flax["ratio_to_torch"][part]["estimate"] == pytest.approx(1 / 8)
        assert torch["ratio_to_flax"][part]["estimate"] == pytest.approx(8)
    assert torch["ratio_to_torch"] is flax["ratio_to_flax"] is None
    assert ours["prepare_seconds"] == 0.7
    assert ours["first_result_seconds"] == {"cold": 4.0, "warm": 2.0, "reason": None}
    assert ours["flop_rate"] == pytest.approx(0.5e9)
    assert ours["flop_rate_share"] == pytest.approx(0.05)
    assert (ours["peak_rss_bytes"], ours["peak_device_bytes"]) == (900_000_000, None)


@pytest.mark.parametrize("variants", [("LeNet",), ("LeNet", "LeNet_BN_Dropout")])
def test_with_several_models_the_study_of_all_is_started_too(variants, pretend):
    study = pretend(repeats=1, variants=variants)["study"]
    assert study == (
        None
        if len(variants) == 1
        else {
            "first_result_seconds": {"cold": 9.0, "warm": 3.0, "reason": None},
            "peak_rss_bytes": 1_400_000_000,
            "reason": None,
        }
    )


def test_without_its_memory_the_study_says_why(pretend):
    study = pretend(repeats=1, variants=("LeNet", "LeNet_BN_Dropout"), train_size=640)["study"]
    reason = "asked for ['--dataset', 'mnist_sample', '--train-size', '640']"
    assert (study["peak_rss_bytes"], study["reason"]) == (None, reason)


@pytest.mark.parametrize(("n", "place"), [(6, 1), (8, 1), (9, 2), (12, 3)])
def test_the_interval_is_between_the_ranks_of_the_binomial_table(n, place):
    """Conover's table for the median: of nine numbers the second and the eighth, and so on."""
    rng = np.random.default_rng(n)
    own, rival = rng.uniform(1, 2, n), rng.uniform(2, 6, n)
    found = benchmark_numbers.ratio(own.tolist(), rival.tolist(), "torch")
    quotients = sorted(rival / own)
    assert stats.binom.cdf(place - 1, n, 0.5) <= 0.025 < stats.binom.cdf(place, n, 0.5)
    assert (found.low, found.high) == pytest.approx((quotients[place - 1], quotients[-place]))
    assert found.estimate == pytest.approx(np.median(quotients))
    assert found.fastest == pytest.approx(rival.min() / own.min())
    assert (found.n, found.rival) == (n, "torch")


def test_a_rival_of_two_speeds_is_in_the_interval_with_both_and_few_rounds_have_none():
    fast, slow = [2.7] * 5, [5.8] * 4
    found = benchmark_numbers.ratio([1.2] * 9, [*fast, *slow], "torch")
    numbers = found.estimate, found.low, found.high, found.fastest
    assert numbers == pytest.approx((2.25, 2.25, 5.8 / 1.2, 2.25))
    few = benchmark_numbers.ratio([1.0] * 5, [2.0] * 5, "torch")
    assert (few.estimate, few.low, few.high) == (2.0, None, None)


def test_on_a_gpu_more_is_compared(pretend, monkeypatch):
    monkeypatch.setattr(Pretended, "platform", "gpu")
    content = pretend(repeats=2)
    assert {row["train_images"] for row in content["rows"]} == {4000}
    assert {len(row["train_turns"]) for row in content["rows"]} == {2}
    assert {row["peak_device_bytes"] for row in content["rows"]} == {5}
    single = [row["contender"] for row in content["rows"]]
    assert single[-2:] == ["torch_compile", "torch_cuda_graph"]


@pytest.fixture
def scaled(monkeypatch):
    """What `race_to_scale` is asked for; it measures nothing."""
    asked = []

    def note(job, ways, counts, *, images, rounds, say):
        names = [way.name for way in ways]
        asked.append((job.task.variant, names, counts, images, rounds))
        return []

    monkeypatch.setattr(benchmark, "race_to_scale", note)
    monkeypatch.setattr(benchmark, "cores_of", lambda threads: (0, 1))
    return asked


CPU_WAYS = [
    *("jax_lenet, 1 device", "jax_lenet, 2 devices", "jax_lenet, 2 processes"),
    *("torch", "torch, 2 processes", "torch_vmap"),
]


def test_many_runs_are_trained_of_some_variants_only_and_on_some_of_the_images(
    pretend, scaled, monkeypatch
):
    monkeypatch.setattr(benchmark, "SCALE_IMAGES", 1280)
    variants = ("LeNet", "LeNet_BN_noDropout", "LeNet_BN_Dropout")
    pretend(repeats=5, variants=variants, seeds_at_once=None)
    counts = [1, 2, 4, 8, 16]
    assert scaled == [
        ("LeNet", CPU_WAYS, counts, 1280, 5),
        ("LeNet_BN_Dropout", CPU_WAYS, counts, 1280, 5),
    ]


def test_on_a_gpu_more_runs_are_trained_on_all_images(pretend, scaled, monkeypatch):
    monkeypatch.setattr(Pretended, "platform", "gpu")
    pretend(repeats=2, seeds_at_once=None)
    ways = ["jax_lenet, 1 device", "torch", "torch_cuda_graph", "torch_vmap"]
    assert scaled == [("LeNet", ways, [1, 8, 64, 256], 4000, 2)]


def test_one_run_at_once_leaves_the_comparison_of_many_out(pretend, scaled):
    pretend(repeats=1)
    assert scaled == []


def test_what_was_not_measured_is_not_scaled(pretend, scaled, monkeypatch):
    monkeypatch.setattr(Pretended, "dies", ("torch",))
    pretend(repeats=3, seeds_at_once=(2,))
    assert scaled == [("LeNet", CPU_WAYS[:3], [1, 2], 3200, 3)]


def test_a_contender_that_drops_out_leaves_a_reason_and_the_others_go_on(
    pretend, monkeypatch, capsys
):
    monkeypatch.setattr(Pretended, "dies", ("torch",))
    ours, torch, *_ = pretend(repeats=3)["rows"]
    assert torch["reason"] == "its process was ended by SIGKILL"
    assert {torch[name] for name in list(torch)[5:]} == {None}
    assert len(ours["train_turns"]) == 3
    assert ours["ratio_to_torch"] is None
    screen = capsys.readouterr().out
    assert "torch is not measured: its process was ended by SIGKILL" in screen
    assert "not measured: no profiler" in screen


# Where the numbers come from


def test_the_commit_is_that_of_the_checkout_and_says_if_files_differ(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    file = tmp_path / "experiments" / "benchmark_report.py"
    file.parent.mkdir()
    monkeypatch.setattr(benchmark_report, "__file__", str(file))
    assert benchmark_report.commit() is None
    git("init")
    file.write_text("one")
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "v1", "-m", "")  # a name would not tell which commit it was
    assert benchmark_report.commit() == git("rev-parse", "HEAD")
    file.write_text("two")
    assert benchmark_report.commit() == git("rev-parse", "HEAD") + "-dirty"


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeats", "0"), "--repeats: expected at least 1, not 0"),
        (("--starts", "0"), "--starts: expected at least 1, not 0"),
        (("--seeds-at-once", "4", "0"), "--seeds-at-once: expected at least 1, not 0"),
        (("--threads", "100000"), "--threads: expected at most"),
        (("--contenders", "tensorflow"), "--contenders: expected jax_lenet, flax, torch,"),
        (("--contenders", "flax", "flax"), "--contenders: expected each name once"),
        (("--variants", "LeNet5"), "did you mean LeNet?"),
        (("--batch-size", "100000", *SMALL), "--batch-size: "),
    ],
)
def test_a_bad_argument_is_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    code = cli.run(benchmark.main, Settings, "benchmark", [*arguments, "--out", str(out)])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_an_earlier_benchmark_is_not_replaced_unasked(tmp_path, capsys):
    (tmp_path / "benchmark.json").write_text("{}")
    code = cli.run(benchmark.main, Settings, "benchmark", [*SMALL, "--out", str(tmp_path)])
    assert code == 2
    assert "already holds benchmark.json; give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "benchmark.json").read_text() == "{}"


def test_an_earlier_benchmark_stays_until_there_is_a_new_one(pretend, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    pretend(repeats=1)
    out = tmp_path / "out"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["benchmark.json", "benchmark.png"]
    with monkeypatch.context() as patch:
        patch.setattr(benchmark.Benchmark, "start_study", stop)
        with pytest.raises(KeyboardInterrupt):
            pretend(repeats=2, variants=("LeNet", "LeNet_BN_Dropout"))
    assert before.items() < {path.name: path.read_bytes() for path in out.iterdir()}.items()
    rest = json.loads((out / "benchmark.unfinished.json").read_text())
    assert (rest["finished"], len(rest["rows"])) == (False, 8)
    assert pretend(repeats=2)["finished"]
    assert sorted(path.name for path in out.iterdir()) == sorted(before)

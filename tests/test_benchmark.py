"""The benchmark: what it times beside what, what it concludes, and what it leaves behind."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from experiments import benchmark, benchmark_race, cli
from experiments.benchmark import Settings
from experiments.benchmark_report import Row
from experiments.benchmark_worker import Job, Worker, environment
from experiments.contenders import NotMeasuredError, Task

ROOT = Path(__file__).parents[1]
SMALL = ("--dataset", "mnist_sample", "--train-size", "640")


def job(contender, runs=1):
    return Job(contender, Task(), "mnist_sample", None, 640, runs)


# The whole program, in earnest but small


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """This library and PyTorch on part of the sample; one thread, as tests share the machine."""
    pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    out = tmp_path_factory.mktemp("benchmark") / "results"
    what = ("--variants", "LeNet", "--contenders", "jax_lenet", "torch", "--seeds-at-once", "1")
    how = ("--repeats", "1", "--epochs", "2", "--threads", "1", "--out", str(out))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *SMALL, *what, *how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "benchmark.json").read_text()), out, done.stdout


def test_a_benchmark_says_what_it_measured_on_what(finished):
    content, _, _ = finished
    assert content["finished"]
    assert content["threads"] == 1
    assert content["settings"]["train_size"] == content["data"]["sizes"]["train"] == 640
    assert content["device"] == {"platform": "cpu", "kind": "cpu", "count": 1}
    assert content["versions"]["torch"] != "not installed"
    assert 1e8 < content["matmul_rate"] < 1e14  # one slow core; no machine of today
    assert [row["contender"] for row in content["rows"]] == ["jax_lenet", "torch"]


def test_every_row_has_every_field(finished):
    for row in finished[0]["rows"]:
        assert list(row) == list(Row.__dataclass_fields__)
        assert (row["variant"], row["seeds_at_once"], row["train_images"]) == ("LeNet", 1, 640)
        assert row["reason"] is None


def test_measured_numbers_agree_with_each_other(finished):
    ours, torch = finished[0]["rows"]
    for row in (ours, torch):
        for part in ("train", "test"):
            assert len(row[f"{part}_turns"]) == 1
            assert row[f"{part}_seconds"] == row[f"{part}_turns"][0]
            assert 0 < row[f"{part}_seconds"] < 60
        assert 0 < row["first_result_seconds"]["cold"] < 280
        assert 100e6 < row["peak_rss_bytes"] < 8e9  # importing either takes more than the least
        assert row["first_loss"] == pytest.approx(math.log(10), abs=0.1)  # five steps: chance
        assert 0 <= row["first_accuracy"] <= 0.5
    for part, ratio in ours["ratio_to_torch"].items():
        expected = torch[f"{part}_seconds"] / ours[f"{part}_seconds"]
        assert ratio["median"] == pytest.approx(expected)
        assert ratio["rival"] == "torch"
        assert ratio["rival_seconds"] == torch[f"{part}_turns"]
        assert (ratio["low"], ratio["high"], ratio["n"]) == (None, None, 1)
    assert ours["compile_seconds"] > 0
    assert 0 < ours["first_result_seconds"]["warm"] < 280
    # 3.66 MFLOP an image: `test_profile` has them by hand.
    assert ours["flop_rate"] == pytest.approx(640 * 3.66e6 / ours["train_seconds"], rel=0.01)
    share = ours["flop_rate"] / finished[0]["matmul_rate"]
    assert ours["flop_rate_share"] == pytest.approx(share)
    assert torch["ratio_to_torch"] is torch["compile_seconds"] is torch["flop_rate"] is None


def test_a_profile_divides_the_epoch(finished):
    (profile,) = finished[0]["profiles"]
    assert (profile["variant"], profile["train_images"]) == ("LeNet", 640)
    parts = [profile[name] for name in ("product", "other", "idle")]
    assert sum(parts) == pytest.approx(1)
    assert all(part >= 0 for part in parts)
    assert profile["product"] > 0.2
    shares = [operation["share"] for operation in profile["operations"]]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= profile["other"] + 1e-9
    assert any(":" in operation["source"] for operation in profile["operations"])


def test_table_and_chart_are_there(finished):
    _, out, screen = finished
    assert sorted(path.name for path in out.iterdir()) == ["benchmark.json", "benchmark.png"]
    with Image.open(out / "benchmark.png") as chart:
        assert chart.width == 1800
        assert len(chart.convert("RGB").getcolors(1 << 20) or []) > 50
    for text in ("round 1/1", "jax_lenet", "PyTorch's", "GFLOP/s", "products", f"Results: {out}"):
        assert text in screen


# Processes


def test_a_process_that_dies_is_a_reason_and_not_a_hang():
    with Worker(threads=1) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(NotMeasuredError, match=r"^its process was ended by SIGKILL$"):
            worker.ask("machine")


def test_what_goes_wrong_in_a_process_comes_back_in_one_line():
    with Worker(threads=1) as worker:
        with pytest.raises(NotMeasuredError, match=r"^ValueError: flax: runs must be 1: it trains"):
            worker.build(job("flax", runs=2))
        with pytest.raises(NotMeasuredError, match=r"needs a CUDA device$"):
            worker.build(job("torch_cuda_graph"))


def test_without_pytorch_a_process_says_so(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text('raise ModuleNotFoundError("no torch", name="torch")')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Worker(threads=1) as worker,
        pytest.raises(NotMeasuredError, match=r"^PyTorch is not installed; pip install"),
    ):
        worker.build(job("torch"))


def test_all_contenders_have_the_same_number_of_threads():
    own = {"PATH": "/bin", "OMP_NUM_THREADS": "7", "JAX_COMPILATION_CACHE_DIR": "/old"}
    variables = environment(own, 3, None)
    assert variables["PATH"] == "/bin"
    assert variables["OMP_NUM_THREADS"] == variables["JAX_NUM_CPU_DEVICES"] == "3"
    assert "JAX_COMPILATION_CACHE_DIR" not in variables
    assert environment(own, 3, Path("/new"))["JAX_COMPILATION_CACHE_DIR"] == "/new"


# What is timed beside what, with processes that only say how long they took


class Pretended:
    """Stands in for `Worker`: a contender whose seconds are known.

    A turn takes `SECONDS` for each model, times one in the first, two in the second and so on: a
    machine that grows slower, on which ratios within a round stay what they are.
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

    def __init__(self, threads, cache=None):
        self.turns = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        pass

    def build(self, job):
        self.job = job
        # Under vmap PyTorch gains with the number of models, as a GPU would.
        vmap = 1.2 if job.runs < 64 else 0.3
        self.seconds = job.runs * self.SECONDS.get(job.contender, vmap)
        return {"compile_seconds": 2.0, "devices": 1}

    def ask(self, do, epochs=1):
        if do == "machine":
            return {"jax_device": {"platform": self.platform, "kind": "A"}, "matmul_rate": 1e10}
        if do == "flops":
            return {"flops": 1e9 * self.job.runs if self.job.contender == "jax_lenet" else None}
        if do == "time_shares":
            return {"reason": "no profiler"}
        if self.job.contender in self.dies and self.turns == 2:
            raise NotMeasuredError("its process was ended by SIGKILL")
        self.log.append((self.job.contender, self.job.runs, self.job.train_size, epochs))
        seconds = self.seconds * max(self.turns, 1)  # warming up is turn 0
        self.turns += 1
        return {
            "train_seconds": [seconds] * epochs,
            "test_seconds": [seconds / 10] * epochs,
            "train_loss": 1.5,
            "test_accuracy": 0.9,
            "peak_rss_bytes": 700_000_000,
        }


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Return a function that runs the program with `Pretended`, and gives its benchmark.json."""
    monkeypatch.setattr(benchmark, "Worker", Pretended)
    monkeypatch.setattr(benchmark_race, "Worker", Pretended)
    monkeypatch.setattr(Pretended, "log", [])

    def run(**settings):
        settings = {"dataset": "mnist_sample", "variants": ("LeNet",), **settings}
        benchmark.main(Settings(out=tmp_path / "out", overwrite=True, **settings))
        return json.loads((tmp_path / "out" / "benchmark.json").read_text())

    return run


def numbers(content, **wanted):
    """The rows that have the wanted values."""
    return [
        row for row in content["rows"] if all(row[key] == value for key, value in wanted.items())
    ]


def test_contenders_take_turns(pretend):
    pretend(repeats=3, seeds_at_once=(1,))
    names = [name for name, *_ in Pretended.log]
    order = ["jax_lenet", "torch", "torch_dataloader", "flax"]
    # Two processes each of JAX's for the first result, one of PyTorch's; then all once to warm up.
    firsts = ["jax_lenet"] * 2 + ["torch", "torch_dataloader"] + ["flax"] * 2
    assert names == firsts + order * 4 + ["jax_lenet"]  # the profile's
    epochs = [epochs for *_, epochs in Pretended.log[len(firsts) + 4 :]][:4]
    assert epochs == [3, 3, 2, 1]  # of at most three, as many as fit into four seconds


def test_seconds_are_medians_and_ratios_are_within_rounds(pretend):
    rows = pretend(repeats=3, seeds_at_once=(1,))["rows"]
    ours, torch, _, flax = rows
    assert ours["train_turns"] == pytest.approx([0.5, 1.0, 1.5])
    assert (ours["train_seconds"], torch["train_seconds"]) == pytest.approx((1.0, 2.0))
    assert ours["test_seconds"] == pytest.approx(0.1)
    for part in ("train", "test"):
        ratio = ours["ratio_to_torch"][part]
        # The machine slowed down threefold, but in every round the ratio was two.
        assert [ratio[name] for name in ("median", "low", "high")] == pytest.approx([2, 2, 2])
        assert flax["ratio_to_torch"][part]["median"] == pytest.approx(1 / 8)
    assert ours["flop_rate"] == pytest.approx(1e9)
    assert ours["flop_rate_share"] == pytest.approx(0.1)


def test_the_interval_is_students_t_on_logarithms():
    own, rival = [1.0, 1.1, 0.9, 1.2], [2.0, 2.5, 2.1, 2.2]
    found = benchmark.benchmark_report.ratio(own, rival)
    logs = np.log(np.divide(rival, own))
    low, high = stats.t.interval(0.95, 3, loc=logs.mean(), scale=stats.sem(logs))
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)))
    assert found.median == pytest.approx(np.median([2.0, 2.5 / 1.1, 2.1 / 0.9, 2.2 / 1.2]))


def test_several_models_are_compared_to_the_faster_of_pytorchs_two_ways(pretend):
    content = pretend(repeats=1, seeds_at_once=(1, 8, 64))
    for runs, rival, seconds in ((8, "torch", 1.0), (64, "torch_vmap", 0.3)):
        (ours,) = numbers(content, contender="jax_lenet", seeds_at_once=runs)
        assert ours["train_seconds"] == pytest.approx(0.5)  # per model
        assert ours["flop_rate"] == pytest.approx(1e9 / 0.5)
        assert ours["ratio_to_torch"]["train"]["rival"] == rival
        assert ours["ratio_to_torch"]["train"]["rival_seconds"] == pytest.approx([seconds])
        assert ours["ratio_to_torch"]["train"]["median"] == pytest.approx(seconds / 0.5)
        assert ours["first_result_seconds"] is None
        (vmap,) = numbers(content, contender="torch_vmap", seeds_at_once=runs)
        one_by_one = vmap["ratio_to_torch"]["train"]
        assert (one_by_one["rival"], one_by_one["rival_seeds_at_once"]) == ("torch", 1)
    assert len(numbers(content, contender="torch")) == 1  # what it is compared to has no row


def test_several_models_train_for_some_variants_only(pretend):
    variants = ("LeNet", "LeNet_BN_noDropout", "LeNet_BN_Dropout")
    content = pretend(repeats=1, variants=variants, contenders=("jax_lenet",))
    scaled = [(row["variant"], row["seeds_at_once"]) for row in content["rows"]]
    for variant, counts in zip(variants, ([1, 2, 4, 8], [1], [1, 2, 4, 8]), strict=True):
        assert [count for name, count in scaled if name == variant] == counts
    assert all(row["ratio_to_torch"] is None for row in content["rows"])


def test_on_a_cpu_several_models_train_once_on_some_of_the_images(pretend, monkeypatch):
    monkeypatch.setattr(benchmark, "SCALE_IMAGES", 1280)
    content = pretend(repeats=3, contenders=("jax_lenet",))
    sizes = [(row["train_images"], len(row["train_turns"])) for row in content["rows"]]
    assert sizes == [(4000, 3), (1280, 1), (1280, 1), (1280, 1)]
    assert content["rows"][1]["ratio_to_torch"] is None


def test_on_a_gpu_more_is_compared(pretend, monkeypatch):
    monkeypatch.setattr(Pretended, "platform", "gpu")
    content = pretend(repeats=2)
    assert {row["train_images"] for row in content["rows"]} == {4000}
    assert {len(row["train_turns"]) for row in content["rows"]} == {2}
    single = [row["contender"] for row in numbers(content, seeds_at_once=1)]
    assert single[-2:] == ["torch_compile", "torch_cuda_graph"]
    counts = [row["seeds_at_once"] for row in numbers(content, contender="jax_lenet")]
    assert counts == [1, 8, 64, 256]


def test_a_contender_that_drops_out_leaves_a_reason_and_the_others_go_on(
    pretend, monkeypatch, capsys
):
    monkeypatch.setattr(Pretended, "dies", ("torch",))
    ours, torch, *_ = pretend(repeats=3, seeds_at_once=(1,))["rows"]
    assert torch["reason"] == "its process was ended by SIGKILL"
    assert {torch[name] for name in list(torch)[5:]} == {None}
    assert len(ours["train_turns"]) == 3
    assert ours["ratio_to_torch"] is None
    screen = capsys.readouterr().out
    assert "torch is not measured: its process was ended by SIGKILL" in screen
    assert "not measured: no profiler" in screen


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--repeats", "0"), "--repeats: expected at least 1, not 0"),
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

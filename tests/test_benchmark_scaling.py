"""Many runs in every way: what each is asked to train, and what its seconds mean."""

import io

import pytest
from rich.console import Console

from experiments import benchmark_chart, benchmark_scaling, benchmark_tables
from experiments.benchmark_process import Job, cores_of
from experiments.benchmark_scaling import Way, race_to_scale, ways_of
from experiments.contenders import NotMeasuredError, data_of, task_of, write_data
from jax_lenet import load

CORES = (3, 5)
#: Seconds of a run's epoch, alone in its process, on the first turn that counts.
SECONDS = {"jax_lenet": 1.0, "torch": 4.0, "torch_vmap": 6.0}


class Clock:
    """The time, which goes on only where a process works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Pretended:
    """Stands in for `Worker`: its runs take known times, and all turns but the first as long again.

    JAX's and PyTorch's processes train their runs one after the other; under vmap eight take the
    time of one.
    """

    clock = Clock()
    log: list = []  # noqa: RUF012
    dies: tuple[tuple[int, ...], str] | None = None

    def __init__(self, cores, devices, cache):
        self.log.append(("started", cache))
        self.cores, self.devices = cores, devices
        self.jobs = {}
        self.end = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.log.append(("closed", self.cores))

    def build_request(self, job, key):
        return {"do": "build", "job": job, "key": key}

    def send(self, do, key, job=None, epochs=0):
        if do == "build":
            assert key not in self.jobs, "built twice"
            self.jobs[key] = job
        job = self.jobs[key]
        self.log.append((do, job.contender, self.cores, self.devices, job.runs, epochs))
        times = max(1, job.runs // 8) if job.contender == "torch_vmap" else job.runs
        # Two devices share the runs; those of one core are half as fast as with both.
        speed = self.devices * len(self.cores) / 2
        self.end = self.clock.now + epochs * times * SECONDS[job.contender] / speed
        self.failing = self.dies == (tuple(self.cores), job.contender)

    def receive(self):
        if self.failing:
            raise NotMeasuredError("its process was ended by SIGKILL")
        self.clock.now = max(self.clock.now, self.end)
        return {"cores": list(self.cores), "devices": self.devices}


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(benchmark_scaling, "Worker", Pretended)
    monkeypatch.setattr(Pretended, "clock", Clock())
    monkeypatch.setattr(Pretended, "log", [])
    monkeypatch.setattr(benchmark_scaling, "perf_counter", Pretended.clock)


needs_no_process = pytest.mark.usefixtures("pretend")


def measured(counts, rounds=1, contenders=("jax_lenet", "torch"), images=1000):
    job = Job("", task_of("LeNet", first_seed=7), "folder")
    said = []
    rows = race_to_scale(
        job,
        ways_of(CORES, contenders, on_gpu=False),
        counts,
        images=images,
        rounds=rounds,
        say=said.append,
    )
    return {(row.runs, row.way): row for row in rows}, said


def test_the_ways_are_devices_and_processes_beside_three_of_pytorchs():
    ways = ways_of(CORES, ("jax_lenet", "torch", "flax"), on_gpu=False)
    assert [(way.name, way.cores, way.devices) for way in ways] == [
        ("jax_lenet, 1 device", (CORES,), 1),
        ("jax_lenet, 2 devices", (CORES,), 2),
        ("jax_lenet, 2 processes", ((3,), (5,)), 1),
        ("torch", (CORES,), 1),
        ("torch, 2 processes", ((3,), (5,)), 1),
        ("torch_vmap", (CORES,), 1),
    ]


def test_on_one_core_there_is_nothing_to_share():
    names = [way.name for way in ways_of((0,), ("jax_lenet", "torch"), on_gpu=False)]
    assert names == ["jax_lenet, 1 device", "torch", "torch_vmap"]


def test_without_a_library_its_ways_are_left_out():
    assert [way.name for way in ways_of((0,), ("jax_lenet",), on_gpu=False)] == [
        "jax_lenet, 1 device"
    ]
    assert {way.contender for way in ways_of(CORES, ("torch",), on_gpu=False)} == {
        "torch",
        "torch_vmap",
    }


@pytest.mark.parametrize(("runs", "shares"), [(1, (1,)), (2, (1, 1)), (3, (2, 1)), (16, (8, 8))])
def test_processes_share_the_runs_and_none_has_none(runs, shares):
    assert Way("torch", ((0,), (1,))).shares(runs) == shares


@needs_no_process
def test_every_way_has_a_turn_for_every_number_in_every_round():
    _, said = measured([1, 2], rounds=3)
    ways = [way.name for way in ways_of(CORES, ("jax_lenet", "torch"), on_gpu=False)]
    expected = [
        (f"{n} run{'s' if n > 1 else ''}", way, f"round {number}/3")
        for number in (1, 2, 3)
        for n in (1, 2)
        for way in ways
    ]
    assert len(said) == len(expected)
    for line, words in zip(said, expected, strict=True):
        assert all(word in line for word in ("LeNet", *words))


@needs_no_process
def test_a_runs_seconds_are_those_of_all_divided_by_their_number():
    rows, _ = measured([1, 2, 3, 16])
    seconds = {key: row.seconds for key, row in rows.items()}
    # One after the other on both cores; two devices twice as fast.
    assert [seconds[n, "jax_lenet, 1 device"] for n in (1, 2, 3, 16)] == pytest.approx([1] * 4)
    assert [seconds[n, "jax_lenet, 2 devices"] for n in (2, 16)] == pytest.approx([0.5] * 2)
    # A run takes 2 s on one core: two end together after 2 s, of three one has to wait.
    found = [seconds[n, "jax_lenet, 2 processes"] for n in (1, 2, 3, 16)]
    assert found == pytest.approx([2, 2 / 2, 4 / 3, 16 / 16])
    found = [seconds[n, "torch, 2 processes"] for n in (1, 2, 3, 16)]
    assert found == pytest.approx([8, 8 / 2, 16 / 3, 8 * 8 / 16])
    assert [seconds[n, "torch"] for n in (1, 2, 3, 16)] == pytest.approx([4] * 4)
    assert [seconds[n, "torch_vmap"] for n in (1, 2, 16)] == pytest.approx([6, 3, 12 / 16])


@needs_no_process
def test_a_run_is_five_hundred_thousand_images_whatever_an_epoch_has():
    for images in (1000, 2000):
        rows, _ = measured([2], images=images)
        row = rows[2, "torch"]
        assert row.train_images == images
        assert row.runs_per_minute == pytest.approx(60 / (4.0 * 500_000 / images))


@needs_no_process
def test_the_rival_is_the_best_of_pytorchs_three_for_as_many_runs():
    rows, _ = measured([1, 2, 16], rounds=6)
    for runs, rival, seconds in ((1, "torch", 4), (2, "torch_vmap", 3), (16, "torch_vmap", 0.75)):
        for way, own in (("jax_lenet, 1 device", 1), ("jax_lenet, 2 devices", 0.5)):
            if runs > 1 or "1 device" in way:
                found = rows[runs, way].ratio_to_torch
                assert found.rival == rival
                assert (found.estimate, found.n) == (pytest.approx(seconds / own), 6)
                assert (found.low, found.high) == pytest.approx((found.estimate,) * 2)
        assert rows[runs, rival].ratio_to_torch is None


@needs_no_process
def test_where_runs_follow_one_another_a_turn_has_one_in_each_process():
    measured([16])
    asked = {
        (contender, tuple(cores)): runs
        for do, contender, cores, _, runs, _ in (x for x in Pretended.log if x[0] == "build")
    }
    assert asked["torch", CORES] == asked["torch", (3,)] == asked["torch", (5,)] == 1
    assert asked["torch_vmap", CORES] == 16
    assert asked["jax_lenet", (3,)] == asked["jax_lenet", (5,)] == 8


@needs_no_process
def test_no_two_processes_train_the_same_seed(monkeypatch):
    seeds = {}
    build = Pretended.build_request

    def noted(self, job, key):
        last = job.task.first_seed + job.runs
        seeds.setdefault(job.contender, []).append(list(range(job.task.first_seed, last)))
        return build(self, job, key)

    monkeypatch.setattr(Pretended, "build_request", noted)
    measured([3], contenders=("jax_lenet",))
    assert seeds["jax_lenet"] == [[7, 8, 9], [7, 8, 9], [7, 8], [9]]


@needs_no_process
def test_short_epochs_are_repeated_within_a_turn(monkeypatch):
    monkeypatch.setitem(SECONDS, "jax_lenet", 0.1)
    rows, _ = measured([1])
    assert rows[1, "jax_lenet, 1 device"].epochs_per_turn == 10  # a second
    assert rows[1, "jax_lenet, 1 device"].seconds == pytest.approx(0.1)
    assert rows[1, "torch"].epochs_per_turn == 1


@needs_no_process
def test_a_process_that_dies_leaves_a_reason_and_the_other_ways_go_on(monkeypatch):
    monkeypatch.setattr(Pretended, "dies", ((5,), "torch"))
    rows, said = measured([1, 2], rounds=2)
    dead = rows[2, "torch, 2 processes"]
    assert dead.reason == "its process was ended by SIGKILL"
    assert dead.seconds is dead.runs_per_minute is dead.turns is None
    assert rows[1, "torch, 2 processes"].reason is None  # it needs the first process alone
    assert len(rows[2, "torch"].turns) == 2
    assert any("torch, 2 processes is not measured: its process" in line for line in said)


@needs_no_process
def test_every_round_has_new_processes_and_all_of_them_end():
    measured([1, 2], rounds=3)
    closed = [entry[1] for entry in Pretended.log if entry[0] == "closed"]
    assert sorted(map(tuple, closed)) == sorted(([CORES] * 4 + [(3,), (5,)] * 2) * 3)
    # What one has compiled the next ones read.
    caches = [entry[1] for entry in Pretended.log if entry[0] == "started"]
    assert len(caches) == len(closed)
    assert len(set(caches)) == 1


def test_real_processes_train_their_shares(tmp_path):
    """In earnest but small, and with one thread in each: others work here, too."""
    pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    write_data(tmp_path / "data", data_of(load("mnist_sample", train_size=256)))
    (one,), two = cores_of(1), cores_of(2)
    ways = [Way("torch", tuple((core,) for core in two)), Way("torch_vmap", ((one,),))]
    rows = race_to_scale(
        Job("", task_of("LeNet_BN_Dropout"), str(tmp_path / "data")),
        ways,
        [2],
        images=200,
        rounds=2,
        say=lambda line: None,
    )
    assert [row.reason for row in rows] == [None, None]
    assert [row.cores for row in rows] == [tuple([core] for core in two), ([one],)]
    for row in rows:
        assert len(row.turns) == 2
        assert all(0 < turn < 60 for turn in row.turns)
        assert row.runs_per_minute == pytest.approx(60 * 200 / row.seconds / 500_000)


# What is shown


@needs_no_process
def test_the_table_has_a_row_for_each_way_and_a_column_for_each_number(monkeypatch):
    monkeypatch.setattr(Pretended, "dies", ((5,), "torch"))
    rows, _ = measured([1, 2, 4, 8, 16], rounds=6)
    console = Console(force_terminal=False, no_color=True, width=120, file=io.StringIO())
    console.print(benchmark_tables.scaling_table(list(rows.values())))
    screen = console.file.getvalue()
    assert "…" not in screen  # nothing is cut off
    assert "epochs of 1,000" in screen
    (line,) = (line for line in screen.splitlines() if "torch, 2 processes" in line)
    assert line.count("not measured") == 4
    # 4 s for 1,000 of 500,000 images; 6 s under vmap for any number up to eight.
    (line,) = (line for line in screen.splitlines() if line.startswith("  torch  "))
    assert line.split() == ["torch", *["0.03"] * 5]
    (line,) = (line for line in screen.splitlines() if "torch_vmap" in line)
    assert line.split() == ["torch_vmap", "0.02", "0.04", "0.08", "0.16", "0.16"]
    # Below this library's, the best of these seconds / its own: 1 s on one device.
    lines = screen.splitlines()
    place = next(i for i, line in enumerate(lines) if "jax_lenet, 1 device" in line)
    ratios = ("4.00", "3.00", "1.50", "0.75", "0.75")
    assert lines[place + 1].split() == [x for r in ratios for x in (r, f"[{r},", f"{r}]")]


@needs_no_process
def test_the_chart_has_a_line_for_each_way():
    rows, _ = measured([1, 2, 4], rounds=2)
    facts = {
        "title": "",
        "device": {"platform": "cpu"},
        "machine": {"processor": ""},
        "data": {"kind": "idx", "sizes": {"train": 1000, "test": 100}},
        "threads": 2,
        "versions": {"jax": "", "torch": ""},
        "settings": {"batch_size": 128},
    }
    figure = benchmark_chart.build(facts, [], list(rows.values()))
    (panel,) = (axes for axes in figure.axes if axes.get_title().startswith("LeNet: many runs"))
    lines = {line.get_label(): line for line in panel.lines if line.get_label()[0] != "_"}
    assert set(lines) == {
        *("this library, 1 device", "this library, 2 devices", "this library, 2 processes"),
        *("PyTorch", "PyTorch, 2 processes", "PyTorch, vmap"),
    }
    found = lines["this library, 2 devices"].get_xydata()
    assert found[1:].tolist() == [[2, pytest.approx(0.24)], [4, pytest.approx(0.24)]]

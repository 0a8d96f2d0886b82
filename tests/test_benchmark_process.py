"""The benchmark's processes: on which cores, with what in them, and what happens where they end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import benchmark_process, benchmark_start
from experiments.benchmark_process import Job, Worker, ask_together, cores_of, environment, on_cores
from experiments.benchmark_start import (
    first_result,
    first_result_of_study,
    home_environment,
    peak_of_study,
    program_seconds,
)
from experiments.contenders import NotMeasuredError, data_of, task_of, write_data
from jax_lenet import VARIANTS, load

ROOT = Path(__file__).parents[1]
ONE_CORE = list(cores_of(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The sample's arrays, as processes read them."""
    path = tmp_path_factory.mktemp("data") / "sample"
    write_data(path, data_of(load("mnist_sample", train_size=640)))
    return path


def job(folder, contender, runs=1):
    return Job(contender, task_of("LeNet"), str(folder), 640, runs)


def test_a_process_that_dies_is_a_reason_and_not_a_hang():
    with Worker(ONE_CORE) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(NotMeasuredError, match=r"^its process was ended by SIGKILL$"):
            worker.ask("machine")


def test_a_process_that_hangs_is_a_reason_too(monkeypatch):
    monkeypatch.setattr(benchmark_process, "ANSWER", 0.2)
    with Worker(ONE_CORE) as worker:
        os.kill(worker._process.pid, signal.SIGSTOP)
        with pytest.raises(NotMeasuredError, match=r"^its process did not answer within 0 s$"):
            worker.ask("machine")
        with pytest.raises(NotMeasuredError, match=r"^its process was ended by SIGKILL$"):
            worker.ask("machine")


def test_what_goes_wrong_in_a_process_comes_back_in_one_line(folder):
    with Worker(ONE_CORE) as worker:
        with pytest.raises(NotMeasuredError, match=r"^ValueError: flax: runs must be 1: it trains"):
            worker.build(job(folder, "flax", runs=2))
        with pytest.raises(NotMeasuredError, match=r"needs a CUDA device$"):
            worker.build(job(folder, "torch_cuda_graph"))


def test_without_pytorch_a_process_says_so(folder, tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text('raise ModuleNotFoundError("no torch", name="torch")')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (
        Worker(ONE_CORE) as worker,
        pytest.raises(NotMeasuredError, match=r"^PyTorch is not installed; pip install"),
    ):
        worker.build(job(folder, "torch"))


def python(program, **variables):
    """Run a program in a process of its own; return what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


#: A session that trains a contender of PyTorch, and then looks at what has been imported.
TORCH_ALONE = """
import json, sys
from dataclasses import asdict
from experiments.benchmark_worker import _Session
from experiments.contenders import Task
session = _Session()
session.build("", "torch", asdict(Task()), {folder!r}, 640, 1, "cpu", 1)
session.turn("", 1)
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


def test_a_process_of_pytorch_holds_nothing_of_jax(folder):
    pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    imported = set(python(TORCH_ALONE.format(folder=str(folder))))
    assert "torch" in imported
    assert not imported & {"jax", "jaxlib", "flax", "optax", "jax_lenet"}


#: Prints what JAX has started with, as far as it can change a program's speed or memory.
STARTED = """
import json, os
import jax
from experiments.benchmark_worker import variables
print(json.dumps([jax.device_count(), variables(os.environ), jax.config.values], default=str))
"""
PROGRAM = """
from experiments.ablate_settings import Settings
Settings(compilation_cache="off").start_jax()
"""
PROCESS = """
from experiments.benchmark_worker import prepare_library
prepare_library("jax_lenet", 1)
"""


def test_a_process_starts_as_the_programs_do(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")  # the tests' own, see conftest.py
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=true")  # what it is anyway
    cores = len(cores_of(1000))
    given = environment(os.environ, cores, None)
    programs, processes = python(PROGRAM + STARTED), python(PROCESS + STARTED, **given)
    assert programs[0] == processes[0] == cores
    assert programs[1]["XLA_FLAGS"] == "--xla_cpu_multi_thread_eigen=true"
    # The number of devices is the same, but told in a variable; the others are of GPUs.
    told = {"JAX_NUM_CPU_DEVICES", "XLA_PYTHON_CLIENT_PREALLOCATE", "CUDA_VISIBLE_DEVICES"}
    assert {name: value for name, value in processes[1].items() if name not in told} == programs[1]
    different = {name for name in programs[2] if programs[2][name] != processes[2][name]}
    # Switched off in the program; in the process there is no folder for it.
    assert different <= {"jax_enable_compilation_cache"}
    assert processes[2]["jax_compilation_cache_dir"] is None


def test_cores_and_threads_are_those_asked_for_whatever_the_environment_says():
    own = {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "7",
        "MKL_NUM_THREADS": "7",
        "JAX_COMPILATION_CACHE_DIR": "/old",
    }
    variables = environment(own, 3, None)
    assert variables["PATH"] == "/bin"
    assert variables["JAX_NUM_CPU_DEVICES"] == "3"
    assert not {"OMP_NUM_THREADS", "MKL_NUM_THREADS", "JAX_COMPILATION_CACHE_DIR"} & set(variables)
    assert environment(own, 3, Path("/new"))["JAX_COMPILATION_CACHE_DIR"] == "/new"


@pytest.mark.parametrize(
    ("own", "first"), [({}, "0"), ({"CUDA_VISIBLE_DEVICES": "3,5"}, "3")], ids=["all", "some"]
)
def test_all_contenders_have_one_gpu_and_the_same(own, first):
    assert environment(own, 1, None)["CUDA_VISIBLE_DEVICES"] == first


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs cores that can be chosen")
def test_what_starts_within_has_its_cores_from_the_first_moment():
    before = os.sched_getaffinity(0)
    program = "import os; print(sorted(os.sched_getaffinity(0)))"
    with on_cores(ONE_CORE):
        assert python(program) == ONE_CORE
    assert os.sched_getaffinity(0) == before


class Remote:
    """A process that answers what it was told to, and notes what it was asked when."""

    def __init__(self, name, log, answer=None):
        self.name, self.log, self.answer = name, log, answer

    def send(self, do, **arguments):
        self.log.append((self.name, "asked", do, arguments))

    def receive(self):
        self.log.append((self.name, "answered"))
        if self.answer is None:
            raise NotMeasuredError(f"{self.name} died")
        return self.answer


def test_processes_are_all_asked_before_any_answer_is_waited_for():
    log = []
    workers = [Remote("a", log, {"x": 1}), Remote("b", log, {"x": 2})]
    requests = [{"do": "train", "epochs": 1}, {"do": "train", "epochs": 2}]
    assert ask_together(workers, requests) == [{"x": 1}, {"x": 2}]
    assert [entry[:2] for entry in log] == [
        ("a", "asked"),
        ("b", "asked"),
        ("a", "answered"),
        ("b", "answered"),
    ]
    assert [entry[3] for entry in log[:2]] == [{"epochs": 1}, {"epochs": 2}]


def test_a_process_that_fails_leaves_no_answer_of_another_behind():
    log = []
    workers = [Remote("a", log), Remote("b", log, {"x": 2})]
    with pytest.raises(NotMeasuredError, match="a died"):
        ask_together(workers, [{"do": "train"}] * 2)
    assert log[-1] == ("b", "answered")


# The start of the real program


def test_the_first_result_is_that_of_the_real_program_in_an_empty_home(tmp_path, monkeypatch):
    """A stand-in for ``experiments.ablate`` that shows when, and how, it was started."""
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ablate.py").write_text(
        """
import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
home = pathlib.Path(os.environ["HOME"])
(home / "seen.json").write_text(json.dumps([sys.argv[1:], sorted(os.environ)]))
out.mkdir()
(out / "results.csv").write_text("variant,seed,epoch\\n")
time.sleep(0.5)
(out / "results.csv").write_text("variant,seed,epoch\\nLeNet,0,1\\n")
time.sleep(60)
""".replace("\\\\", "\\")
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # else the package in this folder comes first
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    home = tmp_path / "home"
    home.mkdir()
    seconds = program_seconds(["LeNet_BN_Dropout"], home, ONE_CORE)
    assert 0.5 < seconds < 30
    arguments, names = json.loads((home / "seen.json").read_text())
    assert arguments[:4] == ["--dataset", "mnist_sample", "--variants", "LeNet_BN_Dropout"]
    assert "XDG_CACHE_HOME" not in names


def test_a_start_is_the_median_of_three_each_in_an_empty_folder(tmp_path, monkeypatch):
    seconds = iter([9.0, 3.0, 7.0, 1.0, 8.0, 2.0])
    folders = []

    def program(variants, home, cores):
        assert variants == ("LeNet",)
        folders.append((home, sorted(path.name for path in home.iterdir())))
        (home / "compiled").touch()
        return next(seconds)

    monkeypatch.setattr(benchmark_start, "program_seconds", program)
    found = first_result(job(tmp_path, "jax_lenet"), tmp_path, ONE_CORE, starts=3)
    assert found == (8.0, 2.0, None)
    assert [left for _, left in folders] == [[], ["compiled"]] * 3
    assert len({home for home, _ in folders}) == 3


def test_a_start_that_fails_is_a_reason_beside_what_was_measured(tmp_path, monkeypatch):
    seconds = iter([5.0])

    def program(variants, home, cores):
        assert variants == tuple(VARIANTS)
        for found in seconds:
            return found
        raise NotMeasuredError("no first result within 300 s")

    monkeypatch.setattr(benchmark_start, "program_seconds", program)
    assert first_result_of_study(ONE_CORE, starts=3) == (5.0, None, "no first result within 300 s")


def test_the_memory_of_a_study_is_what_its_own_files_say(tmp_path, monkeypatch):
    """A stand-in for ``experiments.ablate``, again."""
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ablate.py").write_text(
        """
import json, pathlib, sys
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if arguments["--dataset"] != "mnist":
    raise SystemExit("ablate: no such data")
out = pathlib.Path(arguments["--out"])
out.mkdir()
peak = 1000 * int(arguments["--seeds"]) + int(arguments["--epochs"])
cold = arguments["--compilation-cache"] == "off" and "--variants" not in arguments
(out / "config.json").write_text(json.dumps({"peak_rss_bytes": peak if cold else 0}))
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    assert peak_of_study(["--dataset", "mnist"], ONE_CORE) == 2001
    with pytest.raises(NotMeasuredError, match=r"^its process ended: ablate: no such data$"):
        peak_of_study(["--dataset", "elsewhere"], ONE_CORE)


def test_a_program_that_ends_before_its_first_result_is_a_reason(tmp_path, monkeypatch):
    package = tmp_path / "experiments"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "ablate.py").write_text("raise SystemExit('no digits here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    with pytest.raises(NotMeasuredError, match=r"^its process ended: no digits here$"):
        program_seconds(["LeNet"], tmp_path, ONE_CORE)


def test_the_users_own_caches_are_not_those_of_another_home(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/mine")
    found = home_environment(Path("/other"))
    assert found["HOME"] == "/other"
    assert "/mine" not in found.values()

"""What the crash tests share: a small study, processes that run it, and what may not differ."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments import lock, run_store
from experiments.progress import COLUMNS
from experiments.results import FIRST_PREDICTIONS, PREDICTIONS, ResultsFolder
from tests.faults import names

ROOT = Path(__file__).parents[1]
VARIANTS, SEEDS = ("LeNet", "LeNet_BN_Dropout"), 2
PREDICTED = FIRST_PREDICTIONS, PREDICTIONS

Epoch = tuple[str, int, int]  # variant, seed and epoch


def arguments(epochs: int, *more: object) -> list[str]:
    """Return the command line of a study of two variants from two seeds, on few images."""
    study = [
        *("--dataset", "mnist_sample", "--train-size", 128, "--batch-size", 64),
        *("--learning-rate", 0.1, "--timing-repeats", 1),
        *("--variants", *VARIANTS, "--seeds", SEEDS, "--epochs", epochs),
    ]
    return [str(word) for word in (*study, *more)]


# What a folder holds


def numbers(out: Path) -> tuple:
    """Return everything of a finished study that may not depend on how it came about."""
    with (out / "results.csv").open() as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    predictions = [(out / name).read_bytes() for name in PREDICTED]
    summary = json.loads((out / "summary.json").read_text())["variants"]
    accuracies = {name: {**of, "total_seconds": None} for name, of in summary.items()}
    return rows, predictions, accuracies


def finished(out: Path) -> set[Epoch]:
    """Return the epochs that need not be trained again, having read every file that is there.

    A file that is not whole is an error: none is ever to be seen so.
    """
    folder = ResultsFolder(out)
    readers: dict[str, Callable[[], object]] = {
        "config.json": folder.read_config,
        "results.csv": folder.read_results,
        "timing.csv": folder.read_timing,
        **{name: partial(folder.read_predictions, name) for name in PREDICTED},
        "test_set.npz": folder.read_test_set,
        "summary.json": lambda: json.loads((out / "summary.json").read_text()),
    }
    for name, read in readers.items():
        if folder.has(name):
            read()
    rows = [row for path in run_store.files(out) for row in run_store.read(path).record.rows]
    return {(row.variant, row.seed, row.epoch) for row in rows}


def debris(out: Path) -> list[str]:
    """Return what a study never leaves when it ends: temporary files, locks, files set aside."""
    everything = [name for path in (out, out / "runs") if path.is_dir() for name in names(path)]
    return [name for name in everything if name.startswith(".") or ".damaged-" in name]


def one_line(text: str) -> str:
    """Return the one line that a program has written."""
    (line,) = text.splitlines()
    return line


# Processes


class Life(NamedTuple):
    """What became of a process.

    Attributes:
        code: with which it ended; None if it was killed.
        screen: all that it said.
        phase: in which it ended.
    """

    code: int | None
    screen: str
    phase: str

    @property
    def trained(self) -> list[Epoch]:
        """The epochs that it finished, in order."""
        rows = re.findall(r"^(LeNet\w*) +(\d+) +(\d+) ", self.screen, re.MULTILINE)
        return [(variant, int(seed), int(epoch)) for variant, seed, epoch in rows]


#: The program, in a process whose files may not grow beyond so many bytes.
LIMITED = (
    "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}));"
    "runpy.run_module('experiments.ablate', run_name='__main__')"
)


@dataclass(frozen=True)
class Command:
    """The study as a command, which processes run one after another.

    They share compiled programs and byte code, so that one more starts in a second or two.

    Attributes:
        shared: folder of what they share.
        epochs: of each run.
    """

    shared: Path
    epochs: int

    def start(
        self, out: Path, screen: Path, limit: int | None = None, cold: bool = False
    ) -> subprocess.Popen:
        """Start a process that writes what it says into a file.

        Args:
            out: the study's folder.
            screen: the file.
            limit: how many bytes a file of the study may have.
            cold: whether it compiles everything itself.
        """
        command = [sys.executable, "-m", "experiments.ablate", *arguments(self.epochs)]
        if limit is not None:  # set by the child itself: JAX in this process forbids a fork
            command[1:3] = ["-c", LIMITED.format(limit)]
        command += ["--devices", "1", "--compilation-cache", "off" if cold else "auto"]
        shared = {"XDG_CACHE_HOME": "cache", "PYTHONPYCACHEPREFIX": "bytecode"}
        environment = os.environ | {name: str(self.shared / shared[name]) for name in shared}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment.pop("XLA_FLAGS", None)  # compiled once, what trains runs in many processes
        with screen.open("wb") as file:
            return subprocess.Popen(
                [*command, "--out", str(out)],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(self, out: Path, seconds: float | None = None, limit: int | None = None) -> Life:
        """Run a process to its end, or kill it, with SIGKILL, after so many seconds."""
        screen = out.with_suffix(".screen")
        with self.start(out, screen, limit) as process:
            try:
                code = process.wait(timeout=280 if seconds is None else seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                code = None
        assert code is not None or seconds is not None, "it hangs"
        said = screen.read_text()
        return Life(code, said, self._phase(said))

    def _phase(self, screen: str) -> str:
        """Return what a process with this screen was busy with."""
        last = screen.splitlines()[-1] if screen else ""
        trained = Life(None, last, "").trained
        if not screen:
            return "starting"
        if last == COLUMNS:
            return "compiling"
        if "\nResults: " in screen:
            return "ending"
        last_of_a_seed = trained and trained[0][::2] == (VARIANTS[-1], self.epochs)
        return "training" if trained and not last_of_a_seed else "drawing and timing"


@dataclass
class Study:
    """A study that is killed again and again.

    Attributes:
        out: its folder.
        trained: the epochs that its processes said they finished.
        done: the epochs that are in its folder.
        redraws: how often it was killed with nothing left to train.
    """

    out: Path
    trained: list[Epoch] = field(default_factory=list)
    done: set[Epoch] = field(default_factory=set)
    redraws: int = 0


@dataclass
class Kills:
    """Kills of studies; each study is continued and killed until it is finished, and then checked.

    Attributes:
        command: of the studies.
        expected: their `numbers`.
        folder: of their folders.
        phases: how many kills have hit each.
        writing: how many have left a temporary file, so came while a file was written.
        holding: how many have left a lock that nobody holds.
        studies: that were begun.
    """

    command: Command
    expected: tuple
    folder: Path
    phases: Counter[str] = field(default_factory=Counter)
    writing: int = 0
    holding: int = 0
    studies: int = 0
    began: float = field(default_factory=time.monotonic)

    def at(self, moments: Iterable[float]) -> None:
        """Kill at each of the moments, in seconds of a process's life."""
        study = self._begin()
        for planned in moments:
            moment = planned
            if study.redraws == 2:  # more of the same: the next kills are for another one
                self._killed(study, None)
                study = self._begin()
            while not self._killed(study, moment):  # it was finished before the moment came
                study, moment = self._begin(), 0.9 * moment
        self._killed(study, None)

    def _begin(self) -> Study:
        self.studies += 1
        return Study(self.folder / f"study-{self.studies}")

    def _killed(self, study: Study, moment: float | None) -> bool:
        """Give a study one more process; tell whether it was killed, or check what it made."""
        life = self.command.run(study.out, moment)
        study.trained += life.trained
        assert len(study.trained) == len(set(study.trained)), f"trained again: {life.screen}"
        assert ".damaged-" not in life.screen, life.screen
        before, study.done = study.done, finished(study.out)
        assert before <= study.done, "finished epochs are lost"
        if life.code is None:
            self._count(debris(study.out), life.phase)
            study.redraws += len(before) == len(VARIANTS) * SEEDS * self.command.epochs
            return True
        assert life.code == 0, life.screen
        assert debris(study.out) == []
        assert numbers(study.out) == self.expected
        shutil.rmtree(study.out)
        return False

    def _count(self, left: list[str], phase: str) -> None:
        self.phases[phase] += 1
        self.writing += any(name.endswith(".tmp") for name in left)
        self.holding += lock.HOLDER in left

    def __str__(self) -> str:
        phases = ", ".join(f"{number} while {phase}" for phase, number in self.phases.items())
        return (
            f"{self.phases.total()} kills of {self.studies} studies in"
            f" {time.monotonic() - self.began:.0f} s: {phases}; {self.writing} while a file was"
            f" written; {self.holding} left a lock behind"
        )

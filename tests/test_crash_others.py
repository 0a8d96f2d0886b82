"""A sweep and PyTorch's study, killed again and again, end with the bits of undisturbed ones."""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from experiments.sweep_files import BEGUN
from tests.crash import ROOT, debris

SEED = 20_27
KILLS = max(1, int(os.environ.get("JAX_LENET_KILLS", "1000")) // 10)
SMALL = [
    *("--dataset", "mnist_sample", "--train-size", "128", "--batch-size", "64"),
    *("--learning-rate", "0.1", "--seeds", "3", "--epochs", "15"),
]


@dataclass(frozen=True)
class Program:
    """A program and what it makes.

    Attributes:
        name: of the module.
        more: arguments.
        table: the file that has a line for each run.
        same: files of which no byte may differ.
    """

    name: str
    more: tuple[str, ...]
    table: str
    same: tuple[str, ...]

    def numbers(self, out):
        """Return everything that may not depend on how it came about."""
        with (out / self.table).open() as file:
            rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
        return rows, [(out / name).read_bytes() for name in self.same]

    def run(self, out: Path, seconds: float | None = None):
        """Run a process to its end, or kill it after so many seconds; return its exit code."""
        command = [sys.executable, "-m", f"experiments.{self.name}", *SMALL, *self.more]
        screen = out.with_suffix(".screen")
        with (
            screen.open("wb") as file,
            subprocess.Popen(
                [*command, "--out", str(out)],
                cwd=ROOT,
                env=os.environ | {"XDG_CACHE_HOME": str(out.parent / "cache")},
                stdout=file,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                code = process.wait(timeout=280 if seconds is None else seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                assert seconds is not None, "it hangs"
                return None
        assert code == 0, screen.read_text()
        assert ".damaged-" not in screen.read_text()
        return code


RATES = ("--dropout-rates", "0.5", "--layers", "drop6", "--runs-at-once", "2", "--devices", "1")
PROGRAMS = [
    Program("sweep", RATES, "sweep.csv", ("sweep.json", "predictions.npz")),
    Program("torch_baseline", ("--variants", "LeNet", "LeNet_BN_Dropout"), "results.csv", ()),
]


@pytest.mark.crash
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_what_is_killed_again_and_again_ends_with_the_same_bits(program, tmp_path, capsys):
    if program.name == "torch_baseline":
        pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    program.run(tmp_path / "compiles")
    began = time.monotonic()
    program.run(tmp_path / "undisturbed")
    life, expected = time.monotonic() - began, program.numbers(tmp_path / "undisturbed")
    out, hits, studies = tmp_path / "out", Counter(), 0
    for moment in np.random.default_rng(SEED).uniform(0, life, KILLS):
        while program.run(out, moment) is not None:  # it was finished before the moment came
            assert program.numbers(out) == expected
            assert debris(out) == []
            shutil.rmtree(out)
            studies, moment = studies + 1, 0.9 * moment
        left = debris(out) if out.is_dir() else []
        hits["while a file was written"] += any(name.endswith(".tmp") for name in left)
        hits["with runs in training"] += (out / BEGUN).exists()
    program.run(out)
    assert program.numbers(out) == expected
    assert debris(out) == []
    assert KILLS < 20 or hits["with runs in training"]
    with capsys.disabled():
        print(f"\n{program.name}: {KILLS} kills of {studies + 1} studies, {dict(hits)}")

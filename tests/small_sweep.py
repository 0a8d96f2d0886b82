"""A sweep small enough for tests, each of whose programs is compiled once for a module of them."""

import csv
import shutil
from pathlib import Path

import jax
import pytest

from experiments import cli, sweep, sweep_figure
from experiments.sweep_settings import Settings

SMALL = {
    "--dataset": ["mnist_sample"],
    "--train-size": ["256"],
    "--batch-size": ["32"],
    "--learning-rate": ["0.1"],
    "--epochs": ["2"],
    "--seeds": ["3"],
    "--runs-at-once": ["2"],
    "--variants": ["LeNet"],
    "--layers": ["drop6"],
    "--dropout-rates": ["0.5"],
    "--compilation-cache": ["off"],
}
RUNS, GROUPS = 6, 3


def be_quick(patch):
    """Compile each program once while the patch holds, and draw nothing."""
    compiled = {}
    compile_for = sweep.compile_for

    def compile_once(settings, variant, data, runs):
        kind = settings.batch_size, settings.learning_rates is None, jax.tree.structure(data.train)
        key = runs, variant, *kind
        if key not in compiled:
            compiled[key] = compile_for(settings, variant, data, runs)
        return compiled[key]

    patch.setattr(sweep, "compile_for", compile_once)
    patch.setattr(sweep_figure, "draw", lambda *args, **kwargs: b"a picture")


def run(out, changes=()):
    """Run the program in this process; return its exit code."""
    arguments = {**SMALL, **dict(changes), "--out": [str(out)]}
    line = [word for flag, values in arguments.items() for word in (flag, *map(str, values))]
    return cli.run(sweep.main, Settings, "sweep", line)


def numbers(out):
    """Everything of a sweep that may not depend on how it came about."""
    with (out / "sweep.csv").open() as file:
        rows = [{**row, "seconds": ""} for row in csv.DictReader(file)]
    return rows, *((out / name).read_bytes() for name in ("sweep.json", "predictions.npz"))


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        be_quick(patch)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, quick):
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert run(out) == 0
    return out


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the finished sweep."""
    return Path(shutil.copytree(undisturbed, tmp_path / "out"))

"""--overwrite: what is there goes only once nothing refuses the start, and only what is ours."""

import contextlib
import os
import signal

import pytest

from experiments import ablate, cli, durable, sweep, torch_baseline
from experiments.ablate_settings import Settings
from experiments.results import ResultsFolder
from experiments.signals import Stopped
from experiments.sweep_files import SweepFolder
from experiments.sweep_settings import Settings as SweepSettings
from experiments.torch_folder import BaselineFolder

SMALL = {
    "--dataset": "mnist_sample",
    "--train-size": "64",
    "--batch-size": "32",
    "--seeds": "1",
    "--epochs": "1",
}
PROGRAMS = {
    "ablate": (ablate.main, Settings),
    "sweep": (sweep.main, SweepSettings),
    "torch_baseline": (torch_baseline.main, torch_baseline.Settings),
}


def run(name, out, **more):
    """Run a program in this process; return its exit code."""
    program, settings = PROGRAMS[name]
    line = [word for pair in (SMALL | more).items() for word in pair]
    return cli.run(program, settings, name, [*line, "--overwrite", "--out", str(out)])


def stop(folder):
    raise Stopped(signal.SIGTERM)


@pytest.fixture(params=PROGRAMS)
def program(request):
    return request.param


@pytest.fixture
def out(program, tmp_path):
    """A folder with a file of every name that the program gives."""
    kind = {"ablate": ResultsFolder, "sweep": SweepFolder, "torch_baseline": BaselineFolder}
    for pattern in kind[program].files:
        name = pattern.replace("[0-9]*", "1").replace("*.seeds-*", "LeNet.seeds-0")
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(f"earlier {name}")
    return tmp_path / "out"


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_refused_before_anything_goes(program, out, kind, capsys):
    (out / "config.json").unlink()
    if kind == "folder":
        (out / "config.json").mkdir()
        (out / "config.json" / "notes").write_text("mine")
    else:
        os.mkfifo(out / "config.json")
    before = content(out)
    assert run(program, out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--out: expected a file of ours or nothing at {out / 'config.json'}" in line
    assert content(out) == before


def test_too_small_a_disk_is_refused_before_anything_goes(out, program, monkeypatch, capsys):
    before = content(out)
    monkeypatch.setattr(durable.Disk, "free", lambda disk, folder: 1000)
    assert run(program, out) == 2
    assert "of free space for" in capsys.readouterr().err
    assert content(out) == before


def test_the_room_that_an_earlier_study_takes_is_free_for_the_next(
    out, program, monkeypatch, capsys
):
    (out / "config.json").write_bytes(bytes(20_000_000))
    monkeypatch.setattr(durable.Disk, "free", lambda disk, folder: 1000)
    monkeypatch.setattr(ResultsFolder, "clear", stop)
    assert run(program, out) == 143
    assert capsys.readouterr().err.rstrip().endswith(f"--overwrite --out {out}")


def test_a_linked_folder_of_sweeps_is_refused_and_what_it_shows_stays(tmp_path, capsys):
    sweep = tmp_path / "mine" / "1"
    sweep.mkdir(parents=True)
    (sweep / ".sweep.csv.77.tmp").touch()  # of a program that is writing it
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweeps").symlink_to(tmp_path / "mine")
    assert run("ablate", tmp_path / "out") == 2
    place = tmp_path / "out" / "sweeps"
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--out: expected a folder, no link, or nothing at {place}; move away" in line
    assert (sweep / ".sweep.csv.77.tmp").exists()


@pytest.mark.parametrize("moment", ["connects", "reads"])
def test_a_process_that_follows_another_asks_for_nothing_to_be_overwritten_again(
    moment, tmp_path, monkeypatch, capsys
):
    waiting = stop if moment == "connects" else lambda *_: contextlib.nullcontext()
    monkeypatch.setattr(ablate, "following", lambda *_: waiting(None))
    monkeypatch.setattr(Settings, "load", stop)
    place = {"--coordinator": "localhost:4000", "--processes": "2", "--process-id": "1"}
    assert run("ablate", tmp_path, **place) == 143
    line = capsys.readouterr().err
    assert "--process-id 1" in line
    assert "--overwrite" not in line

"""A start of a sweep that is refused, in one line, leaves the folder as it was, byte by byte."""

import os

import pytest

from experiments import durable, environment, sweep
from experiments.lock import one_writer
from experiments.sweep_files import BEGUN
from tests.small_sweep import finished, quick, run, undisturbed

# Fixtures.
__all__ = ["finished", "quick", "undisturbed"]


REFUSED = [
    ({"--batch-size": [64]}, "--batch-size: the folder has 32, not 64;"),
    ({"--learning-rate": [0.2]}, "--learning-rate: the folder has 0.1, not 0.2;"),
    ({"--train-size": [128]}, "--train-size: the folder has 256, not 128;"),
    ({"--runs-at-once": [1]}, "--runs-at-once: the folder has 2, not 1;"),
    ({"--epochs": [3]}, "--epochs: the folder has 2, not 3;"),
    ({"--epochs": [1]}, "--epochs: the folder has 2, not 1"),
    ({"--seeds": [2]}, "--seeds: the folder has 3, not 2 (more can be added);"),
    ({"--first-seed": [1]}, "--first-seed: the folder has 0, not 1 (more can be added);"),
    ({"--layers": ["both"]}, "--layers: the folder has drop6, not both (more can be added);"),
    (
        {"--dropout-rates": [0.3]},
        "--dropout-rates: the folder has 0.5, not 0.0 0.3 (more can be added);",
    ),
    (
        {"--learning-rates": [0.1], "--dropout-rates": sweep.Settings().dropout_rates}
        | {"--layers": sweep.Settings().layers},
        "--learning-rates: the folder has none, not 0.1;",
    ),
]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_other_settings_are_refused_by_name_with_both_values(changes, message, undisturbed, capsys):
    before = content(undisturbed)
    assert run(undisturbed, changes) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert f"--overwrite starts {undisturbed} anew" in line
    assert content(undisturbed) == before


def with_damage(folder):
    """Damage all that a start would set aside."""
    for name in ("sweep.csv", "predictions.npz"):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-20])
    (folder / BEGUN).write_bytes(b"torn")


def without_config(folder):
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "more"),
    [(lambda folder: None, {"--seeds": [4]}), (with_damage, {})],
)
def test_another_version_is_refused_by_name_while_something_is_left(
    change, more, finished, monkeypatch, capsys
):
    change(finished)
    versions = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda *args: versions | {"jaxlib": "99"})
    before = content(finished)
    assert run(finished, more) == 2
    screen = capsys.readouterr()
    assert f"jaxlib: the folder has {versions['jaxlib']}, not 99;" in screen.err
    assert "damaged" not in screen.out
    assert content(finished) == before


def test_a_finished_sweep_is_drawn_again_by_another_version(finished, monkeypatch):
    versions = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda *args: versions | {"jaxlib": "99"})
    assert run(finished) == 0


@pytest.mark.parametrize("change", [with_damage, without_config])
def test_too_small_a_disk_is_refused_before_anything_is_set_aside(
    change, finished, monkeypatch, capsys
):
    change(finished)
    before = content(finished)
    monkeypatch.setattr(durable.Disk, "free", lambda disk, folder: 1000)
    assert run(finished) == 2
    screen = capsys.readouterr()
    assert "of free space for" in screen.err
    assert "damaged" not in screen.out
    assert content(finished) == before


def test_a_second_program_on_the_folder_is_refused(finished, capsys):
    with one_writer(finished):
        assert run(finished) == 2
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err

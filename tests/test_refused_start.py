"""A start that is refused, in one line, leaves the folder as it was, byte by byte."""

import json
import os
import shutil
from pathlib import Path

import pytest

from experiments import durable, environment, going_on
from experiments.lock import one_writer
from jax_lenet import load
from tests.test_damaged_study import compiled, cut_in_half, finished, quick, undisturbed
from tests.test_going_on import STUDY, run

# Fixtures.
__all__ = ["compiled", "finished", "quick", "undisturbed"]


REFUSED = [
    (("--batch-size", 64), ["--batch-size: the folder has 32, not 64"]),
    (("--learning-rate", 0.05), ["--learning-rate: the folder has 0.1, not 0.05"]),
    (("--train-size", 128), ["--train-size: the folder has 256, not 128"]),
    (("--precision", "high"), ["--precision: the folder has highest, not high"]),
    (("--seeds-at-once", 2), ["--seeds-at-once: the folder has 1, not 2"]),
    (("--epochs", 1), ["--epochs: the folder has 2, not 1 (more can be added)"]),
    (("--seeds", 1), ["--seeds: the folder has 2, not 1 (more can be added)"]),
    (("--first-seed", 1), ["--first-seed: the folder has 0, not 1 (more can be added)"]),
    (
        ("--variants", "LeNet"),
        ["--variants: the folder has LeNet LeNet_BN_Dropout, not LeNet (more can be added)"],
    ),
    (
        ("--batch-size", 16, "--learning-rate", 0.2, "--seeds", 3),
        [
            "--batch-size: the folder has 32, not 16",
            "--learning-rate: the folder has 0.1, not 0.2",
        ],
    ),
]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("arguments", "messages"), REFUSED)
def test_other_settings_are_refused_by_name_with_both_values(
    arguments, messages, undisturbed, capsys
):
    before = content(undisturbed)
    assert run(undisturbed, *STUDY, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"ablate: {'; '.join(messages)}; --overwrite starts {undisturbed} anew, --out names another"
        " folder"
    )
    assert content(undisturbed) == before


LESS = [case for case in REFUSED if "(more can be added)" in case[1][0]]


@pytest.mark.parametrize("damage", [cut_in_half, Path.unlink])
@pytest.mark.parametrize(("arguments", "messages"), LESS)
def test_less_is_refused_without_a_config_json_too_as_the_run_files_tell(
    arguments, messages, damage, finished, capsys
):
    damage(finished / "config.json")
    before = content(finished)
    assert run(finished, *STUDY, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ablate: {'; '.join(messages)}; --overwrite")
    assert content(finished) == before


def without_runs(folder):
    shutil.rmtree(folder / "runs")


def with_damage(folder):
    for name in ("runs/LeNet.seeds-0.npz", "results.csv", "predictions.npz", "test_set.npz"):
        cut_in_half(folder / name)


@pytest.mark.parametrize(
    ("change", "more"),
    [(lambda folder: None, ("--seeds", 3)), (without_runs, ()), (with_damage, ())],
)
def test_another_version_is_refused_by_name_while_something_is_left(
    finished, monkeypatch, capsys, change, more
):
    change(finished)
    versions = environment.versions()
    monkeypatch.setattr(environment, "versions", lambda *args: versions | {"jax": "99"})
    before = content(finished)
    assert run(finished, *STUDY, *more) == 2
    screen = capsys.readouterr()
    assert f"jax: the folder has {versions['jax']}, not 99;" in screen.err
    assert "damaged" not in screen.out
    assert content(finished) == before


@pytest.mark.parametrize("more", [(), ("--seeds", 3)])
def test_a_bad_sweep_or_too_small_a_disk_is_refused_before_anything_is_set_aside(
    finished, monkeypatch, capsys, more
):
    cut_in_half(finished / "predictions.npz")
    before = content(finished)
    assert run(finished, *STUDY, *more, "--sweep", finished) == 2
    assert "expected the config.json of experiments.sweep" in capsys.readouterr().err
    monkeypatch.setattr(durable.Disk, "free", lambda disk, folder: 1000)
    if more:
        assert run(finished, *STUDY, *more) == 2
        assert "of free space" in capsys.readouterr().err
    assert content(finished) == before


def test_overwrite_refuses_to_remove_a_sweep_that_it_is_to_keep(finished, capsys):
    before = content(finished)
    arguments = ("--overwrite", "--sweep", finished / "sweeps" / "1")
    assert run(finished, *STUDY, *arguments) == 2
    assert "which --overwrite empties, not" in capsys.readouterr().err
    assert content(finished) == before


def test_other_data_are_refused_by_their_checksums(finished, monkeypatch, capsys):
    facts = environment.data_facts(load("mnist_sample", train_size=256))
    ((name, file),) = facts["files"].items()
    other = facts | {"files": {name: file | {"sha256": "0f"}}}
    monkeypatch.setattr(environment, "data_facts", lambda data: other)
    before = content(finished)
    assert run(finished, *STUDY, "--seeds", 3) == 2
    message = f"SHA-256 of {name}: the folder has {file['sha256']}, not 0f;"
    assert message in capsys.readouterr().err
    assert content(finished) == before


def test_another_first_seed_is_refused_where_the_others_train_together(tmp_path, capsys):
    several = ("--variants", "LeNet", "--epochs", 1, "--seeds-at-once", 2)
    assert run(tmp_path, *several, "--first-seed", 1, "--seeds", 1) == 0
    assert run(tmp_path, *several, "--first-seed", 0, "--seeds", 2) == 2
    assert "--first-seed: the folder has 1, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seeds", "also"), [(2, ""), (1, "--seeds: the folder has 2, not 1 (more can be added); ")]
)
def test_a_lower_first_seed_that_leaves_out_a_run_is_refused_with_how_many_seeds_hold_both(
    seeds, also
):
    old, new = ({"first_seed": f, "seeds": n, "epochs": 1} for f, n in ((5, 2), (0, seeds)))
    words = "--first-seed: the folder has 5, not 0 (--seeds 7 would hold both)"
    assert "; ".join(going_on.shrunk(old, new, ())) == also + words
    assert going_on.shrunk(old, new | {"seeds": 7}, ()) == []


@pytest.mark.parametrize("program", ["experiments.sweep", "experiments.torch_baseline"])
def test_another_programs_folder_is_refused(finished, program, capsys):
    config = json.loads((finished / "config.json").read_text())
    (finished / "config.json").write_text(json.dumps(config | {"program": program}))
    assert run(finished, *STUDY) == 2
    error = capsys.readouterr().err
    assert f"program: the folder has {program}, not experiments.ablate;" in error


@pytest.mark.parametrize("text", ["{}", "[]", '{"name": "a web page"}', "{"])
def test_a_config_json_that_is_not_ours_is_refused_and_stays(text, tmp_path, capsys):
    (tmp_path / "config.json").write_text(text)
    assert run(tmp_path, *STUDY) == 2
    assert "expected" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == text


def test_a_second_program_on_the_folder_is_refused_with_the_firsts_number(finished, capsys):
    before = content(finished)
    with one_writer(finished):
        assert run(finished, *STUDY) == 2
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err
    assert content(finished) == before

"""A damaged or foreign file in a study's folder is set aside, and the numbers stay the same."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import npz, run_store
from experiments.going_on import Identity
from experiments.results import FIRST_PREDICTIONS, PREDICTIONS, ResultsFolder, Row
from experiments.study_folder import _in_text
from tests.faults import names
from tests.simulated import LEARNING_RATES, write_sweep
from tests.test_going_on import EPOCHS, STUDY, be_quick, numbers, run, trained

__all__ = ["trained"]


@pytest.fixture(scope="module")
def compiled():
    return {}


@pytest.fixture(autouse=True)
def quick(monkeypatch, compiled, as_for_users):
    be_quick(monkeypatch, compiled)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, compiled, as_for_users):
    """A finished study."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        be_quick(patch, compiled)
        assert run(out, *STUDY) == 0
    return out


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(undisturbed, tmp_path / "finished"))


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_last_line(path):
    path.write_bytes(path.read_bytes()[:-20])


def of_another_study(path):
    run = run_store.read(path)
    other = Identity({**run.identity.settings, "--batch-size": 64}, run.identity.environment)
    path.write_bytes(run_store.encode(run_store.RunFile(run.variant, run.fit, other)))


def edited(path):
    path.write_text(path.read_text().replace('"batch_size": 32', '"batch_size": 64'))


def with_setting(place, value):
    """Put a value at a place of config.json; None takes away what is there."""

    def damage(path):
        config = json.loads(path.read_text())
        *above, name = place.split(".")
        inner = config
        for each in above:
            inner = inner[each]
        del inner[name]
        if value is not None:
            inner[name] = value
        path.write_text(json.dumps(config))

    return named(damage, f"{place} {value}")


def with_arrays(change, words):
    """Change the arrays of a file, each the same way."""

    def damage(path):
        arrays = npz.decode(path.read_bytes())
        path.write_bytes(npz.encode({name: change(name, array) for name, array in arrays.items()}))

    return named(damage, words)


def with_line(line):
    """Write a table with a line of its own."""

    def damage(path):
        header = {"timing.csv": "variant,repeat,train_seconds,test_seconds"}
        rows = path.read_text().splitlines()[:1] if path.exists() else [header[path.name]]
        path.write_text("\n".join([*rows, line, ""]))

    return named(damage, line)


def named(damage, words):
    damage.__name__ = words
    return damage


def empty(path):
    path.write_bytes(b"")


def of_another_program(path):
    path.write_text('{"name": "a web page"}')


UNSOUND = [
    *(("title", value) for value in (None, 3, "two\nlines")),
    *(("data.kind", value) for value in (None, 3, "a CD")),
    *(("data.notice", value) for value in (None, 3, [])),
    *(("data.path", value) for value in (None, 3)),
    *(("data.sizes.test", value) for value in (None, -1, 1.5, "ten")),
    *(("data.files", value) for value in (None, [])),
    *(("seeds_at_once", value) for value in (None, 0, 1.5, "1")),
    *(("settings.seeds", value) for value in (None, 0, "2")),
    ("settings.first_seed", -1),
    *(("settings.variants", value) for value in (None, "LeNet", ["AlexNet"], [["LeNet"]])),
    ("settings.learning_rate", None),
    ("peak_rss_bytes", 1e999),
    ("machine", []),
]
OTHER_CLASSES = with_arrays(lambda name, a: (a + 1) % a.dtype.type(10), "other classes")
OTHER_DTYPE = with_arrays(
    lambda name, a: a if a.dtype.kind == "U" else np.full(a.shape, np.nan), "not a number"
)
FEWER_IMAGES = with_arrays(lambda name, a: a[..., :10], "fewer images")


def with_other_labels(name, array):
    return (array + 1) % np.uint8(10) if name == "labels" else array


DAMAGE = [
    (
        "runs/LeNet.seeds-0.npz",
        [cut_in_half, empty, OTHER_DTYPE, of_another_study],
        2,
    ),
    ("runs/LeNet_BN_Dropout.seeds-1.npz", [of_another_study], 2),
    (
        "results.csv",
        [cut_last_line, empty, *map(with_line, ("LeNet,0,1,1,1,1,1,1", "AlexNet,0,1,1,1,1,1,1"))],
        0,
    ),
    (
        "timing.csv",
        [
            with_line(line)
            for line in (
                *(
                    "LeNet,1,nan,1",
                    "LeNet,1,1,-5",
                    "LeNet,1,1,1e308",
                    "LeNet,1,1,1e-320",
                    "LeNet,1,1",
                ),
                *("AlexNet,1,1,1", "LeNet_BN_drop6,1,1,1"),
            )
        ],
        0,
    ),
    *(
        (name, [cut_in_half, empty, OTHER_DTYPE, OTHER_CLASSES, FEWER_IMAGES], 0)
        for name in (PREDICTIONS, FIRST_PREDICTIONS)
    ),
    (
        "test_set.npz",
        [
            *(cut_in_half, empty, OTHER_DTYPE),
            with_arrays(with_other_labels, "other labels"),
            with_arrays(lambda name, array: array[:10], "ten images"),
            with_arrays(lambda name, a: a | True if name == "wrong" else a, "no right label"),
        ],
        0,
    ),
    ("config.json", [cut_in_half, empty, of_another_program, edited], 0),
    ("config.json", [with_setting(place, value) for place, value in UNSOUND], 0),
]


@pytest.mark.parametrize(
    ("name", "damage", "epochs"),
    [(name, damage, epochs) for name, damages, epochs in DAMAGE for damage in damages],
)
def test_a_damaged_file_is_named_set_aside_and_made_again(
    name, damage, epochs, finished, undisturbed, capsys, trained
):
    damage(finished / name)
    torn = (finished / name).read_bytes()
    assert run(finished, *STUDY) == 0
    assert f"is now {Path(name).name}.damaged-1" in capsys.readouterr().out
    assert (finished / f"{name}.damaged-1").read_bytes() == torn
    assert len(trained) == epochs
    assert numbers(finished) == numbers(undisturbed)
    assert (finished / "test_set.npz").read_bytes() == (undisturbed / "test_set.npz").read_bytes()
    assert run(finished, *STUDY) == 0
    assert len(trained) == epochs


def test_a_grown_study_trains_what_is_missing_beside_a_foreign_test_set(finished, trained):
    with_arrays(with_other_labels, "other labels")(finished / "test_set.npz")
    assert run(finished, *STUDY, "--seeds", 3) == 0
    assert len(trained) == 4
    assert (finished / "test_set.npz.damaged-1").exists()


@pytest.mark.parametrize("runs", [True, False])
def test_where_config_json_lacks_how_many_train_together_only_the_run_files_tell_what_is_there(
    runs, finished, undisturbed, trained
):
    with_setting("seeds_at_once", None)(finished / "config.json")
    if not runs:
        shutil.rmtree(finished / "runs")
    assert run(finished, *STUDY) == 0
    assert len(trained) == (0 if runs else EPOCHS)
    assert numbers(finished) == numbers(undisturbed)


def test_a_run_that_config_json_does_not_name_is_not_the_studys(
    finished, undisturbed, trained, capsys
):
    other = run_store.read(finished / "runs" / "LeNet.seeds-0.npz")
    other = replace(other, fit=replace(other.fit, seeds=(5,)))
    run_store.write(finished, other)
    assert run(finished, *STUDY) == 0
    assert "cannot be used (the study has no such runs)" in capsys.readouterr().out
    assert (finished / "runs" / "LeNet.seeds-5.npz.damaged-1").exists()
    assert trained == []
    assert numbers(finished) == numbers(undisturbed)


def test_what_was_made_from_a_damaged_run_file_is_no_damage(finished, undisturbed, capsys):
    path = finished / "runs" / "LeNet.seeds-1.npz"
    cut_in_half(path)
    path.rename(f"{path}.damaged-1")  # as a kill leaves it, before the tables are written again
    cut_in_half(finished / "runs" / "LeNet_BN_Dropout.seeds-0.npz")
    assert run(finished, *STUDY) == 0
    assert capsys.readouterr().out.count("is now") == 1
    assert numbers(finished) == numbers(undisturbed)


@pytest.mark.parametrize("line", ["AlexNet,77,1,1,1,1,1,1", "LeNet,0,3,1,1,1,1,1"])
def test_what_no_run_file_has_made_is_set_aside_beside_a_damaged_one_too(
    line, finished, undisturbed, capsys
):
    cut_in_half(finished / "runs" / "LeNet.seeds-1.npz")
    with (finished / "results.csv").open("a") as file:
        file.write(f"{line}\n")
    assert run(finished, *STUDY) == 0
    assert "is now results.csv.damaged-1" in capsys.readouterr().out
    assert line in (finished / "results.csv.damaged-1").read_text()
    assert numbers(finished) == numbers(undisturbed)


def test_once_a_damaged_run_is_trained_again_foreign_tables_are_told_apart_again(
    finished, undisturbed, capsys
):
    cut_in_half(finished / "runs" / "LeNet.seeds-1.npz")
    assert run(finished, *STUDY) == 0
    for name in (PREDICTIONS, FIRST_PREDICTIONS):
        OTHER_CLASSES(finished / name)
    table = (finished / "results.csv").read_text()
    (finished / "results.csv").write_text(re.sub("(?m)^LeNet,1,1,.*", "LeNet,1,1,1,1,1,1,1", table))
    capsys.readouterr()
    assert run(finished, *STUDY) == 0
    said = capsys.readouterr().out
    for name in (PREDICTIONS, FIRST_PREDICTIONS, "results.csv"):
        assert f"is now {name}.damaged-1" in said
    assert numbers(finished) == numbers(undisturbed)


def test_a_study_whose_runs_diverge_is_recognised_as_it_is(tmp_path, trained, capsys):
    diverging = (*STUDY, "--learning-rate", 30)
    assert run(tmp_path, *diverging) == 0
    epochs, before = len(trained), (tmp_path / "results.csv").read_bytes()
    assert run(tmp_path, *diverging) == 0
    assert len(trained) == epochs
    assert "damaged" not in capsys.readouterr().out
    assert (tmp_path / "results.csv").read_bytes() == before


def test_rows_are_compared_as_they_are_read_whatever_their_loss(tmp_path):
    folder = ResultsFolder.create(tmp_path / "out", overwrite=False)
    losses = [np.float32(loss) for loss in (6.836284e7, 3e-7, 2.5e30, np.inf, np.nan, 2.3)]
    numbers = (np.float64(0.1), np.float32(1e6), 0.25, 1.5)
    rows = [Row("LeNet", seed, 1, loss, *numbers) for seed, loss in enumerate(losses)]
    folder.write_results(rows)
    assert list(_in_text(folder.read_results())) == list(_in_text(rows))


#: What is made of the run files; without these, it is all that is left of the runs.
OF_RUNS = ("results.csv", FIRST_PREDICTIONS, PREDICTIONS)


@pytest.mark.parametrize(("more", "epochs"), [((), 0), (("--seeds", "3"), 4)])
@pytest.mark.parametrize("kind", ["damaged", "of other images", "of other images, as the runs say"])
def test_a_damaged_or_foreign_sweep_that_it_keeps_is_set_aside_and_stops_no_study(
    kind, more, epochs, finished, trained, capsys
):
    sweep = write_sweep(finished / "sweeps" / "1", LEARNING_RATES, lambda point: 0.9, 2)
    words = f"{sweep / 'predictions.npz'}: expected the labels of test_set.npz"
    if kind == "damaged":
        cut_in_half(sweep / "predictions.npz")
        words = f"cannot read {sweep / 'predictions.npz'}"
    elif kind != "of other images":
        (finished / "test_set.npz").unlink()
    assert run(finished, *STUDY, *more) == 0
    assert words in capsys.readouterr().out
    assert names(sweep) == [
        f"{n}.damaged-1" for n in ("config.json", "predictions.npz", "sweep.csv")
    ]
    assert len(trained) == epochs


def assert_set_aside(folder, before, of_names):
    for name in of_names:
        assert (folder / f"{name}.damaged-1").read_bytes() == (before / name).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "results.csv", "predictions.npz", "runs"])
def test_a_file_that_is_gone_is_made_again(name, finished, undisturbed, trained):
    path = finished / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run(finished, *STUDY) == 0
    assert len(trained) == (EPOCHS if name == "runs" else 0)
    assert numbers(finished) == numbers(undisturbed)
    kept = OF_RUNS if name == "runs" else ()
    assert {path.name for path in finished.glob("*.damaged-*")} == {f"{n}.damaged-1" for n in kept}
    assert_set_aside(finished, undisturbed, kept)


def test_without_config_json_the_run_files_tell_the_settings(finished, capsys):
    (finished / "config.json").unlink()
    assert run(finished, *STUDY, "--batch-size", 64) == 2
    assert "--batch-size: the folder has 32, not 64" in capsys.readouterr().err


def test_nothing_is_kept_of_which_nothing_tells_what_it_is(finished, undisturbed, trained, capsys):
    shutil.rmtree(finished / "runs")
    cut_in_half(finished / "config.json")
    assert run(finished, *STUDY) == 0
    assert len(trained) == EPOCHS
    said = capsys.readouterr().out
    for name in ("config.json", *OF_RUNS):
        assert f"{name} is now {name}.damaged-1" in said
    assert_set_aside(finished, undisturbed, OF_RUNS)
    assert numbers(finished) == numbers(undisturbed)

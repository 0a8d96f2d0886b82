"""`python -m experiments.merge`: parts of a study are the whole again, and nothing else joins."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from experiments import cli, figures, merge, page, report
from experiments.results import ResultsFolder
from tests.simulated import LEARNING_RATES, Truth, write, write_sweep

TRUTH = Truth(seeds=5, images=200, repeats=4)
MADE_ON = {
    "device": {"platform": "cpu", "kind": "cpu", "count": 2},
    "machine": {"processor": "EPYC", "cores": 2},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "seeds_at_once": 1,
}
SPLIT = {"a": (range(2), range(1, 2)), "b": (range(2, 5), range(2, 5))}  # seeds and repeats
TABLES = ("results.csv", "timing.csv", "predictions.npz", "first_predictions.npz", "test_set.npz")
PREDICTED = ("predictions.npz", "first_predictions.npz")


def run(*arguments):
    return cli.run(merge.main, merge.Settings, "merge", [str(a) for a in arguments])


def refused(capsys, *arguments):
    """The line with which the program refuses."""
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def edit(folder, place, value):
    """Change config.json at a place, a path of names."""
    config = folder.read_config()
    inner = config
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    folder.write_config(config)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A whole study, drawn, and the same in two parts that are not."""
    base = tmp_path_factory.mktemp("merge")
    whole = write(base / "whole", TRUTH)
    whole.write_config(whole.read_config() | MADE_ON)
    report.remake(whole)
    for name, (seeds, repeats) in SPLIT.items():
        part = ResultsFolder.create(base / name, overwrite=False)
        config = whole.read_config()
        own = {"first_seed": seeds[0], "seeds": len(seeds), "timing_repeats": len(repeats)}
        part.write_config(config | {"settings": config["settings"] | own})
        part.write_results(r for r in whole.read_results() if r.seed in seeds)
        part.write_timing(
            r._replace(repeat=1 + repeats.index(r.repeat))
            for r in whole.read_timing()
            if r.repeat in repeats
        )
        for file in PREDICTED:
            said = whole.read_predictions(file)
            part.write_predictions({v: x[list(seeds)] for v, x in said.items()}, file)
        part.write_test_set(whole.read_test_set())
    return base


@pytest.fixture
def base(intact, tmp_path):
    for name in SPLIT:
        shutil.copytree(intact / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch):
    """Spend no time on pictures that a test does not look at."""
    monkeypatch.setattr(figures, "draw", lambda *args, **kwargs: None)
    monkeypatch.setattr(page, "write", lambda *args: None)


def test_the_parts_together_are_the_whole_study_to_the_last_bit(intact, base):
    assert run(base / "b", base / "a", "--out", base / "out") == 0  # in whatever order
    whole, out = intact / "whole", base / "out"
    for name in TABLES:
        if name != "timing.csv":
            assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert run(base / "a", base / "b", "--out", base / "out", "--overwrite") == 0
    for name in TABLES:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    made = [json.loads((folder / "summary.json").read_text()) for folder in (whole, out)]
    assert made[0] == made[1]
    for name in ("figure1.png", "figure2.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_config_and_page_say_what_was_joined_and_how_to_repeat_it(base):
    assert run(base / "a", base / "b", "--out", base / "out") == 0
    config = ResultsFolder(base / "out").read_config()
    assert config["program"] == "experiments.merge"
    own = {name: config["settings"][name] for name in ("first_seed", "seeds", "timing_repeats")}
    assert own == {"first_seed": 0, "seeds": 5, "timing_repeats": 4}
    assert config["parts"] == [ResultsFolder(base / name).read_config() for name in SPLIT]
    page = (base / "out" / "report.html").read_text()
    assert "python -m experiments.merge part-1 part-2" in page
    for words in ("--first-seed 0", "--first-seed 2", "3 seeds from 2; EPYC, jax 0.10.2"):
        assert words in page


def test_what_was_joined_can_be_joined_with_more(base, undrawn):
    more = write(base / "c", replace(TRUTH, seeds=2))
    more.write_config(ResultsFolder(base / "a").read_config())
    shutil.copy(base / "a" / "test_set.npz", base / "c")
    moved = [r._replace(seed=r.seed + 7) for r in more.read_results()]
    more.write_results(moved)
    for file in PREDICTED:  # as right as the rows say, on the labels of the others
        more.write_predictions(more.read_predictions(file), file)
    assert run(base / "a", base / "b", "--out", base / "ab") == 0
    assert run(base / "ab", base / "c", "--out", base / "abc") == 0
    config = ResultsFolder(base / "abc").read_config()
    assert len(config["parts"]) == 3
    assert config["settings"]["seeds"] == 7
    rows = ResultsFolder(base / "abc").read_results()
    assert sorted({row.seed for row in rows}) == [0, 1, 2, 3, 4, 7, 8]


# As a study leaves its last run that is stopped before it, in it, or between two of its files.
@pytest.mark.parametrize(
    ("epochs", "lacking"), [(0, PREDICTED), (2, PREDICTED), (3, PREDICTED), (3, PREDICTED[:1])]
)
def test_runs_of_a_study_that_was_stopped_are_left_out_and_counted(
    base, capsys, undrawn, epochs, lacking
):
    part = ResultsFolder(base / "b")
    rows = part.read_results()
    part.write_results(
        row for row in rows if (row.variant, row.seed) != ("LeNet", 4) or row.epoch <= epochs
    )
    for file in lacking:
        said = part.read_predictions(file)
        part.write_predictions(said | {"LeNet": said["LeNet"][:2]}, file)
    before = {path.name: path.read_bytes() for path in part.path.iterdir()}
    assert run(base / "a", base / "b", "--out", base / "out") == 0
    screen = capsys.readouterr().out
    assert (
        f"{base / 'b'}: 17 of 18 runs, seeds 2-4; the others lack epochs or predictions: the"
        " command that made the folder goes on with them\n"
    ) in screen
    assert f"{base / 'a'}: 12 runs, seeds 0-1\n" in screen
    joined = ResultsFolder(base / "out").read_results()
    assert ("LeNet", 4) not in {(row.variant, row.seed) for row in joined}
    assert len(joined) == 3 * (30 - 1)
    assert {path.name: path.read_bytes() for path in part.path.iterdir()} == before


def test_times_of_another_machine_are_no_repeats_of_these(base, capsys, undrawn):
    edit(ResultsFolder(base / "b"), ("machine", "processor"), "another")
    assert run(base / "b", base / "a", "--out", base / "out") == 0
    assert (base / "out" / "timing.csv").read_bytes() == (base / "b" / "timing.csv").read_bytes()
    line = " ".join(capsys.readouterr().out.split())
    assert "other machines timed" in line
    config = ResultsFolder(base / "out").read_config()
    assert config["machine"]["processor"] == "another"  # whose times they are
    assert config["settings"]["timing_repeats"] == 3


def test_sweeps_that_the_parts_keep_stay_each_once(base, undrawn):
    made = write_sweep(base / "s", LEARNING_RATES, lambda p: 0.9, seeds=2, data={"test": 200})
    for name in SPLIT:
        assert (
            cli.run(
                report.main, report.Settings, "report", [str(base / name), "--sweep", str(made)]
            )
            == 0
        )
    assert run(base / "a", base / "b", "--out", base / "out") == 0
    kept = sorted(path.name for path in (base / "out" / "sweeps").iterdir())
    assert kept == ["1"]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("settings", "batch_size"), 64, "--batch-size: {a} has 128, {b} has 64"),
        (("settings", "learning_rate"), 0.1, "--learning-rate: {a} has 0.01, {b} has 0.1"),
        (("settings", "precision"), "default", "--precision: {a} has highest, {b} has default"),
        (("settings", "variants"), ["LeNet"], "--variants: {a} has LeNet LeNet_BN_Dropout"),
        (("settings", "accuracy_margin"), 0.2, "--accuracy-margin: {a} has 0.1, {b} has 0.2"),
        (("data", "name"), "mnist_sample", "--dataset: {a} has mnist, {b} has mnist_sample"),
        (("data", "sizes", "train"), 1000, "--train-size: {a} has 50000, {b} has 1000"),
        (("data", "files"), {"x": {"sha256": "0f"}}, "SHA-256 of x: {a} has None, {b} has 0f"),
    ],
)
def test_other_settings_are_refused_by_name_with_both_values(base, capsys, place, value, words):
    edit(ResultsFolder(base / "b"), place, value)
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert words.format(a=base / "a", b=base / "b") in line
    assert not (base / "out").exists()


def test_another_number_of_epochs_is_refused_by_name(base, capsys):
    part = ResultsFolder(base / "b")
    edit(part, ("settings", "epochs"), 2)
    rows = [row for row in part.read_results() if row.epoch != 2]
    part.write_results(row._replace(epoch=min(row.epoch, 2)) for row in rows)
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert f"--epochs: {base / 'a'} has 3, {base / 'b'} has 2" in line


def test_seeds_in_both_are_refused_by_number(base, capsys):
    shutil.copytree(base / "b", base / "c")
    line = refused(capsys, base / "a", base / "b", base / "c", "--out", base / "out")
    assert f"{base / 'b'} and {base / 'c'} both have seeds 2-4" in line


def test_another_test_set_is_refused(base, capsys):
    part = ResultsFolder(base / "b")
    images, labels, wrong = part.read_test_set()
    part.write_test_set(type(part.read_test_set())(images, labels, np.roll(wrong, 1)))
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert f"{base / 'b'}: expected the test set of {base / 'a'}" in line


def test_what_is_no_folder_of_the_study_is_refused_and_nothing_is_written(base, capsys):
    assert "expected two folders or more" in refused(capsys, base / "a", "--out", base / "out")
    line = refused(capsys, base / "a", base / "b", "--out", base / "b")
    assert "expected another folder than those to join" in line
    (base / "b" / "predictions.npz").unlink()
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert "predictions.npz: No such file" in line
    edit(ResultsFolder(base / "b"), ("device",), None)
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert "expected the config.json of experiments.ablate" in line
    assert not (base / "out").exists()


def test_results_that_are_there_are_not_replaced_unasked(base, capsys):
    shutil.copytree(base / "a", base / "out")
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert "already holds" in line
    assert "--overwrite" in line


NAMES = "expected settings.variants to be different names of LeNet, "


@pytest.mark.parametrize(
    ("variants", "words"),
    [
        ([], "expected settings.variants to name all models in results.csv, but LeNet, LeNet_BN_D"),
        (["LeNet"], "but LeNet_BN_Dropout, LeNet_BN_drop6, LeNet_BN_noDropout, "),
        ("LeNet", NAMES),
        ({"LeNet": 1}, NAMES),
        (["LeNet", "LeNet"], NAMES),
        (["LeNet", ["LeNet"]], NAMES),
        (["AlexNet"], NAMES),
        ([1, "LeNet"], NAMES),
        (3, NAMES),
    ],
)
def test_variants_that_are_not_those_of_the_runs_lose_nothing(base, capsys, variants, words):
    assert_both_refused_and_nothing_lost(base, capsys, ("settings", "variants"), variants, words)


DEEP = json.loads("[" * 400 + "]" * 400)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("settings", "accuracy_margin"), 5e-324, "accuracy_margin is a number from 1e-6 to 100"),
        (("machine",), {"more": DEEP}, "nested 50 deep at most"),
        (("machine",), {"more": "1e999"}, "it is finite numbers, text"),
        (("data", "kind"), "stolen", "data.kind is one of tensorflow_datasets, "),
    ],
)
def test_what_cannot_be_joined_is_refused_before_anything_is_lost(
    base, capsys, place, value, words
):
    assert_both_refused_and_nothing_lost(base, capsys, place, value, words)


def assert_both_refused_and_nothing_lost(base, capsys, place, value, words):
    """Put a value into the config.json of both folders, and join them in place of results."""
    out = shutil.copytree(base / "a", base / "out")
    for name in SPLIT:
        edit(ResultsFolder(base / name), place, value)
        path = base / name / "config.json"
        path.write_text(path.read_text().replace('"1e999"', "1e999"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    line = refused(capsys, base / "a", base / "b", "--out", out, "--overwrite")
    assert words in line
    assert str(base) in line
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("parts", [3, [3], [{}], [[]], {"a": 1}, [{"title": "x"}]])
def test_damaged_parts_are_no_traceback(base, capsys, parts):
    edit(ResultsFolder(base / "b"), ("parts",), parts)
    line = refused(capsys, base / "a", base / "b", "--out", base / "out")
    assert "expected the config.json of a study: parts" in line

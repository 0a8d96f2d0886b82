"""`python -m experiments.report` on simulated folders: what it makes, and what it cannot."""

import json
from dataclasses import replace

import pytest

from experiments import cli, report
from experiments.results import ResultsFolder
from tests.simulated import LEARNING_RATES, Truth, write, write_sweep

STUDY = Truth(seeds=2, images=200, repeats=2)


def run(*arguments):
    return cli.run(report.main, report.Settings, "report", [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("made") / "r", STUDY)
    assert run(folder.path) == 0
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept") / "s"
    return write_sweep(folder, LEARNING_RATES, lambda point: 0.9, seeds=2, data={"test": 200})


def summary_of(folder):
    return json.loads((folder.path / "summary.json").read_text())


def test_it_makes_summary_figures_and_page(made):
    summary = summary_of(made)
    assert list(summary) == [
        "variants",
        "rules",
        "verdicts",
        "pairing",
        "mcnemar",
        "wrong_labels",
    ]
    assert [entry["number"] for entry in summary["verdicts"]] == [1, 2, 3, 4, 5]
    for entry in summary["verdicts"]:
        assert set(entry) >= {"claim", "verdict", "sentence", "parts"}
        assert set(entry["mechanism"]) == {"title", "text", "numbers"}
    for name in ("figure1.png", "figure2.png", "report.html"):
        assert (made.path / name).stat().st_size > 10_000


def test_it_makes_the_very_same_again(made):
    names = ("summary.json", "figure1.png", "report.html")
    before = {name: (made.path / name).read_bytes() for name in names}
    assert run(made.path) == 0
    assert {name: (made.path / name).read_bytes() for name in names} == before


def test_margins_are_those_that_the_study_was_run_with(tmp_path):
    folder = write(tmp_path / "r", STUDY)
    config = folder.read_config()
    config["settings"] |= {"accuracy_margin": 0.3, "time_margin": 5.0}
    folder.write_config(config)
    rules = report.rules_of(folder.read_config()["settings"])
    assert (rules.accuracy_margin, rules.time_margin) == pytest.approx((0.003, 0.05))
    config["settings"]["accuracy_margin"] = -1
    folder.write_config(config)
    with pytest.raises(cli.UserError, match=r"expected the config\.json of a study"):
        report.remake(folder)


def test_a_sweep_is_copied_into_the_folder_and_counts_from_then_on(tmp_path, swept):
    folder = write(tmp_path / "r", STUDY)
    assert run(folder.path, "--sweep", swept) == 0
    kept = folder.path / "sweeps" / "1"
    for name in ("config.json", "sweep.csv", "predictions.npz"):
        assert (kept / name).read_bytes() == (swept / name).read_bytes()
    names = [part["name"] for part in summary_of(folder)["verdicts"][1]["parts"]]
    assert names[-2:] == [
        "report's learning rate, without dropout",
        "best learning rates, without dropout",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 4}, "expected a sweep with the study's epochs, 3, but"),
        ({"learning_rate": 0.1}, "expected a sweep with the study's learning rate, 0.01, but"),
        ({"data": {"test": 99}}, "expected a sweep with the study's test images, 200, but"),
    ],
)
def test_a_sweep_of_another_experiment_is_refused(tmp_path, capsys, changes, message):
    folder = write(tmp_path / "r", STUDY)
    settings = {"data": {"test": 200}} | changes
    other = write_sweep(tmp_path / "s", LEARNING_RATES, lambda point: 0.9, seeds=2, **settings)
    assert run(folder.path, "--sweep", other) == 2
    assert message in capsys.readouterr().err
    assert not (folder.path / "sweeps").exists()


def test_what_is_no_sweep_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "r", STUDY)
    assert run(folder.path, "--sweep", folder.path) == 2
    assert "expected the config.json of experiments.sweep" in capsys.readouterr().err


def test_a_folder_of_the_pytorch_program_has_verdicts_as_far_as_it_goes(tmp_path):
    folder = write(tmp_path / "r", replace(STUDY, repeats=0))
    for name in ("predictions.npz", "first_predictions.npz", "test_set.npz"):
        (folder.path / name).unlink()
    assert run(folder.path) == 0
    assert {entry["verdict"] for entry in summary_of(folder)["verdicts"]} == {"undecided"}
    assert ResultsFolder(folder.path).has("report.html")


def test_a_sweep_that_the_folder_keeps_can_be_named_again(tmp_path, swept):
    folder = write(tmp_path / "r", STUDY)
    assert run(folder.path, "--sweep", swept) == 0
    kept = folder.path / "sweeps" / "1"
    assert run(folder.path, "--sweep", kept) == 0
    assert (kept / "sweep.csv").read_bytes() == (swept / "sweep.csv").read_bytes()


def test_a_config_that_lacks_a_setting_is_no_studys(tmp_path, capsys):
    folder = write(tmp_path / "r", STUDY)
    config = folder.read_config()
    del config["settings"]["learning_rate"]
    folder.write_config(config)
    assert run(folder.path) == 2
    assert "expected the config.json of a study" in capsys.readouterr().err

"""Which sweeps may count for a study: those on the very same data with the same settings."""

import copy

import pytest

from experiments.cli import UserError
from experiments.kept_sweeps import load
from tests.simulated import CONFIG, LEARNING_RATES, write_sweep

KEPT = ("config.json", "sweep.csv", "predictions.npz")
FILES = {"train-images": {"sha256": "ab" * 32, "bytes": 9}, "test-images": {"sha256": "cd" * 32}}
OTHER = {"train-images": {"sha256": "ef" * 32, "bytes": 9}, "test-images": {"sha256": "cd" * 32}}


@pytest.fixture
def study():
    """The config.json of a study."""
    config = copy.deepcopy(CONFIG)
    config["data"]["files"] = FILES
    return config


def sweep_at(path, **changes):
    source = {"files": FILES} | changes.pop("source", {})
    return write_sweep(path / "s", LEARNING_RATES, lambda point: 0.9, 2, source=source, **changes)


def test_a_sweep_on_the_same_data_is_taken_as_it_is_wherever_its_files_lay(tmp_path, study):
    path = sweep_at(tmp_path, source={"path": "elsewhere", "files": dict(reversed(FILES.items()))})
    (files,) = load([path], study)
    assert files == {name: (path / name).read_bytes() for name in KEPT}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": {"files": OTHER}}, "the files of .* have other contents"),
        ({"source": {"files": {}}}, "the files of .* have other contents"),
        ({"source": {"kind": "tfds"}}, "the study's kind of data, idx, but .* has tfds"),
        ({"precision": "default"}, "the study's precision, highest, but .* has default"),
        ({"data": {"train": 4_000}}, "the study's train images, 50000, but .* has 4000"),
        ({"batch_size": 64}, "the study's batch size, 128, but .* has 64"),
    ],
)
def test_a_sweep_on_other_data_or_with_other_settings_is_refused(tmp_path, study, changes, message):
    with pytest.raises(UserError, match=message):
        load([sweep_at(tmp_path, **changes)], study)


def test_a_study_by_pytorch_which_knows_no_precision_is_one_in_full_float32(tmp_path, study):
    del study["settings"]["precision"]
    assert load([sweep_at(tmp_path)], study)


def test_a_study_that_does_not_say_how_it_ran_takes_none(tmp_path, study):
    study["data"]["files"] = {"train-images": None}
    with pytest.raises(UserError, match=r"expected .* to say how they ran"):
        load([sweep_at(tmp_path)], study)


def test_two_sweeps_that_answer_the_same_question_are_refused(tmp_path, study):
    one, other = (sweep_at(tmp_path / name) for name in ("a", "b"))
    with pytest.raises(UserError) as error:
        load([one, other], study)
    assert str(error.value) == (
        f"--sweep: expected one sweep with learning rates of LeNet, but both {one} and {other} have"
        " them"
    )

"""From files to arrays, and files that do not belong together."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.cli import UserError
from experiments.evidence import FIRST, FIRST_LESS_LAST, GAIN, GAP, LAST, LackingError, paired
from tests.simulated import Truth, evidence_of, write

SMALL = Truth(seeds=3, images=200, repeats=2)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "r", SMALL)


def test_runs_are_arrays_by_seed_epoch_and_image(folder):
    runs = evidence_of(folder).of("LeNet")
    assert runs.seeds == (0, 1, 2)
    assert runs.test_accuracy.shape == runs.train_accuracy.shape == (3, 3)
    assert runs.right is not None
    np.testing.assert_allclose(runs.right.mean(1), runs.test_accuracy[:, -1])


def test_measures_by_image_have_the_mean_of_those_by_seed(folder):
    runs = evidence_of(folder).of("LeNet")
    for measure in (FIRST, LAST, FIRST_LESS_LAST, GAIN, GAP):
        assert measure.of_image is not None
        by_image = measure.of_image(runs)
        assert by_image is not None
        np.testing.assert_allclose(by_image.mean(1), measure.of_seed(runs), atol=1e-12)


def test_a_run_that_diverged_has_nothing_from_there_on(tmp_path):
    folder = write(tmp_path / "r", replace(SMALL, diverged=(("LeNet", 1, 2),)))
    runs = evidence_of(folder).of("LeNet")
    assert runs.right is not None
    np.testing.assert_array_equal(np.isnan(runs.test_accuracy[1]), [False, True, True])
    assert runs.right_first is not None
    np.testing.assert_array_equal(np.isnan(runs.right).any(1), [False, True, False])
    assert np.isfinite(runs.right_first).all()  # in its first epoch it was still well
    assert [str(d.seed) for d in runs.diverged] == ["1"]


def test_pairs_are_of_the_same_seed_whatever_the_order_of_the_rows(folder):
    rows = [r for r in folder.read_results() if (r.variant, r.seed) != ("LeNet", 0)]
    folder.write_results(rows[::-1])
    predictions = folder.read_predictions()
    folder.write_predictions({**predictions, "LeNet": predictions["LeNet"][1:]})
    (folder.path / "first_predictions.npz").unlink()
    pair = ("LeNet_BN_noDropout", "LeNet")
    found = paired(evidence_of(folder), pair, LAST)
    assert found.seeds == (1, 2)
    by_hand = {(r.variant, r.seed): r.test_accuracy for r in rows if r.epoch == 3}
    expected = [by_hand[pair[0], seed] - by_hand[pair[1], seed] for seed in (1, 2)]
    np.testing.assert_allclose(found.differences, expected)


def test_a_study_cut_short_has_fewer_predictions_than_runs(folder):
    predictions = folder.read_predictions()
    folder.write_predictions({**predictions, "LeNet": predictions["LeNet"][:2]})
    evidence = evidence_of(folder)
    pair = ("LeNet_BN_noDropout", "LeNet")
    assert paired(evidence, pair, LAST, by_image=True).seeds == (0, 1)
    assert paired(evidence, pair, GAIN, by_image=True).seeds == (0, 1)
    assert paired(evidence, pair, FIRST, by_image=True).seeds == (0, 1, 2)
    assert paired(evidence, pair, LAST).seeds == (0, 1, 2)


def test_what_takes_both_files_needs_both(folder):
    (folder.path / "first_predictions.npz").unlink()
    evidence, pair = evidence_of(folder), ("LeNet_BN_noDropout", "LeNet")
    has = [evidence.has_images(pair, m) for m in (LAST, GAP, FIRST, FIRST_LESS_LAST, GAIN)]
    assert has == [True, True, False, False, False]


def test_no_common_seed_is_no_pair(folder):
    rows = folder.read_results()
    moved = [r._replace(seed=r.seed + 9) if r.variant == "LeNet" else r for r in rows]
    folder.write_results(moved)
    with pytest.raises(LackingError, match="no seed was trained with both"):
        paired(evidence_of(folder), ("LeNet_BN_drop6", "LeNet"), LAST)


def test_images_with_wrong_labels_can_be_left_out(folder):
    evidence = evidence_of(folder)
    shorn = evidence.without_wrong_labels()
    assert evidence.of("LeNet").right is not None
    wrong = folder.read_test_set().wrong
    assert wrong.sum() == 15
    assert not wrong[:15].all()  # or leaving out the first fifteen would do as well
    np.testing.assert_array_equal(shorn.of("LeNet").right, evidence.of("LeNet").right[:, ~wrong])
    first = evidence.of("LeNet").right_first
    assert first is not None
    np.testing.assert_array_equal(shorn.of("LeNet").right_first, first[:, ~wrong])
    np.testing.assert_array_equal(
        shorn.of("LeNet").test_accuracy, evidence.of("LeNet").test_accuracy
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda array: np.roll(array, 1, axis=0),  # another order of seeds
        lambda array: np.concatenate([array, array]),
        lambda array: array[:, :-1],
        lambda array: (array + 1) % 10,
    ],
)
@pytest.mark.parametrize("name", ["predictions.npz", "first_predictions.npz"])
def test_predictions_of_other_runs_are_refused(folder, change, name):
    predictions = folder.read_predictions(name)
    folder.write_predictions({**predictions, "LeNet": change(predictions["LeNet"])}, name)
    with pytest.raises(UserError, match="expected the predictions of the runs"):
        evidence_of(folder)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_times_that_no_clock_shows_are_refused(folder, seconds):
    rows = folder.read_timing()
    folder.write_timing([rows[0]._replace(test_seconds=seconds), *rows[1:]])
    with pytest.raises(UserError, match=r"line 2: expected test_seconds from 1e-06 to 1e\+09"):
        evidence_of(folder)

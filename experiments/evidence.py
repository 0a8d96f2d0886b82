"""A results folder as arrays: what each run gained, image by image and epoch by epoch, and when.

`gather` reads the files; nothing that is left out of a folder is an error here, only an answer that
it cannot give (`LackingError`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from experiments import kept_sweeps
from experiments.cli import UserError
from experiments.results import (
    FIRST_PREDICTIONS,
    PREDICTIONS,
    RESULTS,
    TEST_SET,
    TIMING,
    LabelledImages,
    ResultsFolder,
    Row,
    agree,
)
from experiments.summary import Divergence, divergence, finished_runs
from experiments.sweep_results import Sweep
from jax_lenet.models import VARIANTS


class LackingError(Exception):
    """What a folder lacks to answer a question, in words."""


@dataclass(frozen=True)
class Runs:
    """The finished runs of one variant.

    Attributes:
        seeds: of the runs, rising, n of them.
        train_loss: mean loss as minimized, dropout on, float64 ``[n, epochs]``; this and the
            accuracies are NaN from the epoch on in which a run diverged.
        train_accuracy: fraction, in evaluation mode, ``[n, epochs]``.
        test_accuracy: fraction, ``[n, epochs]``.
        diverged: the runs that did.
        right: after the last epoch, 1 where an image is classified right and 0 where not, float64
            ``[k, images]``, NaN for a run that diverged. Of the first k <= n seeds: a study that
            was cut short may have a run's rows and not its predictions. None without the files.
        right_first: the same after the first epoch.
    """

    seeds: tuple[int, ...]
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray
    diverged: tuple[Divergence, ...] = ()
    right: np.ndarray | None = None
    right_first: np.ndarray | None = None

    def without(self, images: np.ndarray) -> "Runs":
        """Return the same without some of the test images, bool ``[images]``.

        Accuracies by epoch stay as they are.
        """
        kept = {
            name: None if right is None else right[:, ~images]
            for name, right in (("right", self.right), ("right_first", self.right_first))
        }
        return replace(self, **kept)


class Measure(NamedTuple):
    """Something that a run has.

    Attributes:
        name: in words.
        of_seed: from runs to one number each, ``[n]``; NaN where a run has diverged.
        of_image: from runs to one number an image and run, ``[k, images]``, with the mean of
            ``of_seed``, or to None where their files lack; None if the test images have no part.
        files: that ``of_image`` takes.
        why_not: why the test images have no part.
        two_epochs: whether it takes two epochs to tell the first from the last.
    """

    name: str
    of_seed: Callable[[Runs], np.ndarray]
    of_image: Callable[[Runs], np.ndarray | None] | None = None
    files: str = ""
    why_not: str = ""
    two_epochs: bool = False

    @property
    def no_images(self) -> str:
        """What is to be said where ``of_image`` gives None."""
        return f"without {self.files} nobody knows how much hangs on the test images"


@dataclass(frozen=True)
class Evidence:
    """Everything that the conclusions are drawn from.

    Attributes:
        epochs: of every run.
        learning_rate: of every run.
        runs: by variant.
        timing: by variant and repeat, seconds of training and of testing one run alone, ``[2]``;
            empty without timing.csv.
        wrong: whether reviewers found a test image's label wrong, bool ``[images]``; None without
            test_set.npz.
        sweeps: that the conclusions also draw on.
    """

    epochs: int
    learning_rate: float
    runs: Mapping[str, Runs]
    timing: Mapping[str, Mapping[int, np.ndarray]]
    wrong: np.ndarray | None = None
    sweeps: tuple[Sweep, ...] = ()

    def of(self, variant: str) -> Runs:
        """Return a variant's runs.

        Raises:
            LackingError: if there are none.
        """
        if variant not in self.runs:
            raise LackingError(f"the study has no finished run of {variant}")
        return self.runs[variant]

    def has_images(self, variants: Iterable[str], measure: Measure) -> bool:
        """Tell whether it is known of all these variants what they had by image."""
        of = measure.of_image
        return of is not None and all(of(self.of(variant)) is not None for variant in variants)

    def without_wrong_labels(self) -> "Evidence":
        """Return the same without the test images whose labels were found wrong."""
        wrong = self.wrong
        if wrong is None:
            return self
        kept = {variant: runs.without(wrong) for variant, runs in self.runs.items()}
        sweeps = tuple(sweep.without(wrong) for sweep in self.sweeps)
        return replace(self, runs=kept, wrong=wrong[~wrong], sweeps=sweeps)


def _gain(runs: Runs) -> np.ndarray | None:
    """Return by image what the last epoch has right more than the first, ``[k, images]``."""
    if runs.right is None or runs.right_first is None:
        return None
    k = min(len(runs.right), len(runs.right_first))
    return runs.right[:k] - runs.right_first[:k]


def _gap(runs: Runs) -> np.ndarray | None:
    """Return by image what training accuracy is more than what the last epoch has right."""
    return None if runs.right is None else runs.train_accuracy[: len(runs.right), -1:] - runs.right


def _lost(runs: Runs) -> np.ndarray | None:
    gain = _gain(runs)
    return None if gain is None else -gain


_LAST = f"{PREDICTIONS} and {TEST_SET}"
_FIRST = f"{FIRST_PREDICTIONS} and {TEST_SET}"
_TWO = f"{PREDICTIONS}, {_FIRST}"
LAST = Measure(
    "last-epoch test accuracy",
    lambda runs: runs.test_accuracy[:, -1],
    lambda runs: runs.right,
    _LAST,
)
GAP = Measure(
    "last-epoch training less test accuracy",
    lambda runs: runs.train_accuracy[:, -1] - runs.test_accuracy[:, -1],
    _gap,
    _LAST,
)
TRAINING = Measure(
    "last-epoch training accuracy",
    lambda runs: runs.train_accuracy[:, -1],
    why_not="it is the accuracy on these very training images",
)
FIRST = Measure(
    "first-epoch test accuracy",
    lambda runs: runs.test_accuracy[:, 0],
    lambda runs: runs.right_first,
    _FIRST,
    two_epochs=True,
)
FIRST_LESS_LAST = Measure(
    "first-epoch less last-epoch test accuracy",
    lambda runs: runs.test_accuracy[:, 0] - runs.test_accuracy[:, -1],
    _lost,
    _TWO,
    two_epochs=True,
)
GAIN = Measure(
    "gain in test accuracy from first to last epoch",
    lambda runs: runs.test_accuracy[:, -1] - runs.test_accuracy[:, 0],
    _gain,
    _TWO,
    two_epochs=True,
)


class Paired(NamedTuple):
    """What two variants have by seed, or by seed and image, where neither has diverged.

    Attributes:
        seeds: that both were trained from.
        first: of one variant, finite, ``[seeds]`` or ``[seeds, images]``.
        second: of the other.
        left_out: the runs that diverged, whose seeds are not among them.
    """

    seeds: tuple[int, ...]
    first: np.ndarray
    second: np.ndarray
    left_out: tuple[Divergence, ...]

    @property
    def differences(self) -> np.ndarray:
        """First less second."""
        return self.first - self.second


def paired(
    evidence: Evidence, variants: tuple[str, str], measure: Measure, by_image: bool = False
) -> Paired:
    """Return what two variants have from the same seeds.

    Args:
        evidence: of a study.
        variants: the two.
        measure: what is compared.
        by_image: whether image by image; ask `Evidence.has_images` first.

    Raises:
        LackingError: if there is no such pair of runs.
    """
    runs = [evidence.of(variant) for variant in variants]
    of: Any = measure.of_image if by_image else measure.of_seed
    values = [dict(zip(r.seeds, of(r), strict=False)) for r in runs]  # k of the n seeds
    common = sorted(values[0].keys() & values[1].keys())
    if not common:
        raise LackingError(f"no seed was trained with both {variants[0]} and {variants[1]}")
    first, second = (np.array([of_seed[seed] for seed in common]) for of_seed in values)
    finite: np.ndarray = np.isfinite(first - second).reshape(len(common), -1)
    kept = np.all(finite, axis=1, keepdims=True)[:, 0]
    out = {seed for seed, keep in zip(common, kept, strict=True) if not keep}
    left_out = tuple(d for r in runs for d in r.diverged if d.seed in out)
    if not kept.any():
        raise LackingError(f"at every seed one of the two diverged: {in_words(left_out)}")
    seeds = tuple(seed for seed in common if seed not in out)
    return Paired(seeds, first[kept], second[kept], left_out)


def in_words(left_out: Sequence[Divergence]) -> str:
    """Return which runs diverged.

    >>> in_words([Divergence("LeNet", 3, 1), Divergence("LeNet", 4, 2)])
    'LeNet seed 3 in epoch 1, LeNet seed 4 in epoch 2'
    """
    return ", ".join(f"{d.variant} seed {d.seed} in epoch {d.epoch}" for d in left_out)


def log_time_ratios(
    evidence: Evidence,
    pair: tuple[str, str],
    phase: Callable[[np.ndarray], float] = np.sum,
) -> np.ndarray:
    """Return the logarithm of how many times as long the first variant takes, one a repeat.

    Args:
        evidence: with timing.
        pair: the two variants.
        phase: picks from the seconds of training and testing; their sum is an epoch.

    Raises:
        LackingError: if they were not timed.
    """
    if not evidence.timing:
        raise LackingError(f"without {TIMING} nobody knows the time of a run alone")
    for variant in pair:
        if variant not in evidence.timing:
            raise LackingError(f"the study has not timed {variant}")
    first, second = (evidence.timing[variant] for variant in pair)
    common = sorted(first.keys() & second.keys())
    if not common:
        raise LackingError(f"no repeat has timed both {pair[0]} and {pair[1]}")
    return np.log([phase(first[r]) / phase(second[r]) for r in common])


def gather(
    folder: ResultsFolder, epochs: int, learning_rate: float, test_set: LabelledImages | None = None
) -> Evidence:
    """Read a results folder; files that are not there leave their part empty.

    Args:
        folder: of a study.
        epochs: of its runs.
        learning_rate: of its runs.
        test_set: that takes the place of the folder's own.

    Raises:
        UserError: if a file is damaged, or one does not belong to the others.
    """
    if test_set is None and folder.has(TEST_SET):
        test_set = folder.read_test_set()
    finished = finished_runs(folder.read_results(), epochs)
    runs = {}
    for variant, rows in finished.items():
        runs[variant] = runs_of(list(rows.values()))
    if test_set is not None:
        for variant, right in _right(runs, folder, PREDICTIONS, -1, test_set).items():
            runs[variant] = replace(runs[variant], right=right)
        for variant, right in _right(runs, folder, FIRST_PREDICTIONS, 0, test_set).items():
            runs[variant] = replace(runs[variant], right_first=right)
    return Evidence(
        epochs=epochs,
        learning_rate=learning_rate,
        runs=runs,
        timing=timing_of(folder),
        wrong=None if test_set is None else test_set.wrong,
        sweeps=tuple(_sweeps(folder, test_set)),
    )


def _sweeps(folder: ResultsFolder, test_set: LabelledImages | None) -> Iterator[Sweep]:
    """Yield the sweeps that are kept here, having made sure that they saw the same test images."""
    for path, sweep in kept_sweeps.read_all(folder):
        if test_set is not None and not np.array_equal(sweep.labels, test_set.labels):
            raise UserError(f"{path / PREDICTIONS}: expected the labels of {TEST_SET}")
        yield sweep


def runs_of(runs: Sequence[Sequence[Row]]) -> Runs:
    """Gather the rows of one variant's finished runs.

    Args:
        runs: by rising seed; of each the rows by epoch.
    """
    columns = ("train_loss", "train_accuracy", "test_accuracy")
    values = {c: np.array([[getattr(row, c) for row in run] for run in runs]) for c in columns}
    diverged = [divergence(run) for run in runs]
    for number, found in enumerate(diverged):
        if found is not None:  # from here on it guesses
            for array in values.values():
                array[number, found.epoch - 1 :] = np.nan
    return Runs(
        seeds=tuple(run[0].seed for run in runs),
        **values,
        diverged=tuple(found for found in diverged if found is not None),
    )


def _right(
    runs: Mapping[str, Runs],
    folder: ResultsFolder,
    name: str,
    epoch: int,
    test_set: LabelledImages,
) -> dict[str, np.ndarray]:
    """Return by variant `Runs.right` after an epoch, having made sure that it is of these runs.

    Args:
        runs: of the variants.
        folder: with or without the file.
        name: of the file with the predictions.
        epoch: after which they were made, counted from 0, or from the last as -1.
        test_set: on which they were made.
    """
    predictions = folder.read_predictions(name) if folder.has(name) else {}
    found = {}
    for variant in predictions.keys() & runs.keys():
        said, accuracy = predictions[variant], runs[variant].test_accuracy[:, epoch]
        if not fit(said, test_set.labels, accuracy):
            raise UserError(
                f"{folder.path / name}: expected the predictions of the runs in {RESULTS}"
            )
        diverged = np.isnan(accuracy[: len(said), None])
        found[variant] = np.where(diverged, np.nan, said == test_set.labels)
    return found


def fit(said: np.ndarray, labels: np.ndarray, accuracy: np.ndarray) -> bool:
    """Tell whether predictions can be those of runs on images with these labels.

    Args:
        said: the predictions of the first k runs, uint8 ``[k, images]``.
        labels: of the images, uint8 ``[images]``.
        accuracy: of the runs, a fraction, NaN where one diverged, ``[n]``.
    """
    if len(said) > len(accuracy) or said.shape[1:] != labels.shape:
        return False
    return agree(said == labels, accuracy[: len(said)])


def timing_of(folder: ResultsFolder) -> dict[str, dict[int, np.ndarray]]:
    """Return `Evidence.timing`; empty without the file.

    Raises:
        UserError: if the file is damaged, or of other models.
    """
    timing: dict[str, dict[int, np.ndarray]] = {}
    for row in folder.read_timing() if folder.has(TIMING) else []:
        seconds = np.array([row.train_seconds, row.test_seconds])
        if row.variant not in VARIANTS:
            raise UserError(f"{folder.path / TIMING}: expected variants of {', '.join(VARIANTS)}")
        timing.setdefault(row.variant, {})[row.repeat] = seconds
    return timing

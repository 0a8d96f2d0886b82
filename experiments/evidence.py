"""A results folder as arrays: what each run gained, image by image and epoch by epoch, and when.

`gather` reads the files; nothing that is left out of a folder is an error here, only an answer that
it cannot give (`LackingError`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from experiments import sweep_results
from experiments.cli import UserError
from experiments.results import (
    CONFIG,
    PREDICTIONS,
    RESULTS,
    SWEEPS,
    TEST_SET,
    TIMING,
    LabelledImages,
    ResultsFolder,
    Row,
    TimingRow,
)
from experiments.summary import Divergence, divergence, finished_runs
from experiments.sweep_results import Sweep
from jax_lenet.models import VARIANTS

NO_IMAGES = f"without {PREDICTIONS} and {TEST_SET} nobody knows how much hangs on the test images"


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
    """

    seeds: tuple[int, ...]
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_accuracy: np.ndarray
    diverged: tuple[Divergence, ...] = ()
    right: np.ndarray | None = None


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

    def has_images(self, variants: Iterable[str]) -> bool:
        """Tell whether it is known of all these variants which images they had right."""
        return all(self.of(variant).right is not None for variant in variants)

    def without_wrong_labels(self) -> "Evidence":
        """Return the same without the test images whose labels were found wrong.

        Accuracies that are kept by epoch, not by image, stay as they are.
        """
        if self.wrong is None:
            return self
        kept = {
            variant: runs if runs.right is None else replace(runs, right=runs.right[:, ~self.wrong])
            for variant, runs in self.runs.items()
        }
        return replace(self, runs=kept, wrong=self.wrong[~self.wrong])


class Measure(NamedTuple):
    """Something that a run has.

    Attributes:
        name: in words.
        of_seed: from runs to one number each, ``[n]``; NaN where a run has diverged.
        of_image: from runs to one number an image and run, ``[k, images]``, with the mean of
            ``of_seed``; None where nothing is kept by image.
        why_not: why there is no ``of_image``.
        two_epochs: whether it takes two epochs to tell the first from the last.
    """

    name: str
    of_seed: Callable[[Runs], np.ndarray]
    of_image: Callable[[Runs], np.ndarray] | None = None
    why_not: str = ""
    two_epochs: bool = False


def right_of(runs: Runs) -> np.ndarray:
    """Return `Runs.right`; ask `Evidence.has_images` first."""
    assert runs.right is not None
    return runs.right


LAST = Measure(
    "last-epoch test accuracy",
    lambda runs: runs.test_accuracy[:, -1],
    right_of,
)
GAP = Measure(
    "last-epoch training less test accuracy",
    lambda runs: runs.train_accuracy[:, -1] - runs.test_accuracy[:, -1],
    lambda runs: runs.train_accuracy[: len(right_of(runs)), -1:] - right_of(runs),
)
TRAINING = Measure(
    "last-epoch training accuracy",
    lambda runs: runs.train_accuracy[:, -1],
    why_not="nothing is kept by training image",
)
_NOT_KEPT = "the first epoch's accuracy is not kept by image"
FIRST = Measure(
    "first-epoch test accuracy",
    lambda runs: runs.test_accuracy[:, 0],
    why_not=_NOT_KEPT,
    two_epochs=True,
)
FIRST_LESS_LAST = Measure(
    "first-epoch less last-epoch test accuracy",
    lambda runs: runs.test_accuracy[:, 0] - runs.test_accuracy[:, -1],
    why_not=_NOT_KEPT,
    two_epochs=True,
)
GAIN = Measure(
    "gain in test accuracy from first to last epoch",
    lambda runs: runs.test_accuracy[:, -1] - runs.test_accuracy[:, 0],
    why_not=_NOT_KEPT,
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
    evidence: Evidence, variants: tuple[str, str], of: Callable[[Runs], np.ndarray]
) -> Paired:
    """Return what two variants have from the same seeds.

    Args:
        evidence: of a study.
        variants: the two.
        of: from runs to what they have, ``[n]`` or ``[k, images]``, as a `Measure` says.

    Raises:
        LackingError: if there is no such pair of runs.
    """
    runs = [evidence.of(variant) for variant in variants]
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


def gather(folder: ResultsFolder, epochs: int, learning_rate: float) -> Evidence:
    """Read a results folder; files that are not there leave their part empty.

    Args:
        folder: of a study.
        epochs: of its runs.
        learning_rate: of its runs.

    Raises:
        UserError: if a file is damaged, or one does not belong to the others.
    """
    test_set = folder.read_test_set() if folder.has(TEST_SET) else None
    predictions = folder.read_predictions() if folder.has(PREDICTIONS) else {}
    finished = finished_runs(folder.read_results(), epochs)
    runs = {}
    for variant, rows in finished.items():
        runs[variant] = runs_of(list(rows.values()))
        if test_set is not None and variant in predictions:
            right = _right(runs[variant], predictions[variant], test_set, folder)
            runs[variant] = replace(runs[variant], right=right)
    kept = folder.path.glob(f"{SWEEPS}/*/{CONFIG}")
    return Evidence(
        epochs=epochs,
        learning_rate=learning_rate,
        runs=runs,
        timing=_timing(folder.read_timing() if folder.has(TIMING) else [], folder),
        wrong=None if test_set is None else test_set.wrong,
        sweeps=tuple(sweep_results.read(config.parent) for config in sorted(kept)),
    )


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
    runs: Runs, predictions: np.ndarray, test_set: LabelledImages, folder: ResultsFolder
) -> np.ndarray:
    """Return `Runs.right`, having made sure that the predictions are those of these runs."""
    own = f"{folder.path / PREDICTIONS}: expected the predictions of the runs in {RESULTS}"
    if len(predictions) > len(runs.seeds) or predictions.shape[1:] != test_set.labels.shape:
        raise UserError(own)
    right = (predictions == test_set.labels).astype(np.float64)
    last = runs.test_accuracy[: len(right), -1]
    right[np.isnan(last)] = np.nan
    # Far above float32's rounding, far below one image of MNIST's 10,000.
    if not np.allclose(right.mean(1), last, rtol=0, atol=1e-5, equal_nan=True):
        raise UserError(own)
    return right


def _timing(rows: Sequence[TimingRow], folder: ResultsFolder) -> dict[str, dict[int, np.ndarray]]:
    timing: dict[str, dict[int, np.ndarray]] = {}
    for row in rows:
        seconds = np.array([row.train_seconds, row.test_seconds])
        if row.variant not in VARIANTS or not (np.isfinite(seconds) & (seconds > 0)).all():
            raise UserError(f"{folder.path / TIMING}: expected variants and seconds above 0")
        timing.setdefault(row.variant, {})[row.repeat] = seconds
    return timing

"""The runs of a study on disk: what it takes to go on with each from its last finished epoch.

    runs/LeNet.seeds-0.npz, runs/LeNet.seeds-1-32.npz, ...

A file for each group of runs that train together, replaced as a whole after every epoch: their
state, their history and what they make of the test images can't disagree. They are the one truth of
a study; results.csv and the predictions are made from them, see `write_results`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import durable, going_on, kept_state
from experiments.cli import UserError
from experiments.going_on import Damaged, Identity
from experiments.kept_state import DamagedError, check_arrays, state_arrays, state_of, state_spec
from experiments.results import FIRST_PREDICTIONS, RUNS, ResultsFolder, Row
from jax_lenet.fitting import EpochResult, Fit
from jax_lenet.models import CLASSES

FORMAT = 2
#: Of the history, one number an epoch and run; and one an epoch, of all runs together.
BY_RUN = {"train_loss": "f4", "train_accuracy": "f8", "test_loss": "f4", "test_accuracy": "f8"}
BY_EPOCH = {"train_seconds": "f8", "test_seconds": "f8"}
#: What runs said of the test images, of each class a byte.
PREDICTED = ("first_predictions", "predictions")
_NAME = re.compile(r"(\w+)\.seeds-(\d+)(?:-(\d+))?\.npz")


class Group(NamedTuple):
    """Runs of one variant that train together.

    Attributes:
        variant: the model's name.
        seeds: each one more than the one before.
    """

    variant: str
    seeds: tuple[int, ...]

    @property
    def words(self) -> str:
        """The runs' names.

        >>> Group("LeNet", (1, 2, 3)).words
        'LeNet seeds 1-3'
        """
        first, last = self.seeds[0], self.seeds[-1]
        return f"{self.variant} " + (f"seed {first}" if first == last else f"seeds {first}-{last}")

    @property
    def file_name(self) -> str:
        """The name of the file of these runs.

        >>> Group("LeNet", (0,)).file_name
        'LeNet.seeds-0.npz'
        """
        first, last = self.seeds[0], self.seeds[-1]
        return f"{self.variant}.seeds-{first}{'' if first == last else f'-{last}'}.npz"


class Record(NamedTuple):
    """What the tables show of a group.

    Attributes:
        rows: of results.csv, by seed and epoch.
        epoch: the last that is finished.
        first_predictions: class given to each test image after the first, uint8
            ``[R, test images]``.
        predictions: the same after the last.
    """

    rows: list[Row]
    epoch: int
    first_predictions: np.ndarray
    predictions: np.ndarray


Records = dict[Group, Record]


@dataclass(frozen=True)
class RunFile:
    """A group of runs after an epoch.

    Attributes:
        variant: the model's name.
        fit: from which the runs go on.
        identity: what decides their numbers.
    """

    variant: str
    fit: Fit
    identity: Identity

    @property
    def group(self) -> Group:
        """The runs."""
        return Group(self.variant, self.fit.seeds)

    @property
    def record(self) -> Record:
        """What the tables show of the runs."""
        rows = [
            _row(self.group, run, result)
            for run in range(len(self.fit.seeds))
            for result in self.fit.history
        ]
        fit = self.fit
        return Record(rows, len(fit.history), fit.first_predictions, fit.predictions)


def _row(group: Group, run: int, result: EpochResult) -> Row:
    seconds = (result.train_seconds + result.test_seconds) / len(group.seeds)
    return Row(
        group.variant,
        group.seeds[run],
        result.epoch,
        *(getattr(result, column)[run] for column in BY_RUN),
        seconds=round(seconds, 6),
    )


def encode(run: RunFile) -> bytes:
    """Return the content of a run file; the same runs give the same bytes."""
    fit = run.fit
    history = {
        f"history/{column}": np.array([getattr(result, column) for result in fit.history], dtype)
        for column, dtype in (BY_RUN | BY_EPOCH).items()
    }
    return kept_state.encode(
        {"format": FORMAT, "variant": run.variant, "seeds": fit.seeds, "identity": run.identity},
        {name: getattr(fit, name) for name in PREDICTED} | history | state_arrays(fit.state),
    )


def decode(content: bytes) -> RunFile:
    """Return what `encode` was given.

    Raises:
        DamagedError: if it is anything else than `encode` makes.
        UserError: if another version of this program made it.
    """
    about, arrays = kept_state.decode(content, FORMAT)
    variant, seeds = about["variant"], about.get("seeds")
    if not (isinstance(seeds, list) and _follow_each_other(seeds)):
        raise DamagedError("its description is none of a study's runs")
    return RunFile(variant, _fit(variant, tuple(seeds), arrays), about["identity"])


def _follow_each_other(seeds: Sequence[Any]) -> bool:
    whole = bool(seeds) and all(type(seed) is int for seed in seeds)
    # Compared two by two: a range from one to the other may be more than memory holds.
    rising = whole and all(after == before + 1 for before, after in pairwise(seeds))
    return rising and seeds[0] >= 0 and seeds[-1] < 2**32


def _fit(variant: str, seeds: tuple[int, ...], arrays: Mapping[str, np.ndarray]) -> Fit:
    """Return the runs that the arrays of a file describe, having made sure that they do."""
    runs = len(seeds)
    first, last = (arrays.get(name, np.empty(0)) for name in PREDICTED)
    epochs = len(np.atleast_1d(arrays.get("history/train_seconds", ())))
    shapes = {f"history/{column}": ((epochs, runs), dtype) for column, dtype in BY_RUN.items()}
    shapes |= {f"history/{column}": ((epochs,), dtype) for column, dtype in BY_EPOCH.items()}
    shapes |= dict.fromkeys(PREDICTED, ((runs, last.size // runs), "u1"))
    expected = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in shapes.items()}
    check_arrays(arrays, expected | state_spec(variant, runs), epochs)
    columns = {column: arrays[f"history/{column}"] for column in BY_RUN | BY_EPOCH}
    if not _possible(columns, np.stack([first, last])):
        raise DamagedError("its numbers are none that training gives")
    history = tuple(
        EpochResult(i + 1, **{column: values[i] for column, values in columns.items()})
        for i in range(epochs)
    )
    return Fit(seeds, history, first, last, state_of(variant, arrays))


def _possible(columns: Mapping[str, np.ndarray], predictions: np.ndarray) -> bool:
    """Tell whether there are an epoch and a test image, and no value out of its range."""
    if not predictions.size or not columns["train_seconds"].size or predictions.max() >= CLASSES:
        return False
    accuracies = np.stack([columns["train_accuracy"], columns["test_accuracy"]])
    seconds = np.stack([columns[name] for name in BY_EPOCH])
    whole = ((accuracies >= 0) & (accuracies <= 1)).all()
    return bool(whole and (np.isfinite(seconds) & (seconds >= 0)).all())


def write(folder: Path, run: RunFile) -> None:
    """Write the file of a group of runs; it appears whole, in place of the one before.

    Args:
        folder: of the study, with ``runs`` in it.
        run: after an epoch.

    Raises:
        StorageError: if it can't be written.
    """
    durable.write(folder / RUNS / run.group.file_name, encode(run))


def read(path: Path) -> RunFile:
    """Read the file of a group of runs.

    Raises:
        DamagedError: if it is not what `write` wrote under this name.
        UserError: if another version of this program wrote it, or it can't be read at all.
    """
    content = durable.read(path)
    try:
        run = decode(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if run.group.file_name != path.name:
        raise DamagedError(f"it is that of {run.group.words}")
    return run


def files(folder: Path) -> list[Path]:
    """Return the paths of a study's run files, by name; of others not."""
    return sorted(p for p in (folder / RUNS).glob("*.npz") if _NAME.fullmatch(p.name))


def named(paths: Iterable[Path]) -> list[tuple[str, range]]:
    """Return the variant and the seeds that each run file has by its name.

    A name may claim any number of seeds, so that these are not to be listed.
    """
    runs = []
    for path in paths:
        if found := _NAME.match(path.name):
            variant, first, last = found.groups()
            runs.append((variant, range(int(first), int(last or first) + 1)))
    return runs


def set_aside(folder: Path) -> list[tuple[str, range]]:
    """Return the variant and the seeds of each run file that was set aside, by its name."""
    return named((folder / RUNS).glob("*.npz.damaged-*"))


def scan(
    folder: Path,
    identity: Identity,
    wanted: Callable[[Group, int], bool],
    damaged: list[Damaged],
) -> Records:
    """Return what a study's run files show, passing over those that are not its own.

    Args:
        folder: of the study.
        identity: that its runs have.
        wanted: tells whether it has a group of runs with so many epochs.
        damaged: files that are to be set aside; it gets those that are found here.

    Raises:
        UserError: if another version of this program wrote one, or one can't be read at all.
    """
    records: Records = {}
    taken: set[tuple[str, int]] = set()
    for path in files(folder):
        try:
            run = read(path)
            runs = {(run.variant, seed) for seed in run.fit.seeds}
            if run.identity != identity:
                raise DamagedError("its runs are another study's")
            if not wanted(run.group, len(run.fit.history)):
                raise DamagedError("the study has no such runs")
            if runs & taken:
                raise DamagedError("another file has some of its runs")
        except DamagedError as error:
            damaged.append(going_on.unusable(path, error, "its runs come again"))
        else:
            records[run.group] = run.record
            taken |= runs
    return records


def identities(folder: Path) -> Iterator[Identity]:
    """Yield the identities of a study's run files, passing over those that can't be used."""
    for path in files(folder):
        try:
            yield read(path).identity
        except DamagedError:
            continue


def write_results(folder: ResultsFolder, records: Records, variants: Sequence[str]) -> None:
    """Write results.csv: by variant, seed and epoch, whatever was trained first.

    Args:
        folder: of the study.
        records: of its run files.
        variants: in the order of the table.
    """
    folder.write_results(row for g in _ordered(records, variants) for row in records[g].rows)


def write_predictions(
    folder: ResultsFolder, records: Records, variants: Sequence[str], epochs: int
) -> None:
    """Write predictions.npz and first_predictions.npz: of each variant's finished runs, by seed.

    Args:
        folder: of the study.
        records: of its run files.
        variants: in the order of the files.
        epochs: of a finished run.
    """
    finished: dict[str, list[Record]] = {}
    for group in _ordered(records, variants):
        if records[group].epoch == epochs:
            finished.setdefault(group.variant, []).append(records[group])
    first, last = (
        {
            name: np.concatenate([getattr(record, which) for record in own])
            for name, own in finished.items()
        }
        for which in PREDICTED
    )
    folder.write_predictions(first, FIRST_PREDICTIONS)
    folder.write_predictions(last)


def _ordered(records: Records, variants: Sequence[str]) -> list[Group]:
    return sorted(records, key=lambda group: (variants.index(group.variant), group.seeds))

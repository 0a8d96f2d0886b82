"""The PyTorch baseline's folder between two starts: which runs are finished, and one that is not.

    config.json, results.csv    as `experiments.results` has them
    begun.npz                   the run in training; gone when all are finished

begun.npz is replaced as a whole after every epoch but a run's last, whose rows are in results.csv.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from experiments import durable, going_on, kept_state, tables
from experiments.cli import UserError
from experiments.going_on import Config, Damaged, Identity, Kind, Say
from experiments.kept_state import DamagedError
from experiments.results import RESULTS, ResultsFolder, Row
from experiments.settings import StudySettings
from experiments.summary import finished_runs

PROGRAM = "experiments.torch_baseline"
BEGUN = "begun.npz"
FORMAT = 1
#: The settings that decide a run's rows; and all from which it follows what decides them.
DECIDE = ("epochs", "batch_size", "learning_rate", "loader")
WORDS = ("dataset", "data_dir", "train_size", "device", *DECIDE)
#: What begun.npz has of each row, as the array ``rows``; the rest follows.
NUMBERS = Row._fields[3:]

#: Tells whether arrays can be the state of a run of a variant.
Fits = Callable[[str, Mapping[str, np.ndarray]], bool]


class BaselineFolder(ResultsFolder):
    """A folder of the baseline."""

    files = (*ResultsFolder.files, BEGUN)


@dataclass(frozen=True)
class Begun:
    """A run after some of its epochs.

    Attributes:
        variant: of the run.
        seed: of the run.
        identity: what decides its numbers.
        rows: of these epochs, at least one.
        state: named arrays from which the run goes on.
    """

    variant: str
    seed: int
    identity: Identity
    rows: tuple[Row, ...]
    state: Mapping[str, np.ndarray]


class Found(NamedTuple):
    """What a folder holds of a study.

    Attributes:
        rows: of the runs that are finished.
        begun: the run that was in training; None where there is none.
        identity: what decides the numbers of both.
        damaged: files that are to be set aside once nothing refuses the start.
    """

    rows: list[Row]
    begun: Begun | None
    identity: Identity
    damaged: list[Damaged]


def identity_of(config: Config) -> Identity:
    """Return what decides the numbers of a folder with this config.json."""
    return going_on.identity_of(config, DECIDE)


BASELINE = Kind(PROGRAM, identity_of, WORDS)


def encode(begun: Begun) -> bytes:
    """Return the content of begun.npz; the same run gives the same bytes."""
    own = {"variant": begun.variant, "seed": begun.seed, "identity": begun.identity}
    rows = np.array([row[3:] for row in begun.rows], np.float64)
    return kept_state.encode({"format": FORMAT, **own}, {"rows": rows, **begun.state})


def decode(content: bytes, fits: Fits) -> Begun:
    """Return what `encode` was given.

    Raises:
        DamagedError: if it is anything else than `encode` makes.
        UserError: if another version of this program made it.
    """
    about, arrays = kept_state.decode(content, FORMAT)
    variant, seed, rows = about["variant"], about.get("seed"), arrays.pop("rows", np.empty(0))
    if type(seed) is not int:
        raise DamagedError("its description is none of a run")
    if rows.dtype != np.float64 or rows.shape[1:] != (len(NUMBERS),) or not _possible(rows):
        raise DamagedError("its rows are none that training gives")
    if not fits(variant, arrays):
        raise DamagedError("its arrays are not those of such a run")
    numbers = enumerate(rows.tolist(), start=1)
    own = tuple(Row(variant, seed, epoch, *values) for epoch, values in numbers)
    return Begun(variant, seed, about["identity"], own, arrays)


def _possible(rows: np.ndarray) -> bool:
    """Tell whether there is an epoch, and no number out of its range; a loss may be anything."""
    columns = zip(NUMBERS, rows.T, strict=True)
    ranges = [(*tables.RANGES[name], values) for name, values in columns if name in tables.RANGES]
    whole = all(bool(((low <= x) & (x <= high)).all()) for low, high, x in ranges)
    return whole and len(rows) > 0


def find_runs(
    folder: ResultsFolder,
    settings: StudySettings,
    identity: Identity,
    fits: Fits,
    known: Sequence[Damaged] = (),
) -> Found:
    """Return the runs that are in a folder; nothing is changed, as the start may yet be refused.

    Args:
        folder: of the study.
        settings: of the study.
        identity: that its runs have.
        fits: tells whether arrays can be a run's state.
        known: files that are known to be damaged; others are looked for.
    """
    damaged = list(known)
    runs = {(variant, seed) for variant in settings.variants for seed in settings.all_seeds}

    def results() -> list[Row]:
        rows = folder.read_results()
        if not {(row.variant, row.seed) for row in rows} <= runs:
            raise UserError(f"{folder.path / RESULTS}: expected no runs but this study's")
        return rows

    finished = finished_runs(
        going_on.whole(folder, RESULTS, results, damaged) or [], settings.epochs
    )
    rows = [row for v in settings.variants for run in finished.get(v, {}).values() for row in run]
    begun = _begun(folder, runs, identity, fits, damaged)
    if begun is not None and begun.seed in finished.get(begun.variant, {}):
        begun = None  # a kill came between the two files
    return Found(rows, begun, identity, damaged)


def settle(folder: ResultsFolder, found: Found, say: Say) -> None:
    """Set aside what is damaged, and remove what is done with: nothing refuses the start now.

    Args:
        folder: of the study.
        found: in it.
        say: prints a line; it gets one for each file that is set aside.
    """
    going_on.set_aside(found.damaged, say)
    if found.begun is None and folder.has(BEGUN):  # of runs that are finished
        durable.remove(folder.path / BEGUN)


def _begun(
    folder: ResultsFolder,
    runs: Collection[tuple[str, int]],
    identity: Identity,
    fits: Fits,
    damaged: list[Damaged],
) -> Begun | None:
    """Return the run of begun.npz; None without the file, or if it joins those that are damaged."""
    path = folder.path / BEGUN
    if not folder.has(BEGUN):
        return None
    content = durable.read(path)
    try:
        begun = decode(content, fits)
        if begun.identity != identity or (begun.variant, begun.seed) not in runs:
            raise DamagedError("its run is another study's")
        if len(begun.rows) >= identity.settings["--epochs"]:
            raise DamagedError("its run has more epochs than it should")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except DamagedError as error:
        damaged.append(going_on.unusable(path, error, "its run comes again"))
        return None
    return begun


def all_rows(
    folder: ResultsFolder, settings: StudySettings, fits: Fits, say: Say
) -> list[Row] | None:
    """Return the rows of a folder in which all runs of these settings are finished.

    Raises:
        UserError: if the folder holds something else, or more than the settings ask for.
    """
    BaselineFolder.open(folder.path, overwrite=False)
    config = going_on.config_as_before(folder, BASELINE, settings.as_json())
    if config is None:
        return None
    found = find_runs(folder, settings, identity_of(config), fits)
    if _is_incomplete(found.rows, settings):
        return None
    settle(folder, found, say)
    say(f"Nothing is left to train in {folder.path}")
    folder.write_config(config)
    return found.rows


def _is_incomplete(rows: list[Row], settings: StudySettings) -> bool:
    return len(rows) < settings.epochs * settings.seeds * len(settings.variants)


def go_on(
    folder: ResultsFolder, settings: StudySettings, config: dict[str, Any], fits: Fits, say: Say
) -> Found:
    """Write config.json, and return the runs that are in the folder.

    Raises:
        UserError: if the folder's runs have other settings, or were computed with something else.
    """
    old, before, unknown = going_on.agreed(folder, BASELINE, config, folder.read_results, RESULTS)
    found = find_runs(folder, settings, before, fits, unknown)
    left = _is_incomplete(found.rows, settings)
    config = going_on.config_to_write(old, before, config, BASELINE, folder.path, left)
    settle(folder, found, say)
    folder.write_config(config)
    return found

"""The runs of a sweep that are in training: what it takes to go on from their last finished epoch.

    begun.npz

One file, of the one group of runs that trains, replaced as a whole after every epoch. After the
last one the runs have their rows in sweep.csv, and the file goes.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import durable, going_on, kept_state
from experiments.cli import UserError
from experiments.going_on import Damaged, Identity
from experiments.kept_state import DamagedError, check_arrays, state_arrays, state_of, state_spec
from experiments.sweep_files import BEGUN, SweepFolder
from experiments.sweep_results import Point, Run
from jax_lenet.training import TrainState

FORMAT = 1


class Progress(NamedTuple):
    """How far R runs are that train together.

    Attributes:
        losses: mean loss of each finished epoch as minimized, float32 ``[epochs, R]``.
        seconds: that these epochs took.
        state: of the runs, with arrays ``[R, ...]``.
    """

    losses: np.ndarray
    seconds: float
    state: TrainState


@dataclass(frozen=True)
class Begun:
    """A group of R runs of one model after some of their epochs.

    Attributes:
        variant: the model's name.
        runs: different ones.
        identity: what decides their numbers.
        progress: of the runs.
    """

    variant: str
    runs: tuple[Run, ...]
    identity: Identity
    progress: Progress


def encode(begun: Begun) -> bytes:
    """Return the content of the file; the same runs give the same bytes."""
    losses, seconds, state = begun.progress
    about = {
        "format": FORMAT,
        "variant": begun.variant,
        "runs": [[run.point, run.seed] for run in begun.runs],
        "identity": begun.identity,
        "seconds": seconds,
    }
    return kept_state.encode(about, {"losses": losses} | state_arrays(state))


def decode(content: bytes) -> Begun:
    """Return what `encode` was given.

    Raises:
        DamagedError: if it is anything else than `encode` makes.
        UserError: if another version of this program made it.
    """
    about, arrays = kept_state.decode(content, FORMAT)
    variant, seconds = about["variant"], about.get("seconds")
    try:
        runs = tuple(Run(Point(*point), seed) for point, seed in about["runs"])
        different = len(set(runs)) == len(runs) > 0
    except (KeyError, TypeError, ValueError):
        different, runs = False, ()
    if not different or not isinstance(seconds, float) or not 0 <= seconds < math.inf:
        raise DamagedError("its description is none of a sweep's runs")
    losses = arrays.get("losses", np.empty(0))
    epochs = len(np.atleast_1d(losses))
    spec = {"losses": ((epochs, len(runs)), np.dtype("f4"))}
    check_arrays(arrays, spec | state_spec(variant, len(runs)), epochs)
    state = state_of(variant, arrays)
    return Begun(variant, runs, about["identity"], Progress(losses, seconds, state))


def write(folder: SweepFolder, begun: Begun) -> None:
    """Write the file; it appears whole, in place of the one before.

    Raises:
        StorageError: if it can't be written.
    """
    durable.write(folder.path / BEGUN, encode(begun))


def read(
    folder: SweepFolder,
    identity: Identity,
    wanted: Mapping[str, Collection[Run]],
    done: Collection[Run],
    damaged: list[Damaged],
) -> Begun | None:
    """Return the runs that are in training, if there are any; nothing is changed.

    A file of runs that are finished, as a kill between two files leaves it, is passed over.

    Args:
        folder: of the sweep.
        identity: that its runs have.
        wanted: its runs, by variant.
        done: those of them that are finished.
        damaged: files that are to be set aside; this one joins them if it is damaged or another
            sweep's.

    Raises:
        UserError: if another version of this program wrote it, or it can't be read at all.
    """
    path = folder.path / BEGUN
    if not folder.has(BEGUN):
        return None
    try:
        begun = _decoded(path)
        if begun.identity != identity or not set(begun.runs) <= set(wanted.get(begun.variant, ())):
            raise DamagedError("its runs are another sweep's")
        if len(begun.progress.losses) > identity.settings["--epochs"]:
            raise DamagedError("its runs have more epochs than they should")
    except DamagedError as error:
        damaged.append(going_on.unusable(path, error, "its runs come again"))
        return None
    return begun if set(done).isdisjoint(begun.runs) else None


def has_runs(folder: SweepFolder) -> bool:
    """Tell whether the file is there and sound, so that it says whose folder this is.

    Raises:
        UserError: if another version of this program wrote it, or it can't be read at all.
    """
    try:
        return folder.has(BEGUN) and bool(_decoded(folder.path / BEGUN))
    except DamagedError:
        return False


def _decoded(path: Path) -> Begun:
    content = durable.read(path)
    try:
        return decode(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def remove(folder: SweepFolder) -> None:
    """Remove the file, if it is there.

    Raises:
        StorageError: if it can't be removed.
    """
    durable.remove(folder.path / BEGUN)

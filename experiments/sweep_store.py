"""The runs of a sweep that are in training: what it takes to go on from their last finished epoch.

    begun.npz

One file, of the one group of runs that trains, replaced as a whole after every epoch. After the
last one the runs have their rows in sweep.csv, and the file goes.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from experiments import durable, npz
from experiments.cli import UserError
from experiments.going_on import Identity, Say
from experiments.results import read_bytes
from experiments.run_store import DamagedError, state_arrays, state_of, state_spec
from experiments.sweep_results import BEGUN, Point, Run, SweepFolder
from jax_lenet.models import VARIANTS
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
    about = {
        "format": FORMAT,
        "variant": begun.variant,
        "runs": [[run.point, run.seed] for run in begun.runs],
        "identity": begun.identity._asdict(),
        "seconds": begun.progress.seconds,
    }
    arrays = {
        "about": np.array(json.dumps(about, allow_nan=False)),
        "losses": begun.progress.losses,
    }
    return npz.encode(arrays | state_arrays(begun.progress.state))


def decode(content: bytes) -> Begun:
    """Return what `encode` was given.

    Raises:
        DamagedError: if it is anything else than `encode` makes.
        UserError: if another version of this program made it.
    """
    try:
        arrays = npz.decode(content)
        about = json.loads(str(arrays.pop("about")))
        version, variant, seconds = about["format"], about["variant"], about["seconds"]
        identity = Identity(**about["identity"])
        runs = tuple(Run(Point(*point), seed) for point, seed in about["runs"])
        different = len(set(runs)) == len(runs) > 0
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("it is cut short or changed, or another program's") from None
    if version != FORMAT:
        raise UserError(
            f"{BEGUN}: expected format {FORMAT}, but another version wrote format {version}"
        )
    known = isinstance(variant, str) and variant in VARIANTS
    possible = type(seconds) is float and math.isfinite(seconds) and seconds >= 0
    if not (known and different and possible):
        raise DamagedError("its description is none of a sweep's runs")
    losses = _losses(variant, len(runs), arrays)
    return Begun(variant, runs, identity, Progress(losses, seconds, state_of(variant, arrays)))


def _losses(variant: str, runs: int, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the losses, having made sure that all arrays are those of so many runs."""
    losses = arrays.get("losses", np.empty(0))
    epochs = len(np.atleast_1d(losses))
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    expected = state_spec(variant, runs) | {"losses": ((epochs, runs), np.dtype("f4"))}
    if found != expected or not epochs or (arrays["state/epoch"] != epochs).any():
        raise DamagedError("its arrays are not those of such runs")
    return losses


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
    say: Say,
) -> Begun | None:
    """Return the runs that are in training, if there are any.

    A file that is damaged or another sweep's is set aside; one of runs that are finished, as a kill
    between two files leaves it, is removed.

    Args:
        folder: of the sweep.
        identity: that its runs have.
        wanted: its runs, by variant.
        done: those of them that are finished.
        say: prints a line; it gets one if the file is set aside.

    Raises:
        UserError: if another version of this program wrote it, or it can't be read at all.
    """
    path = folder.path / BEGUN
    if not folder.has(BEGUN):
        return None
    try:
        begun = decode(read_bytes(path))
        epochs = begun.identity.settings.get("--epochs")
        if begun.identity != identity or not set(begun.runs) <= set(wanted.get(begun.variant, ())):
            raise DamagedError("its runs are another sweep's")
        if isinstance(epochs, int) and len(begun.progress.losses) > epochs:
            raise DamagedError("its runs have more epochs than they should")
    except DamagedError as error:
        aside = durable.set_aside(path)
        say(f"{path} cannot be used ({error}): it is now {aside.name}, and its runs come again")
        return None
    if not set(done).isdisjoint(begun.runs):
        remove(folder)
        return None
    return begun


def has_runs(folder: SweepFolder) -> bool:
    """Tell whether the file is there and sound, so that it says whose folder this is.

    Raises:
        UserError: if another version of this program wrote it, or it can't be read at all.
    """
    try:
        return folder.has(BEGUN) and bool(decode(read_bytes(folder.path / BEGUN)))
    except DamagedError:
        return False


def remove(folder: SweepFolder) -> None:
    """Remove the file, if it is there.

    Raises:
        StorageError: if it can't be removed.
    """
    durable.remove(folder.path / BEGUN)

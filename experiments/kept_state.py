"""Runs' states in a file: arrays with a description, in JSON, of what they are and whose.

What a study keeps (`experiments.run_store`) and a sweep (`experiments.sweep_store`) has this form.
Nothing that is read back is trusted: what these functions did not write is a `DamagedError`.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from experiments import npz
from experiments.cli import UserError
from experiments.going_on import Identity
from jax_lenet.fitting import state_shapes
from jax_lenet.models import VARIANTS
from jax_lenet.training import TrainState

#: Bytes that a run's state takes on disk; rounded up.
RUN_BYTES = 270_000

Spec = dict[str, tuple[tuple[int, ...], np.dtype]]


class DamagedError(Exception):
    """Why a file is not one that this program wrote, in words."""


def encode(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the content of a file; the same arguments give the same bytes.

    Args:
        about: in JSON's types, with the ``format``, an `Identity` as ``identity``, and the
            ``variant``.
        arrays: by name.
    """
    about = {**about, "identity": about["identity"]._asdict()}
    return npz.encode({"about": np.array(json.dumps(about, allow_nan=False)), **arrays})


def decode(content: bytes, version: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what `encode` was given.

    Args:
        content: of the file.
        version: the ``format`` that can be read.

    Raises:
        DamagedError: if it is anything else, or the model is not known.
        UserError: if it has another format.
    """
    try:
        arrays = npz.decode(content)
        about = json.loads(str(arrays.pop("about")))
        found, variant = about["format"], about["variant"]
        about["identity"] = Identity(**about["identity"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("it is cut short or changed, or another program's") from None
    if found != version:
        raise UserError(f"expected format {version}, but another version wrote format {found}")
    known = isinstance(variant, str) and variant in VARIANTS
    if not (known and all(isinstance(part, dict) for part in about["identity"])):
        raise DamagedError("its description is none of runs")
    return about, arrays


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Spec, epochs: int) -> None:
    """Raise DamagedError unless arrays have these shapes and dtypes and so many epochs."""
    if {name: (array.shape, array.dtype) for name, array in arrays.items()} != expected:
        raise DamagedError("its arrays are not those of such runs")
    if not epochs or (arrays["state/epoch"] != epochs).any():
        raise DamagedError("its arrays are not all of one epoch")


def state_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """Return the arrays of runs' states, by the names that they have in a file."""
    return {f"state/{name}": np.asarray(leaf) for name, leaf in _named(state).items()}


def state_spec(variant: str, runs: int) -> Spec:
    """Return the shapes and dtypes of `state_arrays` for so many runs of a model."""
    leaves = _named(_shapes(variant)).items()
    return {f"state/{name}": ((runs, *leaf.shape), np.dtype(leaf.dtype)) for name, leaf in leaves}


def state_of(variant: str, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """Return the states that `state_arrays` was given, with arrays that are NumPy's."""
    shapes = _shapes(variant)
    leaves = [arrays[f"state/{name}"] for name in _named(shapes)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


@cache
def _shapes(variant: str) -> TrainState:
    return state_shapes(VARIANTS[variant])


def _named(state: TrainState) -> dict[str, Any]:
    """Return a state's leaves, in JAX's order, by names as "params/c1/kernel"."""
    leaves, _ = tree_flatten_with_path(state)
    return {keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}

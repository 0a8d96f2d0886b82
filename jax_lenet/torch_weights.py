"""Weights and running statistics between this library's variables and a PyTorch state_dict.

    state_dict                              variables
    convnet.c1.weight  [out, in, 5, 5]      params c1 kernel  [5, 5, in, out]
    fc.f6.weight       [out, in]            params f6 kernel  [in, out]
    convnet.bn1.weight, .bias               params bn1 scale, bias
    convnet.bn1.running_mean, .running_var  batch_stats bn1 mean, var

Both ways are exact: values keep their bits and their dtype. The one entry without a counterpart is
``num_batches_tracked``, which PyTorch counts but does not use at a fixed momentum: `from_torch`
ignores it and `to_torch` writes 0.

Files are not read here. A file of PyTorch's is a pickle, which runs what it likes when it is read:
take it from ``torch.load(path, weights_only=True)``, which refuses all but tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

# Shapes as PyTorch has them.
_WEIGHTS = {
    "convnet.c1": (6, 1, 5, 5),
    "convnet.c3": (16, 6, 5, 5),
    "convnet.c5": (120, 16, 5, 5),
    "fc.f6": (84, 120),
    "fc.f7": (10, 84),
}
_BATCH_NORMS = {"convnet.bn1": 6, "convnet.bn3": 16, "convnet.bn5": 120}
_COUNTER = "num_batches_tracked"
_COUNTERS = {f"{layer}.{_COUNTER}" for layer in _BATCH_NORMS}
_DTYPES = (np.float16, np.float32, np.float64)

# By number of dimensions, where each axis of a Flax kernel comes from in PyTorch's weight.
_KERNEL_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}


class _Entry(NamedTuple):
    """One array under both its names; ``axes[i]`` is where Flax's axis i is in PyTorch's."""

    key: str
    path: tuple[str, str, str]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def flax_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)


def from_torch(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that a PyTorch state_dict holds.

    Whether there is batch norm is seen from the keys.

    Args:
        state_dict: by the report's names (``convnet.c1.weight``, ``fc.f6.bias``,
            ``convnet.bn1.running_mean``, ...), tensors on any device or arrays. PyTorch itself is
            not needed for arrays.

    Returns:
        What ``model.apply`` takes: ``params`` and, with batch norm, ``batch_stats``. The leaves are
        NumPy arrays of the dtype they came in, because a JAX array would round float64 unless
        ``jax_enable_x64`` is set; they share no memory with ``state_dict``.

    Raises:
        ValueError: if it is no mapping; or naming the key, if one is missing or unknown, or holds
            another shape than LeNet-5's, another dtype than float16, float32 or float64, a value
            that is NaN or infinite, or a variance below 0.

    >>> import jax, numpy as np
    >>> from jax_lenet import lenet5
    >>> weights = {"convnet.c1": (6, 1, 5, 5), "convnet.c3": (16, 6, 5, 5)}
    >>> weights |= {"convnet.c5": (120, 16, 5, 5), "fc.f6": (84, 120), "fc.f7": (10, 84)}
    >>> state_dict = {f"{layer}.bias": np.zeros(shape[0], "f") for layer, shape in weights.items()}
    >>> state_dict |= {f"{layer}.weight": np.zeros(shape, "f") for layer, shape in weights.items()}
    >>> variables = from_torch(state_dict)
    >>> variables["params"]["c1"]["kernel"].shape
    (5, 5, 1, 6)
    >>> log_probs = lenet5().apply(variables, np.zeros((1, 28, 28, 1), "f"))
    >>> np.exp(log_probs[0]).round(3)  # no weight favours a class
    array([0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=float32)
    """
    _check_mapping("state_dict", state_dict)
    names = {str(key) for key in state_dict}
    batch_norm = any(name.startswith(tuple(_BATCH_NORMS)) for name in names)
    entries = _entries(batch_norm)
    ignored = _COUNTERS if batch_norm else set()
    _check_names("state_dict", names - ignored, (entry.key for entry in entries))
    variables: dict[str, Any] = {}
    for entry in entries:
        array = _checked(entry.key, state_dict[entry.key], entry.shape)
        collection, layer, name = entry.path
        layers = variables.setdefault(collection, {})
        layers.setdefault(layer, {})[name] = array.transpose(entry.axes).copy("C")
    return variables


def to_torch(variables: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the PyTorch state_dict that holds the same weights; the inverse of `from_torch`.

    Args:
        variables: of one `LeNet5`, as ``model.init``, `TrainState.variables` or `Fit.variables`
            give them: ``params`` and, with batch norm, ``batch_stats``.

    Returns:
        Tensors on the CPU, in the order of the layers, for ``module.load_state_dict``; they share
        no memory with ``variables``. ``num_batches_tracked`` is 0.

    Raises:
        ValueError: naming the entry, as `from_torch` does.
        ImportError: if PyTorch is not installed.
    """
    import torch

    _check_mapping("variables", variables)
    leaves = dict(_leaves(variables))
    entries = _entries(batch_norm=any(".bn" in name for name in leaves))
    _check_names("variables", leaves, (".".join(entry.path) for entry in entries))
    state_dict = {}
    for entry in entries:
        name = ".".join(entry.path)
        array = _checked(name, leaves[name], entry.flax_shape)
        # np.argsort inverts a permutation.
        array = array.transpose(tuple(np.argsort(entry.axes))).copy("C")
        state_dict[entry.key] = torch.from_numpy(array)
        if entry.path[-1] == "var":
            counter = entry.key.replace("running_var", _COUNTER)
            state_dict[counter] = torch.zeros((), dtype=torch.int64)
    return state_dict


def _entries(batch_norm: bool) -> list[_Entry]:
    """Return every array of the model, in PyTorch's order."""
    entries = []
    for torch_layer, shape in _WEIGHTS.items():
        layer = torch_layer.split(".")[1]
        axes = _KERNEL_AXES[len(shape)]
        entries.append(_Entry(f"{torch_layer}.weight", ("params", layer, "kernel"), shape, axes))
        entries.append(_Entry(f"{torch_layer}.bias", ("params", layer, "bias"), shape[:1], (0,)))
        normalized_by = torch_layer.replace("convnet.c", "convnet.bn")
        if batch_norm and normalized_by in _BATCH_NORMS:
            entries.extend(_batch_norm_entries(normalized_by))
    return entries


def _batch_norm_entries(torch_layer: str) -> Iterable[_Entry]:
    layer = torch_layer.split(".")[1]
    for torch_name, collection, name in (
        ("weight", "params", "scale"),
        ("bias", "params", "bias"),
        ("running_mean", "batch_stats", "mean"),
        ("running_var", "batch_stats", "var"),
    ):
        shape = (_BATCH_NORMS[torch_layer],)
        yield _Entry(f"{torch_layer}.{torch_name}", (collection, layer, name), shape, (0,))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the arrays of nested mappings under their paths: ``params.c1.kernel``."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _check_mapping(what: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what}: expected a mapping of names, found {type(value).__name__}")


def _check_names(what: str, found: Iterable[str], expected: Iterable[str]) -> None:
    found, expected = set(found), set(expected)
    complaints = []
    if missing := sorted(expected - found):
        complaints.append(f"lacks {', '.join(missing)}")
    if unknown := sorted(found - expected):
        shown = ", ".join(name if name.isprintable() else repr(name) for name in unknown)
        complaints.append(f"holds {shown}, which this LeNet-5 does not have")
    if complaints:
        raise ValueError(f"{what} {' and '.join(complaints)}")


def _checked(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor or array as a NumPy array, or say what is wrong with it."""
    try:
        found = list(np.shape(value))
    except ValueError:  # lists within lists, of different lengths
        found = "rows of different lengths"
    if found != list(shape):
        raise ValueError(f"{name}: expected shape {list(shape)}, found {found}")
    wanted = f"{name}: expected float16, float32 or float64"
    dtype = getattr(value, "dtype", type(value).__name__)
    try:
        array = np.asarray(_resolved(value) if hasattr(value, "detach") else value)
    # A dtype that NumPy lacks, bfloat16 for one; a sparse tensor; one without values ("meta").
    except (TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{wanted}, found {dtype} ({reason})") from None
    if array.dtype not in _DTYPES:
        raise ValueError(f"{wanted}, found {dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite values, found NaN or infinity")
    if name.endswith(("running_var", ".var")) and (array < 0).any():
        raise ValueError(f"{name}: expected variances of at least 0, found {array.min()}")
    return array


def _resolved(tensor: Any) -> Any:
    """Return a tensor on the CPU, with the signs in its values that PyTorch may keep as a mark."""
    return tensor.detach().cpu().resolve_conj().resolve_neg()

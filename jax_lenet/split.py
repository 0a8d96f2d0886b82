"""Runs on several devices: each device with runs of its own, or with its share of every batch.

XLA uses two cores better when each works for itself than when both work on each operation: between
two small operations one core waits for the other. So, under `jax.shard_map`,

- R runs on D devices: each device trains as many of them as any other, and none waits for another;
- a run alone is *split*: every device holds the whole state and all training images, takes its
  share of each batch, and the devices average their gradients and, for batch norm, the batch's
  statistics. The result is that of the run on one device, to rounding.

The devices are always this process's own: processes on several hosts share nothing in training.

A mesh has one axis, whose name says which of the two it is. The functions of the first part are
what a model or a step does where its batch is split; with ``axis_name`` None they do nothing. Those
of the second part place arrays; without a mesh, on one device, they do nothing.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

#: The mesh axis along which a batch is split.
AXIS = "batch"
#: The mesh axis along which runs are.
RUNS = "runs"

Tree = TypeVar("Tree")


def devices_of(axis_name: str | None) -> int:
    """Return over how many devices the run is split."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def own_share(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Return the rows of ``x`` that this device works on; their number must divide evenly."""
    if axis_name is None:
        return x
    rows = len(x) // lax.axis_size(axis_name)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis_name) * rows, rows)


def average(tree: Tree, axis_name: str | None) -> Tree:
    """Return the devices' mean of every leaf, all in one exchange: each has a fixed price."""
    if axis_name is None:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.pmean(flat, axis_name))


def gathered(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Return every device's ``x``, ``[devices, *x.shape]``."""
    return x[None] if axis_name is None else lax.all_gather(x, axis_name)


def total(x: jax.Array, axis_name: str | None) -> jax.Array:
    """Return the sum of every device's ``x``."""
    return x if axis_name is None else lax.psum(x, axis_name)


def mesh_of(devices: int, axis: str = AXIS) -> Mesh | None:
    """Return the mesh of the first ``devices`` devices; None for one, which needs none.

    Args:
        devices: how many.
        axis: `AXIS` or `RUNS`.

    Raises:
        ValueError: if there are fewer.
    """
    own = jax.local_devices()
    if devices > len(own):
        raise ValueError(
            f"runs can be spread over at most {len(own)} devices, not {devices}; on a CPU"
            " jax.config.update('jax_num_cpu_devices', N) at the start makes more"
        )
    return None if devices == 1 else Mesh(np.array(own[:devices]), (axis,))


def split_evenly(devices: int, batch_size: int, train: int, check: int, test: int) -> bool:
    """Tell whether devices can share every batch, and the images of both tests, evenly.

    Args:
        devices: how many.
        batch_size: images in a step.
        train: number of training examples; the last batch is what is left over of them.
        check: number of examples that training accuracy is measured on.
        test: number of test examples.

    >>> split_evenly(2, 128, 50_000, 10_000, 10_000), split_evenly(2, 128, 129, 129, 1000)
    (True, False)
    """
    return all(number % devices == 0 for number in (batch_size, train % batch_size, check, test))


def places(runs: int, devices: int) -> int:
    """Return for how many runs there is room where devices share R: as many on each as on any.

    >>> [places(runs, devices=4) for runs in (1, 4, 5, 8)]
    [1, 4, 8, 8]
    """
    return 1 if runs == 1 else -(-runs // devices) * devices


def batch_axis(mesh: Mesh | None) -> str | None:
    """Return the name of the axis along which batches are split, if they are."""
    return AXIS if mesh is not None and AXIS in mesh.axis_names else None


def spec_of_runs(mesh: Mesh | None) -> PartitionSpec:
    """Return how arrays lie whose first axis is the run."""
    return PartitionSpec() if mesh is None or batch_axis(mesh) else PartitionSpec(RUNS)


def spec_of_tests(mesh: Mesh | None) -> PartitionSpec:
    """Return how examples lie that models are tested on."""
    return PartitionSpec(batch_axis(mesh))


def place_runs(tree: Tree, mesh: Mesh | None) -> Tree:
    """Return arrays whose first axis is the run, where they belong; what is there stays."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, spec_of_runs(mesh)))


def shared(tree: Tree, mesh: Mesh | None) -> Tree:
    """Return the arrays where each device can read all of them, as examples are; never donate them.

    What is on each of the devices already is not copied, were it on others as well. A CPU's devices
    read the same memory, if the arrays come from NumPy: then JAX copies nothing.
    """
    if mesh is None:
        return jax.tree.map(_on_first_device, tree)
    place = NamedSharding(mesh, PartitionSpec())

    def put(x: jax.Array) -> jax.Array:
        if x.sharding.is_equivalent_to(place, x.ndim):
            return x
        copies = {shard.device: shard.data for shard in x.addressable_shards}
        if x.is_fully_replicated and copies.keys() >= set(mesh.devices.flat):
            own = [copies[device] for device in mesh.devices.flat]
            return jax.make_array_from_single_device_arrays(x.shape, place, own)
        on_cpu = all(device.platform == "cpu" for device in x.devices())
        return jax.device_put(np.asarray(x) if on_cpu else x, place, may_alias=True)

    return jax.tree.map(put, tree)


def _on_first_device(x: jax.Array) -> jax.Array:
    """Return the first device's copy of an array that lies whole on several."""
    if isinstance(x, jax.Array) and len(x.devices()) > 1 and x.is_fully_replicated:
        return x.addressable_data(0)
    return x


def place_tests(tree: Tree, mesh: Mesh | None) -> Tree:
    """Return examples to test on where they belong: of a split run each device has a share."""
    if mesh is None or not batch_axis(mesh):
        return shared(tree, mesh)
    return jax.device_put(tree, NamedSharding(mesh, spec_of_tests(mesh)))


def spread(train: Tree, test: Tree, devices: int) -> tuple[Tree, Tree]:
    """Return the examples where programs for up to so many devices find them.

    Programs put them there themselves; who uses several saves a copy for each by doing it first.
    """
    mesh = mesh_of(devices)
    return shared(train, mesh), shared(test, mesh)


def shapes(tree: Any, mesh: Mesh | None, spec: PartitionSpec) -> Any:
    """Return the shapes, dtypes and places of arrays, to compile for."""
    sharding = None if mesh is None else NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def on_each(function: Callable, mesh: Mesh | None, in_specs: Any, out_specs: Any) -> Callable:
    """Return a function that runs ``function`` on each device of the mesh.

    Without a mesh that is ``function`` itself.

    Gradients within are each device's own until `average`: JAX's other mode (``check_vma``) would
    exchange each parameter's on its own, sixteen exchanges where one does.
    """
    if mesh is None:
        return function
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )

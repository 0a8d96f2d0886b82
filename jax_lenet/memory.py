"""How many runs a device has memory for, estimated from shapes before any of it is taken.

    python -m jax_lenet.memory

prints what this comes to on all of MNIST. While runs train and are tested, a device holds the
examples once, every run's state, and beside them whatever the program at work needs most. That is
found by going through what JAX traces, one operation after the other: each result is added, and
each array dropped after its last use. XLA, which works operations into one another, needs less, by
its own account on a CPU three quarters of it. What a GPU's libraries take for themselves is not
counted.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.stages import Traced

from jax_lenet.blocked import prepare
from jax_lenet.ensemble import evaluate_runs, in_form, init_runs, train_check, train_runs
from jax_lenet.models import IMAGE_SHAPE, VARIANTS, LeNet5
from jax_lenet.training import Examples, Hyperparameters

GIB = 2**30
#: Where Linux tells of its memory.
MEMINFO = Path("/proc/meminfo")
#: A container's limit of memory and what it uses, in the second version of cgroups and the first.
CGROUP = Path("/sys/fs/cgroup")
LIMITS = (
    (CGROUP / "memory.max", CGROUP / "memory.current"),
    (CGROUP / "memory" / "memory.limit_in_bytes", CGROUP / "memory" / "memory.usage_in_bytes"),
)


class Needed(NamedTuple):
    """The bytes that runs need which train at once on one device.

    Attributes:
        examples: those to train on and both to test on, once for all runs.
        states: what the runs start an epoch with.
        work: what an epoch or a test holds beside these at the most, the states after it included.
    """

    examples: int
    states: int
    work: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


class Room(NamedTuple):
    """How many runs may train at once.

    Attributes:
        runs: how many.
        wanted: how many were to.
        needed: bytes that those would need on a device, or on a CPU in all.
        available: bytes that there are; None where that is not known.
    """

    runs: int
    wanted: int
    needed: int
    available: int | None

    def notice(self, name: str) -> str:
        """Return a line for the user if fewer runs train at once than were to, or else nothing.

        >>> Room(runs=32, wanted=64, needed=1_200_000_000, available=900_000_000).notice("LeNet")
        '64 runs of LeNet need about 1.1 GiB and the device has 0.8 GiB free: 32 at once instead'
        """
        if self.available is None or self.needed <= self.available:
            return ""
        runs = "1 run" if self.wanted == 1 else f"{self.wanted} runs"
        need = "needs" if self.wanted == 1 else "need"
        end = "it may fail" if self.runs == self.wanted else f"{self.runs} at once instead"
        return (
            f"{runs} of {name} {need} about {self.needed / GIB:.1f} GiB and the device has"
            f" {self.available / GIB:.1f} GiB free: {end}"
        )


def runs_that_fit(
    model: LeNet5,
    train: Examples,
    test: Examples,
    batch_size: int,
    runs_wanted: int,
    bytes_available: int | None,
    devices: int = 1,
    platform: str | None = None,
) -> Room:
    """Return how many runs may train at once: those that are wanted, halved until they fit.

    It is never fewer than one a device: an estimate must not forbid what may work.

    Args:
        model: built by `lenet5`.
        train: training examples, or their shapes (`example_shapes`).
        test: test examples, or their shapes.
        batch_size: images in a step.
        runs_wanted: on all devices together.
        bytes_available: as the function of that name tells, before the examples are placed.
        devices: that share the runs. Each of them has memory of its own, unless they are a CPU's.
        platform: see `bytes_needed`.
    """
    platform = platform or jax.local_devices()[0].platform
    sharers = devices if platform == "cpu" else 1

    def needed(each: int) -> int:
        found = bytes_needed(model, train, test, each, batch_size, platform)
        return found.examples + sharers * (found.states + found.work)

    each = math.ceil(runs_wanted / devices)
    wanted = needed(each)
    if bytes_available is not None:
        now = wanted
        while now > bytes_available and each > 1:
            each = math.ceil(each / 2)
            now = needed(each)
    return Room(min(runs_wanted, each * devices), runs_wanted, wanted, bytes_available)


def bytes_available(device: Any = None) -> int | None:
    """Return the bytes that are free on a device, and for a CPU on the host; None if unknown.

    Args:
        device: a `jax.Device`, this process's first unless another is given. Of a GPU JAX takes a
            part for itself (three quarters, unless ``XLA_PYTHON_CLIENT_MEM_FRACTION`` says
            otherwise); what is left of that part counts.
    """
    device = device or jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return _host_bytes() if device.platform == "cpu" else None


def _host_bytes() -> int | None:
    """Return the host's free memory; where the system does not tell, all that it has."""
    free = [_left_to_the_container()]
    try:
        facts = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        free.append(int(facts["MemAvailable"].split()[0]) * 1024)  # with what copies of files take
    except (OSError, KeyError, ValueError):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            free.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min((each for each in free if each is not None), default=None)


def _left_to_the_container() -> int | None:
    """Return what a container, or a batch system's job, may still take; None without a limit."""
    for limit, used in LIMITS:
        try:
            return max(int(limit.read_text()) - int(used.read_text()), 0)
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return None


def example_shapes(count: int, moments: bool) -> Examples:
    """Return the shapes of prepared examples, as `jax.ShapeDtypeStruct`.

    >>> example_shapes(50_000, moments=False).images.strips.shape
    (50000, 8, 128)
    """
    images = jax.ShapeDtypeStruct((count, *IMAGE_SHAPE), np.float32)
    prepared = jax.eval_shape(partial(prepare, moments=moments), images)
    return Examples(prepared, _shape(count, np.int32))


def _shape(count: int, dtype: Any) -> Any:
    """Return what stands for an array of one axis."""
    return jax.ShapeDtypeStruct((count,), dtype)


def bytes_needed(
    model: LeNet5,
    train: Examples,
    test: Examples,
    runs: int,
    batch_size: int = 128,
    platform: str | None = None,
) -> Needed:
    """Return what R runs need on one device; nothing is computed, and no memory taken.

    Args:
        model: built by `lenet5`.
        train: training examples, or their shapes.
        test: test examples, or their shapes.
        runs: how many train at once on the device.
        batch_size: images in a step.
        platform: of the device, such as ``"cuda"``, unless it is this process's first. On a
            ``"cpu"`` runs follow one another, so that their work takes the memory of one.
    """
    platform = platform or jax.local_devices()[0].platform
    train = jax.eval_shape(partial(in_form, model, train=True), train)
    test = jax.eval_shape(partial(in_form, model, train=False), test)
    check = jax.eval_shape(train_check, train)
    seeds, rates = _shape(runs, np.uint32), Hyperparameters(_shape(runs, np.float32))
    state = jax.eval_shape(partial(init_runs, model), seeds)
    programs = [
        train_runs.trace(model, rates, state, train, seeds, batch_size, None),
        *(evaluate_runs.trace(model, state.variables, data, None) for data in (check, test)),
    ]
    return Needed(
        examples=_tree_bytes((train, check, test)),
        states=_tree_bytes((state, seeds, rates)),
        work=max(working_bytes(program, platform) for program in programs),
    )


def working_bytes(program: Traced, platform: str) -> int:
    """Return the most that a program holds at once, results included and arguments not.

    Args:
        program: what ``jax.jit(f).trace(...)`` returned.
        platform: whose branch counts where the program has one for each (`map_runs`).
    """
    return _most(program.jaxpr, platform)


def _most(jaxpr: Any, platform: str) -> int:
    """Go through a jaxpr's operations, and return the most bytes held at once."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    memory = _memory_of(jaxpr)
    last_use = {}
    for number, equation in enumerate(jaxpr.eqns):
        last_use |= {memory(x): number for x in _variables(equation.invars)}
    last_use |= {memory(x): len(jaxpr.eqns) for x in _variables(jaxpr.outvars)}
    branches: dict = {}
    held: dict = {}
    most = 0
    for number, equation in enumerate(jaxpr.eqns):
        if equation.primitive.name == "platform_index":
            branches[equation.outvars[0]] = _branch(equation.params["platforms"], platform)
        results = {x: _bytes(x.aval) for x in equation.outvars if memory(x) is x}
        during = _during(equation, sum(results.values()), branches, platform)
        most = max(most, sum(held.values()) + during)
        held |= results
        for x in [x for x in held if last_use.get(x, number) <= number]:
            del held[x]
    return most


def _during(equation: Any, results: int, branches: dict, platform: str) -> int:
    """Return the most bytes that one operation takes, its results included."""
    name, params = equation.primitive.name, equation.params
    jaxprs = list(jaxprs_in(params))
    if name == "cond" and equation.invars[0] in branches:
        jaxprs = [jaxprs[branches[equation.invars[0]]]]
    inside = max((_most(one, platform) for one in jaxprs), default=0)
    if name == "while":
        return results + inside
    if name == "scan":  # a turn has its own slice of what is gone through
        sequences = equation.invars[params["num_consts"] + params["num_carry"] :]
        return results + inside + sum(_bytes(x.aval) for x in sequences) // params["length"]
    return max(results, inside)


def _memory_of(jaxpr: Any) -> Any:
    """Return a function from a variable to the one whose memory it has: an array reshaped is it."""
    same: dict = {}
    for equation in jaxpr.eqns:
        before, after = [*equation.invars, None][0], equation.outvars[0]
        whole = equation.primitive.name == "slice" and before.aval.shape == after.aval.shape
        if (whole or equation.primitive.name in ("reshape", "squeeze")) and not _is_literal(before):
            same[after] = same.get(before, before)
    return lambda variable: same.get(variable, variable)


def _variables(atoms: Any) -> Iterator[Any]:
    return (atom for atom in atoms if not _is_literal(atom))


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")


def _branch(platforms: Any, platform: str) -> int:
    """Return which branch of a program with several is a platform's; the last one names none."""
    return next(i for i, names in enumerate(platforms) if names is None or platform in names)


def jaxprs_in(params: dict) -> Iterator[Any]:
    """Yield the jaxprs among an equation's parameters, and in tuples of them."""
    for value in params.values():
        values = value if isinstance(value, tuple | list) else [value]
        yield from (one for one in values if hasattr(one, "eqns"))


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize


def _tree_bytes(tree: Any) -> int:
    return sum(map(_bytes, jax.tree.leaves(tree)))


def table() -> str:
    """Return, as text, what runs of the least and the largest model need on a GPU, for MNIST."""
    lines = [f"{'MiB on a GPU':18}{'examples':>10}{'1 run':>10}{'64 runs':>10}"]
    for name in ("LeNet", "LeNet_BN_Dropout"):
        model = VARIANTS[name]
        data = example_shapes(50_000, model.batch_norm), example_shapes(10_000, moments=False)
        one, many = (bytes_needed(model, *data, runs, platform="cuda") for runs in (1, 64))
        cells = one.examples, one.states + one.work, many.states + many.work
        lines.append(f"{name:18}" + "".join(f"{cell / 2**20:10.0f}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())

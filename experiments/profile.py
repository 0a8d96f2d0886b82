"""What an epoch is made of: its matrix products' operations, their rate, and where its time goes.

Three numbers for a benchmark. `product_flops` counts what must be computed, `matmul_rate` measures
how fast the machine does such work, so that their quotient is the time below which no arrangement
of the same products gets; `time_shares` tells what else takes time. Nothing here has to be exact to
the last digit, and a profiler may be missing: then the other two still stand.
"""

import gzip
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Compiled, Wrapped

from experiments import hlo

#: JAX writes no more events than these into a trace that JSON can read, and drops the others.
MAX_EVENTS = 1_000_000


def product_flops(function: Wrapped, *args: Any, **kwargs: Any) -> float:
    """Return the floating-point operations of all matrix products in one call of a function.

    A product of ``[m, k]`` and ``[k, n]`` has ``2 m k n``, and so has a convolution with k taps (of
    one output, over all channels) for n outputs in m channels, taps over the padding included. They
    are counted in what JAX traces, before XLA: the same number on every device. What every device
    does of a function that is split by `jax.shard_map` is added up.

    Args:
        function: what `jax.jit` returned.
        *args: arrays or `jax.ShapeDtypeStruct`; static arguments as they are.
        **kwargs: the same.

    Raises:
        ValueError: if there is a product in a loop whose length is known only when it runs.

    >>> step = jax.jit(lambda x, w: jax.lax.scan(lambda x, _: (x @ w, None), x, length=10)[0])
    >>> product_flops(step, jnp.zeros((3, 5)), jnp.zeros((5, 5)))
    1500.0
    """
    return float(_flops(function.trace(*args, **kwargs).jaxpr))


def _flops(jaxpr: Any) -> int:
    return sum(map(_equation_flops, jaxpr.eqns))


def _equation_flops(equation: Any) -> int:
    """Return the operations of one equation of a jaxpr, with those of the jaxprs in it."""
    name, params = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        length = math.prod(shapes[0][axis] for axis in contracted)
        return 2 * length * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        features = shapes[1][params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1]) // features
    inside = [_flops(jaxpr) for value in params.values() for jaxpr in _jaxprs_in(value)]
    if name == "while" and any(inside):
        raise ValueError("a matrix product in a loop of unknown length cannot be counted")
    if name == "cond":
        return max(inside)
    return _repetitions(name, params) * sum(inside)


def _jaxprs_in(value: Any) -> list:
    """Return the jaxprs in an equation's parameter: itself, or the members of a tuple."""
    values = value if isinstance(value, tuple | list) else [value]
    return [one for one in values if hasattr(one, "eqns")]


def _repetitions(name: str, params: Mapping[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        axes = params.get("newly_manual_axes", params.get("manual_axes"))
        mesh = params["mesh"]
        return math.prod(mesh.shape[axis] for axis in (mesh.axis_names if axes is None else axes))
    return 1


def matmul_rate(precision: str = "highest", seconds: float = 3.0) -> float:
    """Return how many floating-point operations per second JAX reaches in float32 products.

    Square matrices of 1024 rows, then of twice as many, and so on up to 8192 while the time lasts;
    the best of all products. It is the rate of one JAX device, which on a CPU uses all cores.

    Args:
        precision: as `jax.lax.Precision` names it; ``"default"`` allows TF32 on a GPU.
        seconds: after which no further product starts; on a slow machine the last takes as long
            again.
    """
    product = jax.jit(partial(jnp.matmul, precision=precision))
    stop = time.perf_counter() + seconds
    best = 0.0
    for size in (1024, 2048, 4096, 8192):
        if best and 2 * size**3 / best > stop - time.perf_counter():
            break
        x = jnp.full((size, size), 0.5, jnp.float32)
        jax.block_until_ready(product(x, x))  # compiles
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(product(x, x))
            end = time.perf_counter()
            best = max(best, 2 * size**3 / (end - start))
            if end > stop:
                break
    return best


@dataclass(frozen=True)
class Operation:
    """An operation of a compiled program, and its part of the time.

    Attributes:
        name: XLA's.
        op_name: the path of JAX's transformations and layers that it comes from; may be empty.
        source: file and line that it comes from, such as ``blocked.py:127``; may be empty.
        share: fraction of the time.
    """

    name: str
    op_name: str
    source: str
    share: float


@dataclass(frozen=True)
class Shares:
    """Where the time of a compiled program went, as fractions of it that add up to one.

    Attributes:
        product: at least one matrix product (or convolution) was running.
        other: something was running, but no product.
        idle: nothing was: between two operations, or waiting for another device.
        seconds: all of the time, of all runs that were traced.
        operations: ``other``, taken apart; the largest first.
    """

    product: float
    other: float
    idle: float
    seconds: float
    operations: tuple[Operation, ...]


class Event(NamedTuple):
    """One execution of one operation.

    Attributes:
        device: whatever tells devices apart.
        run: whatever tells runs of the program apart.
        start: microseconds.
        end: microseconds.
        name: the instruction's, or a GPU kernel's where the trace knows no better.
        product: whether it is a matrix product.
        container: whether it only holds others, as a loop does: it spans time, but fills none.
    """

    device: Any
    run: Any
    start: float
    end: float
    name: str
    product: bool
    container: bool


def time_shares(run: Callable[[], Any], compiled: Compiled) -> tuple[Shares | None, str]:
    """Run something under JAX's profiler; return what a compiled program in it spent its time on.

    Operations overlap, above all on a CPU, where one may be counted as running while it waits for
    the other's threads; so durations are not added up. Instead each moment from the program's first
    operation to its last is looked at once: it counts as product if any product runs in it (also
    one that XLA fused with something else), else as the rest, shared equally by what runs, else as
    idle. With several devices each is looked at on its own, over the same span, and the shares are
    means over the devices.

    The profiler costs about a microsecond an operation, which small operations and ``idle`` show.

    Args:
        run: calls the program on a part of the data (100 steps, as a trace holds a million events);
            called once, so it should have run before.
        compiled: the program.

    Returns:
        The shares, or None and the reason why there are none.
    """
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            jax.profiler.start_trace(folder, **_profiler_options())
        except Exception as error:  # whatever a backend's profiler raises: the benchmark goes on
            return None, f"the profiler does not start: {error}"
        reason = ""
        try:
            jax.block_until_ready(run())
        finally:
            try:
                jax.profiler.stop_trace()
            except Exception as error:
                reason = f"the profiler does not stop: {error}"
        if reason:
            return None, reason
        try:
            module = hlo.parse(compiled.as_text() or "")
            trace = read_trace(Path(folder))
            return shares_of(events_of(trace, module), module), ""
        except Exception as error:  # a trace or a program in a form that is not known here
            return None, f"the trace cannot be read: {type(error).__name__}: {error}"


def _profiler_options() -> dict[str, Any]:
    """Return options without a trace of Python's calls, which would take most of the events."""
    try:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
    except AttributeError:
        return {}
    return {"profiler_options": options}


def read_trace(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the one trace in a folder, as `jax.profiler` writes it.

    Raises:
        ValueError: if there is none, or it was cut off.
    """
    files = sorted(folder.rglob("*.trace.json.gz"))
    if not files:
        raise ValueError("no *.trace.json.gz was written")
    with gzip.open(files[0], "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    if len(events) >= MAX_EVENTS:
        raise ValueError(f"cut off at {MAX_EVENTS:,} events; run fewer steps")
    return events


def events_of(trace: Iterable[Mapping[str, Any]], module: hlo.Module) -> list[Event]:
    """Return the executions of a program's operations in a trace.

    Args:
        trace: in Chrome's format: ``ph``, ``pid``, ``tid``, ``ts``, ``dur`` (microseconds),
            ``name``, ``args``. XLA names in ``args`` the module and its instruction; on a CPU also
            the device, which elsewhere is a process of the trace.
        module: the program.
    """
    trace = [event for event in trace if "name" in event]
    lanes = _device_lanes(trace)
    found = []
    for event in trace:
        lane = event.get("pid"), event.get("tid")
        if event.get("ph") != "X" or (lanes and lane not in lanes):
            continue
        args = event.get("args") or {}
        known = args.get("hlo_op", event["name"]) in module.instructions
        if args.get("hlo_module", module.name) == module.name and (known or "hlo_module" in args):
            device = event["pid"] if lanes else args.get("device_ordinal")
            found.append(_event(event, args, device, module))
    return found


def _event(
    event: Mapping[str, Any], args: Mapping[str, Any], device: Any, module: hlo.Module
) -> Event:
    """Return what an event of the trace says; a kernel of no known instruction goes by its name."""
    name = args.get("hlo_op", event["name"])
    instruction = module.instructions.get(name)
    container = instruction is not None and instruction.opcode in hlo.CONTAINERS
    if instruction is None or (container and event["name"] != name):
        name, container = event["name"], False
        product = bool(hlo.LIBRARY_PRODUCT.search(name))
    else:
        product = name in module.products
    start = float(event["ts"])
    end = start + float(event.get("dur", 0))
    return Event(device, args.get("run_id"), start, end, name, product, container)


def _device_lanes(trace: Iterable[Mapping[str, Any]]) -> set[tuple[Any, Any]]:
    """Return process and thread of each lane that shows a GPU's or TPU's own work.

    A GPU's streams, where there are any: other lanes show the same again, summed up.
    """
    named = [event for event in trace if event.get("ph") == "M"]
    devices = {
        event["pid"]
        for event in named
        if event["name"] == "process_name" and "/device:" in event["args"]["name"]
    }
    lanes = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in named
        if event["name"] == "thread_name" and event["pid"] in devices
    }
    streams = {lane for lane, name in lanes.items() if name.startswith("Stream")}
    return streams or set(lanes)


def shares_of(events: Iterable[Event], module: hlo.Module) -> Shares:
    """Return what the time from each run's first event to its last went into; see `time_shares`.

    Args:
        events: of one program, of any number of runs and devices.
        module: the program, for where its operations come from.

    Raises:
        ValueError: if no time passes in them.
    """
    runs: dict[Any, dict[Any, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        runs[event.run][event.device].append(event)
    span = total = product = 0.0  # microseconds; the total is the span times the devices
    others: dict[str, float] = defaultdict(float)
    for devices in runs.values():
        times = [time for lane in devices.values() for event in lane for time in event[2:4]]
        span += max(times) - min(times)
        total += len(devices) * (max(times) - min(times))
        for lane in devices.values():
            for duration, running in _moments(lane):
                if any(event.product for event in running):
                    product += duration
                else:
                    for event in running:
                        others[event.name] += duration / len(running)
    if not total:
        raise ValueError(f"no operation of {module.name} is in it")
    operations = tuple(
        _operation(name, others[name] / total, module)
        for name in sorted(others, key=others.__getitem__, reverse=True)
    )
    other = math.fsum(operation.share for operation in operations)
    idle = max(0.0, 1 - product / total - other)
    return Shares(product / total, other, idle, span / 1e6, operations)


def _moments(events: Iterable[Event]) -> Iterator[tuple[float, list[Event]]]:
    """Yield the stretches of time in which the same events run, and these; idle ones not.

    >>> events = [Event(0, 0, 0, 4, "a", True, False), Event(0, 0, 3, 5, "b", False, False)]
    >>> [(duration, [event.name for event in running]) for duration, running in _moments(events)]
    [(3, ['a']), (1, ['a', 'b']), (1, ['b'])]
    """
    filling = [event for event in events if not event.container]
    changes = [(event.start, 1, number) for number, event in enumerate(filling)]
    changes += [(event.end, 0, number) for number, event in enumerate(filling)]
    running: dict[int, Event] = {}
    before = 0.0
    for now, starts, number in sorted(changes, key=lambda change: change[0]):
        if running and now > before:
            yield now - before, list(running.values())
        before = now
        if starts:
            running[number] = filling[number]
        else:
            del running[number]


def _operation(name: str, share: float, module: hlo.Module) -> Operation:
    instruction = module.instructions.get(name)
    if instruction is None:
        return Operation(name, "", "", share)
    return Operation(name, instruction.op_name, instruction.source, share)

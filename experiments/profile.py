"""Where the time of a compiled program goes: matrix products, other work, exchanges, nothing.

From a trace of JAX's profiler and the text of the program. Nothing here has to be exact to the last
digit, and a profiler may be missing: then there is a reason in place of the shares.
"""

import gzip
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
from jax.stages import Compiled

from experiments import hlo
from jax_lenet.timing import timed

#: JAX writes no more events than these into a trace that JSON can read, and drops the others.
MAX_EVENTS = 1_000_000
#: Runs without the profiler, for what it costs.
UNTRACED = 3


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
        other: something else was that computes or copies, but no product.
        collective: nothing was but exchanges between devices; a device that comes first waits
            there for the others, which the profiler cannot tell from the exchange.
        idle: nothing was: XLA's own work between two operations, and the profiler's.
        seconds: all of the time, of all runs that were traced.
        operations: ``other`` and ``collective``, taken apart; the largest first.
        untraced_seconds: what a run takes without the profiler; None where nobody has measured.
    """

    product: float
    other: float
    collective: float
    idle: float
    seconds: float
    operations: tuple[Operation, ...]
    untraced_seconds: float | None = None


class Event(NamedTuple):
    """One execution of one operation.

    Attributes:
        device: whatever tells devices apart.
        run: whatever tells runs of the program apart.
        start: microseconds.
        end: microseconds.
        name: the instruction's, or a GPU kernel's where the trace knows no better.
        kind: ``"product"`` of matrices, ``"collective"`` between devices, or ``"other"``.
        container: whether it only holds others, as a loop does: it spans time, but fills none.
    """

    device: Any
    run: Any
    start: float
    end: float
    name: str
    kind: str
    container: bool


#: Of what runs at the same moment the first decides: a wait beside work costs nothing.
KINDS = ("product", "other", "collective")


def time_shares(run: Callable[[], Any], compiled: Compiled) -> tuple[Shares | None, str]:
    """Run something under JAX's profiler; return what a compiled program in it spent its time on.

    Operations overlap, above all on a CPU, where one may be counted as running while it waits for
    the other's threads; so durations are not added up. Instead each moment from the program's first
    operation to its last is looked at once: it counts as product if any product runs in it (also
    one that XLA fused with something else), else as other if anything computes or copies, else as
    collective, shared equally by what of that kind runs, else as idle. With several devices each is
    looked at on its own, over the same span, and the shares are means over the devices.

    What the profiler itself costs is in ``idle`` and in small operations, so the run is also timed
    without it.

    Args:
        run: calls the program on not too much, as a trace holds a million events (an epoch of 391
            steps, split over two devices, fits); called `UNTRACED` times before it is traced, and
            should have run once before that.
        compiled: the program.

    Returns:
        The shares, or None and the reason why there are none.
    """
    untraced = statistics.median(timed(run)[1] for _ in range(UNTRACED))
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
            shares = shares_of(events_of(trace, module), module)
            return replace(shares, untraced_seconds=untraced), ""
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
        kind = _kernel_kind(name)
    else:
        collective = "collective" if name in module.collectives else "other"
        kind = "product" if name in module.products else collective
    start = float(event["ts"])
    end = start + float(event.get("dur", 0))
    return Event(device, args.get("run_id"), start, end, name, kind, container)


def _kernel_kind(name: str) -> str:
    """Return what a library's kernel does, by its name."""
    if hlo.LIBRARY_PRODUCT.search(name):
        return "product"
    return "collective" if "nccl" in name.lower() else "other"


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
    span = total = 0.0  # microseconds; the total is the span times the devices
    parts: dict[str, dict[str, float]] = {kind: defaultdict(float) for kind in KINDS}
    for devices in runs.values():
        times = [time for lane in devices.values() for event in lane for time in event[2:4]]
        span += max(times) - min(times)
        total += len(devices) * (max(times) - min(times))
        for lane in devices.values():
            for duration, running in _moments(lane):
                kind = next(kind for kind in KINDS if any(one.kind == kind for one in running))
                counted = [one.name for one in running if one.kind == kind]
                for name in counted:
                    parts[kind][name] += duration / len(counted)
    if not total:
        raise ValueError(f"no operation of {module.name} is in it")
    sums = {kind: math.fsum(parts[kind].values()) / total for kind in KINDS}
    rest = parts["other"] | parts["collective"]
    return Shares(
        **sums,
        idle=max(0.0, 1 - math.fsum(sums.values())),
        seconds=span / 1e6,
        operations=tuple(
            _operation(name, rest[name] / total, module)
            for name in sorted(rest, key=rest.__getitem__, reverse=True)
        ),
    )


def _moments(events: Iterable[Event]) -> Iterator[tuple[float, list[Event]]]:
    """Yield the stretches of time in which the same events run, and these; idle ones not.

    >>> events = [Event(0, 0, 0, 4, "a", "product", False), Event(0, 0, 3, 5, "b", "other", False)]
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

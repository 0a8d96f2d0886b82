"""What XLA made of a program: its instructions, read from ``jax.stages.Compiled.as_text()``.

The text is the only form in which every backend shows the optimized program. It is no stable
format, so only little of it is read: names, operations, which computation calls which, and where in
the source an instruction comes from.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath

#: Run other instructions, which have names and times of their own.
CONTAINERS = frozenset({"while", "conditional", "call"})
#: Take no time of their own: names for what is there already.
FREE = frozenset({"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"})
#: Exchange data between devices, and so wait for the slowest; some begin and end as two operations.
COLLECTIVES = (
    *("all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast"),
)
#: Libraries' matrix products and convolutions, by the name of a custom call or of a GPU kernel.
LIBRARY_PRODUCT = re.compile(r"gemm|matmul|cublas|cutlass|cudnn.*conv|(^|[_$])dot", re.IGNORECASE)

_HEADER = re.compile(r"^(ENTRY\s+)?%?([\w.\-]+)\s*\(.*->.*\{\s*$")
_NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|true_computation|false_computation"
    r"|branch_computations|called_computations)=(?:\{([^}]*)\}|%?([\w.\-]+))"
)
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_TABLE_ROW = re.compile(r'^(\d+) (?:"(.*)"|\{(.*)\})$')
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Instruction:
    """One instruction of a compiled program.

    Attributes:
        name: unique in its module, without the percent sign.
        opcode: what it does, such as ``dot`` or ``fusion``.
        called: the computations that it calls.
        body: of a loop, the one of them that it repeats, else empty.
        target: of a custom call, else empty.
        op_name: the path of JAX's transformations and layers that it comes from; may be empty.
        source: file and line that it comes from, such as ``blocked.py:127``; may be empty.
        trip_count: of a loop, how often its body runs, where XLA knows it.
    """

    name: str
    opcode: str
    called: tuple[str, ...] = ()
    body: str = ""
    target: str = ""
    op_name: str = ""
    source: str = ""
    trip_count: int | None = None

    @property
    def is_collective(self) -> bool:
        """Whether it exchanges data between devices."""
        return self.opcode.removesuffix("-start").removesuffix("-done") in COLLECTIVES


@dataclass(frozen=True)
class Module:
    """A compiled program.

    Attributes:
        name: such as ``jit_train_runs``.
        entry: the computation that a call runs.
        computations: name -> instructions.
    """

    name: str
    entry: str
    computations: Mapping[str, tuple[Instruction, ...]]

    @cached_property
    def instructions(self) -> Mapping[str, Instruction]:
        """Name -> instruction, of all computations."""
        return {one.name: one for each in self.computations.values() for one in each}

    def below(self, computation: str) -> Iterator[Instruction]:
        """Yield a computation's instructions and those of all that it calls, each call anew."""
        for instruction in self.computations[computation]:
            yield instruction
            for called in instruction.called:
                yield from self.below(called)

    def executed(self, computation: str) -> Iterator[Instruction]:
        """Yield the instructions that the device is told to run, each with a cost of its own.

        A fusion is one of them, whatever is in it; a loop's body counts once.
        """
        for instruction in self.computations[computation]:
            if instruction.opcode in CONTAINERS:
                for called in instruction.called:
                    yield from self.executed(called)
            elif instruction.opcode not in FREE:
                yield instruction

    @cached_property
    def products(self) -> frozenset[str]:
        """The names of the matrix products; see `is_product`."""
        return frozenset(one.name for one in self.instructions.values() if self.is_product(one))

    @cached_property
    def collectives(self) -> frozenset[str]:
        """The names of the exchanges between devices."""
        return frozenset(one.name for one in self.instructions.values() if one.is_collective)

    def is_product(self, instruction: Instruction) -> bool:
        """Whether it is a matrix product or a convolution, or a fusion that has one in it."""
        if instruction.opcode in ("dot", "convolution"):
            return True
        if instruction.opcode == "custom-call":
            return bool(LIBRARY_PRODUCT.search(instruction.target))
        return instruction.opcode == "fusion" and any(
            map(self.is_product, (one for name in instruction.called for one in self.below(name)))
        )

    def training_loop(self) -> Instruction:
        """Return the outermost loop with a product in it: of an epoch, the loop over its steps.

        Raises:
            ValueError: unless there is exactly one.
        """
        loops = list(self._product_loops(self.entry))
        if len(loops) != 1:
            names = [loop.name for loop in loops]
            raise ValueError(f"{self.name} must have one loop with matrix products, not {names}")
        return loops[0]

    def _product_loops(self, computation: str) -> Iterator[Instruction]:
        for instruction in self.computations[computation]:
            inside = (one for name in instruction.called for one in self.below(name))
            if instruction.opcode == "while" and any(map(self.is_product, inside)):
                yield instruction
            elif instruction.opcode in CONTAINERS:
                for called in instruction.called:
                    yield from self._product_loops(called)


def parse(text: str) -> Module:
    """Read an optimized program.

    Args:
        text: what ``jax.stages.Compiled.as_text()`` returned.

    Raises:
        ValueError: if there is no program in it.

    >>> import jax, jax.numpy as jnp
    >>> compiled = jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((64, 64))).compile()
    >>> module = parse(compiled.as_text())
    >>> any(module.is_product(one) for one in module.executed(module.entry))
    True
    """
    sources = _sources(text)
    name, entry, inside = "", "", ""
    computations: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if line.startswith("HloModule "):
            name = line.split()[1].rstrip(",")
        elif line.startswith("}"):
            inside = ""
        elif header := _HEADER.match(line):
            inside = header[2]
            computations[inside] = []
            entry = inside if header[1] else entry
        elif inside and (instruction := _instruction(line, sources)):
            computations[inside].append(instruction)
    if not entry:
        raise ValueError("not the text of a compiled program: it has no ENTRY computation")
    return Module(name, entry, {key: tuple(value) for key, value in computations.items()})


def _instruction(line: str, sources: Mapping[str, str]) -> Instruction | None:
    name = _NAME.match(line)
    opcode = _OPCODE.match(line, _end_of_shape(line, name.end())) if name else None
    if not name or not opcode:
        return None
    rest = line[opcode.end() :]
    unquoted = _STRING.sub('""', rest)
    called = [
        one.strip().lstrip("%")
        for several, single in _CALLED.findall(unquoted)
        for one in (several or single).split(",")
    ]
    body = _BODY.search(unquoted)
    trips = _TRIP_COUNT.search(rest)
    return Instruction(
        name=name[1],
        opcode=opcode[1],
        called=tuple(called),
        body=body[1] if body else "",
        target=_attribute("custom_call_target", rest),
        op_name=_attribute("op_name", rest),
        source=_source(rest, sources),
        trip_count=int(trips[1]) if trips else None,
    )


def _end_of_shape(line: str, start: int) -> int:
    """Return where the shape at ``start`` ends: a tuple's has spaces and parentheses in it."""
    if line[start] != "(":
        return line.find(" ", start)
    depth = 0
    for place in range(start, len(line)):
        depth += {"(": 1, ")": -1}.get(line[place], 0)
        if depth == 0:
            return place + 1
    return len(line)


def _attribute(name: str, text: str) -> str:
    found = re.search(rf'\b{name}="((?:[^"\\]|\\.)*)"', text)
    return found[1] if found else ""


def _source(rest: str, sources: Mapping[str, str]) -> str:
    """Return file and line: in the instruction itself or, in newer XLA, by number in a table."""
    if frame := re.search(r"\bstack_frame_id=(\d+)", rest):
        return sources.get(frame[1], "")
    line = re.search(r"\bsource_line=(\d+)", rest)
    file = PurePath(_attribute("source_file", rest)).name
    return f"{file}:{line[1]}" if file and line else ""


def _sources(text: str) -> dict[str, str]:
    """Return number of a stack frame -> file and line, from the tables before the program."""
    tables: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    for line in text.splitlines():
        if row := _TABLE_ROW.match(line):
            rows[row[1]] = row[2] or row[3] or ""
        elif re.fullmatch(r"[A-Z]\w+", line):
            rows = tables.setdefault(line, {})
    return {
        frame: _place(row, tables.get("FileLocations", {}), tables.get("FileNames", {}))
        for frame, row in tables.get("StackFrames", {}).items()
    }


def _place(frame: str, locations: Mapping[str, str], names: Mapping[str, str]) -> str:
    location = locations.get(_number("file_location_id", frame), "")
    file = PurePath(names.get(_number("file_name_id", location), "")).name
    return f"{file}:{_number('line', location)}" if file else ""


def _number(name: str, text: str) -> str:
    found = re.search(rf"\b{name}=(\d+)", text)
    return found[1] if found else ""

"""A disk that fails where a test tells it to, in the place of `durable.disk`."""

import contextlib
import os
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from experiments import durable


class Crash(BaseException):
    """The machine lost its power: nothing that the program does afterwards has an effect."""


class Operation(NamedTuple):
    """What the program asked of the disk.

    Attributes:
        kind: the method of `durable.Disk`.
        name: of the file or folder.
    """

    kind: str
    name: str


class FaultyDisk(durable.Disk):
    """A real disk that numbers what it is asked to change, and fails at one of these operations.

    At a crash it loses what was not flushed, as a disk may: bytes that no `sync` of their file
    followed, and new, renamed and removed names that no `sync_folder` followed. The file system is
    then as a program finds it that starts after the power is back.

    Attributes:
        operations: what it was asked for so far; the last one is that of the fault.
    """

    def __init__(
        self,
        number: int | None = None,
        when: Literal["before", "after"] = "before",
        fault: BaseException | None = None,
        unsynced: Literal["lost", "torn", "kept"] = "lost",
    ):
        """Plan a fault.

        Args:
            number: of the operation, counted from 0; None is none.
            when: before the operation takes effect or after.
            fault: what is raised, once; None is a `Crash`, after which the disk is dead.
            unsynced: what a crash does to unflushed bytes: all of a file's are lost, half are, or
                none; in the first two cases, unflushed names are lost, too.
        """
        self.operations: list[Operation] = []
        self._number, self._when, self._unsynced = number, when, unsynced
        self._fault = Crash() if fault is None else fault
        self._dead = False
        self._flushed: dict[Path, int] = {}  # bytes of the files that have more
        self._undo: list[tuple[Path, Callable[[], None]]] = []  # by folder, of unflushed names

    def open(self, path: Path) -> FileIO:
        with contextlib.ExitStack() as stack:  # closes the file if the fault comes after
            with self._operation("open", path):
                before = path.read_bytes() if path.exists() else None
                file = stack.enter_context(super().open(path))
                self._flushed[path] = 0
                self._unflushed(path, lambda: _restore(path, before))
            stack.pop_all()
        return file

    def write(self, file: FileIO, content: bytes) -> None:
        with self._operation("write", Path(str(file.name))):
            super().write(file, content)

    def sync(self, file: FileIO) -> None:
        with self._operation("sync", Path(str(file.name))):
            super().sync(file)
            self._flushed.pop(Path(str(file.name)), None)

    def replace(self, source: Path, target: Path) -> None:
        with self._operation("replace", target):
            before = target.read_bytes() if target.exists() else None
            super().replace(source, target)
            if source in self._flushed:
                self._flushed[target] = self._flushed.pop(source)

            def undo() -> None:
                target.replace(source)
                _restore(target, before)

            self._unflushed(target, undo)

    def unlink(self, path: Path) -> None:
        with self._operation("unlink", path):
            before = path.read_bytes() if path.exists() else None
            super().unlink(path)
            self._unflushed(path, lambda: _restore(path, before))

    def make_folder(self, path: Path) -> None:
        with self._operation("make_folder", path):
            new = not path.exists()
            super().make_folder(path)
            if new:
                self._unflushed(path, path.rmdir)

    def sync_folder(self, path: Path) -> None:
        with self._operation("sync_folder", path):
            super().sync_folder(path)
            self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]

    @contextlib.contextmanager
    def _operation(self, kind: str, path: Path) -> Iterator[None]:
        if self._dead:
            raise self._fault
        self.operations.append(Operation(kind, path.name))
        due = len(self.operations) - 1 == self._number
        if due and self._when == "before":
            self._fail()
        yield
        if due and self._when == "after":
            self._fail()

    def _unflushed(self, path: Path, undo: Callable[[], None]) -> None:
        self._undo.append((path.parent, undo))

    def _fail(self) -> None:
        if isinstance(self._fault, Crash):
            self._dead = True
            self._lose()
        raise self._fault

    def _lose(self) -> None:
        if self._unsynced == "kept":
            return
        for path, flushed in self._flushed.items():
            if path.exists():
                rest = path.stat().st_size - flushed
                os.truncate(path, flushed + (rest // 2 if self._unsynced == "torn" else 0))
        for _, undo in reversed(self._undo):
            undo()


def names(folder: Path) -> list[str]:
    """Return what a folder holds, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def _restore(path: Path, content: bytes | None) -> None:
    """Give a file the content of before; None is no file."""
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content)


@contextlib.contextmanager
def faulty(disk: FaultyDisk) -> Iterator[FaultyDisk]:
    """Write through a faulty disk; its crash ends the ``with`` quietly, its errors do not."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
        patch.setattr(durable, "disk", disk)
        yield disk


def crashes(operations: int) -> Iterator[FaultyDisk]:
    """Yield a disk for every way to crash at every one of so many operations."""
    for number in range(operations):
        for when in ("before", "after"):
            for unsynced in ("lost", "torn", "kept"):
                yield FaultyDisk(number, when, unsynced=unsynced)

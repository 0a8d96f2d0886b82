"""Writing that survives a crash: a file appears whole under its name, or not at all.

A file is written under a temporary name beside its place, flushed to the disk, renamed, and its
folder is flushed: whatever happens at whatever moment, a reader finds the old content or the new.
What a killed program leaves behind is a file ``.NAME.PID.tmp``, which `clean` takes away.

What is read is not made room for, whatever its size: see `read`.

Every change goes through `disk`, in whose place a test puts one that fails where it is told to.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from io import FileIO
from pathlib import Path

from experiments import npz
from experiments.cli import StorageError, UserError

#: Where a folder can't be opened or flushed there is nothing to wait for.
_NO_FLUSH = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)


class Disk:
    """What the operating system does to files, one method a call. All raise OSError."""

    def open(self, path: Path) -> FileIO:
        """Make a new file to write to; what had its name, a killed program's leftover, goes."""
        path.unlink(missing_ok=True)
        return FileIO(path, "xb")  # "x" follows no link that somebody put there

    def write(self, file: FileIO, content: bytes) -> None:
        """Hand all bytes to the operating system, which may keep them in memory."""
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]

    def sync(self, file: FileIO) -> None:
        """Wait until a file's content is on the disk."""
        os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file; what had the new name is gone in the same moment."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def make_folder(self, path: Path) -> None:
        """Make one folder, whose parent is there; another program may have been first."""
        path.mkdir(exist_ok=True)

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        if os.name == "nt":  # opens no folders; its file systems keep a journal of renames
            return
        try:
            number = os.open(path, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)
        except OSError as error:
            if error.errno not in _NO_FLUSH:
                raise

    def free(self, folder: Path) -> int | None:
        """Return how many bytes a folder's disk has for us; None where it does not say."""
        total, _, free = shutil.disk_usage(folder)
        return free if total else None


#: Through which everything is written.
disk = Disk()
#: The folders that nothing else may take the place of: an open file descriptor of each.
_held: dict[Path, int] = {}


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Change nothing below a folder's path within, unless it is the folder that is there now.

    A folder that is moved away, or removed, may have a new one of its name, with another writer.

    Args:
        folder: as the paths of the files in it begin.

    Raises:
        OSError: if it cannot be opened.
    """
    if os.name == "nt":  # opens no folders, and lets nobody move one whose lock file is open
        yield
        return
    _held[folder] = os.open(folder, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(_held.pop(folder))


def is_here(folder: Path) -> bool:
    """Tell whether a folder that is `held`, or any that is not, has its path to itself.

    Raises:
        OSError: if nothing is there.
    """
    if folder not in _held:
        return True
    there, own = folder.stat(), os.fstat(_held[folder])  # open, so that no other has its number
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def write(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, and is on the disk on return.

    Args:
        path: in a folder that is there; what the file held before is replaced.
        content: all of it.

    Raises:
        StorageError: if the disk is full, the folder is gone, and the like. The file is as before,
            or holds the new content where only its folder could not be flushed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _storing(path):
        try:
            with disk.open(temporary) as file:
                disk.write(file, content)
                disk.sync(file)
            disk.replace(temporary, path)
            disk.sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                disk.unlink(temporary)
            raise


def read(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        UserError: if it can't be read, is no plain file, or too large to be a program's of ours.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > npz.LARGEST:
            raise UserError(f"cannot read {path}: not a file of at most {npz.LARGEST:,} bytes")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        StorageError: if it cannot be removed.
    """
    with _storing(path), contextlib.suppress(FileNotFoundError):
        disk.unlink(path)
        disk.sync_folder(path.parent)


def make_folder(path: Path) -> list[Path]:
    """Make a folder and, where they are missing, those above it.

    Returns:
        What was made, the outermost first.

    Raises:
        StorageError: if it cannot be made, or something else has its name.
    """
    made = []
    for folder in reversed([path, *path.parents]):
        if not folder.is_dir():
            with _storing(folder):
                disk.make_folder(folder)
                disk.sync_folder(folder.parent)
            made.append(folder)
    return made


def clean(folder: Path, files: Iterable[str]) -> list[Path]:
    """Remove the temporary files that killed programs have left, and no others.

    To be called by the folder's one writer (see `lock`): a living program's temporary file looks
    the same.

    Args:
        folder: which need not be there.
        files: what is written there: patterns as `Path.glob` takes them, like ``"runs/*.npz"``. A
            folder of a pattern's own name may be a link; what is behind another is a user's.

    Returns:
        What was removed.

    Raises:
        StorageError: if a file cannot be removed.
    """
    removed = []
    for pattern in map(Path, files):
        for path in sorted(folder.glob(str(pattern.with_name(f".{pattern.name}.*.tmp")))):
            name, _, process = path.name[1:].removesuffix(".tmp").rpartition(".")
            linked = path.parent.is_symlink() and path.parent.name != pattern.parent.name
            fits = fnmatchcase(name, pattern.name) and process.isdecimal()
            if fits and not linked and path.is_file():
                remove(path)
                removed.append(path)
    return removed


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be trusted to ``NAME.damaged-1``, or the next number that is free.

    Returns:
        Its new path.

    Raises:
        StorageError: if it cannot be renamed.
    """
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
        number += 1
    with _storing(path):
        disk.replace(path, aside)
        disk.sync_folder(path.parent)
    return aside


def room_for(folder: Path, size: int) -> None:
    """Raise UserError if the disk of a folder, which need not be there yet, lacks ``size`` bytes.

    What a quota allows is known only when it is used up.
    """
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    free = disk.free(existing)
    if free is not None and free < size:
        raise UserError(
            f"--out: expected {_in_megabytes(size)} of free space for {folder}, found"
            f" {_in_megabytes(free)}"
        )


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal into one that names the file."""
    try:
        for folder in _held:
            if (folder == path or folder in path.parents) and not is_here(folder):
                raise OSError(errno.ESTALE, "another folder has taken this one's place")
        yield
    except OSError as error:
        raise StorageError(path, error.strerror or str(error)) from error


def _in_megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"

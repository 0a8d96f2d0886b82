"""One writer at a time: a folder's lock, which ends with the process that holds it.

The operating system keeps the lock, on the file `LOCK`, and drops it when the process ends,
however that comes. The process's number is beside it in `HOLDER`, for whoever has to wait.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from experiments import durable
from experiments.cli import StorageError, UserError

#: Names that nobody else gives a file: both are overwritten and removed.
LOCK = ".jax-lenet.lock"
HOLDER = ".jax-lenet.pid"
#: How long a new holder may take to say its number, in seconds.
PATIENCE = 1.0


@contextlib.contextmanager
def one_writer(folder: Path, flag: str = "--out") -> Iterator[None]:
    """Hold the folder's lock; it is gone when its process is, however that ended.

    Args:
        folder: is made where it is missing, and removed again if it is still empty at the end.
        flag: how the user named the folder, for the messages.

    Raises:
        UserError: if another program holds the lock, with its process number, or if the folder
            cannot be written to.
    """
    lock = FileLock(folder / LOCK, blocking=False)
    made: list[Path] = []
    holding = contextlib.ExitStack()
    try:
        try:
            made += durable.make_folder(folder)
            lock.acquire()
            holding.enter_context(durable.held(folder))
            _say_who(folder / HOLDER)
        except Timeout:
            raise UserError(f"{flag}: {folder} is being written by {_holder(folder)}") from None
        except StorageError as error:
            raise UserError(f"{flag}: cannot write to {error.path}: {error.reason}") from None
        except OSError as error:
            raise UserError(f"{flag}: cannot write to {folder}: {error.strerror}") from None
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # the folder may have gone
                for name in (HOLDER, LOCK) if durable.is_here(folder) else ():
                    (folder / name).unlink()
            lock.release()
        holding.close()
        for path in reversed(made):
            with contextlib.suppress(OSError):  # what is not empty stays
                path.rmdir()


def _say_who(path: Path) -> None:
    """Write this process's number, following no link that somebody put there."""
    path.unlink(missing_ok=True)  # a dead holder's
    with path.open("x") as file:
        file.write(f"{os.getpid()}\n")


def _holder(folder: Path) -> str:
    """Return who holds the lock, once the file does not name an earlier holder that has ended."""
    name = "another program"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            number = int((folder / HOLDER).read_text())
            name = f"process {number}"
            if _lives(number):
                return name
        time.sleep(0.02)
    return name  # on another machine, perhaps


def _lives(number: int) -> bool:
    """Tell whether a process is there; where that can't be asked, yes."""
    if os.name != "posix":  # os.kill would end it
        return True
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True

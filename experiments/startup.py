"""What the programs do to JAX before anything runs: devices, and compiled programs kept on disk.

Only programs do this, never the library: both settings are the whole process's.
"""

import ctypes
import os
import platform
import re
import stat
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import jax
from filelock import FileLock, Timeout

from experiments.cli import UserError
from jax_lenet.data import cache_folder

#: Values of ``--compilation-cache`` that are not a folder.
AUTO, OFF = "auto", "off"
#: What JAX reports of each compilation while its cache is on.
HIT, MISS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/cache_misses"
#: What JAX calls a compiled program's file: by the function, and a digest of all that decides it.
_PROGRAM = re.compile("(.+-[0-9a-f]{64})-cache")
#: Bytes that a cache may take; the least recently used go first. A study's programs take 6 MB.
CACHE_BYTES = 500_000_000
#: A container's share of the machine's cores: microseconds in a period of so many.
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
#: Seconds between two returns of memory while programs compile.
GIVE_BACK_EVERY = 0.1


def cores() -> int:
    """Return how many cores this process may use: its own, and no more than a container's quota."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        microseconds, period = map(int, CPU_QUOTA.read_text().split())
    except (OSError, ValueError):  # there is none, or it is "max"
        return own
    return max(1, min(own, microseconds // period))


def use_cpu_devices(count: int | None) -> int:
    """Make JAX see so many CPU devices; on a GPU nothing changes.

    XLA uses two cores better as two devices that share the work than as one device with two
    threads. Must come before JAX's first computation, which fixes their number.

    Args:
        count: None is one a core, or what the environment variable ``JAX_NUM_CPU_DEVICES`` says.

    Returns:
        How many devices JAX sees, of whatever kind.
    """
    asked_for = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]
    if count is not None or asked_for < 1:
        wanted = cores() if count is None else count
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:  # JAX runs already, as in a notebook or a test
            if count is not None and count != jax.local_device_count():
                raise UserError(
                    f"--devices: expected {jax.local_device_count()}, what JAX runs on already, not"
                    f" {count}"
                ) from None
    return jax.local_device_count()


@contextmanager
def returning_memory() -> Iterator[None]:
    """Give back to the system what is freed, again and again while programs compile or draw.

    Of C libraries glibc alone keeps it: it gives each of the compiler's threads a heap of its own,
    and what is free there nothing else uses again. With all variants' programs compiled a process
    held 1.37 GB, and 1.46 GB at the most; 1.03 GB where each program was followed by this, but
    1.45 GB at the most; in this way 1.05 and 1.25 GB, in the same time. Two programs one after the
    other, with this between, took 1.27 GB and a tenth more time. Fewer heaps (M_ARENA_MAX) would
    hold 1.3 to 1.4 GB, but the devices' threads then wait for one another at every allocation:
    epochs took up to half as long again.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    library, over = ctypes.CDLL(None), threading.Event()

    def give_back() -> None:
        while not over.wait(GIVE_BACK_EVERY):
            library.malloc_trim(0)

    thread = threading.Thread(target=give_back, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        library.malloc_trim(0)


@dataclass
class CompilationCache:
    """JAX's persistent compilation cache: where it is, and how often it was of use.

    Attributes:
        folder: where compiled programs are kept; None where the cache is off.
        reason: why it is off; empty where it is on.
        events: JAX's own reports, by name.
    """

    folder: Path | None
    reason: str = ""
    events: Counter[str] = field(default_factory=Counter)

    def facts(self) -> dict[str, str | int | None]:
        """Return what config.json says of it."""
        if self.folder is None:
            return {"folder": None, "off_because": self.reason}
        return {
            "folder": str(self.folder),
            "hits": self.events[HIT],
            "misses": self.events[MISS],
        }


def use_compilation_cache(choice: str) -> CompilationCache:
    """Keep compiled programs on disk from now on, so that a second start need not compile.

    What lies in the folder is executed. So the default one, ``compiled`` beside the downloads, is
    made readable and writable by this user alone, and one that is somebody else's, or that others
    can write to, is not used: the program runs without. A folder that the user names must be safe.
    On some processors the programs are never found again; nothing relies on them.

    Args:
        choice: ``"auto"``, ``"off"`` or a folder.

    Raises:
        UserError: if a folder that the user named cannot be used.
    """
    if choice == OFF:
        return _no_cache("--compilation-cache off")
    home = cache_folder()
    if choice == AUTO and home is None:
        return _no_cache("the user has no home folder")
    folder = home / "compiled" if choice == AUTO and home is not None else Path(choice).resolve()
    reason = _unusable(folder, private=choice == AUTO)
    if reason and choice == AUTO:
        return _no_cache(f"{folder} {reason}")
    if reason:
        raise UserError(
            f"--compilation-cache: expected a folder that this user alone can write to; {folder}"
            f" {reason}"
        )
    limited = _tidy(folder, own=choice == AUTO)
    cache = CompilationCache(folder)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.monitoring.register_event_listener(lambda event, **_: cache.events.update([event]))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX keeps only what took a second to compile, unless told otherwise.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if limited:
        jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES)
    return cache


def _tidy(folder: Path, own: bool) -> bool:
    """Remove compiled programs that were cut short; return whether JAX can keep the rest to a size.

    For that it must know when each was last used: to a limited cache it writes a program, then the
    time, and holds a lock meanwhile. With one program without a time it fails to write any other.

    Args:
        folder: the cache.
        own: whether it is the program's own folder. There, what lacks a time was cut short when a
            process ended. In one that the user names it may be of another JAX program, whose cache
            has no limit, and stays.
    """
    with suppress(Timeout, OSError), FileLock(folder / ".lockfile", timeout=1):
        programs = [name for path in folder.iterdir() if (name := _PROGRAM.fullmatch(path.name))]
        untimed = [name for name in programs if not (folder / f"{name[1]}-atime").exists()]
        if own:
            for name in untimed:
                (folder / name[0]).unlink()
        return own or not untimed
    return True


def _no_cache(reason: str) -> CompilationCache:
    """Turn the cache off, also where the environment (JAX_COMPILATION_CACHE_DIR) turns it on."""
    jax.config.update("jax_enable_compilation_cache", False)
    return CompilationCache(None, reason)


def _unusable(folder: Path, private: bool) -> str:
    """Make a folder for this user alone; return what is wrong with it, or nothing.

    Args:
        folder: to make, or that is there.
        private: whether others may not even read one that is there.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        parents = [(parent, parent.stat()) for parent in folder.resolve().parents]
    except OSError as error:
        return f"cannot be used: {error.strerror}"
    if stat.S_ISLNK(status.st_mode):
        return "is a link"
    if not _is_own(status):
        return "belongs to another user"
    if os.name == "posix" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written to by others"
    for parent, its in parents if os.name == "posix" else ():
        # A group that may write, as where each user has one, is taken for the user's own.
        others = its.st_mode & stat.S_IWOTH and not its.st_mode & stat.S_ISVTX
        if others or not (_is_own(its) or its.st_uid == 0):
            return f"can be replaced by others, who can write to {parent}"
    try:
        if private:
            folder.chmod(0o700)  # others could read it
    except OSError as error:
        return f"cannot be closed to others: {error.strerror}"
    return "" if os.access(folder, os.R_OK | os.W_OK | os.X_OK) else "cannot be written to"


def _is_own(status: os.stat_result) -> bool:
    """Tell whether a file or folder is this user's."""
    return not hasattr(os, "getuid") or status.st_uid == os.getuid()

"""What programs set up before JAX runs: the compilation cache and the CPU devices."""

import csv
import ctypes
import json
import os
import platform
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from experiments import startup
from experiments.cli import UserError
from tests.faults import names

ROOT = Path(__file__).parents[1]
TINY = (
    *("--dataset", "mnist_sample", "--train-size", "256", "--seeds", "1", "--epochs", "1"),
    *("--variants", "LeNet", "--timing-repeats", "0"),
)

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")


@pytest.fixture
def cache_home(tmp_path, monkeypatch):
    """An empty cache folder for this user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def study(out, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.ablate", *TINY, "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "config.json").read_text()), (out / "results.csv").read_text()


def without_seconds(results):
    return [line.rsplit(",", 1)[0] for line in results.splitlines()]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A first start as users have it, without the tests' flags for XLA: cache, config and rows."""
    folder = tmp_path_factory.mktemp("started")
    cache = folder / "cache"
    return cache, *study(folder / "1", "--compilation-cache", str(cache), XLA_FLAGS="")


def test_a_second_start_finds_what_the_first_compiled_and_gives_the_same_numbers(started, tmp_path):
    cache, first, results = started
    second, again = study(tmp_path / "2", "--compilation-cache", str(cache), XLA_FLAGS="")
    assert first["compilation_cache"]["hits"] == 0 < first["compilation_cache"]["misses"]
    assert second["compilation_cache"]["folder"] == str(cache)
    facts = second["compilation_cache"]
    if facts["hits"] == 0:
        pytest.skip("on this processor XLA's compiled programs are never found again")
    assert facts["hits"] > facts["misses"]
    assert without_seconds(again) == without_seconds(results)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700


def test_off_keeps_nothing_and_devices_are_as_asked_for_and_xlas_optimization_changes_no_number(
    started, tmp_path
):
    config, results = study(
        tmp_path / "out",
        *("--compilation-cache", "off", "--devices", "3"),
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        JAX_COMPILATION_CACHE_DIR=str(tmp_path / "environment"),
    )
    expected = {"folder": None, "off_because": "--compilation-cache off"}
    assert config["compilation_cache"] == expected
    assert not (tmp_path / "cache" / "jax_lenet").exists()
    kept = tmp_path / "environment"
    assert not kept.exists() or not any(kept.iterdir())
    assert config["device"]["count"] == 3
    own, optimized = (losses_of(text) for text in (results, started[2]))
    assert own == pytest.approx(optimized, rel=1e-5)  # float32's rounding, of two steps


def losses_of(results):
    (row,) = csv.DictReader(results.splitlines())
    return [float(row["train_loss"]), float(row["test_loss"])]


WHOLE, UNTIMED = (f"jit_epoch-{digit * 64}" for digit in "ab")
PROGRAMS = sorted([f"{WHOLE}-atime", f"{WHOLE}-cache", f"{UNTIMED}-cache", "browser-cache"])
UNLIMITED = -1  # what JAX's setting is until told otherwise


def most_bytes():
    """What JAX was told of the cache's size; `settings_of_jax` takes it back."""
    return startup.jax.config.values["jax_compilation_cache_max_size"]


def write_programs(folder):
    folder.mkdir(mode=0o700, parents=True)
    for name in PROGRAMS:
        (folder / name).write_bytes(b"content")


def test_programs_that_were_cut_short_are_removed_from_the_own_cache_and_nothing_else(
    cache_home,
):
    folder = cache_home / "jax_lenet" / "compiled"
    write_programs(folder)
    with FileLock(folder / ".lockfile"):  # another process is writing it
        startup.use_compilation_cache(startup.AUTO)
    assert names(folder) == [".lockfile", *PROGRAMS]
    startup.use_compilation_cache(startup.AUTO)
    assert names(folder) == [".lockfile", *(n for n in PROGRAMS if n != f"{UNTIMED}-cache")]
    assert most_bytes() == startup.CACHE_BYTES


def test_the_cache_of_another_program_keeps_all_and_has_no_limit(tmp_path):
    folder = tmp_path / "another"
    write_programs(folder)
    startup.use_compilation_cache(str(folder))
    assert names(folder) == [".lockfile", *PROGRAMS]
    assert most_bytes() == UNLIMITED
    (folder / f"{UNTIMED}-atime").write_bytes(b"content")
    startup.use_compilation_cache(str(folder))
    assert most_bytes() == startup.CACHE_BYTES


def test_the_default_folder_is_the_users_alone(cache_home):
    cache = startup.use_compilation_cache(startup.AUTO)
    assert cache.folder == cache_home / "jax_lenet" / "compiled"
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert cache.facts() == {"folder": str(cache.folder), "hits": 0, "misses": 0}


@posix
def test_a_default_folder_that_others_can_write_to_is_not_used(cache_home):
    folder = cache_home / "jax_lenet" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o770)
    facts = startup.use_compilation_cache(startup.AUTO).facts()
    assert facts == {"folder": None, "off_because": f"{folder} can be written to by others"}


@posix
@pytest.mark.parametrize("kind", ["a link", "a parent that anyone can write to"])
def test_a_default_folder_that_others_can_replace_is_not_used(cache_home, tmp_path, kind):
    folder = cache_home / "jax_lenet" / "compiled"
    folder.mkdir(parents=True, mode=0o700)
    if kind == "a link":
        folder.rmdir()
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
        reason = f"{folder} is a link"
    else:
        folder.parent.chmod(0o777)
        reason = f"{folder} can be replaced by others, who can write to {folder.parent}"
    facts = startup.use_compilation_cache(startup.AUTO).facts()
    assert facts == {"folder": None, "off_because": reason}


@posix
def test_another_users_folder_is_not_used(cache_home, monkeypatch):
    monkeypatch.setattr(startup.os, "getuid", lambda: 12345)
    facts = startup.use_compilation_cache(startup.AUTO).facts()
    assert facts["folder"] is None
    assert "belongs to another user" in str(facts["off_because"])


@pytest.mark.parametrize("kind", ["a file", "shared"])
def test_a_named_folder_that_cannot_be_used_is_an_error(tmp_path, cache_home, kind):
    folder = tmp_path / "named"
    if kind == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(UserError, match="--compilation-cache: expected a folder that this user"):
        startup.use_compilation_cache(str(folder))


def test_without_a_home_the_cache_is_off(monkeypatch):
    monkeypatch.setattr(startup, "cache_folder", lambda: None)
    facts = startup.use_compilation_cache(startup.AUTO).facts()
    assert facts == {"folder": None, "off_because": "the user has no home folder"}


def test_another_number_of_devices_than_jax_runs_on_already_is_an_error():
    count = startup.jax.local_device_count()
    assert startup.use_cpu_devices(None) == count
    with pytest.raises(UserError, match=f"--devices: expected {count}, what JAX runs on already"):
        startup.use_cpu_devices(count + 1)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep no memory")
def test_what_a_thread_has_freed_is_given_back_while_others_work():
    """From the heap of another thread, of which free() alone gives nothing back."""
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]
    threads = threading.active_count()

    def hold_and_free(pieces: int = 1000, size: int = 100_000) -> list[int]:
        held = [library.malloc(size) for _ in range(pieces)]
        for address in held:
            ctypes.memset(address, 1, size)
        for address in held[:-1]:
            library.free(address)
        return held[-1:]

    with ThreadPoolExecutor(1) as other, startup.returning_memory():
        before = resident()
        last = other.submit(hold_and_free).result()
        deadline = time.monotonic() + 10
        while resident() > before + 20_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert resident() < before + 20_000_000
        library.free(last[0])
    assert threading.active_count() == threads


def resident() -> int:
    """Return the bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000\n", 8), ("250000 100000\n", 2), ("50000 100000\n", 1)]
)
def test_a_containers_quota_limits_the_cores(quota, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(startup, "CPU_QUOTA", tmp_path / "cpu.max")
    assert startup.cores() == 8
    (tmp_path / "cpu.max").write_text(quota)
    assert startup.cores() == expected

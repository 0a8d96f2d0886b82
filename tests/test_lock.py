"""One writer at a time: who comes second is told who is first, and a dead holder holds nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from experiments import durable, lock
from experiments.cli import StorageError, UserError
from experiments.lock import one_writer
from tests.faults import FaultyDisk, faulty, names

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from experiments.lock import one_writer
with one_writer(Path(sys.argv[1])):
    subprocess.Popen(["sleep", "60"])
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def another_program(folder):
    """A process that holds the folder's lock, and has started one of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_the_second_program_is_told_the_firsts_number_and_takes_over_when_it_is_dead(tmp_path):
    folder = tmp_path / "results"
    with another_program(folder) as process:
        message = f"--out: {folder} is being written by process {process.pid}"
        with pytest.raises(UserError, match=f"^{message}$"), one_writer(folder):
            pytest.fail("two writers")
        process.kill()  # SIGKILL: it cleans nothing up, and its own child lives on
        process.wait(timeout=10)
        assert (folder / lock.HOLDER).read_text() == f"{process.pid}\n"
        with one_writer(folder):
            assert (folder / lock.HOLDER).read_text() == f"{os.getpid()}\n"


def test_nothing_is_left_of_a_lock_and_it_can_be_taken_again(tmp_path):
    for _ in range(2):
        with one_writer(tmp_path):
            (tmp_path / "results.csv").touch()
    assert names(tmp_path) == ["results.csv"]


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path):
    with pytest.raises(ValueError, match="bad data"), one_writer(tmp_path / "a" / "b"):
        raise ValueError("bad data")
    assert names(tmp_path) == []
    with one_writer(tmp_path / "a" / "b"):
        (tmp_path / "a" / "notes.txt").touch()
    assert names(tmp_path / "a") == ["notes.txt"]


def test_a_folder_that_was_there_stays_though_it_is_empty(tmp_path):
    with one_writer(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_one_process_is_one_writer_too(tmp_path):
    with (
        one_writer(tmp_path),
        pytest.raises(UserError, match=f"by process {os.getpid()}$"),
        one_writer(tmp_path),
    ):
        pytest.fail("two writers")
    with one_writer(tmp_path):
        pass


@pytest.mark.parametrize("before", ["", "the number of a process that has ended"])
def test_a_holder_that_is_slow_to_say_its_number_is_waited_for(tmp_path, before):
    with subprocess.Popen(["true"]) as ended:
        pass
    with one_writer(tmp_path):
        holder = tmp_path / lock.HOLDER
        number = holder.read_text()
        holder.write_text(before and f"{ended.pid}\n")
        timer = threading.Timer(0.2, holder.write_text, [number])
        timer.start()
        with pytest.raises(UserError, match=f"by process {os.getpid()}$"), one_writer(tmp_path):
            pytest.fail("two writers")
        timer.join()


@pytest.mark.parametrize(
    ("content", "who"),
    [("", "another program"), ("9" * 30, "process 9+"), ("x", "another program")],
)
def test_whatever_the_number_s_file_holds_the_second_program_is_refused(
    tmp_path, monkeypatch, content, who
):
    monkeypatch.setattr(lock, "PATIENCE", 0.05)
    with one_writer(tmp_path):
        (tmp_path / lock.HOLDER).write_text(content)
        with pytest.raises(UserError, match=f"is being written by {who}$"), one_writer(tmp_path):
            pytest.fail("two writers")


def test_a_place_that_cannot_be_written_to_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("mine")
    message = f"^--out: cannot write to {tmp_path / 'file'}: File exists$"
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(UserError, match=message), one_writer(folder):
            pytest.fail("no folder")
    (tmp_path / "results" / lock.HOLDER).mkdir(parents=True)
    with (
        pytest.raises(UserError, match=r"^FOLDER: cannot write to .*results: Is a directory$"),
        one_writer(tmp_path / "results", "FOLDER"),
    ):
        pytest.fail("no lock")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a place closed to all users")
def test_a_read_only_place_is_named():
    # Root can write where a mode forbids it, but nobody makes a folder in /proc.
    with (
        pytest.raises(UserError, match=r"^--out: cannot write to /proc/results: "),
        one_writer(Path("/proc/results")),
    ):
        pytest.fail("no folder")


def test_a_full_disk_is_named_before_anything_runs(tmp_path):
    full = FaultyDisk(0, fault=OSError(28, "No space left on device"))
    with (
        pytest.raises(UserError, match=r"cannot write to .*results: No space left on device"),
        faulty(full),
        one_writer(tmp_path / "results"),
    ):
        pytest.fail("no room")


def test_a_folder_that_vanishes_ends_the_lock_quietly(tmp_path):
    with one_writer(tmp_path / "results"):
        (tmp_path / "results").rename(tmp_path / "elsewhere")
    with one_writer(tmp_path / "results"):
        pass


def test_a_folder_that_has_taken_the_place_of_another_is_left_alone(tmp_path):
    folder, moved = tmp_path / "results", tmp_path / "moved"
    with one_writer(folder):
        durable.write(folder / "own", b"1")
        folder.rename(moved)
        with pytest.raises(StorageError, match="No such file or directory"):
            durable.write(folder / "own", b"2")
        with pytest.raises(StorageError, match="No such file or directory"):
            durable.make_folder(folder)
        assert not folder.exists()
        with another_program(folder) as process:
            with pytest.raises(StorageError, match="another folder has taken this one's place"):
                durable.write(folder / "own", b"2")
            with pytest.raises(StorageError, match="another folder has taken this one's place"):
                durable.make_folder(folder / "runs")
            assert names(folder) == [lock.LOCK, lock.HOLDER]
            durable.write(tmp_path / "beside", b"3")
            holder = (folder / lock.HOLDER).read_text()
            assert holder == f"{process.pid}\n"
    assert names(folder) == [lock.LOCK, lock.HOLDER]  # the other's
    assert (moved / "own").read_bytes() == b"1"


def test_a_folder_that_is_moved_and_comes_back_is_written_on(tmp_path):
    folder, moved = tmp_path / "results", tmp_path / "moved"
    with one_writer(folder):
        folder.rename(moved)
        moved.rename(folder)
        durable.write(folder / "own", b"1")
    assert names(folder) == ["own"]


def test_no_link_in_the_number_s_place_is_followed(tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / lock.HOLDER).symlink_to("notes")
    with one_writer(tmp_path):
        assert (tmp_path / lock.HOLDER).read_text() == f"{os.getpid()}\n"
    assert (tmp_path / "notes").read_text() == "mine"
    assert names(tmp_path) == ["notes"]

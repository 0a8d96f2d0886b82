"""Files that appear whole or not at all, whatever happens at whatever moment."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import durable
from experiments.cli import StorageError, UserError
from tests.faults import Crash, FaultyDisk, crashes, faulty, names


def operations_of(change):
    """How many operations a change of a folder takes."""
    with faulty(FaultyDisk()) as disk:
        change()
    return len(disk.operations)


def test_what_was_written_is_there_and_nothing_else(tmp_path):
    durable.write(tmp_path / "file", b"one")
    durable.write(tmp_path / "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"two"
    assert names(tmp_path) == ["file"]


def test_the_content_is_flushed_before_the_rename_and_the_name_after_it(tmp_path):
    with faulty(FaultyDisk()) as disk:
        durable.write(tmp_path / "file", b"content")
    temporary = f".file.{os.getpid()}.tmp"
    assert disk.operations == [
        ("open", temporary),
        ("write", temporary),
        ("sync", temporary),
        ("replace", "file"),
        ("sync_folder", tmp_path.name),
    ]


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_crash_at_any_moment_leaves_the_old_file_or_the_new(tmp_path, before):
    file = tmp_path / "file"
    for disk in crashes(5):
        if before is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(before)
        with faulty(disk):
            durable.write(file, b"new bytes")
        found = file.read_bytes() if file.exists() else None
        assert found in (before, b"new bytes"), disk.operations
        durable.clean(tmp_path, ["file"])
        assert set(names(tmp_path)) <= {"file"}


def test_what_was_written_survives_a_crash_in_what_comes_next(tmp_path):
    def change():
        durable.write(tmp_path / "first", b"first")
        durable.write(tmp_path / "second", b"second")

    for disk in crashes(operations_of(change)):
        (tmp_path / "first").unlink()
        with faulty(disk):
            change()
        if len(disk.operations) > 5:
            assert (tmp_path / "first").read_bytes() == b"first"
        else:
            (tmp_path / "first").touch()


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOENT])
def test_an_error_leaves_no_temporary_file_and_names_the_file_and_the_reason(
    tmp_path, number, code
):
    file = tmp_path / "file"
    file.write_bytes(b"old")
    disk = FaultyDisk(number, fault=OSError(code, os.strerror(code)))
    with faulty(disk), pytest.raises(StorageError) as caught:
        durable.write(file, b"new")
    assert str(caught.value) == (
        f"cannot write {file}: {os.strerror(code)}; everything finished so far is kept in"
        f" {tmp_path}"
    )
    assert names(tmp_path) == ["file"]
    assert file.read_bytes() == (
        b"new" if disk.operations[number].kind == "sync_folder" else b"old"
    )


def test_a_file_beyond_the_limit_of_the_process_is_refused_and_the_old_one_stays(tmp_path):
    # As on a full disk, the operating system takes a part of the bytes before it refuses.
    program = (
        "import resource, sys; from pathlib import Path; from experiments import durable;"
        "size = int(sys.argv[2]); resource.setrlimit(resource.RLIMIT_FSIZE, (size, size));"
        "durable.write(Path(sys.argv[1]), bytes(1000))"
    )
    file = tmp_path / "file"
    for size, code in ((1000, 0), (999, 1)):
        file.write_bytes(b"old")
        done = subprocess.run(
            [sys.executable, "-c", program, str(file), str(size)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert f"StorageError: cannot write {file}: File too large" in done.stderr
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("missing", ["gone", "a file"])
def test_a_folder_that_is_gone_is_said_to_be_gone(tmp_path, missing):
    (tmp_path / "a file").touch()
    folder = tmp_path / missing
    with pytest.raises(StorageError, match=f"the folder {folder} is gone$"):
        durable.write(folder / "file", b"content")


def test_a_leftover_with_our_own_process_number_is_written_anew_and_no_link_is_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(victim)
    durable.write(tmp_path / "file", b"content")
    assert victim.read_bytes() == b"mine"
    assert (tmp_path / "file").read_bytes() == b"content"
    assert not (tmp_path / "file").is_symlink()


LEFTOVERS = (".results.csv.1.tmp", ".results.csv.4194304.tmp", ".LeNet.seeds-0.npz.77.tmp")
OTHERS = (
    "results.csv",
    ".results.csv.tmp",
    ".results.csv.x.tmp",
    ".results.csv.1.tmp.bak",
    "results.csv.1.tmp",
    ".notes.txt.1.tmp",
    ".myresults.csv.1.tmp",
    ".results.csv.x.1.tmp",
    ".LeNet.seeds-0.npy.77.tmp",
)


def test_leftovers_of_our_own_files_go_and_nothing_else(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    for folder in (tmp_path, runs):
        for name in (*LEFTOVERS, *OTHERS):
            (folder / name).touch()
        (folder / ".results.csv.9.tmp").mkdir()
    removed = durable.clean(tmp_path, ["results.csv", "*.npz"])
    assert sorted(path.name for path in removed) == sorted(LEFTOVERS)
    assert names(tmp_path) == sorted((*OTHERS, ".results.csv.9.tmp", "runs"))
    assert durable.clean(tmp_path, ["runs/*.npz"]) == [runs / ".LeNet.seeds-0.npz.77.tmp"]
    assert durable.clean(tmp_path / "missing", ["results.csv"]) == []


def test_a_folder_of_ours_may_be_a_link_and_what_another_link_shows_is_a_users(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    leftover = tmp_path / "elsewhere" / ".a.csv.77.tmp"
    leftover.touch()
    (tmp_path / "7").symlink_to("elsewhere")
    assert durable.clean(tmp_path, ["[0-9]*/a.csv"]) == []
    assert leftover.exists()
    (tmp_path / "runs").symlink_to("elsewhere")
    assert durable.clean(tmp_path, ["runs/a.csv"]) == [tmp_path / "runs" / leftover.name]
    assert not leftover.exists()


def test_a_file_is_set_aside_under_the_next_free_number(tmp_path):
    file = tmp_path / "results.csv"
    for number, content in enumerate((b"one", b"two"), 1):
        file.write_bytes(content)
        assert durable.set_aside(file) == tmp_path / f"results.csv.damaged-{number}"
    assert (tmp_path / "results.csv.damaged-1").read_bytes() == b"one"
    assert (tmp_path / "results.csv.damaged-2").read_bytes() == b"two"
    (tmp_path / "results.csv.damaged-3").symlink_to("nowhere")
    file.write_bytes(b"four")
    assert durable.set_aside(file).name == "results.csv.damaged-4"


def test_a_crash_while_a_file_is_set_aside_never_loses_it(tmp_path):
    file = tmp_path / "file"
    for disk in crashes(2):
        file.write_bytes(b"content")
        with faulty(disk):
            durable.set_aside(file)
        (kept,) = tmp_path.iterdir()
        assert kept.read_bytes() == b"content"
        kept.unlink()


@pytest.mark.parametrize("change", [durable.set_aside, durable.remove])
def test_a_new_name_is_on_the_disk_before_anything_else_happens(tmp_path, change):
    (tmp_path / "file").write_bytes(b"content")
    with faulty(FaultyDisk(2)) as disk:
        change(tmp_path / "file")
        for name in ("the crash comes before this", "or at the latest before this"):
            disk.make_folder(tmp_path / name)
    assert not (tmp_path / "file").exists()


def test_what_cannot_be_set_aside_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*file: No such file"):
        durable.set_aside(tmp_path / "file")


def test_a_file_is_removed_if_it_is_there(tmp_path):
    (tmp_path / "file").touch()
    durable.remove(tmp_path / "file")
    durable.remove(tmp_path / "file")
    assert names(tmp_path) == []
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        durable.remove(tmp_path / "folder")


def test_folders_are_made_from_the_outermost_on(tmp_path):
    inner = tmp_path / "a" / "b"
    assert durable.make_folder(inner) == [tmp_path / "a", inner]
    assert durable.make_folder(inner) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*file: File exists"):
        durable.make_folder(tmp_path / "file" / "runs")


def test_a_folder_that_was_made_survives_a_crash(tmp_path):
    for disk in crashes(5):
        with faulty(disk):
            durable.make_folder(tmp_path / "runs")
            durable.disk.open(tmp_path / "next").close()
            durable.disk.open(tmp_path / "last").close()
        assert (tmp_path / "runs").is_dir() or len(disk.operations) <= 2
        for path in tmp_path.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()


def test_too_little_room_is_said_before_anything_is_written(tmp_path):
    class Small(durable.Disk):
        def free(self, folder):
            assert folder == tmp_path
            return 2_000_000

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(durable, "disk", Small())
        durable.room_for(tmp_path / "not" / "there", 2_000_000)
        with pytest.raises(
            UserError, match=r"expected 3\.0 MB of free space for .*, found 2\.0 MB"
        ):
            durable.room_for(tmp_path / "not" / "there", 3_000_000)
    assert names(tmp_path) == []


def test_a_disk_says_how_much_it_has_left_or_that_it_does_not_know(tmp_path):
    found = durable.Disk().free(tmp_path)
    status = os.statvfs(tmp_path)
    # Others write at the same time: equal to a tenth.
    assert found == pytest.approx(status.f_bavail * status.f_frsize, rel=0.1)
    if Path("/proc/self").exists():
        assert durable.Disk().free(Path("/proc/self")) is None


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch):
    def refuse(number):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    durable.Disk().sync_folder(tmp_path)


def test_a_folder_that_fails_to_be_flushed_is_one(tmp_path, monkeypatch):
    def fail(number):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        durable.Disk().sync_folder(tmp_path)


def test_an_end_by_a_signal_leaves_no_temporary_file(tmp_path):
    disk = FaultyDisk(2, fault=KeyboardInterrupt())
    with faulty(disk), pytest.raises(KeyboardInterrupt):
        durable.write(tmp_path / "file", b"content")
    assert names(tmp_path) == []


def test_a_crash_is_no_error_that_anyone_catches():
    assert not issubclass(Crash, Exception)

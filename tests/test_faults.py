"""The faulty disk itself: what a crash leaves behind must be what a real one may leave."""

import pytest

from tests.faults import Crash, FaultyDisk, Operation, crashes, names


def test_it_numbers_what_it_is_asked_to_change(tmp_path):
    disk = FaultyDisk()
    disk.make_folder(tmp_path / "runs")
    with disk.open(tmp_path / "new") as file:
        disk.write(file, b"content")
        disk.sync(file)
    disk.replace(tmp_path / "new", tmp_path / "file")
    disk.sync_folder(tmp_path)
    disk.unlink(tmp_path / "file")
    assert disk.operations == [
        Operation("make_folder", "runs"),
        Operation("open", "new"),
        Operation("write", "new"),
        Operation("sync", "new"),
        Operation("replace", "file"),
        Operation("sync_folder", tmp_path.name),
        Operation("unlink", "file"),
    ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_and_rename(disk, folder, *, sync, sync_folder):
    with disk.open(folder / "new") as file:
        disk.write(file, b"new bytes")
        if sync:
            disk.sync(file)
    disk.replace(folder / "new", folder / "file")
    if sync_folder:
        disk.sync_folder(folder)
    disk.make_folder(folder / "the crash comes before this")


# By what is flushed and what the crash does to the rest: the file whose old content was b"old".
AFTER_A_CRASH = [
    (True, True, "lost", b"new bytes"),
    (True, True, "torn", b"new bytes"),
    (True, False, "lost", b"old"),
    (True, False, "kept", b"new bytes"),
    (False, True, "lost", b""),
    (False, True, "torn", b"new "),
    (False, True, "kept", b"new bytes"),
    (False, False, "lost", b"old"),
]


@pytest.mark.parametrize(("sync", "sync_folder", "unsynced", "expected"), AFTER_A_CRASH)
def test_a_crash_loses_what_was_not_flushed(tmp_path, sync, sync_folder, unsynced, expected):
    (tmp_path / "file").write_bytes(b"old")
    disk = FaultyDisk(3 + sync + sync_folder, unsynced=unsynced)
    with pytest.raises(Crash):
        write_and_rename(disk, tmp_path, sync=sync, sync_folder=sync_folder)
    assert contents(tmp_path) == {"file": expected}


@pytest.mark.parametrize("unsynced", ["lost", "torn", "kept"])
def test_a_crash_undoes_unflushed_names(tmp_path, unsynced):
    (tmp_path / "removed").write_bytes(b"removed")
    disk = FaultyDisk(2, "after", unsynced=unsynced)
    disk.unlink(tmp_path / "removed")
    disk.make_folder(tmp_path / "made")
    with pytest.raises(Crash):
        disk.open(tmp_path / "opened")
    expected = {"kept": ["made", "opened"]}.get(unsynced, ["removed"])
    assert names(tmp_path) == expected


@pytest.mark.parametrize(("when", "left"), [("before", ["file"]), ("after", [])])
def test_the_fault_comes_before_the_operation_or_after(tmp_path, when, left):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Crash):
        FaultyDisk(0, when, unsynced="kept").unlink(tmp_path / "file")
    assert names(tmp_path) == left


def test_after_a_crash_nothing_has_an_effect(tmp_path):
    disk = FaultyDisk(0)
    for _ in range(2):
        with pytest.raises(Crash):
            disk.make_folder(tmp_path / "runs")
    assert disk.operations == [Operation("make_folder", "runs")]
    assert not names(tmp_path)


def test_an_error_is_raised_once_and_loses_nothing(tmp_path):
    disk = FaultyDisk(2, fault=OSError(28, "No space left on device"))
    with disk.open(tmp_path / "file") as file:
        disk.write(file, b"one ")
        with pytest.raises(OSError, match="No space left"):
            disk.write(file, b"two ")
        disk.write(file, b"three")
    assert (tmp_path / "file").read_bytes() == b"one three"


def test_every_way_to_crash_at_every_operation_is_tried():
    assert len(list(crashes(5))) == 5 * 2 * 3

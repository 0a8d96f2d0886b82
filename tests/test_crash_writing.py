"""A disk that fails under a study: at any operation, when it is full, when its folder vanishes.

The real study runs here in this process, through compiled programs that the tests share, on the
disk of `faults`. Only its figures and its page are stand-ins, which are written as the real ones
are: drawing takes a second, and `test_crash` draws. What a crash may do to one file alone is in
`test_durable`.
"""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments import ablate, cli, durable, figures, page, study
from experiments.ablate_settings import Settings
from experiments.progress import Display
from jax_lenet.ensemble import compile_programs
from tests.crash import SEEDS, VARIANTS, arguments, debris, finished, numbers, one_line
from tests.faults import FaultyDisk, crashes, faulty, names

EPOCHS = 2
ALL = {(v, seed, e + 1) for v in VARIANTS for seed in range(SEEDS) for e in range(EPOCHS)}
SEED = 20_26


@pytest.fixture(scope="module", autouse=True)
def quick(as_for_users):
    """Compile each program once for all tests, and write something in the place of drawings."""
    compiled = {}

    def compile_once(model, train, test, **options):
        key = model, tuple(options.items())
        if key not in compiled:
            compiled[key] = compile_programs(model, train, test, **options, warm_up=False)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "compile_programs", compile_once)
        patch.setattr(figures, "draw", lambda curves, path, **_: durable.write(path, b"figure"))
        patch.setattr(page, "write", lambda folder, *_: folder.write_report("page"))
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The numbers of a study that nothing happened to, and what it asked of the disk."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with faulty(FaultyDisk()) as disk:
        assert run(out) == 0
    return numbers(out), disk.operations


@pytest.fixture
def trained(monkeypatch):
    """A list that gets every epoch as it is finished."""
    return hear(monkeypatch, lambda seen: None)


def hear(patch, call):
    """Return a list that gets every epoch as it is finished, and call something with it then."""
    seen = []
    add = Display.add

    def heard(display, rows):
        add(display, rows)
        seen.extend((row.variant, row.seed, row.epoch) for row in rows)
        call(seen)

    patch.setattr(Display, "add", heard)
    return seen


def run(out):
    """Run the program in this process."""
    more = ("--compilation-cache", "off", "--devices", 2, "--out", out)
    return cli.run(ablate.main, Settings, "ablate", arguments(EPOCHS, *more))


def goes_on(out, expected, trained):
    """Let the same command finish the study, and compare; return what it had to train."""
    done = finished(out)
    trained.clear()
    assert run(out) == 0
    assert set(trained) == ALL - done
    assert len(trained) == len(set(trained))
    assert debris(out) == []
    assert numbers(out) == expected


# A crash


def crash_and_go_on(disks, undisturbed, folder, trained):
    """Let the machine crash as each disk says, and the study go on from what the disk kept."""
    expected, operations = undisturbed
    for disk in disks:
        with faulty(disk):
            run(folder)
            pytest.fail(f"no crash in {len(operations)} operations")
        hit = [operation.kind for operation in disk.operations]
        assert hit == [operation.kind for operation in operations[: len(hit)]]
        goes_on(folder, expected, trained)
        shutil.rmtree(folder)


def test_a_crash_at_some_of_the_operations_of_a_study_loses_nothing(undisturbed, tmp_path, trained):
    disks = list(crashes(len(undisturbed[1])))
    rng = np.random.default_rng(SEED)
    some = rng.choice(disks, 15, replace=False)
    crash_and_go_on(some, undisturbed, tmp_path / "out", trained)


@pytest.mark.crash
def test_a_crash_at_every_operation_of_a_study_loses_nothing(
    undisturbed, tmp_path, trained, capsys
):
    disks = list(crashes(len(undisturbed[1])))
    crash_and_go_on(disks, undisturbed, tmp_path / "out", trained)
    with capsys.disabled():
        print(f"\n{len(disks)} crashes at {len(undisturbed[1])} operations")


@pytest.mark.parametrize("study_seed", range(4))
def test_a_study_that_crashes_again_and_again_loses_nothing(
    study_seed, undisturbed, tmp_path, trained
):
    rng = np.random.default_rng([SEED, study_seed])
    crashed, done = True, set()
    while crashed:
        disk = FaultyDisk(
            rng.integers(100),
            rng.choice(["before", "after"]),
            unsynced=rng.choice(["lost", "torn"]),
        )
        crashed = True
        with faulty(disk):
            assert run(tmp_path) == 0
            crashed = False
        assert done <= finished(tmp_path)
        done = finished(tmp_path)
    assert debris(tmp_path) == []
    assert numbers(tmp_path) == undisturbed[0]


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs to mount a small disk, which takes Linux and root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder, left):
    """Take all of a disk but so many bytes with a file of somebody else's."""
    status = os.statvfs(folder)
    size = status.f_bavail * status.f_frsize - left
    if size > 0:
        with (folder / "others").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)


# A file of runs takes 256 KB twice while it is replaced, a page of the disk 4 KB.
@pytest.mark.parametrize(
    ("epochs", "left"), [(1, 0), (2, 4096), (3, 300_000), (4, 0), (5, 100_000), (8, 0), (8, 4096)]
)
def test_a_disk_that_fills_ends_the_study_and_the_same_command_goes_on_with_room(
    epochs, left, undisturbed, small_disk, capsys, monkeypatch, trained
):
    out = small_disk / "out"
    with monkeypatch.context() as patch:
        before = hear(patch, lambda seen: len(seen) == epochs and fill(small_disk, left))
        assert run(out) == 1
    said = one_line(capsys.readouterr().err)
    assert said.startswith(f"ablate: cannot write {out}")
    assert "No space left on device; everything finished so far is kept in" in said
    assert "to go on: python -m experiments.ablate " in said
    done = set(before)
    assert finished(out) >= done
    assert len(done) >= epochs
    assert debris(out) == []

    assert run(out) in (1, 2)  # there is still no room
    one_line(capsys.readouterr().err)
    assert finished(out) >= done
    (small_disk / "others").unlink()
    goes_on(out, undisturbed[0], trained)


def test_too_small_a_disk_is_said_before_training_and_nothing_is_left_on_it(
    small_disk, capsys, trained
):
    fill(small_disk, 4_000_000)
    assert run(small_disk / "out") == 2
    assert "of free space for" in one_line(capsys.readouterr().err)
    assert trained == []
    assert names(small_disk) == ["others"]


# A folder that vanishes


# After 4 epochs comes the first drawing, after 8 the last, and nothing for "runs".
@pytest.mark.parametrize(
    ("name", "epochs"),
    [("", 1), ("", 2), ("", 4), ("", 5), ("", 8), ("runs", 1), ("runs", 4), ("runs", 5)],
)
def test_a_folder_that_vanishes_ends_the_study_with_one_line(
    name, epochs, undisturbed, tmp_path, capsys, monkeypatch, trained
):
    out = tmp_path / "out"
    gone = out / name
    with monkeypatch.context() as patch:
        hear(patch, lambda seen: len(seen) == epochs and gone.rename(tmp_path / "elsewhere"))
        assert run(out) == 1
    said = one_line(capsys.readouterr().err)
    assert said.startswith(f"ablate: cannot write {gone}")
    assert re.search(f"the folder {gone}[/runs]* is gone; to go on: python -m experiments", said)
    (tmp_path / "elsewhere").rename(gone)
    goes_on(out, undisturbed[0], trained)

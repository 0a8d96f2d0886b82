"""Real processes train one study: to the bits of one process, and none outlives another."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import run_store
from tests.crash import Life, numbers, one_line
from tests.hosts_child import free_port

ROOT = Path(__file__).parents[1]


SEEDS, EPOCHS = 5, 2


class Processes:
    """Processes of a small study, which share compiled programs; see `hosts_child`."""

    def __init__(self, folder, *runs):
        self.folder = folder
        self.runs = runs or ("--variants", "LeNet_noBN_Dropout", "--seeds", SEEDS, "--devices", 1)

    def start(self, out, count, still=()):
        """Start so many, of which some stand still after one epoch."""
        port = free_port()
        return [self._start(out, count, i, port, int(i in still)) for i in range(count)]

    def _start(self, out, count, process_id, port, still):
        command = [
            *(sys.executable, "-m", "tests.hosts_child", "--dataset", "mnist_sample"),
            *("--train-size", 256, "--batch-size", 64, "--learning-rate", 0.1),
            *self.runs,
            *("--epochs", EPOCHS, "--timing-repeats", 0, "--out", out),
            *("--compilation-cache", self.folder / "compiled"),
            *("--coordinator", f"127.0.0.1:{port}", "--processes", count),
            *("--process-id", process_id),
        ]
        told = {"TOGETHER": str(count), "STAND_STILL_AFTER": str(still)}
        with self._screen(process_id).open("wb") as screen:
            return subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                env=os.environ | told,
                stdout=screen,
                stderr=subprocess.STDOUT,
            )

    def _screen(self, process_id):
        return self.folder / f"{process_id}.screen"

    def said(self, process_id):
        return self._screen(process_id).read_text()

    def trained(self):
        """Return the epochs that process 0 has shown."""
        return Life(None, self.said(0), "").trained

    def wait(self, processes):
        return [process.wait(timeout=120) for process in processes]

    def kill(self, processes, victim, left):
        """Kill one once so many epochs are left, and return the exit codes of all."""
        deadline = time.monotonic() + 120
        while len(self.trained()) < SEEDS * EPOCHS - left:
            assert time.monotonic() < deadline, self.said(0)
            time.sleep(0.05)
        processes[victim].kill()
        start = time.monotonic()
        codes = self.wait(processes)
        assert time.monotonic() - start < 15
        return codes


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return Processes(tmp_path_factory.mktemp("hosts"))


@pytest.fixture(scope="module")
def alone(processes, tmp_path_factory):
    """What one process makes of the study."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert processes.wait(processes.start(out, 1)) == [0], processes.said(0)
    return numbers(out)


def epochs_in(out):
    return sum(len(run_store.read(path).fit.history) for path in run_store.files(out))


@pytest.mark.parametrize(
    ("count", "still", "victim"),
    [
        (2, {1}, 0),
        (4, {2, 3}, 3),
    ],
)
def test_after_a_kill_the_others_end_and_the_same_command_goes_on_to_the_same_bits(
    count, still, victim, processes, alone, tmp_path
):
    out = tmp_path / "out"
    codes = processes.kill(processes.start(out, count, still), victim, left=len(still))
    reasons = {}
    for process_id in {0, *still} - {victim}:  # nothing was left for the others, who have ended
        assert codes[process_id] == 1
        *before, last = processes.said(process_id).splitlines()
        assert process_id == 0 or not before
        reasons[process_id] = last.partition(";")[0]
    lost = f"ablate: process {victim} was lost"
    told = f"ablate: process 0 has ended: process {victim} was lost"
    assert reasons == ({1: lost} if victim == 0 else {0: lost, 2: told})
    assert epochs_in(out) == SEEDS * EPOCHS - len(still)  # all that were finished

    assert processes.wait(processes.start(out, count)) == [0] * count, processes.said(0)
    assert len(processes.trained()) == len(still)  # the others are not trained again
    assert numbers(out) == alone
    for process_id in range(1, count):
        assert "has trained" in one_line(processes.said(process_id))


def test_groups_of_several_runs_on_several_devices_have_the_bits_of_one_process(tmp_path):
    """The first seed alone, split over two devices; two pairs; and a group with a place left."""
    several = ("--seeds", 6, "--seeds-at-once", 2, "--devices", 2)
    wide = Processes(tmp_path, "--variants", "LeNet_BN_Dropout", *several)
    for name, count in (("alone", 1), ("two", 2)):
        assert wide.wait(wide.start(tmp_path / name, count)) == [0] * count, wide.said(0)
    assert len(list(run_store.files(tmp_path / "two"))) == 4
    assert numbers(tmp_path / "two") == numbers(tmp_path / "alone")

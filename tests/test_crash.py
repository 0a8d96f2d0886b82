"""A study is killed or stopped at any moment, again and again, and ends with the same bits.

These are processes of the real program, compiling and drawing included; `test_crash_writing` is
about what a machine that loses its power does to the files, `test_lock` about the lock alone, and
`test_signals` about the handlers.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter

import numpy as np
import pytest

from experiments import lock, run_store
from tests.crash import VARIANTS, Command, Kills, debris, finished, numbers, one_line

SEED = 20_26
#: Of the full run: `JAX_LENET_KILLS` asks for another number.
KILLS = int(os.environ.get("JAX_LENET_KILLS", "1000"))
STOPS = max(1, KILLS // 5)
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    return Command(tmp_path_factory.mktemp("shared"), epochs=15)


@pytest.fixture(scope="module")
def undisturbed(command):
    """The folder of a study that nothing happened to, and about how long one more would take.

    This one has compiled everything, which takes three quarters of its time.
    """
    start = time.monotonic()
    life = command.run(command.shared / "undisturbed")
    assert life.code == 0, life.screen
    return command.shared / "undisturbed", (time.monotonic() - start) / 4


def kills(command, undisturbed, folder, fractions):
    """Kill studies at these fractions of a process's life."""
    out, seconds = undisturbed
    killed = Kills(command, numbers(out), folder)
    killed.at(fraction * seconds for fraction in fractions)
    assert killed.phases.total() == len(fractions)
    return killed


def test_a_study_that_is_killed_ten_times_ends_with_the_same_bits(command, undisturbed, tmp_path):
    rng = np.random.default_rng(SEED)
    # Sorted, or the first would leave nothing to train; the further a study is, the sooner its
    # processes draw, so that three fifths of a life reach everything.
    fractions = 0.6 * (np.arange(10) + rng.uniform(size=10)) / 10
    killed = kills(command, undisturbed, tmp_path, fractions)
    print(killed)
    assert len(killed.phases) > 1
    assert killed.holding


@pytest.mark.crash
def test_studies_that_are_killed_a_thousand_times_end_with_the_same_bits(
    command, undisturbed, tmp_path, capsys
):
    rng = np.random.default_rng(SEED + 1)
    killed = kills(command, undisturbed, tmp_path, rng.uniform(size=KILLS))
    with capsys.disabled():
        print(f"\n{killed}")


def stop(command, out, number, seconds, cold):
    """Send a signal after so many seconds; return the exit code, the screen and the wait after."""
    screen = out.with_suffix(".screen")
    with command.start(out, screen, cold=cold) as process:
        try:
            return process.wait(timeout=seconds), screen.read_text(), 0.0
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        sent = time.monotonic()
        try:
            code = process.wait(timeout=60)
        finally:
            process.kill()
    return code, screen.read_text(), time.monotonic() - sent


def stop_again_and_again(command, undisturbed, folder, stops, longest):
    """Stop studies at random moments, and go on with each; return what became of the processes."""
    expected, life = numbers(undisturbed[0]), undisturbed[1]
    rng, ends, out = np.random.default_rng([SEED, stops]), Counter(), folder / "out"
    done, slowest = set(), 0.0
    for place in range(stops):
        number, cold = rng.choice(list(CODES)), place % 3 == 0
        # What compiles everything takes four times as long; half of it compiles what trains first.
        moment = life * rng.uniform(0, 2 if cold else 1)
        code, screen, took = stop(command, out, number, moment, cold)
        assert "Traceback" not in screen, screen
        assert "ignored" not in screen, screen
        assert not out.is_dir() or debris(out) == []
        if code == CODES[number]:
            last = screen.splitlines()[-1]
            assert last.startswith("ablate: stopped by"), screen
            assert "to go on: python -m experiments.ablate --dataset" in last
            assert took < longest, screen
            slowest = max(slowest, took)
        else:  # before the program runs, or after it has ended
            ended = code in (0, -number) and "\nResults: " in screen
            assert ended or (code, screen) == (-number, ""), (code, screen)
        if out.is_dir():
            assert done <= finished(out)
            done = finished(out)
        ends[f"{'cold' if cold else 'warm'} {code}"] += 1
        if "\nResults: " in screen:
            assert numbers(out) == expected
            shutil.rmtree(out)
            done = set()
    assert command.run(out).code == 0
    assert numbers(out) == expected
    return ends, slowest


def test_a_study_stopped_at_any_moment_ends_in_order_and_goes_on_to_the_same_bits(
    command, undisturbed, tmp_path
):
    # Not of two seconds: beside other tests the machine is busy.
    ends, _ = stop_again_and_again(command, undisturbed, tmp_path, 3, longest=10)
    assert ends.total() == 3


@pytest.mark.crash
def test_studies_stopped_at_many_moments_end_within_two_seconds_and_go_on(
    command, undisturbed, tmp_path, capsys
):
    ends, slowest = stop_again_and_again(command, undisturbed, tmp_path, STOPS, longest=2)
    with capsys.disabled():
        print(f"\n{STOPS} stops: {dict(ends)}; the slowest took {slowest:.2f} s")


def test_of_two_programs_one_is_refused_and_a_killed_one_is_taken_over_from_silently(
    command, undisturbed, tmp_path
):
    out = tmp_path / "out"
    screens = [tmp_path / "one", tmp_path / "other"]
    started = [command.start(out, screen) for screen in screens]
    with contextlib.ExitStack() as stack:
        for process in started:
            stack.enter_context(process)
            stack.callback(process.kill)
        while all(process.poll() is None for process in started):
            time.sleep(0.01)
        loser = next(i for i, process in enumerate(started) if process.poll() is not None)
        winner = started[1 - loser]
        assert started[loser].returncode == 2
        assert one_line(screens[loser].read_text()) == (
            f"ablate: --out: {out} is being written by process {winner.pid}"
        )
        while not run_store.files(out):  # it goes on undisturbed
            assert winner.poll() is None
            time.sleep(0.01)
        winner.send_signal(signal.SIGKILL)
        winner.wait(timeout=60)
    assert (out / lock.HOLDER).read_text() == f"{winner.pid}\n"
    life = command.run(out)
    assert life.code == 0
    assert str(winner.pid) not in life.screen
    assert "lock" not in life.screen
    assert debris(out) == []
    assert numbers(out) == numbers(undisturbed[0])


def test_a_file_that_may_not_grow_ends_the_study_and_the_same_command_goes_on(
    command, undisturbed, tmp_path
):
    # The first variant's state is smaller than the second's: as on a full disk, the operating
    # system takes a part of the bytes before it refuses the rest.
    small, large = run_store.files(undisturbed[0])[:: len(VARIANTS)]
    limit = small.stat().st_size
    assert limit < large.stat().st_size
    out = tmp_path / "out"
    life = command.run(out, limit=limit)
    assert life.code == 1
    said = life.screen.splitlines()[-1]
    assert said.startswith(f"ablate: cannot write {out / 'runs' / large.name}: File too large; ")
    assert f"everything finished so far is kept in {out / 'runs'}; to go on: python -m " in said
    assert "Traceback" not in life.screen
    assert debris(out) == []
    assert finished(out) == {("LeNet", 0, epoch) for epoch in range(1, command.epochs + 1)}
    assert command.run(out).code == 0
    assert debris(out) == []
    assert numbers(out) == numbers(undisturbed[0])

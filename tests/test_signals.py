"""An end in order at the first signal and at once at the second, whatever the main thread does."""

import contextlib
import gc
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import pytest

from experiments.signals import Stopped, check, deferred, watched

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def words(stopped):
    return f"last words: {stopped}"


def me(number):
    os.kill(os.getpid(), number)


def stopped_by(work):
    """What ends a piece of work that is watched."""
    with pytest.raises(Stopped) as caught, watched(words):
        work()
    return caught.value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_is_imported_ends_it_without_a_traceback(number):
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "experiments.ablate", "--help"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "numpy" not in process.stderr.readline():  # long before JAX is there
            assert process.poll() is None
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(timeout=60) == -number
    assert "Traceback" not in said


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_a_wait_at_once(number, code):
    def wait():
        threading.Timer(0.1, me, [number]).start()
        time.sleep(30)

    start = time.monotonic()
    assert stopped_by(wait).exit_code == code
    assert time.monotonic() - start < 10  # of 30: the machine may be busy


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_where_it_is_deferred_the_work_is_finished_first(number, code):
    done = []

    def work():
        with deferred():
            me(number)
            done.append("epoch")
        done.append("never")

    assert stopped_by(work).exit_code == code
    assert done == ["epoch"]


class Dropped:
    """Python throws away whatever its end raises."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


def collected(act):
    """Have the garbage collector call something, as JAX does."""

    def callback(phase, info):
        if phase == "start":
            gc.callbacks.remove(callback)
            act()

    gc.callbacks.append(callback)
    gc.collect()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timer to raise it")
@pytest.mark.parametrize("throw_away", [Dropped, collected])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_that_python_throws_away_is_raised_once_more(number, code, throw_away, capsys):
    def work():
        throw_away(lambda: me(number))
        throw_away(lambda: time.sleep(0.1))  # into which comes the second, too
        time.sleep(30)

    start = time.monotonic()
    assert stopped_by(work).exit_code == code
    assert time.monotonic() - start < 10
    assert "Traceback" not in capsys.readouterr().err


def test_what_is_raised_once_more_interrupts_no_clean_up():
    done = []

    def work():
        try:
            Dropped(lambda: me(signal.SIGINT))
            check()
        finally:
            time.sleep(0.1)
            done.append("cleaned up")

    stopped_by(work)
    assert done == ["cleaned up"]


def test_what_else_python_throws_away_is_told_as_ever(monkeypatch):
    def fail():
        raise ValueError("of somebody else")

    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: seen.append(what.exc_type))
    with watched(words):
        Dropped(fail)
    assert seen == [ValueError]
    Dropped(fail)
    assert seen == [ValueError] * 2


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timer to raise it")
def test_what_was_thrown_away_before_a_deferral_waits_for_its_end():
    done = []

    def work():
        Dropped(lambda: me(signal.SIGTERM))
        with deferred():
            time.sleep(0.1)
            done.append("epoch")
        done.append("never")

    stopped_by(work)
    assert done == ["epoch"]


def test_check_raises_between_two_pieces_of_deferred_work():
    done = []

    @deferred()
    def work():
        for epoch in range(3):
            check()
            done.append(epoch)
            if epoch == 1:
                me(signal.SIGINT)

    stopped_by(work)
    assert done == [0, 1]


def test_without_a_signal_nothing_happens():
    with watched(words), deferred():
        check()
    check()


def test_an_error_on_its_way_is_not_replaced():
    @deferred()
    def work():
        me(signal.SIGINT)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"), watched(words):
        work()


def test_the_deferral_ends_with_its_block():
    def work():
        with deferred():
            pass
        me(signal.SIGINT)
        time.sleep(30)

    stopped_by(work)


def test_a_signal_of_before_is_forgotten():
    stopped_by(lambda: me(signal.SIGINT))
    with watched(words):
        check()


def test_handlers_and_threads_are_as_before_afterwards():
    def mine(number, frame):
        pytest.fail("not called")

    threads = threading.active_count()
    both = signal.SIGTERM, signal.SIGINT
    old = [signal.signal(number, mine) for number in both]
    try:
        with watched(words):
            assert all(signal.getsignal(number) is not mine for number in both)
        assert all(signal.getsignal(number) is mine for number in both)
        assert signal.set_wakeup_fd(-1) == -1
        assert threading.active_count() == threads
    finally:
        for number, handler in zip(both, old, strict=True):
            signal.signal(number, handler)


def test_outside_the_main_thread_nothing_changes():
    found, before = (
        [],
        signal.getsignal(signal.SIGINT),
    )  # ignored, where a script's & started pytest

    def run():
        with watched(words), deferred():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before]


def test_two_signals_in_one_moment_are_one_request():
    # As `timeout` sends SIGTERM to its child and to the child's group.
    @deferred()
    def work():
        me(signal.SIGTERM)
        me(signal.SIGTERM)
        time.sleep(0.2)  # for the watcher, which would end this process

    stopped_by(work)


def test_stopped_is_nothing_that_is_caught_by_accident():
    assert not issubclass(Stopped, Exception)


CHILD = """
import ctypes, sys, time
from experiments.signals import Stopped, check, deferred, watched

def jitted():
    import jax
    from jax import lax
    forever = jax.jit(lambda n: lax.while_loop(lambda i: i < n, lambda i: i + i % 2, 0))
    forever = forever.lower(1).compile()
    print("ready", flush=True)
    jax.block_until_ready(forever(1))

def library():
    sleep = ctypes.CDLL(None).sleep
    print("ready", flush=True)
    while True:
        sleep(20)  # which a signal ends, in the thread that it comes to

def busy():
    print("ready", flush=True)
    while True:
        pass

try:
    with watched(lambda stopped: f"last words: {stopped}"), deferred():
        globals()[sys.argv[1]]()
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


@contextlib.contextmanager
def child(work, program=CHILD, **streams):
    with subprocess.Popen(
        [sys.executable, "-c", program, work],
        stdout=subprocess.PIPE,
        **{"stderr": subprocess.PIPE, "text": True, **streams},
    ) as process:
        try:
            assert process.stdout.readline().strip() == "ready"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("work", ["jitted", "library", "busy"])
@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_second_signal_ends_at_once_with_one_line(work, number, code):
    with child(work) as process:
        time.sleep(0.3)  # into the call
        process.send_signal(number)
        time.sleep(0.3)
        assert process.poll() is None  # deferred
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == code
        assert time.monotonic() - start < 2
        name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
        assert process.stderr.read() == f"last words: stopped by {name}\n"


def test_on_a_terminal_the_first_signal_is_answered():
    ours, its = pty.openpty()
    with child("busy", stderr=its, text=True) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
    os.close(its)
    screen = os.read(ours, 1000).decode().splitlines()
    os.close(ours)
    assert screen == [
        "finishing what has begun; once more ends at once",
        "last words: stopped by Ctrl-C",
    ]

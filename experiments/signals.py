"""Ctrl-C and SIGTERM: an end in order at the first, at once at the second.

Python calls a signal's handler in the main thread between two of its own instructions, which may
be long in coming: an epoch is one call into compiled code. So a thread waits for signals, too, and
ends the process at the second without asking the main thread.

Where Python runs the handler may be a place that throws every exception away, as ``__del__`` is, or
what JAX has the garbage collector call. What is lost there is raised once more a moment later.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from signal import SIGINT, SIGTERM

#: What they are called in a message.
_NAMES = {SIGINT: "Ctrl-C", SIGTERM: "SIGTERM"}
#: What a timer sends; Windows has none.
_TIMER = (signal.SIGALRM,) if hasattr(signal, "setitimer") else ()
#: A signal that follows another sooner, in seconds, is the same request: ``timeout`` sends SIGTERM
#: to its child and again to the child's group, and a terminal's Ctrl-C reaches a wrapper, too.
_SAME_REQUEST = 0.05
#: After so many seconds what was thrown away is raised once more.
_ONCE_MORE = 0.01


class Stopped(BaseException):  # as KeyboardInterrupt: what catches Exception must not stop it
    """A signal asked for an end.

    Attributes:
        signal: SIGINT or SIGTERM.
    """

    def __init__(self, number: int):
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {_NAMES[self.signal]}")

    @property
    def exit_code(self) -> int:
        """What shells report of a program that the signal ended: 130 or 143."""
        return 128 + self.signal


@dataclass
class _State:
    """What the handlers know; there is one, as they are the whole process's."""

    asked: Stopped | None = None
    deferrals: int = 0
    thrown_away: bool = False


_state = _State()


@contextlib.contextmanager
def watched(last_words: Callable[[Stopped], str], ends: bool = False) -> Iterator[None]:
    """Raise `Stopped` at the first SIGINT or SIGTERM, and end the process at once at a second.

    Where `deferred`, the first is put off. The second ends it with the first's exit code. Outside
    the main thread, where Python sets no handlers, nothing changes. SIGINT is heeded even where
    the process was started with it ignored, as a script's ``&`` does: an end loses nothing.

    Args:
        last_words: what to print on stderr at the second, one line.
        ends: whether the process ends afterwards. While it does, a signal ends it at once and says
            nothing; Python's handler of Ctrl-C would show where it came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(receiver, last_words), daemon=True)
    watcher.start()
    _state.asked, _state.deferrals, _state.thrown_away = None, 0, False
    handlers = {number: signal.getsignal(number) for number in (*_NAMES, *_TIMER)}
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    hook = sys.unraisablehook

    def thrown_away(what: "sys.UnraisableHookArgs") -> None:
        if not isinstance(what.exc_value, Stopped):
            hook(what)
        elif _TIMER:
            _state.thrown_away = True
            signal.setitimer(signal.ITIMER_REAL, _ONCE_MORE)

    try:
        sys.unraisablehook = thrown_away
        for number in _NAMES:
            signal.signal(number, _on_signal)
        for number in _TIMER:
            signal.signal(number, _on_timer)
        yield
    finally:
        _state.deferrals += 1  # nothing may keep the handlers from being restored
        sys.unraisablehook = hook
        if _TIMER:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if ends or handler is None else handler)
        signal.set_wakeup_fd(before)
        sender.close()  # which ends the watcher
        watcher.join()
        receiver.close()
        _state.asked = None


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Put a first signal off to the next `check`, or to the end of the ``with``.

    For work that is worth finishing, as an epoch and its files are.

    Raises:
        Stopped: at the end, if a signal came and no other error is on its way.
    """
    _state.deferrals += 1
    try:
        yield
        check()
    finally:
        _state.deferrals -= 1


def asked() -> Stopped | None:
    """Return what has asked for an end, if anything has."""
    return _state.asked


def check() -> None:
    """Raise `Stopped` if a signal has asked for an end."""
    if _state.asked is not None:
        _state.thrown_away = False  # or the timer would raise it in the midst of a clean-up
        raise _state.asked


def _on_signal(number: int, _frame: object) -> None:
    if _state.asked is not None:  # the watcher's
        return
    _state.asked = Stopped(number)
    if not _state.deferrals:
        raise _state.asked


def _on_timer(_number: int, _frame: object) -> None:
    if _state.thrown_away and not _state.deferrals:  # else the next check raises it
        check()


def _watch(receiver: socket.socket, last_words: Callable[[Stopped], str]) -> None:
    """Read the numbers of signals as they come, and end the process at the second of `_NAMES`."""
    first: Stopped | None = None
    since = 0.0
    while numbers := receiver.recv(64):
        for number in numbers:
            if number not in _NAMES:  # a signal of somebody else's
                continue
            if first is None:
                first, since = Stopped(number), time.monotonic()
                if _state.deferrals and os.isatty(2):
                    _tell("finishing what has begun; once more ends at once")
            elif time.monotonic() - since > _SAME_REQUEST:
                _tell(last_words(first))
                if os.isatty(1):
                    os.write(1, b"\x1b[?25h")  # shows the cursor, which a live display hides
                os._exit(first.exit_code)


def _tell(line: str) -> None:
    """Print past Python's streams, which the main thread may have locked."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode(errors="replace"))

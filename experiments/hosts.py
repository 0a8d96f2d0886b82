"""Several processes that train one study, on one machine or many: process 0 leads, others follow.

Process 0 has the folder. It gives out the groups of runs one at a time, takes part itself, and
stores what the others send after every epoch. No run needs another's numbers, so nobody waits for
anybody while it trains. Whoever is lost, by a signal, an error or a cable, ends all: each says why
in one line, what was sent is on the disk, and the same commands go on from there.

`jax.distributed.initialize` would connect the processes, too, but for programs that cannot go on
without each other: in jaxlib 0.10.2 the loss of one ends the others by abort() with a stack trace,
and so does a coordinator that cannot be reached. The hook for it, missed_heartbeat_callback, ends
in std::bad_cast. It would also make the devices of all processes parts of one machine.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, NamedTuple, NoReturn

from experiments import signals, wire
from experiments.cli import EndedError, UserError, one_line
from experiments.launch import Place
from experiments.run_store import Group
from experiments.signals import Stopped
from experiments.wire import Channel, GoneError, Message

#: What processes say first: the program, and the version of all that they say.
PROTOCOL = ["jax-lenet", 2]
#: How long processes may start one after another, in seconds; JAX's own limit.
ARRIVAL = 300.0
#: After how many seconds without process 0 another one says that it waits.
SILENT = 5.0

#: What must be the same in all processes, by the words that name it to the user, in JSON's types.
Terms = Mapping[str, Any]


class LostError(EndedError):
    """Another process was lost."""


class Work(NamedTuple):
    """What a process is to train.

    Attributes:
        group: the runs.
        start: the content of their run file, from which they go on; empty if they begin.
    """

    group: Group
    start: bytes


class Follower:
    """A process other than process 0; its methods are for the main thread.

    It has nothing to lose: where process 0 ends or is lost, another thread ends it at once.
    """

    def __init__(self, name: str, place: Place, say: Callable[[str], None]):
        """Connect with process 0.

        Args:
            name: of the program, for last words.
            place: of this process.
            say: prints a line.

        Raises:
            LostError: if process 0 can't be reached.
        """
        self._name = name
        self._channel = _connected(place, say)
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._stored = threading.Semaphore(1)  # whether all that was given is stored
        self._ending = threading.Lock()
        self._closed = False  # read and written with it held
        self._send(
            "hello",
            protocol=PROTOCOL,
            processes=place.processes,
            process_id=place.process_id,
        )
        in_a_thread(self._listen)

    def take(self, terms: Terms) -> Work | None:
        """Return what is to be trained next; None if nothing is left.

        Args:
            terms: of this process.
        """
        self._send("ready", terms=terms)
        return self._work.get()

    def give(self, content: bytes) -> None:
        """Have process 0 store a run file, once it has stored the one before."""
        self._stored.acquire()
        self._send("epoch", content)

    def close(self, error: BaseException | None = None) -> None:
        """End the connection; with an error, all other processes, too."""
        with self._ending:
            self._closed = True  # from now on nobody but this thread says why
        if error is not None:
            with contextlib.suppress(GoneError):
                self._channel.send("ended", reason=reason_of(error))
        self._channel.close()

    def _send(self, kind: str, content: bytes = b"", **about: Any) -> None:
        try:
            self._channel.send(kind, content, **about)
        except GoneError:
            self._end("process 0 was lost", 1)

    def _listen(self) -> None:
        try:
            while self._heed(self._channel.receive()):
                pass
        except GoneError:
            self._end("process 0 was lost", 1)
        except (LookupError, TypeError, ValueError):  # no program of this kind is there
            self._end("what process 0 says cannot be understood", 1)

    def _heed(self, message: Message) -> bool:
        """Do what process 0 says; tell whether it matters from now on if it is lost."""
        if message.kind == "stop":
            self._end(message.about["reason"], message.about["code"])
        if message.kind == "stored":
            self._stored.release()
            return True
        if message.about["group"] is None:
            self._work.put(None)
            return False
        variant, seeds = message.about["group"]
        self._work.put(Work(Group(variant, tuple(seeds)), message.content))
        return True

    def _end(self, reason: str, code: int) -> NoReturn:
        with self._ending:
            if self._closed:
                raise SystemExit  # of the thread that listens
            if (stopped := signals.asked()) is not None:  # as Ctrl-C asks all
                reason, code = str(stopped), stopped.exit_code
            end_process(self._name, reason, code)


def _connected(place: Place, say: Callable[[str], None]) -> Channel:
    """Return a channel to process 0, as soon as it is there."""
    start, silent = time.monotonic(), False
    while True:
        try:
            return wire.connect(place.host, place.port, SILENT)
        except OSError as error:
            reason = error.strerror or error
        waited = time.monotonic() - start
        if waited > ARRIVAL:
            raise LostError(f"cannot reach process 0 at {place.address}: {reason}")
        if waited > SILENT and not silent:
            silent = True
            say(f"Waiting for process 0 at {place.address}: {reason}")
        time.sleep(0.1)


@contextlib.contextmanager
def following(name: str, place: Place, say: Callable[[str], None]) -> Iterator[Follower]:
    """Connect with process 0, and in the end tell it how this process has ended."""
    follower = Follower(name, place, say)
    try:
        yield follower
    except BaseException as error:
        follower.close(error)
        raise
    follower.close()


def disagreements(own: Terms, other: Terms) -> list[str]:
    """Return on which terms another process does not agree, each in words with both values.

    >>> disagreements({"--epochs": 10, "jax": "0.10"}, {"--epochs": 5, "jax": "0.10"})
    ['--epochs: process 0 has 10, not 5']
    """
    names = dict.fromkeys([*own, *other])
    return [
        f"{name}: process 0 has {own.get(name)}, not {other.get(name)}"
        for name in names
        if own.get(name) != other.get(name)
    ]


def reason_of(error: BaseException) -> str:
    """Return in one line why a process has ended."""
    known = isinstance(error, UserError | EndedError | Stopped)
    return one_line(str(error) if known else repr(error))


def in_a_thread(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a thread that does not keep the process from ending."""
    threading.Thread(target=function, args=arguments, daemon=True).start()


def end_process(name: str, reason: str, code: int) -> NoReturn:
    """Say why in a line, and end the process, whatever its main thread is busy with."""
    goes_on = "; the same command goes on" if code == 1 else ""
    with contextlib.suppress(OSError):
        if os.isatty(1):
            os.write(1, b"\x1b[?25h")  # shows the cursor, which a live display hides
        os.write(2, f"{name}: {one_line(reason)}{goes_on}\n".encode(errors="replace"))
    os._exit(code)

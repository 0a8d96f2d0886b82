"""Process 0 of several: gives out the work, stores what comes back, and notices who is lost."""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from experiments import hosts, signals, wire
from experiments.cli import EndedError, UserError
from experiments.hosts import LostError, Terms, in_a_thread
from experiments.launch import Place
from experiments.run_store import Group
from experiments.signals import Stopped
from experiments.wire import Channel, GoneError, Message

#: Bytes and seconds that the first word of a process may take.
HELLO, HELLO_SECONDS = 1 << 16, 10.0
#: How long an error of process 0 waits until the others have ended, the late ones too, in seconds.
LINGER = 5.0
#: How long process 0 may go on with what it is doing when another was lost, in seconds.
GRACE = 10.0

Given = TypeVar("Given")


class Share:
    """The groups that are left to train; each process takes one at a time."""

    def __init__(self, groups: Sequence[Group], first_seed: int):
        """Give out these groups in their order; those of the first seed are process 0's."""
        self._first = deque(group for group in groups if group.seeds[0] == first_seed)
        self._others = deque(group for group in groups if group.seeds[0] != first_seed)

    def take_first(self) -> Group | None:
        """Take one of the first seed; None if there are no more."""
        return self._first.popleft() if self._first else None

    def take(self) -> Group | None:
        """Take one, of the first seed only if there are no others; None if there are no more.

        >>> share = Share([Group("LeNet", (seed,)) for seed in (0, 1)], first_seed=0)
        >>> [share.take().words, share.take().words, share.take()]
        ['LeNet seed 1', 'LeNet seed 0', None]
        """
        if self._others:
            return self._others.popleft()
        return self._first.pop() if self._first else None


class Task(NamedTuple, Generic[Given]):
    """What process 0 has all processes do.

    Attributes:
        terms: on which they must agree.
        share: of which each takes some.
        start: returns the run file of a group, from which it goes on; empty if it begins.
        keep: stores the run file that a process sends after an epoch of its group, and returns what
            the main thread is to know of it. It is called in other threads, but once at a time.
    """

    terms: Terms
    share: Share
    start: Callable[[Group], bytes]
    keep: Callable[[Group, bytes], Given]


class Leader(Generic[Given]):
    """Process 0. Its methods are for the main thread; a thread listens to each other process."""

    def __init__(self, name: str, place: Place | None):
        """Listen for the others.

        Args:
            name: of the program, for last words.
            place: of this process; None if it is the only one.

        Raises:
            UserError: if that is not possible.
        """
        self._name = name
        self._others = 0 if place is None else place.processes - 1
        self._channels: dict[int, Channel] = {}
        self._training: dict[int, Group] = {}
        self._left: set[int] = set()  # who has nothing left to do
        self._task: Task[Given] | None = None
        self._failure: Exception | None = None
        self._stop: str | None = None  # why all are to end
        self._storing = self._done = self._reported = False
        self._state = threading.Condition()  # held to read and write all of this
        self._keeping = threading.Lock()
        self._given: SimpleQueue[Given] = SimpleQueue()
        self._deadline = time.monotonic() + hosts.ARRIVAL
        if place is not None:
            try:
                self._listener = wire.listen(place.host, place.port)
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"cannot listen on {place.address}: {reason}") from None
            in_a_thread(self._admit_all)
            in_a_thread(self._expect_all)

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return not self._others

    @contextlib.contextmanager
    def working(self, task: Task[Given]) -> Iterator[None]:
        """Give out the task; after the ``with`` nothing more is stored."""
        with self._state:
            self._task, self._storing = task, True
            self._state.notify_all()
        try:
            yield
        finally:
            with self._keeping:
                self._storing = False

    def take(self, first: bool = False) -> Group | None:
        """Return a group for this process, of the first seed if so asked; None if there is none."""
        self.check()
        with self._state:
            if self._task is None:
                return None
            return self._task.share.take_first() if first else self._task.share.take()

    def check(self) -> None:
        """Raise what has ended the study, if anything has: a UserError or EndedError.

        Or Stopped, where a signal has: it may have been meant for all processes.
        """
        signals.check()
        with self._state:
            if self._failure is not None:
                self._reported = True
                raise self._failure

    def given(self) -> list[Given]:
        """Return what was stored since the last call."""
        self.check()
        return [self._given.get() for _ in range(self._given.qsize())]

    def wait(self) -> Iterator[list[Given]]:
        """Yield what was stored, now and then, until no other process trains."""
        at_work = True
        while at_work:
            self._until(lambda: not (self._training and self._given.empty()), seconds=1)
            with self._state:
                at_work = bool(self._training)
            yield self.given()

    def dismiss(self, say: Callable[[str], None]) -> None:
        """Tell the others that nothing is left, those too that are still to come.

        Args:
            say: prints a line; it gets one if somebody is still to come.
        """
        with self._state:
            self._done = True
            self._state.notify_all()
        if missing := self._missing():
            say(f"Nothing is left, which {missing} must be told once it comes")

        def all_told() -> bool:
            late = time.monotonic() > self._deadline
            return len(self._left) == len(self._channels) and (late or not self._missing())

        self._until(all_told)

    def _missing(self) -> str:
        """Return which processes are still to come, in words."""
        with self._state:
            missing = sorted(set(range(1, self._others + 1)) - self._channels.keys())
        return " and ".join(f"process {process}" for process in missing)

    def close(self, error: BaseException | None = None) -> None:
        """End the connections; with an error, all other processes, too."""
        if not self._others:
            return
        if error is not None:
            self._stop_all(hosts.reason_of(error))
            late = not isinstance(error, Stopped)
            self._until(
                lambda: len(self._left) == (self._others if late else len(self._channels)), LINGER
            )
        with self._state:
            self._done = True
        self._listener.close()
        for channel in list(self._channels.values()):
            channel.close()

    def _until(self, done: Callable[[], bool], seconds: float = float("inf")) -> None:
        """Wait in short steps, between which signals are heeded."""
        end = time.monotonic() + seconds
        with self._state:
            while not done() and time.monotonic() < end:
                self._state.wait(0.1)

    # What ends all

    def _fail(self, error: Exception) -> None:
        """Tell the others, and have the main thread raise an error soon, or else end the process.

        Not if the study has ended already, or is done.
        """
        with self._state:
            if self._done or self._stop is not None or self._failure is not None:
                return
            self._failure = error
            self._state.notify_all()
        self._stop_all(hosts.reason_of(error))
        in_a_thread(self._end_if_late, error)

    def _end_if_late(self, error: Exception) -> None:
        time.sleep(GRACE)
        if signals.asked() is not None:  # as Ctrl-C asks all: this one ends after its epoch
            return
        with self._state:
            if not (self._reported or self._done):
                hosts.end_process(self._name, str(error), 2 if isinstance(error, UserError) else 1)

    def _stop_all(self, reason: str) -> None:
        with self._state:
            self._stop = self._stop or f"process 0 has ended: {reason}"
            channels = list(self._channels.values())
        for channel in channels:
            _stop(channel, self._stop, 1)

    def _expect_all(self) -> None:
        """Wait until all processes ought to be there."""
        time.sleep(self._deadline - time.monotonic())
        if missing := self._missing():
            self._fail(LostError(f"{missing} did not come within {hosts.ARRIVAL:.0f} seconds"))

    # What threads do, one for each other process

    def _admit_all(self) -> None:
        while self._listener.fileno() >= 0:  # until it is closed
            try:
                in_a_thread(self._serve, Channel(self._listener.accept()[0]))
            except OSError:  # who wanted to connect has gone, or there are too many
                time.sleep(0.1)

    def _serve(self, channel: Channel) -> None:
        """Do what one process asks, from its first word to its last."""
        try:
            process = self._admitted(channel)
        except (GoneError, LookupError, TypeError, ValueError, OverflowError):  # somebody else's
            process = None
        if process is None:
            channel.close()
            return
        inbox: SimpleQueue[Message | GoneError] = SimpleQueue()
        in_a_thread(_receive_all, channel, inbox)
        try:
            while self._answer(process, channel, inbox.get()):
                pass
        except GoneError:
            self._fail(LostError(f"process {process} was lost"))
        except (UserError, EndedError) as error:
            self._fail(error)
        except OSError as error:  # this process's own files
            self._fail(LostError(f"cannot read {error.filename}: {error.strerror}"))
        except Exception as error:  # whatever leads to it, the study must not hang
            self._fail(LostError(f"process {process} sent what cannot be used: {error!r}"))
        with self._state:
            self._left.add(process)
            self._state.notify_all()

    def _admitted(self, channel: Channel) -> int | None:
        """Return a new process's number; None if it can't take part, as it is then told."""
        hello = channel.receive(HELLO_SECONDS, HELLO).about
        (program, version), process = hello["protocol"], int(hello["process_id"])
        if program != hosts.PROTOCOL[0] or process < 1:
            return None
        processes = {"--processes": self._others + 1, "version of its messages": hosts.PROTOCOL[1]}
        with self._state:
            wrong = hosts.disagreements(
                processes,
                {"--processes": hello["processes"], "version of its messages": version},
            )
            if not wrong and process > self._others:
                wrong.append(f"--process-id: expected at most {self._others}, not {process}")
            if process in self._channels:
                wrong.append(f"--process-id: another process has {process} already")
            if not wrong:
                self._channels[process] = channel
                self._state.notify_all()
            stop = self._stop
        if wrong:
            _stop(channel, "; ".join(wrong), 2)
        elif stop:
            _stop(channel, stop, 1)
        return None if wrong else process

    def _answer(self, process: int, channel: Channel, message: Message | GoneError) -> bool:
        """Do what a process asks; tell whether it will ask again."""
        if isinstance(message, GoneError):
            raise message
        if message.kind == "ended":
            raise LostError(f"process {process} has ended: {message.about['reason']}")
        if message.kind == "epoch":
            self._keep(self._training[process], message.content)
            channel.send("stored")
            return True
        return self._give_work(process, channel, message.about["terms"])

    def _keep(self, group: Group, content: bytes) -> None:
        with self._keeping:
            if self._task is not None and self._storing:
                self._given.put(self._task.keep(group, content))
        with self._state:
            self._state.notify_all()

    def _give_work(self, process: int, channel: Channel, terms: Terms) -> bool:
        """Give a process a group, once there are any; tell whether there was one."""
        with self._state:
            self._training.pop(process, None)
            self._state.notify_all()
            self._state.wait_for(lambda: self._task or self._done or self._stop)
            task = self._task
        if self._stop:  # as it has been told
            return False
        if task is None:
            channel.send("work", group=None)
            return False
        _compare(process, channel, task.terms, terms)
        with self._state:
            group = task.share.take()
            if group is not None:
                self._training[process] = group
        channel.send("work", b"" if group is None else task.start(group), group=group)
        return group is not None


def _receive_all(channel: Channel, inbox: SimpleQueue[Message | GoneError]) -> None:
    """Receive until nobody is there, whatever takes its time with what was received.

    What a process sends and nobody reads would, after some seconds, look to its system as if this
    process had gone. It sends no epoch before the last one is stored, so few are ever in here.
    """
    try:
        while True:
            inbox.put(channel.receive())
    except GoneError as gone:
        inbox.put(gone)


def _compare(process: int, channel: Channel, own: Terms, other: Terms) -> None:
    """Raise UserError, and tell the process, unless it agrees."""
    wrong = "; ".join(hosts.disagreements(json.loads(json.dumps(own)), other))
    if wrong:
        _stop(channel, wrong, 2)
        raise UserError(f"process {process} does not agree: {wrong}")


def _stop(channel: Channel, reason: str, code: int) -> None:
    """Have a process end with a line and an exit code; it may have gone by itself."""
    with contextlib.suppress(GoneError):
        channel.send("stop", reason=reason, code=code)


@contextlib.contextmanager
def leading(name: str, place: Place | None) -> Iterator[Leader]:
    """Listen for the other processes, and in the end tell them how this one has ended.

    Args:
        name: of the program, for last words.
        place: of this process; None if it is the only one.
    """
    leader: Leader = Leader(name, place)
    try:
        yield leader
    except BaseException as error:
        leader.close(error)
        raise
    leader.close()

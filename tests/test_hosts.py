"""What the processes of one study tell each other, in threads of this one."""

import contextlib
import signal
import socket
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from experiments import ablate, environment, hosts, leader, signals, wire
from experiments.ablate_settings import Settings
from experiments.cli import StorageError, UserError
from experiments.going_on import Identity
from experiments.hosts import Follower, LostError, following
from experiments.launch import Place
from experiments.leader import Leader, Share, Task, leading
from experiments.results import ResultsFolder
from experiments.signals import Stopped
from experiments.study import plan
from tests.crash import one_line
from tests.hosts_child import free_port

TERMS = {"--epochs": 3, "--variants": ("LeNet",), "jax": "0.10"}


#: The threads of one test that can end a process.
THREADS: list[threading.Thread] = []


def in_a_thread(function, *arguments):
    THREADS.append(in_a_thread_of_process_0(function, *arguments))
    return THREADS[-1]


def in_a_thread_of_process_0(function, *arguments):
    """Process 0 ends nothing once it is closed; some of its threads sleep for minutes."""

    def until_ended():
        with contextlib.suppress(SystemExit):
            function(*arguments)

    thread = threading.Thread(target=until_ended, daemon=True)
    thread.start()
    return thread


class Ends:
    """Takes the last words of processes that are ended; their thread goes instead."""

    def __init__(self):
        self.words = SimpleQueue()

    def __call__(self, name, reason, code):
        self.words.put((name, reason, code))
        raise SystemExit

    def next(self):
        return self.words.get(timeout=20)


@pytest.fixture
def ends(monkeypatch):
    """Whatever ends a process in a test; all that could do so has gone when the test has."""
    ends, channels, queues, connect = Ends(), [], [], wire.connect

    def connect_and_remember(*address):
        channels.append(connect(*address))
        return channels[-1]

    def remembered_queue():
        queues.append(SimpleQueue())
        return queues[-1]

    THREADS.clear()
    monkeypatch.setattr(wire, "connect", connect_and_remember)
    monkeypatch.setattr(hosts, "SimpleQueue", remembered_queue)
    monkeypatch.setattr(hosts, "end_process", ends)
    monkeypatch.setattr(hosts, "in_a_thread", in_a_thread)
    monkeypatch.setattr(leader, "in_a_thread", in_a_thread_of_process_0)
    monkeypatch.setattr(leader, "LINGER", 0.0)
    monkeypatch.setattr(leader, "GRACE", 20.0)
    yield ends
    for channel in channels:  # of processes that were ended: the system would close them
        channel.close()
    for queue in queues:  # what a process that was ended would wait for
        queue.put(None)
    for thread in THREADS:
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def places():
    port = free_port()
    return lambda process_id, processes=3: Place("127.0.0.1", port, processes, process_id)


def groups(seeds):
    return plan({}, ("LeNet",), range(seeds), epochs=3, width=1)


def task(seeds=4, keep=lambda group, content: (group.seeds[0], content), terms=TERMS):
    return Task(terms, Share(groups(seeds), 0), lambda group: b"%d" % group.seeds[0], keep)


def follow(place, terms=TERMS):
    """Train all that process 0 gives, in a moment; return its seeds."""
    taken = []
    with following(f"process {place.process_id}", place, print) as follower:
        while work := follower.take(terms):
            taken.append(work.group.seeds[0])
            follower.give(work.start + b" and an epoch")
    return taken


def test_each_group_is_trained_once_by_whoever_is_free(places, ends):
    taken = []
    with leading("process 0", places(0)) as first:
        others = [in_a_thread(lambda i=i: taken.extend(follow(places(i)))) for i in (1, 2)]
        with first.working(task(seeds=20)):
            own = first.take(first=True)
            assert own is not None
            assert first.take(first=True) is None
            given = [item for new in first.wait() for item in new]
            while len(given) < 19:
                given += first.given()
        first.dismiss(print)
        for other in others:
            other.join(20)
    assert own.seeds == (0,)
    assert sorted(taken) == [*range(1, 20)]
    assert sorted(given) == [(seed, b"%d and an epoch" % seed) for seed in range(1, 20)]
    assert ends.words.empty()


def test_of_the_first_seed_others_take_what_is_left_when_nothing_else_is():
    share = Share(plan({}, ("LeNet", "LeNet_BN_Dropout"), range(2), epochs=1, width=1), 0)
    order = [share.take(), share.take(), share.take(), share.take_first(), share.take()]
    assert [group and group.words for group in order] == [
        "LeNet seed 1",
        "LeNet_BN_Dropout seed 1",
        "LeNet_BN_Dropout seed 0",
        "LeNet seed 0",
        None,
    ]


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        b"\0\0\0\2\0\0\0\0{}",
        b'\0\0\0\x0c\0\0\0\0["hello",{}]',
        b'\0\0\0\x43\0\0\0\0["hello",{"protocol":["jax-lenet",1],"processes":2,"process_id":0}]',
        b'\0\0\0\x45\0\0\0\0["hello",{"protocol":["jax-lenet",2],"process_id":Infinity,"x":1234}]',
        b"\0\0\0\2\x7f\0\0\0[]" + bytes(1000),
    ],
)
def test_somebody_elses_program_on_the_port_does_no_harm(noise, places, ends):
    with leading("process 0", places(0, 2)) as first:
        with (
            socket.create_connection(("127.0.0.1", places(0).port)) as stray,
            contextlib.suppress(OSError),  # it is hung up on before it has said all
        ):
            stray.sendall(noise)
            stray.shutdown(socket.SHUT_WR)
            assert stray.recv(100) == b""
        with first.working(task(seeds=1)):
            assert first.take(first=True)
            assert follow(places(1, 2)) == []
        first.dismiss(print)


def test_a_process_with_other_settings_is_refused_by_name_and_ends_all(places, ends):
    with leading("process 0", places(0)) as first, first.working(task()):
        bystander = Follower("process 1", places(1), print)
        in_a_thread(follow, places(2), TERMS | {"--epochs": 4})
        wrong = "--epochs: process 0 has 3, not 4"
        reason = f"process 0 has ended: process 2 does not agree: {wrong}"
        refused, told = ("process 2", wrong, 2), ("process 1", reason, 1)
        assert {ends.next(), ends.next()} == {refused, told}
        with pytest.raises(UserError, match=f"process 2 does not agree: {wrong}"):
            first.check()
    bystander.close()


def test_processes_must_have_as_many_devices(monkeypatch):
    agreed = []
    for count in (8, 4):
        device = {"platform": "gpu", "kind": "H100", "count": count}
        monkeypatch.setattr(environment, "jax_device", lambda device=device: device)
        agreed.append(ablate.terms(Settings(), Identity({"--batch-size": 128}, {"jax": "0.10"})))
    assert hosts.disagreements(*agreed) == ["number of devices: process 0 has 8, not 4"]


@pytest.mark.parametrize(
    ("process_id", "processes", "reason"),
    [
        (1, 3, "--process-id: another process has 1 already"),
        (3, 4, "--processes: process 0 has 3, not 4"),
    ],
)
def test_a_process_too_many_is_refused_and_disturbs_nobody(
    process_id, processes, reason, places, ends
):
    with leading("process 0", places(0)) as first, first.working(task(seeds=3)):
        known = Follower("process 1", places(1), print)
        assert known.take(TERMS)
        in_a_thread(follow, places(process_id, processes))
        assert ends.next() == (f"process {process_id}", reason, 2)
        assert follow(places(2)) == [2, 0]
        first.check()
        known.close()


def test_a_lost_process_ends_all_others(places, ends):
    with leading("process 0", places(0)) as first, first.working(task()):
        bystander = Follower("process 2", places(2), print)
        lost = wire.connect("127.0.0.1", places(0).port, 5)
        lost.send("hello", protocol=hosts.PROTOCOL, processes=3, process_id=1)
        lost.close()
        assert ends.next() == ("process 2", "process 0 has ended: process 1 was lost", 1)
        with pytest.raises(LostError, match="process 1 was lost"):
            first.check()
    bystander.close()


def test_process_0_is_ended_if_it_does_not_end_by_itself(places, ends, monkeypatch):
    monkeypatch.setattr(leader, "GRACE", 0.1)
    with leading("process 0", places(0)) as first, first.working(task()):
        lost = Follower("process 1", places(1), print)
        lost.close()
        assert ends.next() == ("process 0", "process 1 was lost", 1)


def test_process_0_that_finishes_its_epoch_after_ctrl_c_is_not_cut_off(places, ends, monkeypatch):
    # Ctrl-C asks all processes of a terminal: the others end first, and are no loss.
    stopped = Stopped(signal.SIGINT)
    monkeypatch.setattr(leader, "GRACE", 0.0)
    monkeypatch.setattr(signals, "asked", lambda: stopped)
    with leading("process 0", places(0, 2)) as first, first.working(task()):
        with pytest.raises(Stopped), following("process 1", places(1, 2), print):
            raise stopped
        wait_until(lambda: first._failure is not None)
        time.sleep(0.2)  # of which it was given none
        with pytest.raises(LostError, match="process 1 has ended: stopped by Ctrl-C"):
            first.check()
    assert ends.words.empty()


def test_another_process_that_ctrl_c_has_asked_ends_with_its_code(places, ends, monkeypatch):
    with leading("process 0", places(0, 2)) as first, first.working(task()):
        follower = Follower("process 1", places(1, 2), print)
        wait_until(lambda: not first._missing())
        monkeypatch.setattr(signals, "asked", lambda: Stopped(signal.SIGINT))
        first.close(Stopped(signal.SIGINT))
    assert ends.next() == ("process 1", "stopped by Ctrl-C", 130)
    follower.close()


def test_another_process_says_why_it_has_ended(places, ends):
    with leading("process 0", places(0)) as first, first.working(task()):
        with pytest.raises(UserError), following("process 1", places(1), print):
            raise UserError("--data-dir: no such folder")
        with pytest.raises(LostError, match="process 1 has ended: --data-dir: no such folder"):
            wait_until(first.check)


def wait_until(there):
    """Call a function again and again, until it returns something or raises what is expected."""
    for _ in range(200):
        if there():
            return
        time.sleep(0.1)
    raise TimeoutError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UserError("--batch-size: no"), "--batch-size: no"),
        (Stopped(signal.SIGTERM), "stopped by SIGTERM"),
        (ZeroDivisionError("a bug"), "ZeroDivisionError('a bug')"),
    ],
)
def test_whatever_ends_process_0_ends_the_others(error, reason, places, ends):
    with contextlib.suppress(type(error)), leading("process 0", places(0, 2)):
        other = Follower("process 1", places(1, 2), print)
        in_a_thread(follow, places(1, 2))
        assert "another process has 1 already" in ends.next()[1]  # so the other is known
        raise error
    assert ends.next() == ("process 1", f"process 0 has ended: {reason}", 1)
    other.close()


def test_who_comes_late_is_told_too_why_process_0_has_ended(places, ends, monkeypatch):
    monkeypatch.setattr(leader, "LINGER", 20.0)

    def fail():
        with contextlib.suppress(UserError), leading("process 0", places(0, 2)):
            raise UserError("no")

    late = in_a_thread(fail)
    other = Follower("process 1", places(1, 2), print)
    assert ends.next() == ("process 1", "process 0 has ended: no", 1)
    other.close()
    late.join(10)
    assert not late.is_alive()


def test_the_loss_of_process_0_ends_the_others(places, ends):
    with wire.listen("127.0.0.1", places(0).port) as server:
        other = Follower("process 1", places(1), print)
        connection, _ = server.accept()
        connection.close()
    assert ends.next() == ("process 1", "process 0 was lost", 1)
    other.close()


def test_a_process_that_does_not_come_ends_the_study(places, ends, monkeypatch):
    monkeypatch.setattr(hosts, "ARRIVAL", 0.3)
    missing = "process 1 and process 2 did not come within 0 seconds"
    with leading("process 0", places(0)) as first, pytest.raises(LostError, match=missing):
        wait_until(first.check)


def test_process_0_that_does_not_come_ends_the_others(places, monkeypatch, capsys):
    monkeypatch.setattr(hosts, "ARRIVAL", 0.5)
    monkeypatch.setattr(hosts, "SILENT", 0.2)
    with pytest.raises(LostError, match=r"cannot reach process 0 at 127.0.0.1:\d+: Connection ref"):
        Follower("process 1", places(1), print)
    assert "Waiting for process 0" in one_line(capsys.readouterr().out)


def test_a_full_disk_ends_all_with_its_own_words(places, ends):
    def keep(group, content):
        raise StorageError(Path("out/runs/x.npz"), "No space left on device")

    with leading("process 0", places(0, 2)) as first, first.working(task(keep=keep)):
        in_a_thread(follow, places(1, 2))
        assert "No space left" in ends.next()[1]
        with pytest.raises(StorageError, match="No space left on device"):
            first.check()


def test_a_process_is_not_lost_while_what_it_sends_waits_to_be_stored(places, ends, monkeypatch):
    """What nobody reads looks to the sender's system as if nobody were there: here after 3 s."""
    monkeypatch.setattr(wire, "_SIGNS", (("TCP_USER_TIMEOUT", 3000),))
    size = 50_000_000  # far more than the system keeps for a reader

    def keep(group, content):
        time.sleep(5)
        return len(content)

    def train(place):
        with following("process 1", place, print) as follower:
            assert follower.take(TERMS) is not None
            for _ in range(2):
                follower.give(bytes(size))
            assert follower.take(TERMS) is None

    with leading("process 0", places(0, 2)) as first:
        other = in_a_thread(train, places(1, 2))
        with first.working(task(seeds=2, keep=keep)):
            assert first.take(first=True) is not None
            stored = []
            while len(stored) < 2:
                stored += first.given()
                time.sleep(0.05)
        first.dismiss(print)
        other.join(20)
    assert stored == [size] * 2
    assert ends.words.empty()


@pytest.mark.parametrize("message", [("work", {}), ("work", {"group": 3}), ("stop", {})])
def test_what_cannot_be_understood_ends_another_process(message, places, ends):
    kind, about = message
    place = places(1, 2)
    with wire.listen(place.host, place.port) as listener:
        in_a_thread(follow, place)
        with contextlib.closing(wire.Channel(listener.accept()[0])) as channel:
            channel.receive(10)
            channel.send(kind, **about)
            assert ends.next() == ("process 1", "what process 0 says cannot be understood", 1)


def test_nothing_is_stored_once_the_work_is_over(places, ends):
    stored = []
    with leading("process 0", places(0, 2)) as first:
        with first.working(task(keep=lambda group, content: stored.append(content))):
            other = Follower("process 1", places(1, 2), print)
            assert other.take(TERMS)
        other.give(b"late")
        assert other.take(TERMS)  # asked and answered after it
        other.close()
    assert stored == []


def test_with_nothing_left_the_others_are_told_so_and_need_process_0_no_more(places, ends):
    with leading("process 0", places(0, 2)) as first:
        other = Follower("process 1", places(1, 2), print)
        dismissing = in_a_thread(first.dismiss, print)
        assert other.take(TERMS) is None
        dismissing.join(20)
        assert not dismissing.is_alive()
    time.sleep(0.2)  # process 0 has gone
    assert ends.words.empty()
    other.close()


def test_who_is_still_to_come_is_waited_for_with_a_word(places, ends, capsys):
    with leading("process 0", places(0, 2)) as first:
        dismissing = in_a_thread(first.dismiss, print)
        wait_until(lambda: capsys.readouterr().out)
        assert dismissing.is_alive()
        assert follow(places(1, 2)) == []
        dismissing.join(20)
        assert not dismissing.is_alive()


def test_the_port_must_be_free(places):
    taken = wire.listen("127.0.0.1", places(0).port)
    with taken, pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1:"):
        Leader("process 0", places(0))


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_timed_while_other_processes_train(alone, tmp_path, monkeypatch):
    events = []

    class First:
        def __init__(self):
            self.alone = alone

        def working(self, task):
            return contextlib.nullcontext()

        def take(self, first):
            events.append("take first" if first else "take")

        def given(self):
            return []

        def wait(self):
            events.append("wait for the others")
            return []

        def check(self):
            pass

    class Timed:
        settings, identity = Settings(), Identity({}, {})

        def time_alone(self, done):
            events.append("time")
            yield []

    folder = ResultsFolder.create(tmp_path / "out", overwrite=False)
    monkeypatch.setattr(ablate, "terms", lambda settings, identity: {})
    book = SimpleNamespace(folder=folder, content=None, store=None, note=lambda given: None)
    ablate.train(Timed(), book, SimpleNamespace(groups=[]), First())
    order = ["take first", "time", "take", "wait for the others"]
    assert events == (order if alone else [order[0], *order[2:], "time"])

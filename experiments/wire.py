"""Messages between two processes: a JSON object and, beside it, bytes.

Nothing that is received is run or unpickled. That the other process, its machine or the network has
gone is found out by the operating system, whatever this process is busy with. To it a process that
does not read what it is sent has gone, too: both sides receive all the time, in a thread.
"""

import contextlib
import json
import socket
import struct
import threading
from typing import Any, NamedTuple

#: Bytes of a message's two parts, as each begins.
_SIZES = struct.Struct("!II")
#: What a message may have at most, in bytes: thousands of runs that train together have less.
LARGEST = 1 << 30
#: After how many seconds without a sign of life the other machine has gone.
SILENCE = 10
#: The socket options that say so: by what name the system knows each, if it does. The first sign of
#: life is asked for after 4 seconds of silence, then every 2; what was sent and is not acknowledged
#: may wait for as long.
_SIGNS = (
    ("TCP_KEEPIDLE", 4),
    ("TCP_KEEPALIVE", 4),  # the same on macOS
    ("TCP_KEEPINTVL", 2),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", SILENCE * 1000),
)


class GoneError(Exception):
    """The other process has gone, or what it sends are no messages."""


class Message(NamedTuple):
    """What one process tells another.

    Attributes:
        kind: what it is about.
        about: more of it, in JSON's types.
        content: bytes that belong to it.
    """

    kind: str
    about: dict[str, Any]
    content: bytes = b""


class Channel:
    """A connection to another process, on which any thread may send, and one receive."""

    def __init__(self, connection: socket.socket):
        """Take over a connection."""
        self._connection = connection
        self._sending = threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _SIGNS:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, kind: str, content: bytes = b"", **about: Any) -> None:
        """Send a message.

        Args:
            kind: what it is about.
            content: bytes that belong to it.
            **about: more of it, in JSON's types.

        Raises:
            GoneError: if nobody is there to receive it.
        """
        head = json.dumps([kind, about]).encode()
        try:
            with self._sending:
                self._connection.sendall(_SIZES.pack(len(head), len(content)) + head + content)
        except OSError:
            raise GoneError from None

    def receive(self, seconds: float | None = None, largest: int = LARGEST) -> Message:
        """Wait for a message.

        Args:
            seconds: how long for each part; None is as long as the other process is there.
            largest: how many bytes are taken.

        Raises:
            GoneError: if none comes.
        """
        try:
            self._connection.settimeout(seconds)
            head, content = _SIZES.unpack(self._read(_SIZES.size))
            if head + content > largest:
                raise GoneError
            kind, about = json.loads(self._read(head))
            message = Message(str(kind), dict(about), self._read(content))
            self._connection.settimeout(None)
            return message
        except (OSError, ValueError, TypeError, RecursionError):
            raise GoneError from None

    def _read(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            part = self._connection.recv(min(left, 1 << 20))
            if not part:
                raise GoneError
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """End the connection; who waits to receive is told that nobody is there."""
        with contextlib.suppress(OSError):  # it has ended by itself
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def connect(host: str, port: int, seconds: float) -> Channel:
    """Return a channel to the process that listens there.

    Raises:
        OSError: if nobody does.
    """
    return Channel(socket.create_connection((host, port), timeout=seconds))


def listen(host: str, port: int) -> socket.socket:
    """Return a socket to which processes can connect: of this machine alone, if host is this one's.

    Args:
        host: by which the others know this machine, which need not know that name itself.
        port: on which to listen; 0 is any.

    Raises:
        OSError: if it is taken.
    """
    if host == "localhost" or host.startswith("127.") or host == "::1":
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))

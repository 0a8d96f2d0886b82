"""What every program does around its work: parse the command line, end with the right exit code.

Exit codes, each but the first with one line that says why:

    0    done
    1    a file or the screen could not be written, as on a full disk, or another process of the
         study was lost
    2    bad arguments or data; the line says what was expected
    130  ended by Ctrl-C
    143  ended by SIGTERM
"""

import contextlib
import difflib
import errno
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO, TypeVar

import tyro
from rich.console import Console

from experiments import signals
from jax_lenet.data import DataError

Settings = TypeVar("Settings")

#: Whether "to go on" leaves --overwrite out; see `never_overwrite_again`.
_no_overwrite = False

#: What Python says when a number can't be read, and what that means.
PLAIN_WORDS = (
    (r"invalid literal for int\(\) with base 10:", "expected a whole number, not"),
    (r"could not convert string to float:", "expected a number, not"),
    (r"Could not find valid parse for arguments: \[(.*?)\]", r"expected numbers, not \1"),
    (r"no type matching .* could be instantiated from .*- [^:]*: (expected .*)", r"\1"),
)
#: What tyro says of a value that is none of those it may choose from.
NO_CHOICE = re.compile(r"invalid choice '(.*)' for argument '(.*)'\. Expected one of \((.*?)\)")


#: A place to write to that is full, gone or broken: no bug of the program's.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EPIPE, errno.ENXIO)


class UserError(ValueError):
    """A user's mistake, in one line that says what was expected. Programs exit with code 2."""


class EndedError(Exception):
    """What ended the work though nobody made a mistake. Programs exit with code 1."""


class StorageError(EndedError):
    """A file that could not be written, once the work had begun.

    Attributes:
        path: of the file.
        reason: the operating system's.
    """

    def __init__(self, path: Path, reason: str):
        self.path, self.reason = path, reason
        kept = f"everything finished so far is kept in {path.parent}"
        super().__init__(
            f"cannot write {path}: {reason}; "
            + (kept if path.parent.is_dir() else f"the folder {path.parent} is gone")
        )


def run(
    program: Callable[[Settings], None],
    settings_type: type[Settings],
    name: str,
    arguments: Sequence[str] | None = None,
    *,
    goes_on: bool = True,
) -> int:
    """Run a program on its command line and return the exit code.

    Args:
        program: does the work. It may put signals off; see `signals.deferred`.
        settings_type: frozen dataclass that the command line fills.
        name: of the module, as in ``python -m experiments.NAME``.
        arguments: the command line; None takes the process's own.
        goes_on: whether the same command goes on where the program was ended.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a screen without ± must not end a study
            stream.reconfigure(errors="replace")
    global _no_overwrite
    _no_overwrite = False

    def ended(why: object) -> str:
        again = _again(name, sys.argv[1:] if arguments is None else arguments, goes_on)
        return f"{name}: {why}; {again}"

    with signals.watched(ended, ends=arguments is None):
        code, why = 0, ""
        try:
            program(parse(settings_type, name, arguments))
            sys.stdout.flush()
            signals.check()
        except (UserError, DataError) as error:
            code, why = 2, error
        except EndedError as error:
            code, why = 1, error
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            code, why = 1, f"cannot write: {error.strerror}"
        except signals.Stopped as stopped:
            code, why = stopped.exit_code, stopped
        except KeyboardInterrupt:  # where no handlers can be set, as outside the main thread
            code, why = 130, signals.Stopped(signal.SIGINT)
        # A signal that comes now has nothing left to end.
        with contextlib.suppress(signals.Stopped), signals.deferred():
            _finish(sys.stdout)
            text = f"{name}: {why}" if code == 2 else ended(why) if code else ""
            _finish(sys.stderr, one_line(text))
            if code > 128 and arguments is None:
                # Not as Python ends: what still compiles in a thread would crash, or take seconds.
                os._exit(code)
    return code


def never_overwrite_again() -> None:
    """Leave ``--overwrite`` out of the command to go on with, as from here on it would do harm.

    For when nothing of an earlier study is left, or somebody else sees to it. Before that, what
    ``--overwrite`` asks for has yet to be done.
    """
    global _no_overwrite
    _no_overwrite = True


def _again(name: str, arguments: Sequence[str], goes_on: bool) -> str:
    """Return how to go on: with the same command, but --overwrite must not do its work twice.

    >>> _again("ablate", ["--out", "my results"], goes_on=True)
    "to go on: python -m experiments.ablate --out 'my results'"
    """
    if not goes_on:
        return "--overwrite starts anew"
    kept = [argument for argument in arguments if not _no_overwrite or argument != "--overwrite"]
    return f"to go on: {shlex.join(['python', '-m', f'experiments.{name}', *kept])}"


def _finish(stream: TextIO, last: str = "") -> None:
    """Print a last line and flush; what cannot be written is given up.

    A log on a full disk, or a pager that was left: Python would fail once more when it ends.
    """
    try:
        print(last, end="\n" if last else "", file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def console() -> Console:
    """Return the screen: a terminal where it is one, else plain text wide enough for the tables."""
    if sys.stdout.isatty():
        return Console()
    return Console(force_terminal=False, no_color=True, width=120)


def parse(
    settings_type: type[Settings], name: str, arguments: Sequence[str] | None = None
) -> Settings:
    """Return the settings that a command line states.

    Raises:
        UserError: if it can't be parsed; tyro's boxed message becomes one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(settings_type, prog=f"python -m experiments.{name}", args=arguments)
    except SystemExit as end:
        if end.code in (0, None):  # --help
            raise
        raise UserError(_unboxed(complaint.getvalue())) from None


def _unboxed(message: str) -> str:
    """Return the first paragraphs of tyro's message without its box, help texts and footers."""
    lines = [line.strip("│ ") for line in message.splitlines()[1:]]
    kept = []
    for line in lines:
        if line.startswith(("Argument helptext", "For full helptext", "╰")):
            break
        if not re.fullmatch("[─ -]*", line):  # the second is for screens that have no lines
            kept.append(line)
    text = " ".join(kept).removeprefix("Error parsing ").rstrip(".")
    for pattern, plain in PLAIN_WORDS:
        text = re.sub(pattern, plain, text)
    return f"{NO_CHOICE.sub(_not_a_choice, text)}; see --help"


def _not_a_choice(found: re.Match[str]) -> str:
    value, argument, quoted = found.groups()
    choices = re.findall("'(.*?)'", quoted)
    return f"{argument}: expected one of {', '.join(choices)}, not {value}{nearest(value, choices)}"


def nearest(name: str, known: Sequence[str]) -> str:
    """Return a hint at the known name that an unknown one is most like, if it is like one.

    >>> nearest("LeNet_BN_Droput", ["LeNet", "LeNet_BN_Dropout"])
    '; did you mean LeNet_BN_Dropout?'
    >>> nearest("drop9000", ["both"])
    ''
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    return f"; did you mean {near[0]}?" if near else ""


def one_line(text: str) -> str:
    r"""Return ``text`` with every run of white space as one space, and as a screen may be shown it.

    A path or a file may have anything in it, such as what turns a terminal's colors.

    >>> one_line("two\nlines, \x1b[31mred")
    'two lines, \\x1b[31mred'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in " ".join(text.split())
    )

"""What every program does around its work: parse the command line, end with the right exit code.

Exit codes: 0 done; 2 bad arguments or data, with one line that says what was expected; 130 ended by
Ctrl-C.
"""

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro
from rich.console import Console

from jax_lenet.data import DataError

Settings = TypeVar("Settings")

#: What Python says when a number can't be read, and what that means.
PLAIN_WORDS = (
    (r"invalid literal for int\(\) with base 10:", "expected a whole number, not"),
    (r"could not convert string to float:", "expected a number, not"),
)


class UserError(ValueError):
    """A user's mistake, in one line that says what was expected. Programs exit with code 2."""


def run(
    program: Callable[[Settings], None],
    settings_type: type[Settings],
    name: str,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a program on its command line and return the exit code.

    Args:
        program: does the work.
        settings_type: frozen dataclass that the command line fills.
        name: of the module, as in ``python -m experiments.NAME``.
        arguments: the command line; None takes the process's own.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a screen without ± must not end a study
            stream.reconfigure(errors="replace")
    try:
        program(parse(settings_type, name, arguments))
    except (UserError, DataError) as error:
        print(f"{name}: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"{name}: interrupted; the epochs that were finished are in the results folder, and"
            " --overwrite starts anew",
            file=sys.stderr,
        )
        return 130
    return 0


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
        if not re.fullmatch("[─ ]*", line):
            kept.append(line)
    text = " ".join(kept).removeprefix("Error parsing ").rstrip(".")
    for pattern, plain in PLAIN_WORDS:
        text = re.sub(pattern, plain, text)
    return f"{text}; see --help"


def one_line(text: str) -> str:
    """Return ``text`` with every run of white space as one space."""
    return " ".join(text.split())

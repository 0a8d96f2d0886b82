"""Tables as CSV: a header of the row type's fields, then a line for each row, each with its end."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

#: What columns of tables may hold, ends included; a loss may be anything. In 1e9 s: 30 years. What
#: is timed has six decimals, and a ratio to much less would be infinite.
RANGES = {
    "seed": (0, 2**32 - 1),
    "epoch": (1, 1e9),
    "train_accuracy": (0, 1),
    "validation_accuracy": (0, 1),
    "test_accuracy": (0, 1),
    "diverged": (0, 1),
    "seconds": (0, 1e9),
    "repeat": (1, 1e9),
    "train_seconds": (1e-6, 1e9),
    "test_seconds": (1e-6, 1e9),
}


def encode(columns: Sequence[str], rows: Iterable[tuple]) -> bytes:
    r"""Return a table as the content of a file.

    >>> encode(("epoch", "train_loss"), [(1, 2.5)])
    b'epoch,train_loss\n1,2.5\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def decode(text: str, row_type: type) -> list:
    """Return the rows of a table.

    Args:
        text: of the file.
        row_type: a `typing.NamedTuple`; its types read the values.

    Raises:
        ValueError: if a line is no such row, a value is out of its range (`RANGES`), or the last
            line has no end: cut within its last number, it would be another one.
    """
    columns = row_type._fields
    try:
        header, *lines = csv.reader(io.StringIO(text))
    except (csv.Error, ValueError):  # too long a field; no line at all
        header, lines = [], []
    if tuple(header) != columns:
        raise ValueError(f"expected the columns {','.join(columns)}")
    types = [row_type.__annotations__[column] for column in columns]
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(row_type(*(t(v) for t, v in zip(types, line, strict=True))))
        except ValueError:
            raise ValueError(f"line {number} is not {','.join(columns)}") from None
        _check_ranges(rows[-1], number)
    if not text.endswith("\n"):
        raise ValueError(f"line {len(rows) + 1} has no end")
    return rows


def _check_ranges(row: Any, number: int) -> None:
    """Raise ValueError if a value of a row is out of its range."""
    for column, (low, high) in RANGES.items():
        value = getattr(row, column, low)
        if not low <= value <= high:
            raise ValueError(
                f"line {number}: expected {column} from {low:g} to {high:g}, not {value}"
            )

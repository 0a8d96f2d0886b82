"""What config.json must hold for a study's report to be made: the file may come from anywhere.

`check` looks at what the report reads, `check_sweep` at the same of a sweep that is kept with the
study. Anything else may be there and is shown as it is.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli import UserError
from experiments.sweep_results import PROGRAM

#: Where the data are from, by what config.json calls it, in words.
SOURCES = {
    "tensorflow_datasets": "from tensorflow_datasets",
    "idx": "from its IDX files",
    "cache": "from its IDX files",
    "download": "from its IDX files",
    "sample": "the package's embedded sample",
}


class Kind(NamedTuple):
    """What is expected at a place.

    Attributes:
        words: what it is.
        is_right: the test of it.
        required: whether it must be there.
    """

    words: str
    is_right: Callable[[Any], bool]
    required: bool = True


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: Any) -> bool:
    # Above what a float holds an integer may still be.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e300


def is_margin(value: Any) -> bool:
    """Tell whether a difference, in percentage points or percent, can be one of no meaning.

    It is divided by 100 and taken a logarithm of, after which a smaller one may be 0.
    """
    return _is_positive(value) and 1e-6 <= value <= 100


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Tell whether JSON can be written of it again, as when studies are joined.

    What is read may be deeper than that, and 1e999 is read as infinite.
    """
    if isinstance(value, Mapping | list):
        inner = value.values() if isinstance(value, Mapping) else value
        return depth < DEEPEST and all(_is_plain(each, depth + 1) for each in inner)
    return not isinstance(value, float) or math.isfinite(value)


def _is_rising(values: Any) -> bool:
    if not isinstance(values, list) or not all(v == 0 or _is_positive(v) for v in values):
        return False
    return all(low < high for low, high in pairwise(values))


TEXT = Kind("a line of text", lambda value: isinstance(value, str) and value.isprintable())
SOURCE = Kind(f"one of {', '.join(SOURCES)}", lambda value: value in [*SOURCES])
# The name of a folder may hold any character.
PATH = Kind("text or null", lambda value: value is None or isinstance(value, str))
COUNT = Kind("a whole number of at least 0", _is_count)
POSITIVE = Kind("a number above 0", _is_positive)
MARGIN = Kind("a number from 1e-6 to 100", is_margin, required=False)
OBJECT = Kind("an object", lambda value: isinstance(value, Mapping))
RATES = Kind("rising numbers from 0", _is_rising)
EPOCHS = Kind("a whole number above 0", lambda value: _is_count(value, least=1))
#: How deep the lists and objects of a config.json may be nested; a program's own are six.
DEEPEST = 50
PLAIN = Kind(
    f"finite numbers, text, and lists and objects of them, nested {DEEPEST} deep at most",
    lambda value: _is_plain(value),
)
#: Stands for every name that an object has.
EACH = "*"
STUDY = {
    "title": TEXT,
    "program": TEXT,
    "settings": {
        "epochs": EPOCHS,
        "learning_rate": POSITIVE,
        "data_dir": PATH,
        "accuracy_margin": MARGIN,
        "time_margin": MARGIN,
    },
    "data": {
        "name": TEXT,
        "kind": SOURCE,
        "path": PATH,
        "notice": PATH,
        "sizes": {"train": COUNT, "test": COUNT, EACH: COUNT},
        "files": {EACH: {"bytes": COUNT._replace(required=False), "sha256": TEXT}},
    },
    "machine": OBJECT._replace(required=False),
    "versions": OBJECT._replace(required=False),
}

SWEEP = {
    "program": TEXT,
    "settings": {
        "first_seed": COUNT,
        "seeds": EPOCHS,
        "epochs": EPOCHS,
        "learning_rate": POSITIVE,
    },
    "data": {
        "name": TEXT,
        "kind": SOURCE,
        "sizes": {"train": COUNT, "validation": COUNT, "test": COUNT},
    },
    "title": TEXT,
}
#: Of each of a sweep's candidates.
CANDIDATES = {"variant": TEXT, "layers": PATH, "rates": RATES, "learning_rate": POSITIVE}


def check(config: Any, path: Path) -> None:
    """Check the content of a study's config.json.

    Args:
        config: the content.
        path: of the file, for the message.

    Raises:
        UserError: naming the first place where something else is expected.

    >>> check({"title": 3}, Path("config.json"))
    Traceback (most recent call last):
    experiments.cli.UserError: config.json: expected the config.json of a study: title is a line...
    """
    parts = _wrong_items(config, "parts", STUDY) if "parts" in config else ()
    rest = {name: value for name, value in config.items() if name != "parts"}
    for place, words in chain(_wrong(config, STUDY, ""), parts, _wrong(rest, PLAIN, "it")):
        raise UserError(f"{path}: expected the config.json of a study: {place} is {words}")


def check_sweep(config: Any, path: Path) -> None:
    """Check the content of a sweep's config.json, but for what its candidates have to do with it.

    Args:
        config: the content.
        path: of the file, for the message.

    Raises:
        UserError: naming the first place where something else is expected.

    >>> check_sweep({"program": "experiments.sweep"}, Path("c"))
    Traceback (most recent call last):
    experiments.cli.UserError: c: expected the config.json of experiments.sweep: settings is there
    """
    candidates = _wrong_items(config, "candidates", CANDIDATES)
    for place, words in chain(_wrong(config, SWEEP, ""), candidates):
        raise UserError(f"{path}: expected the config.json of {PROGRAM}: {place} is {words}")


def _wrong_items(
    config: Mapping[str, Any], name: str, wanted: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a list of objects, such as the parts of a study that was joined."""
    items = config.get(name)
    if not isinstance(items, list):
        yield name, "a list"
        return
    for number, item in enumerate(items):
        yield from _wrong(item, wanted, f"{name}[{number}]")
        yield from _wrong(item, PLAIN, f"{name}[{number}]")


def _wrong(found: Any, wanted: Kind | Mapping[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Yield every place where something else is wanted, with what it is."""
    if isinstance(wanted, Kind):
        if not wanted.is_right(found):
            yield place, wanted.words
    elif not isinstance(found, Mapping):
        yield place or "it", OBJECT.words
    else:
        for name, inner in wanted.items():
            yield from _wrong_below(found, name, inner, f"{place}." if place else "")


def _wrong_below(
    found: Mapping[str, Any], name: str, wanted: Kind | Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str]]:
    if name == EACH:
        for each, value in found.items():
            yield from _wrong(value, wanted, prefix + each)
    elif name in found:
        yield from _wrong(found[name], wanted, prefix + name)
    elif not isinstance(wanted, Kind) or wanted.required:
        yield prefix + name, "there"

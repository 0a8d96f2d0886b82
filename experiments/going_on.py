"""Going on in a folder that an earlier start left: what must be as it was there, and what may grow.

What decides the numbers of a run with a given seed must be the same, and while anything is left to
train, so must what they are computed with: another version or processor gives other bits.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from experiments import durable
from experiments.cli import StorageError, UserError
from experiments.results import CONFIG, PREDICTIONS, ResultsFolder

#: A JSON object, as config.json is.
Config = Mapping[str, Any]
#: Prints a line.
Say = Callable[[str], None]
#: Of a file.
Content = TypeVar("Content")


class Identity(NamedTuple):
    """What decides the numbers of a folder, by the words that name it to the user.

    Attributes:
        settings: the experiment, as the program took it: a default is its value.
        environment: versions and device.
    """

    settings: dict[str, Any]
    environment: dict[str, Any]


class Kind(NamedTuple):
    """What a program's folders are known by.

    Attributes:
        program: in config.json.
        identify: returns the identity of a config.json; see `identity_of`.
        words: the settings from which everything follows that decides the numbers.
        lists: the settings whose values can become more, one by one.
        check: raises UserError for a config.json, at this path, of which nothing can be drawn.
    """

    program: str
    identify: Callable[[Config], Identity]
    words: tuple[str, ...]
    lists: tuple[str, ...] = ("variants",)
    check: Callable[[Config, Path], None] = lambda config, path: None


class Damaged(NamedTuple):
    """A file that cannot be trusted, which is to be set aside once nothing refuses the start.

    Attributes:
        path: of the file.
        why: what the user is told: the reason, and a word for the file.
        then: what happens to what was in it.
    """

    path: Path
    why: str
    then: str = "is made anew"


def identity_of(config: Config, names: Sequence[str]) -> Identity:
    """Return what decides the numbers of a folder with this config.json.

    Args:
        config: of a study or sweep.
        names: of the settings that decide; where config itself has one of that name, what the
            program made of the user's.

    Raises:
        KeyError: if it is another program's; so are TypeError and AttributeError.
    """
    device, data, versions = config["device"], config["data"], config["versions"]
    settings = {
        "program": config["program"],
        "--dataset": data["name"],
        "--train-size": data["sizes"]["train"],
        **{flag(name): config.get(name, config["settings"].get(name)) for name in names},
        **{f"SHA-256 of {name}": file["sha256"] for name, file in sorted(data["files"].items())},
    }
    environment = {"device": device["platform"], "kind of device": device["kind"]}
    if device["platform"] == "cpu":  # of whatever kind, JAX calls it cpu
        environment["processor"] = config["machine"]["processor"]
        if "threads" in device:
            environment["threads"] = device["threads"]
        else:
            settings["--devices"] = device["count"]
    packages = {name: version for name, version in versions.items() if name != "python"}
    return Identity(settings, environment | packages)


def flag(name: str) -> str:
    """Return a setting's name on the command line.

    >>> flag("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what differs, each in words with both values.

    >>> differences({"--batch-size": 128, "jax": "0.10"}, {"--batch-size": 64, "jax": "0.10"})
    ['--batch-size: the folder has 128, not 64']
    """
    return [
        difference(name, old.get(name), new.get(name))
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]


def difference(name: str, old: object, new: object) -> str:
    """Return one difference in words."""
    return f"{name}: the folder has {_in_words(old)}, not {_in_words(new)}"


def _in_words(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def shrunk(old: Config, new: Config, lists: Sequence[str]) -> list[str]:
    """Return which settings ask for less than the folder has, each in words with both values.

    Args:
        old: settings of the folder.
        new: settings of the command.
        lists: as `Kind` has them.
    """
    less = [n for n in lists if not set(old.get(n) or ()) <= set(new.get(n) or ())]
    if old["first_seed"] < new["first_seed"]:
        less.append("first_seed")
    missed = old["first_seed"] + old["seeds"] > new["first_seed"] + new["seeds"]
    if missed and old["seeds"] > new["seeds"]:
        less.append("seeds")
    if old["epochs"] > new["epochs"]:
        less.append("epochs")
    other = [n for n in lists if (old.get(n) is None) != (new.get(n) is None)]
    found = [difference(flag(n), old.get(n), new.get(n)) for n in other] + [
        f"{difference(flag(n), old[n], new[n])} (more can be added)" for n in less if n not in other
    ]
    if missed and old["first_seed"] > new["first_seed"]:
        both = old["first_seed"] + old["seeds"] - new["first_seed"]
        words = difference("--first-seed", old["first_seed"], new["first_seed"])
        found.append(f"{words} (--seeds {both} would hold both)")
    return found


def refuse(found: Sequence[str], path: Path) -> None:
    """Raise UserError if there are differences."""
    if found:
        raise UserError(
            f"{'; '.join(found)}; --overwrite starts {path} anew, --out names another folder"
        )


def config_of(folder: ResultsFolder, kind: Kind) -> dict[str, Any] | None:
    """Return a folder's config.json; None where it is missing or damaged.

    One from which the folder could not be drawn is damaged, too: else it would stop the program at
    its end, each time.

    Raises:
        UserError: if another program made it.
    """
    try:
        config = folder.read_config()
        made_by, settings = config["program"], config["settings"]
        sound = _are_sound(settings, kind.lists)
        if made_by == kind.program:
            kind.identify(config)
            kind.check(config, folder.path / CONFIG)
            json.dumps(config, indent=2, allow_nan=False)  # it is written again
    except (UserError, KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return None
    if not (isinstance(made_by, str) and sound):
        return None
    refuse(differences({"program": made_by}, {"program": kind.program}), folder.path)
    return config


def _are_sound(settings: Config, lists: Sequence[str]) -> bool:
    """Tell whether settings are such that others can be compared with them."""
    least = {"first_seed": 0, "seeds": 1, "epochs": 1}
    whole = all(type(settings[n]) is int and settings[n] >= low for n, low in least.items())
    values = [settings.get(name) for name in lists]
    items = [item for value in values for item in value or ()]
    return (
        whole
        and settings["first_seed"] + settings["seeds"] <= 2**32
        and all(value is None or isinstance(value, list) for value in values)
        and all(isinstance(item, str | int | float) for item in items)
    )


def config_as_before(
    folder: ResultsFolder, kind: Kind, settings: Config, asked: Config | None = None
) -> dict[str, Any] | None:
    """Return a folder's config.json where a command asks for the same numbers, word for word.

    Otherwise it must be asked what its words mean: for that, JAX has to be started and the data to
    be read.

    Args:
        folder: that may be a study's or sweep's.
        kind: that it must have.
        settings: of the command.
        asked: the same with what they imply; None where that is nothing more.

    Returns:
        The content with the new settings in it, as some of them may have changed.

    Raises:
        UserError: if another program made it, or it has more than the command asks for.
    """
    config = config_of(folder, kind)
    if config is None:
        return None
    old = config["settings"]
    refuse(shrunk(old, asked or settings, kind.lists), folder.path)
    if any(old.get(name) != settings[name] for name in kind.words):
        return None
    return config | {"settings": settings}


def agreed(
    folder: ResultsFolder,
    kind: Kind,
    config: Config,
    read: Callable[[], object],
    table: str,
) -> tuple[dict[str, Any] | None, Identity, list[Damaged]]:
    """Return a folder's config.json, if it has one, and whose the content of the folder is.

    Args:
        folder: in which one table holds all that is kept.
        kind: that it must have.
        config: of a folder that begins now.
        read: reads the table.
        table: its file's name.

    Returns:
        The content of config.json, the identity of what is in the folder, and the files of which
        nothing is known.

    Raises:
        UserError: if the folder has other settings, or is not a program's of ours.
    """
    old, new = config_of(folder, kind), kind.identify(config)
    before = new if old is None else kind.identify(old)
    damaged = of_unknown(folder, read, (table, PREDICTIONS)) if old is None else []
    refuse(differences(before.settings, new.settings), folder.path)
    return old, before, damaged


def config_to_write(
    old: Config | None, before: Identity, new: dict[str, Any], kind: Kind, path: Path, left: bool
) -> dict[str, Any]:
    """Return what config.json is to say where the settings agree.

    Args:
        old: what it says; None where it is missing or damaged.
        before: identity of what is in the folder.
        new: what it would say of a folder that begins now.
        kind: of the folder.
        path: of the folder.
        left: whether anything is left to compute.

    Raises:
        UserError: if what is left would be computed with something else.
    """
    if old is not None and not left:
        return {**old, "settings": new["settings"]}
    refuse(differences(before.environment, kind.identify(new).environment), path)
    return new


def whole(
    folder: ResultsFolder, name: str, read: Callable[[], Content], damaged: list[Damaged]
) -> Content | None:
    """Return what is in a file of a folder, if it is there and can be trusted.

    Args:
        folder: with or without the file.
        name: of the file.
        read: reads it, and raises UserError where it is damaged.
        damaged: files that are to be set aside; this one joins them where it is damaged.
    """
    path = folder.path / name
    if not folder.has(name) or path in {each.path for each in damaged}:
        return None
    try:
        return read()
    except UserError as error:
        damaged.append(Damaged(path, f"{error}: the file"))
        return None


def unusable(path: Path, error: Exception, then: str) -> Damaged:
    """Return a file that holds runs, as one to be set aside: what comes of them follows."""
    return Damaged(path, f"{path} cannot be used ({error}): it", then)


@contextlib.contextmanager
def drawn_from(folder: ResultsFolder, drawing: str) -> Iterator[None]:
    """Say within that a folder's files have gone, if they have: the user made no mistake.

    Args:
        folder: whose files are read.
        drawing: name of the file that is made of them.

    Raises:
        StorageError: if they have.
    """
    try:
        yield
    except UserError as error:
        if folder.has(CONFIG):
            raise
        raise StorageError(folder.path / drawing, "its files are gone") from error


def set_aside(found: Iterable[Damaged], say: Say) -> None:
    """Set files aside; ``say`` gets a line for each."""
    for path, why, then in found:
        aside = durable.set_aside(path)
        say(f"{why} is now {aside.name}, and {then}")


def of_unknown(
    folder: ResultsFolder, read: Callable[[], object], tables: Sequence[str]
) -> list[Damaged]:
    """Return the files that nothing is known of, in a folder whose config.json is damaged.

    Args:
        folder: with or without config.json.
        read: reads the first of the tables; where it can't, the folder may be anything.
        tables: of which config.json alone could tell what they are of.

    Raises:
        UserError: if the folder is not a program's of ours.
    """
    if not folder.has(CONFIG):
        return []
    path = folder.path / CONFIG
    try:
        read()
    except UserError:
        raise UserError(
            f"--out: expected {path} to be that of a study or sweep; --overwrite replaces it, --out"
            " names another folder"
        ) from None
    present = filter(folder.has, (CONFIG, *tables))
    return [Damaged(folder.path / name, f"{path} is damaged: {name}") for name in present]

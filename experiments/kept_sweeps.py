"""Sweeps that a study's conclusions also draw on: checked, and kept in its folder.

    sweeps/1, sweeps/2, ...    of each the files `results.KEPT`, config.json last

Kept, so that the folder alone makes every verdict again, wherever the sweep's own folder goes. A
sweep that answers all that an earlier one of the folder does takes its place: it is there whole
before the other goes, and from then on it alone counts, whatever ends the program in between.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import durable
from experiments.cli import UserError
from experiments.going_on import Damaged, Say
from experiments.results import CONFIG, KEPT, PREDICTIONS, SWEEPS, TEST_SET, ResultsFolder
from experiments.sweep_files import ROWS, SweepFolder, read
from experiments.sweep_results import Sweep

SAME_SETTINGS = ("epochs", "batch_size", "learning_rate")

#: What a sweep answers: which rate is best for a model, and for which of its layers; see `LAYERS`.
Question = tuple[str, str | None]


class Kept(NamedTuple):
    """A sweep that a folder keeps.

    Attributes:
        path: of its folder.
        sweep: its content.
    """

    path: Path
    sweep: Sweep

    @property
    def questions(self) -> set[Question]:
        """What it answers."""
        return {(c.candidates.variant, c.candidates.layers) for c in self.sweep.curves}


#: A sweep that a folder is to keep: the content of `KEPT`, by name.
Files = dict[str, bytes]


def folders(folder: ResultsFolder) -> list[Path]:
    """Return the folders of the sweeps that are kept, the oldest first."""
    return [path for path in _own(folder) if (path / CONFIG).exists()]


def read_all(folder: ResultsFolder) -> list[Kept]:
    """Read the sweeps that are kept, but those whose place a later one has taken.

    Raises:
        UserError: if one is damaged.
    """
    return _counting(Kept(path, read(path)) for path in folders(folder))


def sound(
    folder: ResultsFolder, is_seen: Callable[[np.ndarray], bool] = lambda labels: True
) -> tuple[list[Kept], list[Damaged]]:
    """Return the sweeps that are kept, as `read_all`, and the files of those that are damaged.

    Args:
        folder: of the study.
        is_seen: tells whether the study's test images have these labels.
    """
    kept: list[Kept] = []
    damaged: list[Damaged] = []
    for path in folders(folder):
        try:
            new = Kept(path, read(path))
            if not is_seen(new.sweep.labels):
                raise UserError(f"{path / PREDICTIONS}: expected the labels of {TEST_SET}")
            kept.append(new)
        except UserError as error:
            present = [name for name in KEPT if (path / name).is_file()]
            damaged += [Damaged(path / n, f"{error}: {n}", "counts no more") for n in present]
    return _counting(kept), damaged


def _counting(kept: Iterable[Kept]) -> list[Kept]:
    """Return the sweeps, but those whose place a later one has taken."""
    kept = list(kept)
    return [
        each
        for place, each in enumerate(kept, 1)
        if not any(each.questions <= later.questions for later in kept[place:])
    ]


def load(sweeps: Sequence[Path], config: dict | None, beside: Sequence[Kept] = ()) -> list[Files]:
    """Return sweeps as `keep` takes them; one that is named twice, or a copy of it, comes once.

    Args:
        sweeps: folders of `experiments.sweep`.
        config: of the study, as in config.json; None where they are kept with it already.
        beside: the sweeps that the folder has which is to keep them.

    Raises:
        UserError: unless each is a finished sweep on the study's data with its settings, and no two
            answer the same question, one of the folder's that none is to replace included.
    """
    given: list[Kept] = []
    contents: list[Files] = []
    for path in sweeps:
        new = Kept(path, read(path))
        if config is not None:
            _check(path, new.sweep.config, config)
        if (files := _files_of(path)) in contents:
            continue
        for other in given:
            _check_apart(other, new)
        given.append(new)
        contents.append(files)
    for old in beside if sweeps else ():
        if not any(old.questions <= new.questions for new in given):
            for new in given:
                _check_apart(old, new)
    return contents


def check_outside(sweeps: Iterable[Path], folder: ResultsFolder) -> None:
    """Raise UserError if a sweep lies in a folder that --overwrite is about to empty."""
    for path in sweeps:
        if path.resolve().is_relative_to(folder.path.resolve()):
            raise UserError(
                f"--sweep: expected a folder outside of {folder.path}, which --overwrite empties,"
                f" not {path}"
            )


def keep(folder: ResultsFolder, sweeps: Sequence[Files], say: Say) -> None:
    """Keep sweeps; those of before whose questions one of them answers go.

    Args:
        folder: of the study.
        sweeps: that `load` has checked.
        say: prints a line; it gets one for each sweep that goes.
    """
    for path in _own(folder):
        durable.clean(path, KEPT)
    there = [_files_of(kept.path) for kept in read_all(folder)]
    for files in sweeps:
        if files not in there:
            path = _next(folder)
            durable.make_folder(path)
            for name in KEPT:
                durable.write(path / name, files[name])
    counting = read_all(folder)
    for path in folders(folder):
        if path not in [kept.path for kept in counting]:
            old = Kept(path, read(path))
            new = next(each for each in counting if old.questions <= each.questions)
            words = ", ".join(map(in_words, sorted(old.questions, key=str)))
            say(f"{new.path} takes the place of the sweep in {path}: both have {words}")
            _remove(path)
    for path in _own(folder):
        if path not in folders(folder) and _is_left_of_one(path):
            _remove(path)


def in_words(question: Question) -> str:
    """Return what a sweep has that answers a question.

    >>> in_words(("LeNet", "drop6"))
    'dropout rates (drop6) of LeNet'
    """
    variant, layers = question
    return f"{'learning rates' if layers is None else f'dropout rates ({layers})'} of {variant}"


def _number(path: Path) -> int:
    return int(path.name)


def _numbered(folder: ResultsFolder) -> list[Path]:
    """Return whatever has a sweep's place, by number."""
    found = (folder.path / SWEEPS).glob("[0-9]*")
    return sorted((path for path in found if path.name.isdecimal()), key=_number)


def _own(folder: ResultsFolder) -> list[Path]:
    """Return the folders in which a sweep is, or was; the user's own may lie behind a link."""
    return [path for path in _numbered(folder) if path.is_dir() and not path.is_symlink()]


def _is_left_of_one(path: Path) -> bool:
    """Tell whether files can be what a crash left of a sweep that came or went: each is whole."""
    files = SweepFolder(path)
    readers = {PREDICTIONS: partial(files.read_answers, {}), ROWS: files.read_runs}
    try:
        for name, read_one in readers.items():
            if files.has(name):
                read_one()
    except UserError:
        return False
    return True


def _next(folder: ResultsFolder) -> Path:
    """Return a folder for a sweep that is later than all that are there."""
    last = max(map(_number, _numbered(folder)), default=0)
    return folder.path / SWEEPS / str(last + 1)


def _files_of(path: Path) -> Files:
    """Return what is kept of a sweep, by file name."""
    return {name: durable.read(path / name) for name in KEPT}


def _remove(path: Path) -> None:
    """Remove a sweep's files, config.json first: what then is there counts no more."""
    for name in reversed(KEPT):
        if (path / name).is_file():
            durable.remove(path / name)
    with contextlib.suppress(OSError):  # where a user's own files are, they stay
        path.rmdir()


def _check_apart(one: Kept, other: Kept) -> None:
    """Raise UserError if two sweeps answer the same question."""
    for question in sorted(one.questions & other.questions, key=str):
        raise UserError(
            f"--sweep: expected one sweep with {in_words(question)}, but both {one.path} and"
            f" {other.path} have them"
        )


def _check(path: Path, sweep: dict, study: dict) -> None:
    """Raise UserError unless a sweep ran as the study did, by the config.json of each."""
    try:
        own, its = _comparable(study), _comparable(sweep)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"--sweep: expected {path} and the study to say how they ran") from None
    for name in own:
        if own[name] == its[name]:
            continue
        if name == "files":  # a dozen digests would say no more
            raise UserError(
                f"--sweep: expected a sweep of the study's data, but the files of {path} have other"
                " contents (SHA-256 in config.json)"
            )
        raise UserError(
            f"--sweep: expected a sweep with the study's {name}, {own[name]}, but"
            f" {path} has {its[name]}"
        )


def _comparable(config: dict) -> dict:
    """Return what a study and a sweep must have in common, by its name in words."""
    settings, data = config["settings"], config["data"]
    same = {name.replace("_", " "): settings[name] for name in SAME_SETTINGS}
    # PyTorch's study has no such setting: it trains in full float32.
    same["precision"] = settings.get("precision", "highest")
    sizes = {f"{part} images": data["sizes"][part] for part in ("train", "test")}
    files = {name: file["sha256"] for name, file in sorted(data["files"].items())}
    return {"data set": data["name"], "kind of data": data["kind"], **sizes, "files": files, **same}

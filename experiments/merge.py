"""Join studies that ran apart, each from seeds of its own, and draw everything again.

    python -m experiments.merge results-a results-b --out results

Machines without a network between them share a study by its seeds: one runs ``experiments.ablate``
with ``--first-seed 0``, the next with ``--first-seed 10``, and so on; their folders, copied to one
place, become one. The experiment must be the same in all of them; the machines need not be.
"""

import operator
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console

from experiments import cli, kept_sweeps, report, study_config, study_folder
from experiments.cli import UserError
from experiments.evidence import gather
from experiments.going_on import Config, flag
from experiments.lock import one_writer
from experiments.progress import say, say_results
from experiments.results import (
    CONFIG,
    FIRST_PREDICTIONS,
    PREDICTIONS,
    RESULTS,
    TIMING,
    LabelledImages,
    ResultsFolder,
    Row,
    TimingRow,
)
from experiments.settings import NamedPath
from experiments.summary import finished_runs
from jax_lenet.models import VARIANTS

PROGRAM = "experiments.merge"
#: Settings of a run that change its bits and not the experiment: each folder's are in `parts`.
NOT_COMPARED = ("program", "--devices", "--seeds-at-once")
#: Settings beside those of a run that must be the same.
ALSO_COMPARED = ("epochs", "variants", *report.MARGINS)

Key = tuple[str, int]  # variant and seed


@dataclass(frozen=True)
class Settings:
    """Join results folders of the same experiment from different seeds."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of experiments.ablate, or of this program, two or more."""
    out: NamedPath = Path("results")
    """The folder that gets the joined results."""
    overwrite: bool = False
    """Replace the results that the folder holds."""

    def check(self) -> None:
        """Raise UserError if the folders cannot be joined whatever they hold."""
        if len(self.folders) < 2:
            raise UserError(f"expected two folders or more, not {len(self.folders)}")
        for path in self.folders:
            if path.resolve() == self.out.resolve():
                raise UserError(f"--out: expected another folder than those to join, not {path}")


class Run(NamedTuple):
    """A finished run.

    Attributes:
        rows: of results.csv, by epoch.
        first_predictions: class given to each test image after the first epoch, ``[images]``.
        predictions: the same after the last.
    """

    rows: Sequence[Row]
    first_predictions: np.ndarray
    predictions: np.ndarray


@dataclass(frozen=True)
class Part:
    """One of the folders.

    Attributes:
        folder: of results.
        config: the content of its config.json.
        runs: that are finished, by variant and seed.
        asked: how many runs the folder's study is to have.
        test_set: the images that they were tested on.
        timing: rows of timing.csv, by repeat; none without the file.
    """

    folder: ResultsFolder
    config: dict[str, Any]
    runs: dict[Key, Run]
    asked: int
    test_set: LabelledImages
    timing: list[TimingRow]

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self.folder.path

    @property
    def seeds(self) -> set[int]:
        """Of its finished runs."""
        return {seed for _, seed in self.runs}

    @property
    def origin(self) -> list[dict[str, Any]]:
        """What merged results say of this folder: its config.json, or those that it was made of."""
        return self.config.get("parts", [self.config])


def read(path: Path) -> Part:
    """Read a folder.

    Raises:
        UserError: if it is no study, a file is missing or damaged, or no run is finished.
    """
    folder = ResultsFolder(path)
    config = folder.read_config()
    study_config.check(config, path / CONFIG)
    check_variants(config["settings"].get("variants"), path / CONFIG)
    try:
        comparable(config)
        asked = operator.index(config["settings"]["seeds"]) * len(config["settings"]["variants"])
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path / CONFIG}: expected the config.json of {study_folder.PROGRAM}"
        ) from None
    epochs = config["settings"]["epochs"]
    rows, runs = folder.read_results(), {}
    first, last = (folder.read_predictions(name) for name in (FIRST_PREDICTIONS, PREDICTIONS))
    gather(folder, epochs, config["settings"]["learning_rate"])  # that the files fit each other
    for variant, own in finished_runs(rows, epochs).items():
        said = zip(own.items(), first.get(variant, ()), last.get(variant, ()), strict=False)
        runs |= {(variant, seed): Run(of, *both) for (seed, of), *both in said}
    if not runs:
        raise UserError(f"{path}: expected finished runs, found none")
    timing = folder.read_timing() if folder.has(TIMING) else []
    return Part(folder, config, runs, asked, folder.read_test_set(), timing)


def check_variants(names: Any, path: Path) -> None:
    """Raise UserError unless the names in a config.json are a list of different models."""
    known = isinstance(names, list) and all(name in [*VARIANTS] for name in names)
    if not known or len(set(names)) != len(names):
        expected = f"expected settings.variants to be different names of {', '.join(VARIANTS)}"
        raise UserError(f"{path}: {expected}")


def comparable(config: Config) -> dict[str, Any]:
    """Return what must be the same in folders that are joined, by the words that name it.

    Raises:
        KeyError: if it is another program's config.json; so are TypeError and AttributeError.
    """
    settings = study_folder.identity_of(config).settings
    also = {flag(name): config["settings"].get(name) for name in ALSO_COMPARED}
    also["--variants"] = " ".join(sorted(config["settings"]["variants"]))
    return {name: value for name, value in settings.items() if name not in NOT_COMPARED} | also


def check_fit(parts: Sequence[Part]) -> None:
    """Raise UserError if folders have different settings or test sets, or a seed in common.

    Or if there are runs of models that the settings, which order them, do not name.
    """
    first, *others = parts
    for part in others:
        own, its = comparable(first.config), comparable(part.config)
        differ = [
            f"{name}: {first.path} has {own.get(name)}, {part.path} has {its.get(name)}"
            for name in dict.fromkeys([*own, *its])
            if own.get(name) != its.get(name)
        ]
        if differ:
            raise UserError(f"expected folders of the same experiment, but {'; '.join(differ)}")
        if any(
            not np.array_equal(*both) for both in zip(first.test_set, part.test_set, strict=True)
        ):
            raise UserError(f"{part.path}: expected the test set of {first.path}")
    for part in parts:
        check_named(part)
    for one, other in combinations(parts, 2):
        common = {seed for _, seed in one.runs.keys() & other.runs.keys()}
        if common:
            raise UserError(
                f"expected each seed in one folder, but {one.path} and {other.path} both have"
                f" {ranges(common)}; --first-seed gives a study other seeds"
            )


def check_named(part: Part) -> None:
    """Raise UserError if a folder has runs of models that its settings do not name."""
    others = {variant for variant, _ in part.runs} - set(part.config["settings"]["variants"])
    if others:
        raise UserError(
            f"{part.path / CONFIG}: expected settings.variants to name all models in {RESULTS}, but"
            f" {', '.join(sorted(others))} {'is' if len(others) == 1 else 'are'} missing"
        )


def ranges(seeds: Iterable[int]) -> str:
    """Return seeds in words.

    >>> ranges([4, 0, 1, 2, 9])
    'seeds 0-2, 4, 9'
    """
    spans = []
    for _, members in groupby(enumerate(sorted(seeds)), lambda pair: pair[1] - pair[0]):
        span = [seed for _, seed in members]
        spans.append(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}")
    one = len(spans) == 1 and "-" not in spans[0]
    return f"seed{'' if one else 's'} {', '.join(spans)}"


def joined_timing(parts: Sequence[Part]) -> tuple[list[TimingRow], list[Part]]:
    """Return the repeats of one machine, numbered anew, and the folders that they come from.

    Times of different machines are no repeats of each other: where there are several, the folder
    that was named first, of those with timing, speaks for all.
    """
    timed = [part for part in parts if part.timing]
    timed = [part for part in timed if _machine(part.config) == _machine(timed[0].config)]
    rows: list[TimingRow] = []
    for part in timed:
        done = max((row.repeat for row in rows), default=0)
        rows += [row._replace(repeat=row.repeat + done) for row in part.timing]
    return rows, timed


def _machine(config: Config) -> tuple:
    return tuple(config.get(name) for name in ("device", "machine", "versions"))


def joined_config(parts: Sequence[Part], timed: Sequence[Part]) -> dict[str, Any]:
    """Return the config.json of folders that fit each other."""
    seeds = {seed for part in parts for seed in part.seeds}
    first = (timed or parts)[0].config
    own = {
        "first_seed": min(seeds),
        "seeds": len(seeds),
        "timing_repeats": len({row.repeat for row in joined_timing(parts)[0]}),
    }
    return {
        **{name: value for name, value in first.items() if name != "compilation_cache"},
        "program": PROGRAM,
        "settings": first["settings"] | own,
        "parts": [origin for part in parts for origin in part.origin],
    }


def write(folder: ResultsFolder, parts: Sequence[Part]) -> list[Part]:
    """Write the joined files but those that are drawn; return the folders that timing is from."""
    runs = {key: run for part in parts for key, run in part.runs.items()}
    variants = parts[0].config["settings"]["variants"]
    order = sorted(runs, key=lambda key: (variants.index(key[0]), key[1]))
    timing, timed = joined_timing(parts)
    folder.write_config(joined_config(parts, timed))
    folder.write_results(row for key in order for row in runs[key].rows)
    for name, field in ((FIRST_PREDICTIONS, "first_predictions"), (PREDICTIONS, "predictions")):
        by_variant: dict[str, list[np.ndarray]] = {}
        for key in order:
            by_variant.setdefault(key[0], []).append(getattr(runs[key], field))
        folder.write_predictions({v: np.stack(said) for v, said in by_variant.items()}, name)
    folder.write_test_set(parts[0].test_set)
    if timing:
        folder.write_timing(timing)
    return timed


def sweeps_of(parts: Sequence[Part]) -> list[kept_sweeps.Files]:
    """Return the different sweeps that the folders keep.

    Raises:
        UserError: if two of them answer the same question.
    """
    kept = [kept.path for part in parts for kept in kept_sweeps.read_all(part.folder)]
    return kept_sweeps.load(kept, None)


def tell(console: Console, parts: Sequence[Part], timed: Sequence[Part]) -> None:
    """Print what each folder gives."""
    out = partial(say, console)
    for part in parts:
        count, rest = f"{len(part.runs)}", ""
        if len(part.runs) < part.asked:
            count += f" of {part.asked}"
            rest = "; the others lack epochs or predictions"
            if "parts" not in part.config:
                rest += ": the command that made the folder goes on with them"
        out(f"{part.path}: {count} runs, {ranges(part.seeds)}{rest}")
    apart = [str(part.path) for part in parts if part.timing and part not in timed]
    if apart:
        out(
            f"timing.csv is that of {', '.join(str(part.path) for part in timed)}: other machines"
            f" timed {', '.join(apart)}"
        )


def main(settings: Settings) -> None:
    """Run the program."""
    settings.check()
    console = cli.console()
    parts = [read(path) for path in settings.folders]
    check_fit(parts)
    sweeps = sweeps_of(parts)
    with one_writer(settings.out):
        folder = ResultsFolder.create(settings.out, settings.overwrite)
        timed = write(folder, parts)
        kept_sweeps.keep(folder, sweeps, partial(say, console))
        tell(console, parts, timed)
        curves, summary = report.remake(folder)
        say_results(console, curves, folder, summary["verdicts"])


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "merge", goes_on=False))

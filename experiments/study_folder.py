"""A study's folder between two starts of the program: whose it is, and what it still lacks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from experiments import evidence, going_on, kept_sweeps, run_store, study_config
from experiments.ablate_settings import Settings
from experiments.cli import UserError
from experiments.going_on import Config, Damaged, Identity, Kind
from experiments.kept_sweeps import Kept
from experiments.results import (
    CONFIG,
    FIRST_PREDICTIONS,
    PREDICTIONS,
    RESULTS,
    RUNS,
    TEST_SET,
    TIMING,
    LabelledImages,
    ResultsFolder,
    Row,
    TimingRow,
)
from experiments.run_store import Group, Records
from experiments.study import plan
from experiments.together import Together
from jax_lenet.models import VARIANTS

PROGRAM = "experiments.ablate"
#: The settings that decide a run's numbers.
DECIDE = ("batch_size", "learning_rate", "precision", "seeds_at_once")
#: All from which it follows what decides them, without looking at the data and the machine.
WORDS = ("dataset", "data_dir", "train_size", "devices", *DECIDE)


def identity_of(config: Config) -> Identity:
    """Return what decides the numbers of a study with this config.json."""
    return going_on.identity_of(config, DECIDE)


def check_config(config: Config, path: Path) -> None:
    """Raise UserError unless a config.json is one that this program wrote, as far as it is used."""
    study_config.check(config, path)
    together, variants = config.get("seeds_at_once"), config["settings"].get("variants")
    if type(together) is not int or together < 1:
        raise UserError(f"{path}: expected seeds_at_once, a whole number above 0")
    if not variants or not set(variants) <= VARIANTS.keys():
        raise UserError(f"{path}: expected settings.variants of {', '.join(VARIANTS)}")


STUDY = Kind(PROGRAM, identity_of, WORDS, check=check_config)


@dataclass(frozen=True)
class Left:
    """What is left to do in a folder.

    Attributes:
        records: of the groups that are there, finished or not.
        groups: that are to be trained, or trained on.
        timing: whether variants are to be timed.
        test_set: whether the test set is to be written.
        sweeps: that are kept here.
        damaged: files that are to be set aside before anything is written.
    """

    records: Records
    groups: list[Group]
    timing: bool
    test_set: bool
    sweeps: Sequence[Kept]
    damaged: Sequence[Damaged]

    @property
    def nothing(self) -> bool:
        """Whether everything is there."""
        return not (self.groups or self.timing or self.test_set)


def left_in(
    folder: ResultsFolder,
    settings: Settings,
    identity: Identity,
    width: int,
    known: Sequence[Damaged] = (),
) -> Left:
    """Return what is left to do; nothing is changed, as the start may still be refused.

    Args:
        folder: of the study.
        settings: of the study.
        identity: of its runs.
        width: how many runs train together.
        known: files that are known to be damaged; others are looked for.
    """
    damaged = list(known)

    def has(name: str) -> bool:
        return folder.has(name) and folder.path / name not in {each.path for each in damaged}

    def wanted(group: Group, epoch: int) -> bool:
        here = group.variant in settings.variants and set(group.seeds) <= set(settings.all_seeds)
        return here and epoch <= settings.epochs

    records = run_store.scan(folder.path, identity, wanted, damaged)
    test_set = going_on.whole(folder, TEST_SET, partial(_read_test_set, folder, records), damaged)
    lost = run_store.set_aside(folder.path)
    lost += run_store.named(each.path for each in damaged if each.path.parent.name == RUNS)
    for name, read in _readers(folder, settings, records, lost).items():
        going_on.whole(folder, name, read, damaged)

    def is_seen(labels: np.ndarray) -> bool:
        if test_set is None:
            return _saw(records, labels)
        return np.array_equal(labels, test_set.labels)

    repeats = whole_repeats(folder, settings) if has(TIMING) else []
    sweeps, of_sweeps = kept_sweeps.sound(folder, is_seen)
    return Left(
        records,
        plan(records, settings.variants, settings.all_seeds, settings.epochs, width),
        timing=len(repeats) < settings.timing_repeats,
        test_set=not has(TEST_SET),
        sweeps=sweeps,
        damaged=damaged + of_sweeps,
    )


def everything(settings: Settings, width: int) -> Left:
    """Return what is left to do where nothing counts that is there."""
    groups = plan({}, settings.variants, settings.all_seeds, settings.epochs, width)
    return Left({}, groups, settings.timing_repeats > 0, test_set=True, sweeps=(), damaged=())


def _read_test_set(folder: ResultsFolder, records: Records) -> LabelledImages:
    """Read test_set.npz, and make sure that the runs were tested on it."""
    test_set = folder.read_test_set()
    if not _saw(records, test_set.labels):
        raise UserError(f"{folder.path / TEST_SET}: expected the test set of the runs in {RUNS}")
    return test_set


def _saw(records: Records, labels: np.ndarray) -> bool:
    """Tell whether runs can have been tested on images with these labels."""
    for record in records.values():
        rows, epochs = record.rows, record.epoch
        runs = [rows[start : start + epochs] for start in range(0, len(rows), epochs)]
        accuracy = evidence.runs_of(runs).test_accuracy
        for said, epoch in ((record.first_predictions, 0), (record.predictions, -1)):
            if not evidence.fit(said, labels, accuracy[:, epoch]):
                return False
    return True


def _readers(
    folder: ResultsFolder,
    settings: Settings,
    records: Records,
    lost: Sequence[tuple[str, range]],
) -> dict[str, Callable[[], object]]:
    """Return what reads each file that is kept, or that is made from the run files.

    Without these, as in a published copy, what was made from them is all that there is of the runs.
    What they have not is another study's: after every epoch they are written first.

    Args:
        folder: of the study.
        settings: of the study.
        records: of its run files.
        lost: variant and seeds of runs whose files were damaged: until they are trained again, what
            was made from those may be there, but not alone.
    """
    present = {(group.variant, seed) for group in records for seed in group.seeds}
    lost = [(v, seeds) for v, seeds in lost if any((v, seed) not in present for seed in seeds)]
    of_lost = {variant for variant, _ in lost} if records else set()

    def is_lost(row: Row) -> bool:
        if row.variant not in of_lost or (row.variant, row.seed) in present:
            return False
        return any(row.variant == variant and row.seed in seeds for variant, seeds in lost)

    def expect(name: str, found: set[tuple], own: set[tuple]) -> None:
        if not found <= own:
            raise UserError(f"{folder.path / name}: expected only runs that {RUNS} has, too")

    def read_results() -> None:
        rows = folder.read_results()
        own = {row for record in records.values() for row in _in_text(record.rows)}
        expect(RESULTS, set(_in_text(row for row in rows if not is_lost(row))), own)

    def read_predictions(name: str, field: str) -> None:
        own = [(group.variant, getattr(record, field)) for group, record in records.items()]
        found = folder.read_predictions(name).items()
        expect(name, _by_run((v, said) for v, said in found if v not in of_lost), _by_run(own))

    def read_timing() -> None:
        if not evidence.timing_of(folder).keys() <= set(settings.variants):
            raise UserError(f"{folder.path / TIMING}: expected no models but this study's")

    fields = zip((FIRST_PREDICTIONS, PREDICTIONS), run_store.PREDICTED, strict=True)
    return {
        RESULTS: read_results,
        **{name: partial(read_predictions, name, field) for name, field in fields},
        TIMING: read_timing,
    }


def _in_text(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """Yield rows as they are read from results.csv, where a float32 has its own shortest digits.

    As text, in which NaN is NaN.
    """
    types = Row.__annotations__.values()
    for row in rows:
        yield tuple(str(t(str(value))) for t, value in zip(types, row, strict=True))


def _by_run(predictions: Iterable[tuple[str, np.ndarray]]) -> set[tuple]:
    """Return what runs of a variant say, run by run; the arrays are ``[runs, images]``."""
    return {(variant, run.tobytes()) for variant, said in predictions for run in said}


def whole_repeats(folder: ResultsFolder, settings: Settings) -> list[list[TimingRow]]:
    """Return the repeats that are timed, as far as the settings ask for them: whole ones alone."""
    rows = folder.read_timing() if folder.has(TIMING) else []
    repeats: list[list[TimingRow]] = []
    for number in range(1, settings.timing_repeats + 1):
        own = {row.variant: row for row in rows if row.repeat == number}
        if set(settings.variants) - own.keys():
            break
        repeats.append([own[variant] for variant in settings.variants])
    return repeats


def write_tables(folder: ResultsFolder, settings: Settings, records: Records) -> None:
    """Write results.csv and the predictions as the run files say."""
    run_store.write_results(folder, records, settings.variants)
    run_store.write_predictions(folder, records, settings.variants, settings.epochs)


def finished(folder: ResultsFolder, settings: Settings) -> tuple[dict[str, Any], Left] | None:
    """Return what config.json is to say where nothing is left to do, and what there is.

    Found out without starting JAX or reading the data, so only where the settings that decide the
    numbers are word for word those of the folder.

    Args:
        folder: that may hold a study.
        settings: of the command.

    Raises:
        UserError: if the folder holds something else, or more than the settings ask for.
    """
    config = going_on.config_as_before(folder, STUDY, settings.as_json())
    if config is None or not _is_of_its_runs(folder, config):
        return None
    left = left_in(folder, settings, identity_of(config), config["seeds_at_once"])
    return (config, left) if left.nothing else None


def _is_of_its_runs(folder: ResultsFolder, config: Config) -> bool:
    """Tell whether a run file has the identity that config.json has; or there is none.

    Text is easily edited, a run file is not: where they disagree, config.json is not believed.
    """
    own, found = identity_of(config), False
    for identity in run_store.identities(folder.path):
        if identity == own:
            return True
        found = True
    return not found


def go_on(
    folder: ResultsFolder, settings: Settings, config: dict[str, Any], together: Together
) -> tuple[dict[str, Any], Left]:
    """Return what config.json is to say, and what is left to do; nothing is changed.

    Args:
        folder: that may hold a study.
        settings: of the command.
        config: of a study that begins now.
        together: how many runs train together.

    Raises:
        UserError: if the folder's study has other settings, or was computed with something else and
            is not finished.
    """
    old, new = going_on.config_of(folder, STUDY), identity_of(config)
    if old is not None and not _is_of_its_runs(folder, old):
        old = None
    before = _most_common(folder) if old is None else identity_of(old)
    damaged: list[Damaged] = []
    if before is None:
        tables = (RESULTS, PREDICTIONS, FIRST_PREDICTIONS, TIMING)
        damaged, before = going_on.of_unknown(folder, folder.read_results, tables), new
    elif old is None:
        going_on.whole(folder, CONFIG, partial(_refuse_config, folder), damaged)
    changed = going_on.differences(before.settings, new.settings)
    if old is None:  # else `finished` has compared them
        changed += _shrunk(folder, before, settings)
    if old is not None and together.each > 1:  # the first seed trains alone: it has other bits
        first = ({"--first-seed": c["settings"]["first_seed"]} for c in (old, config))
        changed += going_on.differences(*first)
    going_on.refuse(changed, folder.path)
    left = left_in(folder, settings, before, together.runs, damaged)
    to_compute = bool(left.groups or left.timing)
    return going_on.config_to_write(old, before, config, STUDY, folder.path, to_compute), left


def _most_common(folder: ResultsFolder) -> Identity | None:
    """Return the identity that most run files have, if there are any."""
    found = list(run_store.identities(folder.path))
    return max(found, key=found.count, default=None)


def _shrunk(folder: ResultsFolder, identity: Identity, settings: Settings) -> list[str]:
    """Return which settings ask for less than the run files have, as `going_on.shrunk`."""
    records = run_store.scan(folder.path, identity, lambda group, epoch: True, [])
    if not records:
        return []
    seeds = [seed for group in records for seed in group.seeds]
    variants = {group.variant for group in records}
    there = {
        "variants": [name for name in VARIANTS if name in variants],
        "first_seed": min(seeds),
        "seeds": max(seeds) + 1 - min(seeds),
        "epochs": max(record.epoch for record in records.values()),
    }
    return going_on.shrunk(there, settings.as_json(), STUDY.lists)


def _refuse_config(folder: ResultsFolder) -> NoReturn:
    raise UserError(f"{folder.path / CONFIG}: expected the config.json of the runs in {RUNS}")

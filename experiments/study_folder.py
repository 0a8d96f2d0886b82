"""A study's folder between two starts of the program: whose it is, and what it still lacks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from experiments import going_on, run_store
from experiments.ablate_settings import Settings
from experiments.cli import UserError
from experiments.going_on import Config, Identity, Kind, Say
from experiments.results import (
    CONFIG,
    FIRST_PREDICTIONS,
    PREDICTIONS,
    RESULTS,
    RUNS,
    TEST_SET,
    TIMING,
    ResultsFolder,
    TimingRow,
)
from experiments.run_store import Group, Records
from experiments.study import plan
from experiments.together import Together

PROGRAM = "experiments.ablate"
#: The settings that decide a run's numbers.
DECIDE = ("batch_size", "learning_rate", "precision", "seeds_at_once")
#: All from which it follows what decides them, without looking at the data and the machine.
WORDS = ("dataset", "data_dir", "train_size", "devices", *DECIDE)


def identity_of(config: Config) -> Identity:
    """Return what decides the numbers of a study with this config.json."""
    return going_on.identity_of(config, DECIDE)


STUDY = Kind(PROGRAM, identity_of, WORDS)


@dataclass(frozen=True)
class Left:
    """What is left to do in a folder.

    Attributes:
        records: of the groups that are there, finished or not.
        groups: that are to be trained, or trained on.
        timing: whether variants are to be timed.
        test_set: whether the test set is to be written.
    """

    records: Records
    groups: list[Group]
    timing: bool
    test_set: bool

    @property
    def nothing(self) -> bool:
        """Whether everything is there."""
        return not (self.groups or self.timing or self.test_set)


def left_in(
    folder: ResultsFolder, settings: Settings, identity: Identity, width: int, say: Say
) -> Left:
    """Return what is left to do, and set aside files that are damaged or another study's.

    Args:
        folder: of the study.
        settings: of the study.
        identity: of its runs.
        width: how many runs train together.
        say: prints a line; it gets one for each file that is set aside.
    """

    def wanted(group: Group, epoch: int) -> bool:
        here = group.variant in settings.variants and set(group.seeds) <= set(settings.all_seeds)
        return here and epoch <= settings.epochs

    records = run_store.scan(folder.path, identity, wanted, say)
    going_on.set_aside_damaged(folder, _readers(folder, records), say)
    return Left(
        records,
        plan(records, settings.variants, settings.all_seeds, settings.epochs, width),
        timing=len(whole_repeats(folder, settings)) < settings.timing_repeats,
        test_set=not folder.has(TEST_SET),
    )


def _readers(folder: ResultsFolder, records: Records) -> dict[str, Callable[[], object]]:
    """Return what reads each file that is kept, or that is made from the run files."""

    def results() -> None:
        if folder.read_results() and not records:
            raise UserError(f"{folder.path / RESULTS}: expected only runs that {RUNS} has, too")

    return {
        RESULTS: results,
        TIMING: folder.read_timing,
        **{
            name: partial(folder.read_predictions, name)
            for name in (PREDICTIONS, FIRST_PREDICTIONS)
        },
        TEST_SET: folder.read_test_set,
    }


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


def finished_config(folder: ResultsFolder, settings: Settings, say: Say) -> dict[str, Any] | None:
    """Return the config.json of a folder in which nothing is left to do, with these settings.

    Found out without starting JAX or reading the data, so only where the settings that decide the
    numbers are word for word those of the folder.

    Args:
        folder: that may hold a study.
        settings: of the command.
        say: prints a line; it gets one for each file that is set aside.

    Raises:
        UserError: if the folder holds something else, or more than the settings ask for.
    """
    config = going_on.config_as_before(folder, STUDY, settings.as_json())
    if config is None or not _is_of_its_runs(folder, config):
        return None
    left = left_in(folder, settings, identity_of(config), config["seeds_at_once"], say)
    if not left.nothing:
        return None
    write_tables(folder, settings, left.records)
    return config


def _is_of_its_runs(folder: ResultsFolder, config: Config) -> bool:
    """Tell whether a run file has the identity that config.json has; or there is none.

    Text is easily edited, a run file is not: where they disagree, config.json is not believed.
    """
    own = identity_of(config)
    found = list(run_store.identities(folder.path))
    return not found or own in found


def go_on(
    folder: ResultsFolder, settings: Settings, config: dict[str, Any], together: Together, say: Say
) -> tuple[dict[str, Any], Left]:
    """Return what config.json is to say, and what is left to do.

    Args:
        folder: that may hold a study.
        settings: of the command.
        config: of a study that begins now.
        together: how many runs train together.
        say: prints a line; it gets one for each file that is set aside.

    Raises:
        UserError: if the folder's study has other settings, or was computed with something else and
            is not finished.
    """
    old, new = going_on.config_of(folder, STUDY), identity_of(config)
    if old is not None and not _is_of_its_runs(folder, old):
        old = None
    before = _most_common(folder) if old is None else identity_of(old)
    if before is None:
        going_on.begin_anew(folder, folder.read_results, (RESULTS, TIMING), say)
        before = new
    changed = going_on.differences(before.settings, new.settings)
    if old is not None and together.each > 1:  # the first seed trains alone: it has other bits
        first = ({"--first-seed": c["settings"]["first_seed"]} for c in (old, config))
        changed += going_on.differences(*first)
    going_on.refuse(changed, folder.path)
    if old is None:
        going_on.set_aside_damaged(folder, {CONFIG: partial(_refuse_config, folder)}, say)
    left = left_in(folder, settings, before, together.runs, say)
    to_compute = bool(left.groups or left.timing)
    return going_on.config_to_write(old, before, config, STUDY, folder.path, to_compute), left


def _most_common(folder: ResultsFolder) -> Identity | None:
    """Return the identity that most run files have, if there are any."""
    found = list(run_store.identities(folder.path))
    return max(found, key=found.count, default=None)


def _refuse_config(folder: ResultsFolder) -> NoReturn:
    raise UserError(f"{folder.path / CONFIG}: expected the config.json of the runs in {RUNS}")

"""A sweep's folder between two starts: whose it is, and which of its runs are left to train."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

from experiments import going_on, study_config, sweep_store
from experiments.cli import UserError
from experiments.going_on import Config, Damaged, Identity, Kind, Say
from experiments.results import PREDICTIONS
from experiments.sweep_files import BEGUN, ROWS, Outcome, SweepFolder
from experiments.sweep_results import PROGRAM, Candidates, Run, SweepRow
from experiments.sweep_settings import Settings
from experiments.sweep_store import Begun

#: The settings that decide a run's row; and all from which it follows what decides them.
DECIDE = ("epochs", "batch_size", "learning_rate", "precision", "runs_at_once")
WORDS = ("dataset", "data_dir", "train_size", "devices", *DECIDE)
LISTS = ("variants", "layers", "dropout_rates", "learning_rates")


class Found(NamedTuple):
    """The runs of a sweep that are in its folder.

    Attributes:
        outcomes: of those that are finished.
        begun: those that are in training; None where there are none.
        identity: what decides their numbers.
        again: how many have a row but no predictions.
        damaged: files that are to be set aside once nothing refuses the start.
    """

    outcomes: dict[Run, Outcome]
    begun: Begun | None
    identity: Identity
    again: int
    damaged: list[Damaged]


def runs_of(candidates: Sequence[Candidates], seeds: range) -> list[Run]:
    """Return one model's runs, seed by seed; one for several layers comes once.

    >>> settings = Settings(dropout_rates=(0.5,), layers=("drop7",), variants=("LeNet",))
    >>> [(run.point.drop7, run.seed) for run in runs_of(settings.candidates, range(2))]
    [(0.0, 0), (0.5, 0), (0.0, 1), (0.5, 1)]
    """
    points = dict.fromkeys(c.point(rate) for c in candidates for rate in c.rates)
    return [Run(point, seed) for seed in seeds for point in points]


def runs_by_variant(settings: Settings) -> dict[str, list[Run]]:
    """Return a sweep's runs by model, in the order of sweep.csv."""
    return {
        variant: runs_of(
            [c for c in settings.candidates if c.variant == variant], settings.all_seeds
        )
        for variant in settings.variants
    }


def all_runs(settings: Settings) -> list[Run]:
    """Return a sweep's runs in the order of sweep.csv, model after model."""
    return [run for own in runs_by_variant(settings).values() for run in own]


def identity_of(config: Config) -> Identity:
    """Return what decides the numbers of a sweep with this config.json."""
    return going_on.identity_of(config, DECIDE)


SWEEP = Kind(PROGRAM, identity_of, WORDS, LISTS, study_config.check_sweep)


def find_runs(
    folder: SweepFolder, settings: Settings, identity: Identity, known: Sequence[Damaged] = ()
) -> Found:
    """Return the runs that are in a folder; nothing is changed, as the start may yet be refused.

    Args:
        folder: of the sweep.
        settings: of the sweep.
        identity: that its runs have.
        known: files that are known to be damaged; others are looked for.
    """
    damaged, wanted = list(known), runs_by_variant(settings)

    def read() -> dict[Run, SweepRow]:
        rows = folder.read_runs()
        if not rows.keys() <= set(itertools.chain.from_iterable(wanted.values())):
            raise UserError(f"{folder.path / ROWS}: expected no runs but this sweep's")
        return rows

    rows = going_on.whole(folder, ROWS, read, damaged) or {}
    answers = going_on.whole(folder, PREDICTIONS, partial(folder.read_answers, rows), damaged)
    predictions = answers.predictions if answers else {}
    outcomes = {
        run: Outcome(row, predictions[run]) for run, row in rows.items() if run in predictions
    }
    begun = sweep_store.read(folder, identity, wanted, outcomes, damaged)
    return Found(outcomes, begun, identity, len(rows) - len(outcomes), damaged)


def settle(folder: SweepFolder, found: Found, say: Say) -> None:
    """Set aside what is damaged, and remove what is done with: nothing refuses the start now.

    Args:
        folder: of the sweep.
        found: in it.
        say: prints a line; it gets one for each file that is set aside.
    """
    going_on.set_aside(found.damaged, say)
    if found.again:
        rows = f"{found.again} of the {found.again + len(found.outcomes)} runs in"
        say(
            f"{rows} {folder.path / ROWS} have no predictions in {PREDICTIONS}, and are trained"
            " again"
        )
    if found.begun is None and folder.has(BEGUN):  # of runs that are finished
        sweep_store.remove(folder)


def with_candidates(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return a config.json that says among which rates is chosen."""
    return config | {"candidates": [asdict(c) for c in settings.candidates]}


def is_finished(folder: SweepFolder, settings: Settings, say: Say) -> bool:
    """Tell whether no run is left to train, and if so write config.json as the settings are now.

    Found out without starting JAX or reading the data, so only where the settings that decide the
    numbers are word for word those of the folder.

    Raises:
        UserError: if the folder holds something else, or more than the settings ask for.
    """
    SweepFolder.open(folder.path, overwrite=False)
    new, rates = settings.as_json(), settings.candidates[0].rates  # with the baseline
    name = "dropout_rates" if settings.learning_rates is None else "learning_rates"
    config = going_on.config_as_before(folder, SWEEP, new, asked=new | {name: list(rates)})
    if config is None:
        return False
    found = find_runs(folder, settings, identity_of(config))
    if len(found.outcomes) < len(all_runs(settings)):
        return False
    settle(folder, found, say)
    say(f"Nothing is left to train in {folder.path}: it is drawn again")
    folder.write_config(with_candidates(config, settings))
    return True


def begin(settings: Settings, config: dict[str, Any]) -> tuple[dict[str, Any], Found]:
    """Return the same as `go_on` where nothing counts that is in the folder."""
    return with_candidates(config, settings), Found({}, None, identity_of(config), 0, [])


def go_on(
    folder: SweepFolder, settings: Settings, config: dict[str, Any]
) -> tuple[dict[str, Any], Found]:
    """Return what config.json is to say, and the runs that are in the folder; see `settle`.

    Args:
        folder: that may hold a sweep.
        settings: of the command.
        config: of a sweep that begins now.

    Raises:
        UserError: if the folder's runs have other settings, or were computed with something else.
    """

    def read() -> object:
        return sweep_store.has_runs(folder) or folder.read_runs()

    old, before, unknown = going_on.agreed(folder, SWEEP, config, read, ROWS)
    found = find_runs(folder, settings, before, unknown)
    left = len(found.outcomes) < len(all_runs(settings))
    config = going_on.config_to_write(old, before, config, SWEEP, folder.path, left)
    return with_candidates(config, settings), found

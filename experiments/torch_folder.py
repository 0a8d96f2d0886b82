"""The PyTorch baseline's folder between two starts: which of its runs are finished.

Nothing is kept of a run but its rows of results.csv, so that one that was stopped begins again.
"""

from typing import Any

from experiments import going_on
from experiments.cli import UserError
from experiments.going_on import Config, Identity, Kind, Say
from experiments.results import RESULTS, ResultsFolder, Row
from experiments.settings import StudySettings
from experiments.summary import finished_runs

PROGRAM = "experiments.torch_baseline"
#: The settings that decide a run's rows; and all from which it follows what decides them.
DECIDE = ("epochs", "batch_size", "learning_rate", "loader")
WORDS = ("dataset", "data_dir", "train_size", "device", *DECIDE)


def identity_of(config: Config) -> Identity:
    """Return what decides the numbers of a folder with this config.json."""
    return going_on.identity_of(config, DECIDE)


BASELINE = Kind(PROGRAM, identity_of, WORDS)


def finished_rows(folder: ResultsFolder, settings: StudySettings, say: Say) -> list[Row]:
    """Return the rows of the runs that are finished, having set aside a damaged results.csv."""
    runs = {(variant, seed) for variant in settings.variants for seed in settings.all_seeds}

    def read() -> list[Row]:
        rows = folder.read_results()
        if not {(row.variant, row.seed) for row in rows} <= runs:
            raise UserError(f"{folder.path / RESULTS}: expected no runs but this study's")
        return rows

    going_on.set_aside_damaged(folder, {RESULTS: read}, say)
    finished = finished_runs(read() if folder.has(RESULTS) else [], settings.epochs)
    return [row for v in settings.variants for run in finished.get(v, {}).values() for row in run]


def all_rows(folder: ResultsFolder, settings: StudySettings, say: Say) -> list[Row] | None:
    """Return the rows of a folder in which all runs of these settings are finished.

    Raises:
        UserError: if the folder holds something else, or more than the settings ask for.
    """
    ResultsFolder.open(folder.path, overwrite=False)
    config = going_on.config_as_before(folder, BASELINE, settings.as_json())
    if config is None:
        return None
    rows = finished_rows(folder, settings, say)
    if _is_incomplete(rows, settings):
        return None
    say(f"Nothing is left to train in {folder.path}")
    folder.write_config(config)
    return rows


def _is_incomplete(rows: list[Row], settings: StudySettings) -> bool:
    return len(rows) < settings.epochs * settings.seeds * len(settings.variants)


def go_on(
    folder: ResultsFolder, settings: StudySettings, config: dict[str, Any], say: Say
) -> list[Row]:
    """Write config.json, and return the rows of the runs that are finished.

    Raises:
        UserError: if the folder's runs have other settings, or were computed with something else.
    """
    old, before = going_on.agreed(folder, BASELINE, config, folder.read_results, RESULTS, say)
    rows = finished_rows(folder, settings, say)
    left = _is_incomplete(rows, settings)
    folder.write_config(going_on.config_to_write(old, before, config, BASELINE, folder.path, left))
    return rows

"""The report's experiment: LeNet-5 with and without batch norm and dropout, from many seeds.

    python -m experiments.ablate

trains the six variants on MNIST from ten seeds and leaves in ``results`` what they did, the
report's charts, and the answers to its five conclusions: summary.json, and report.html to read.
Stopped at whatever moment, the same command goes on from the last finished epoch of each run.
On two cores of an AMD EPYC server an epoch of a run takes 1.4 to 1.7 s, and there are 600. To
expect: a last epoch near 97.6% (LeNet), 98.6% (LeNet_BN_noDropout), 97.1% (LeNet_noBN_Dropout),
98.4% (LeNet_BN_Dropout), 97.4% (LeNet_noBN_drop6) and 98.6% (LeNet_BN_drop6).
"""

import sys
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from experiments import cli, durable, environment, kept_sweeps, label_errors, report, study_folder
from experiments.ablate_settings import Settings
from experiments.lock import one_writer
from experiments.progress import Display, say, say_results, say_source
from experiments.results import CONFIG, REPORT, RUNS, LabelledImages, ResultsFolder
from experiments.study import Study, check_room
from experiments.study_folder import PROGRAM, Left, identity_of
from jax_lenet import Dataset


def labelled(data: Dataset) -> LabelledImages:
    """Return the test set as the results folder keeps it."""
    wrong = label_errors.find(data.test_images)
    return LabelledImages(data.test_images, data.test_labels.astype(np.uint8), wrong)


def main(settings: Settings) -> None:
    """Run the study, or what is left of it."""
    settings.check()
    console = cli.console()
    with one_writer(settings.out):
        folder = ResultsFolder(settings.out)
        if settings.overwrite or not redraws(folder, settings, console):
            work(folder, settings, console)
        curves, summary = draw(folder)
        say_results(console, curves, folder, summary["verdicts"])


def draw(folder: ResultsFolder) -> report.Remade:
    """Write all that is made from the files; if they have gone, the user made no mistake."""
    try:
        return report.remake(folder)
    except cli.UserError as error:
        if folder.has(CONFIG):
            raise
        raise cli.StorageError(folder.path / REPORT, "its files are gone") from error


def redraws(folder: ResultsFolder, settings: Settings, console: Console) -> bool:
    """Tell whether nothing is left but to draw; then everything else is as the settings say."""
    ResultsFolder.open(folder.path, overwrite=False)
    config = study_folder.finished_config(folder, settings, partial(say, console))
    if config is None:
        return False
    if config["data"].get("notice"):
        say(console, f"Note: {config['data']['notice']}")
    say(console, f"Nothing is left to train in {folder.path}: it is drawn again")
    write_settings(folder, settings, config)
    return True


def write_settings(folder: ResultsFolder, settings: Settings, config: dict[str, Any]) -> None:
    """Write config.json, and the sweeps where some are given."""
    sweeps = kept_sweeps.load(settings.sweep, config)
    folder.write_config(config)
    if sweeps:
        folder.write_sweeps(sweeps)


def work(folder: ResultsFolder, settings: Settings, console: Console) -> None:
    """Train and time what is left, once the folder and the settings agree."""
    data = settings.load()
    cache = settings.start_jax()
    config = {
        "title": "LeNet-5 on MNIST: batch norm and dropout",
        "program": PROGRAM,
        "settings": settings.as_json(),
        "seeds_at_once": settings.width,
        "data": environment.data_facts(data),
        "device": environment.jax_device(),
        "machine": environment.machine(),
        "versions": environment.versions(),
        "compilation_cache": cache.facts(),
    }
    kept_sweeps.load(settings.sweep, config)  # what is wrong with one, before anything is replaced
    ResultsFolder.open(folder.path, settings.overwrite)
    config, left = study_folder.go_on(folder, settings, config, partial(say, console))
    check_room(folder, sum(len(group.seeds) for group in left.groups), settings.width)
    durable.make_folder(folder.path / RUNS)
    write_settings(folder, settings, config)
    folder.write_test_set(labelled(data))
    study_folder.write_tables(folder, settings, left.records)
    say_source(console, data)
    if left.groups or left.timing:
        train(folder, settings, config, left, data, console)
        # Now with what it served.
        folder.write_config(config | {"compilation_cache": cache.facts()})


def train(
    folder: ResultsFolder,
    settings: Settings,
    config: dict[str, Any],
    left: Left,
    data: Dataset,
    console: Console,
) -> None:
    """Train the first seed of every variant, draw, time, and train the others."""
    done = [row for record in left.records.values() for row in record.rows]
    first = [group for group in left.groups if group.seeds[0] == settings.first_seed]
    others = [group for group in left.groups if group not in first]
    with Display(console, settings.variants, settings.seeds, settings.epochs, done) as display:
        study = Study(settings, identity_of(config), data, folder, left.records, display)
        for group in first:
            study.train_group(group)
        if first and others:  # the report's own experiment is done
            draw(folder)
        study.time_alone(study_folder.whole_repeats(folder, settings))
        for group in others:
            study.train_group(group)


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "ablate"))

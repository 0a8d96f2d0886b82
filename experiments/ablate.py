"""The report's experiment: LeNet-5 with and without batch norm and dropout, from many seeds.

    python -m experiments.ablate

trains the six variants on MNIST from ten seeds and leaves in ``results`` what they did, the
report's charts, and the answers to its five conclusions: summary.json, and report.html to read.
Stopped at whatever moment, the same command goes on from the last finished epoch of each run.
On two cores of an AMD EPYC server an epoch of a run takes 1.4 to 1.7 s, and there are 600. To
expect: a last epoch near 97.6% (LeNet), 98.6% (LeNet_BN_noDropout), 97.2% (LeNet_noBN_Dropout),
98.3% (LeNet_BN_Dropout), 97.5% (LeNet_noBN_drop6) and 98.6% (LeNet_BN_drop6).
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from rich.console import Console

from experiments import (
    cli,
    durable,
    environment,
    going_on,
    kept_sweeps,
    report,
    run_store,
    startup,
    study_folder,
)
from experiments.ablate_settings import Settings
from experiments.going_on import Identity, Say, flag
from experiments.hosts import Follower, Terms, following
from experiments.kept_sweeps import Files
from experiments.launch import Place
from experiments.leader import Leader, Share, Task, leading
from experiments.lock import one_writer
from experiments.process_memory import peak_rss_bytes
from experiments.progress import Display, say, say_results, say_source
from experiments.results import REPORT, RUNS, ResultsFolder
from experiments.run_store import RunFile
from experiments.startup import CompilationCache
from experiments.study import Book, Study, check_room
from experiments.study_folder import PROGRAM, Left, identity_of
from experiments.tested_images import labelled
from experiments.together import Together
from jax_lenet import Dataset


def main(settings: Settings) -> None:
    """Run the study, or what is left of it; or, for another process, some of its runs."""
    settings.check()
    console, place = cli.console(), settings.place
    if place is not None and place.process_id > 0:
        cli.never_overwrite_again()  # that is process 0's, which may have done it by now
        with following("ablate", place, partial(say, console)) as follower:
            follow(settings, place, follower, console)
        return
    with leading("ablate", place) as leader:
        with one_writer(settings.out):
            folder = ResultsFolder(settings.out)
            if settings.overwrite or not redraws(folder, settings, console):
                work(folder, settings, leader, console)
            curves, summary = draw(folder)
            say_results(console, curves, folder, summary["verdicts"])
        leader.dismiss(partial(say, console))


def draw(folder: ResultsFolder) -> report.Remade:
    """Write all that is made from the files."""
    with going_on.drawn_from(folder, REPORT), startup.returning_memory():
        return report.remake(folder)


def redraws(folder: ResultsFolder, settings: Settings, console: Console) -> bool:
    """Tell whether nothing is left but to draw; then everything else is as the settings say."""
    ResultsFolder.open(folder.path, overwrite=False)
    found = study_folder.finished(folder, settings)
    if found is None:
        return False
    config, left = found
    sweeps = kept_sweeps.load(settings.sweep, config, left.sweeps)
    going_on.set_aside(left.damaged, partial(say, console))
    if config["data"].get("notice"):
        say(console, f"Note: {config['data']['notice']}")
    say(console, f"Nothing is left to train in {folder.path}: it is drawn again")
    study_folder.write_tables(folder, settings, left.records)
    write_settings(folder, config, sweeps, partial(say, console))
    return True


def write_settings(
    folder: ResultsFolder, config: dict[str, Any], sweeps: Sequence[Files], out: Say
) -> None:
    """Write config.json, and the sweeps where some are given."""
    folder.write_config(config)
    if sweeps:
        kept_sweeps.keep(folder, sweeps, out)


def describe(
    settings: Settings, data: Dataset, together: Together, cache: CompilationCache
) -> dict[str, Any]:
    """Return the config.json of a study that begins now."""
    return {
        "title": "LeNet-5 on MNIST: batch norm and dropout",
        "program": PROGRAM,
        "settings": settings.as_json(),
        "seeds_at_once": together.each,
        "data": environment.data_facts(data),
        "device": environment.jax_device(),
        "machine": environment.machine(),
        "versions": environment.versions(),
        "compilation_cache": cache.facts(),
    }


def work(folder: ResultsFolder, settings: Settings, leader: Leader, console: Console) -> None:
    """Train and time what is left, once the folder and the settings agree."""
    data = settings.load()
    test_set = labelled(data)
    cache = settings.start_jax()
    out = partial(say, console)
    together = settings.together(data, out)
    config = describe(settings, data, together, cache)
    beside = []
    if settings.overwrite:
        kept_sweeps.check_outside(settings.sweep, folder)
    else:
        beside, _ = kept_sweeps.sound(folder)
    sweeps = kept_sweeps.load(settings.sweep, config, beside)
    ResultsFolder.open(folder.path, settings.overwrite)
    if settings.overwrite:
        left = study_folder.everything(settings, together.runs)
    else:
        config, left = study_folder.go_on(folder, settings, config, together)
    runs = sum(len(group.seeds) for group in left.groups)
    check_room(folder, runs, together.runs, settings.overwrite)
    if settings.overwrite:
        folder.clear()
    going_on.set_aside(left.damaged, out)  # from here on nothing refuses the start
    durable.make_folder(folder.path / RUNS)
    write_settings(folder, config, sweeps, out)
    folder.write_test_set(test_set)
    study_folder.write_tables(folder, settings, left.records)
    say_source(console, data)
    if left.groups or left.timing:
        done = [row for record in left.records.values() for row in record.rows]
        with Display(console, settings.variants, settings.seeds, settings.epochs, done) as display:
            identity = identity_of(config)
            study = Study(settings, identity, data, together, display.now)
            train(study, Book(settings, identity, folder, left.records, display), left, leader)
        # Now with what it served, and what all took.
        used = {"compilation_cache": cache.facts(), "peak_rss_bytes": peak_rss_bytes()}
        folder.write_config(config | used)


def train(study: Study, book: Book, left: Left, leader: Leader) -> None:
    """Train the first seed of every variant, draw, time, and train the others.

    Other processes train others from the beginning, and of the first seed what they find left. They
    may be on this machine, so that nothing is timed before they are done.
    """
    folder, settings = book.folder, study.settings
    share = Share(left.groups, settings.first_seed)

    def train_next(first: bool) -> bool:
        group = leader.take(first)
        if group is not None:
            study.train_group(group, book.start(group), keep)
        return group is not None

    def keep(run: RunFile) -> None:
        book.keep(run)
        book.note(leader.given())

    def time_alone() -> None:
        for rows in study.time_alone(study_folder.whole_repeats(folder, settings)):
            folder.write_timing(rows)
            leader.check()

    with leader.working(Task(terms(settings, study.identity), share, book.content, book.store)):
        new = False
        while train_next(first=True):
            new = True
        others = any(group.seeds[0] != settings.first_seed for group in left.groups)
        if new and others and book.has_each_variant:  # the report's own experiment is done
            draw(folder)
        if leader.alone:
            time_alone()
        while train_next(first=False):
            pass
        for given in leader.wait():
            book.note(given)
        if not leader.alone:
            time_alone()


def terms(settings: Settings, identity: Identity) -> Terms:
    """Return what must be the same in all processes."""
    names = ("first_seed", "seeds", "epochs", "variants")
    asked = {flag(name): settings.as_json()[name] for name in names}
    # A group is for as many devices as process 0 has.
    devices = {"number of devices": environment.jax_device()["count"]}
    return identity.settings | asked | identity.environment | devices


def follow(settings: Settings, place: Place, follower: Follower, console: Console) -> None:
    """Train what process 0 says, and send it what that gives."""
    data = settings.load()
    cache = settings.start_jax()
    together = settings.together(data, partial(say, console))
    identity = identity_of(describe(settings, data, together, cache))
    agreed, groups = terms(settings, identity), 0
    study: Study | None = None
    while work := follower.take(agreed):
        study = study or Study(settings, identity, data, together, now=lambda text: None)
        start = run_store.decode(work.start) if work.start else None
        study.train_group(work.group, start, lambda run: follower.give(run_store.encode(run)))
        groups += 1
    trained = f"{groups} groups of runs for process 0 at {place.address}"
    say(console, f"Process {place.process_id} of {place.processes} has trained {trained}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "ablate"))

"""Which dropout rate is right for LeNet-5, and which learning rate?

    python -m experiments.sweep

trains with dropout rates 0 to 0.8 in drop6, in drop7 and in both, with and without batch norm,
from eight seeds: 400 runs (rate 0 is one run for all three choices of layers) of ten epochs. On two
cores of an AMD EPYC server, at 1 to 1.6 seconds an epoch and run, that takes an hour and a quarter
to an hour and three quarters; half of it with ``--seeds 4``, a third with ``--layers drop6``.

    python -m experiments.sweep --learning-rates 0.003 0.01 0.03 0.1 0.3 --out results-learning-rate

trains LeNet and LeNet_BN_noDropout with these learning rates instead: 80 runs, a quarter of an hour
or somewhat more. Both leave in the folder what each run ends with, the rate that the validation
images choose, its test accuracy beside the baseline's, and a chart. Stopped at whatever moment, the
same command goes on after the last finished epoch.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from time import perf_counter

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments import cli, durable, environment, going_on, signals, startup, sweep_store
from experiments.kept_state import RUN_BYTES
from experiments.lock import one_writer
from experiments.progress import say, say_source
from experiments.report import SOURCES
from experiments.sweep_files import FIGURE, Outcome, SweepFolder, read
from experiments.sweep_folder import (
    Found,
    all_runs,
    begin,
    go_on,
    is_finished,
    runs_by_variant,
    settle,
)
from experiments.sweep_progress import Display, say_curves
from experiments.sweep_results import PROGRAM, Run, Sweep, SweepRow, summarize
from experiments.sweep_settings import Settings
from experiments.sweep_store import Begun, Progress
from experiments.together import Together
from jax_lenet import VARIANTS, Dataset, Examples, Hyperparameters, Programs, split
from jax_lenet.ensemble import Placed, compile_programs, devices_for
from jax_lenet.fitting import fill_places, without_places
from jax_lenet.training import examples, prepare_examples

#: Bytes that sweep.csv and what is drawn from it take on disk; rounded up.
DRAWN_BYTES = 2_000_000


def groups_of(runs: Sequence[Run], width: int) -> Iterator[Sequence[Run]]:
    """Yield runs in groups that train together."""
    for start in range(0, len(runs), width):
        yield runs[start : start + width]


@dataclass(frozen=True)
class Data:
    """The examples of a sweep, prepared for all models.

    Attributes:
        train: to train on.
        held_out: the validation images, then the test images: one program looks at both, once.
        labels: of the held-out images, on the host, ``[validation + test]``.
        validation: how many of them are validation images.
        together: how many runs train together.
    """

    train: Examples
    held_out: Examples
    labels: np.ndarray
    validation: int
    together: Together

    @classmethod
    def of(cls, data: Dataset, settings: Settings, together: Together) -> "Data":
        """Prepare a data set, and put it where the programs want it."""
        labels = np.concatenate([data.validation_labels, data.test_labels])
        images = np.concatenate([data.validation_images, data.test_images])
        moments = any(VARIANTS[name].batch_norm for name in settings.variants)
        train = prepare_examples(examples(data.train_images, data.train_labels), moments)
        held_out = prepare_examples(examples(images, labels), moments=False)
        train, held_out = split.spread(train, held_out, jax.local_device_count())
        return cls(train, held_out, labels, len(data.validation_labels), together)


def compile_for(settings: Settings, variant: str, data: Data, runs: int) -> Programs:
    """Compile what trains so many runs of one model, whatever their rates and seeds."""
    sizes = len(data.train.labels), len(data.labels)
    with startup.returning_memory():
        return compile_programs(
            VARIANTS[variant].clone(precision=settings.precision),
            data.train,
            data.held_out,
            runs=runs,
            batch_size=settings.batch_size,
            traced_dropout=settings.learning_rates is None,
            devices=devices_for(runs, *sizes, settings.batch_size),
        )


def train_group(
    programs: Programs,
    placed: Placed,
    data: Data,
    group: Sequence[Run],
    epochs: int,
    save: Callable[[Progress], None] = lambda _: None,
    start: Progress | None = None,
) -> list[Outcome]:
    """Train a group of runs to the end, and only then test them.

    `fit` tests after every epoch, which here would take an eighth of the time for nothing: what
    counts is the last epoch. A signal ends the group after the current one.

    Args:
        programs: for at least as many runs; the places that are left train the last run again, so
            that one compiled function serves every group.
        placed: by the programs.
        data: what was placed.
        group: the runs.
        epochs: at least 1.
        save: called after each epoch with what ``start`` takes. The next epoch writes over the
            memory of its state: copy what is to be kept.
        start: earlier epochs of these runs, which are not trained again; its arrays may be NumPy's.
    """
    begin, runs = perf_counter(), len(group)
    padded = [*group, *repeat(group[-1], programs.runs - runs)]
    seeds, hyperparameters = split.place_runs(_arrays(padded, programs), programs.mesh)
    if start is None:
        losses, state = np.empty((0, runs), np.float32), programs.init(seeds)
    else:
        losses, begin = start.losses, begin - start.seconds
        state = split.place_runs(fill_places(start.state, programs.runs), programs.mesh)
    for _ in range(len(losses), epochs):
        state, loss = programs.epoch(hyperparameters, state, placed.train, seeds)
        losses = np.concatenate([losses, np.asarray(loss)[np.newaxis, :runs]])
        save(Progress(losses, perf_counter() - begin, without_places(state, runs)))
        signals.check()
    trained = programs.evaluate_train(state.variables, placed.check)
    held_out = programs.evaluate_test(state.variables, placed.test)
    predictions = np.asarray(held_out.predictions)
    right = predictions == data.labels
    finite = np.all(np.isfinite([*losses, np.asarray(held_out.loss)[:runs]]), axis=0)
    seconds = round((perf_counter() - begin) / runs, 6)
    return [
        Outcome(
            SweepRow(
                *run.point,
                seed=run.seed,
                train_loss=losses[-1][i],
                train_accuracy=trained.accuracy[i],
                validation_accuracy=right[i][: data.validation].mean(),
                test_accuracy=right[i][data.validation :].mean(),
                diverged=int(not finite[i]),
                seconds=seconds,
            ),
            predictions[i][data.validation :],
        )
        for i, run in enumerate(group)
    ]


def _arrays(runs: Sequence[Run], programs: Programs) -> tuple[jax.Array, Hyperparameters]:
    """Return the seeds and rates of runs as the programs take them, each ``[R]``."""
    points = np.array([run.point for run in runs], np.float32)
    _, drop6, drop7, learning_rate = jnp.asarray(points).T
    dropout = (drop6, drop7) if programs.traced_dropout else None
    seeds = jnp.asarray([run.seed for run in runs], jnp.uint32)
    return seeds, Hyperparameters(learning_rate, dropout)


def left_to_train(
    settings: Settings, found: Found, width: int
) -> Iterator[tuple[str, Sequence[Run], Progress | None]]:
    """Yield what has no row yet, in groups that train together: model, runs, where they stand.

    What is in training comes first: the file that holds it holds one group alone.
    """
    taken = set(found.outcomes)
    if found.begun is not None:
        yield found.begun.variant, found.begun.runs, found.begun.progress
        taken |= set(found.begun.runs)
    for variant, own in runs_by_variant(settings).items():
        for group in groups_of([run for run in own if run not in taken], width):
            yield variant, group, None


def train_all(
    settings: Settings, data: Data, folder: SweepFolder, found: Found, display: Display
) -> None:
    """Train every run that is not finished, and write each as it comes."""
    order, done = all_runs(settings), found.outcomes
    labels = data.labels[data.validation :].astype(np.uint8)
    if found.begun is not None:
        display.epoch(found.begun.progress.losses.size)
    compiled: dict[tuple[str, int], tuple[Programs, Placed]] = {}
    for variant, group, start in left_to_train(settings, found, data.together.runs):
        # What is in training may have begun where there was room for more.
        width = max(data.together.runs, len(group))
        if (variant, width) not in compiled:
            display.now(f"{variant}: compiling")
            programs = compile_for(settings, variant, data, width)
            compiled[variant, width] = programs, programs.place(data.train, data.held_out)
        display.now(f"{variant}: run {len(done) + 1}")

        def save(progress: Progress, variant=variant, runs=tuple(group)) -> None:
            sweep_store.write(folder, Begun(variant, runs, found.identity, progress))
            display.epoch(len(runs))

        with signals.deferred():
            finished = train_group(
                *compiled[variant, width], data, group, settings.epochs, save, start
            )
            done |= dict(zip(group, finished, strict=True))
            folder.write_outcomes([done[run] for run in order if run in done], labels)
            sweep_store.remove(folder)
        display.add([outcome.row for outcome in finished])


def remake(folder: SweepFolder) -> Sweep:
    """Write sweep.json and sweep.png from the other files; return what was drawn."""
    from experiments import sweep_figure  # matplotlib takes a second to import

    sweep = read(folder.path)
    folder.write_sweep_summary(summarize(sweep.curves))
    title, subtitle = sweep.config["title"], _subtitle(sweep.config)
    folder.write_figure(sweep_figure.draw(sweep.curves, title=title, subtitle=subtitle))
    return sweep


def _subtitle(config: dict) -> str:
    settings, sizes = config["settings"], config["data"]["sizes"]
    first, last = settings["first_seed"], settings["first_seed"] + settings["seeds"] - 1
    seeds = f"seed {first}" if first == last else f"seeds {first}-{last}"
    return (
        f"MNIST, {SOURCES[config['data']['kind']]}: {sizes['train']:,} training,"
        f" {sizes['validation']:,} validation, {sizes['test']:,} test images · {settings['epochs']}"
        f" epochs · {seeds}"
    )


def main(settings: Settings) -> None:
    """Run the sweep, or what is left of it."""
    settings.check()
    console = cli.console()
    with one_writer(settings.out):
        folder = SweepFolder(settings.out)
        if settings.overwrite or not is_finished(folder, settings, partial(say, console)):
            work(folder, settings, console)
        with going_on.drawn_from(folder, FIGURE):
            sweep = remake(folder)
        say_curves(console, sweep.curves)
    say(console, f"Results: {folder.path.resolve()}")


def work(folder: SweepFolder, settings: Settings, console: Console) -> None:
    """Train what is left, once the folder and the settings agree."""
    data = settings.load()
    cache = settings.start_jax()
    together = settings.together(data, partial(say, console))
    rate = "dropout rate" if settings.learning_rates is None else "learning rate"
    config = {
        "title": f"LeNet-5 on MNIST: accuracy by {rate}",
        "program": PROGRAM,
        "settings": settings.as_json(),
        "runs_at_once": together.each,
        "data": environment.data_facts(data),
        "device": environment.jax_device(),
        "machine": environment.machine(),
        "versions": environment.versions(),
        "compilation_cache": cache.facts(),
    }
    SweepFolder.open(folder.path, settings.overwrite)
    if settings.overwrite:
        config, found = begin(settings, config)
    else:
        config, found = go_on(folder, settings, config)
    predictions = len(all_runs(settings)) * len(data.test_labels)
    # A file that is replaced takes its room twice for a moment.
    needed = 2 * (together.runs * RUN_BYTES + predictions) + DRAWN_BYTES
    durable.room_for(folder.path, needed - (folder.size() if settings.overwrite else 0))
    if settings.overwrite:
        folder.clear()
    settle(folder, found, partial(say, console))
    folder.write_config(config)
    say_source(console, data)
    if len(found.outcomes) == len(all_runs(settings)):
        return
    rows = [outcome.row for outcome in found.outcomes.values()]
    shown = settings.candidates, settings.seeds, settings.epochs
    with Display(console, *shown, rows) as display:
        train_all(settings, Data.of(data, settings, together), folder, found, display)
    folder.write_config(config | {"compilation_cache": cache.facts()})  # now with what it served


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "sweep"))

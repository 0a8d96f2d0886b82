"""A study while it runs: what is left to train, and the programs and data on the device."""

from collections.abc import Iterator, Sequence

import numpy as np

from experiments import durable, run_store, signals, startup
from experiments.ablate_settings import Settings
from experiments.going_on import Identity
from experiments.progress import Display
from experiments.results import ResultsFolder, TimingRow
from experiments.run_store import Group, Records, RunFile
from jax_lenet import VARIANTS, Dataset, Fit, Programs, examples, fit, prepare_examples
from jax_lenet.ensemble import compile_programs, devices_to_split, spread, time_epoch
from jax_lenet.models import LeNet5

#: Bytes that a run's state takes on disk, and all that is drawn from a study; rounded up.
RUN_BYTES, DRAWN_BYTES = 270_000, 5_000_000


def plan(
    records: Records, variants: Sequence[str], seeds: range, epochs: int, width: int
) -> list[Group]:
    """Return what is left to train: by seed, and of each seed all variants.

    The first seed is alone, the others are as many together as ``width`` says. Groups that have
    begun stay as they are.

    >>> [group.seeds for group in plan({}, ("LeNet",), range(5), epochs=10, width=2)]
    [(0,), (1, 2), (3, 4)]
    """
    groups = [group for group, record in records.items() if record.epoch < epochs]
    for variant in variants:
        begun = {seed for g in records if g.variant == variant for seed in g.seeds}
        left = [seed for seed in seeds if seed not in begun]
        groups += [Group(variant, chunk) for chunk in _chunks(left, seeds[0], width)]
    return sorted(groups, key=lambda group: (group.seeds[0], variants.index(group.variant)))


def _chunks(seeds: Sequence[int], alone: int, width: int) -> Iterator[tuple[int, ...]]:
    """Yield rising seeds in chunks of at most ``width`` that follow each other."""
    chunk: tuple[int, ...] = ()
    for seed in seeds:
        full = len(chunk) == width or alone in chunk
        if chunk and (full or seed != chunk[-1] + 1):
            yield chunk
            chunk = ()
        chunk += (seed,)
    if chunk:
        yield chunk


class Study:
    """The settings with everything that a study holds while it runs.

    Attributes:
        records: what is known of every group, finished or not.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        data: Dataset,
        folder: ResultsFolder,
        records: Records,
        display: Display,
    ):
        """Put the data on the device, prepared once for all models."""
        moments = any(VARIANTS[name].batch_norm for name in settings.variants)
        self.settings = settings
        self.identity = identity
        self.folder = folder
        self.records = dict(records)
        self.display = display
        train = examples(data.train_images, data.train_labels)
        test = examples(data.test_images, data.test_labels)
        train, test = prepare_examples(train, moments), prepare_examples(test, moments=False)
        sizes = len(train.labels), len(test.labels)
        self.devices = devices_to_split(*sizes, settings.batch_size)
        self.train, self.test = spread(train, test, self.devices)
        self._programs: dict[tuple[str, int], Programs] = {}

    def model(self, variant: str) -> LeNet5:
        """Return a variant at the precision asked for."""
        return VARIANTS[variant].clone(precision=self.settings.precision)

    def programs(self, variant: str, width: int) -> Programs:
        """Return a variant's compiled programs; the first call compiles and warms up."""
        if (variant, width) not in self._programs:
            self.display.now(f"{variant}: compiling")
            self._programs[variant, width] = compile_programs(
                self.model(variant),
                self.train,
                self.test,
                runs=width,
                batch_size=self.settings.batch_size,
                devices=self.devices,
            )
            startup.return_memory()
        return self._programs[variant, width]

    def train_group(self, group: Group) -> None:
        """Train a group of runs from where they stand, and write what it gives as it comes.

        A group that is short trains in a program for as many runs as the others have: a run has the
        same bits in any company, but not in any number.
        """
        alone = group.seeds[0] == self.settings.first_seed
        programs = self.programs(group.variant, 1 if alone else self.settings.width)
        self.display.now(group.words)
        start = None
        if group in self.records:
            start = run_store.read(self.folder.path / run_store.RUNS / group.file_name).fit
        with signals.deferred():
            fit(
                self.model(group.variant),
                self.train,
                self.test,
                seeds=group.seeds,
                epochs=self.settings.epochs,
                batch_size=self.settings.batch_size,
                learning_rate=self.settings.learning_rate,
                programs=programs,
                start=start,
                save=lambda done: self._keep(group, done),
            )

    def _keep(self, group: Group, done: Fit) -> None:
        """Write everything that an epoch gives, and only then heed a signal."""
        run = RunFile(group.variant, done, self.identity)
        run_store.write(self.folder.path, run)
        self.records[group] = run.record
        variants, epochs = self.settings.variants, self.settings.epochs
        run_store.write_results(self.folder, self.records, variants)
        if len(done.history) == epochs:
            run_store.write_predictions(self.folder, self.records, variants, epochs)
        self.display.add([row for row in run.record.rows if row.epoch == len(done.history)])
        signals.check()

    def time_alone(self, done: Sequence[Sequence[TimingRow]]) -> None:
        """Time each variant alone, all in every repeat, so that a slow moment hits them all.

        Each repeat has an order of its own: what a variant finds in the caches of the one before it
        would otherwise be a difference that more repeats only make surer.

        Args:
            done: the repeats that are there, which stay.
        """
        rows = [row for repeat in done for row in repeat]
        for repeat in range(len(done) + 1, self.settings.timing_repeats + 1):
            seconds = {}
            for variant in np.random.default_rng(repeat).permutation(self.settings.variants):
                programs = self.programs(str(variant), 1)
                self.display.now(f"{variant}: timed alone, repeat {repeat}")
                seconds[str(variant)] = time_epoch(programs, self.train, self.test)
            rows += [
                TimingRow(variant, repeat, *(round(s, 6) for s in seconds[variant]))
                for variant in self.settings.variants
            ]
            self.folder.write_timing(rows)


def check_room(folder: ResultsFolder, runs: int, width: int) -> None:
    """Raise UserError if the disk has no room for so many runs and what is drawn from them."""
    # A file that is replaced takes its room twice for a moment.
    durable.room_for(folder.path, (runs + width) * RUN_BYTES + DRAWN_BYTES)

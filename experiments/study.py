"""A study while it runs: what is left to train, with what, and where it is kept."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import durable, run_store, signals, startup
from experiments.ablate_settings import Settings
from experiments.going_on import Identity
from experiments.kept_state import RUN_BYTES
from experiments.progress import Display
from experiments.results import ResultsFolder, TimingRow
from experiments.run_store import Group, Record, Records, RunFile
from experiments.together import Together
from jax_lenet import VARIANTS, Dataset, Fit, Programs, examples, fit, prepare_examples, split
from jax_lenet.ensemble import compile_programs, devices_for, time_epoch
from jax_lenet.models import LeNet5

#: Bytes that all that is drawn from a study takes on disk; rounded up.
DRAWN_BYTES = 5_000_000


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
    """The settings with everything that it takes to train."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        data: Dataset,
        together: Together,
        now: Callable[[str], None],
    ):
        """Put the data on the device, prepared once for all models.

        Args:
            settings: of the study.
            identity: of its runs.
            data: as the settings say.
            together: how many runs train together, but for the first seed's.
            now: is told what runs, as it begins.
        """
        moments = any(VARIANTS[name].batch_norm for name in settings.variants)
        self.settings = settings
        self.identity = identity
        self.together = together
        self.now = now
        train = examples(data.train_images, data.train_labels)
        test = examples(data.test_images, data.test_labels)
        train, test = prepare_examples(train, moments), prepare_examples(test, moments=False)
        self.sizes = len(train.labels), len(test.labels)
        self.train, self.test = split.spread(train, test, jax.local_device_count())
        self._programs: dict[tuple[str, int], Programs] = {}

    def model(self, variant: str) -> LeNet5:
        """Return a variant at the precision asked for."""
        return VARIANTS[variant].clone(precision=self.settings.precision)

    def programs(self, variant: str, width: int) -> Programs:
        """Return a variant's compiled programs; the first call compiles and warms up.

        Nothing trains meanwhile. On two cores three epochs of one variant and the compilation of
        another took 6.5 to 7.6 s one after the other, and 6.9 to 7.7 s at the same time.
        """
        if (variant, width) not in self._programs:
            self.now(f"{variant}: compiling")
            with startup.returning_memory():
                self._programs[variant, width] = compile_programs(
                    self.model(variant),
                    self.train,
                    self.test,
                    runs=width,
                    batch_size=self.settings.batch_size,
                    devices=devices_for(width, *self.sizes, self.settings.batch_size),
                )
        return self._programs[variant, width]

    def train_group(
        self, group: Group, start: RunFile | None, keep: Callable[[RunFile], None]
    ) -> None:
        """Train a group of runs from where they stand.

        A group that is short trains in a program for as many runs as the others have: a run has the
        same bits in any company, but not in any number.

        Args:
            group: the runs.
            start: where they stand; None if they begin.
            keep: called with what each epoch gives. Only then is a signal heeded.
        """
        alone = group.seeds[0] == self.settings.first_seed
        # A group may have begun where there was room for more.
        width = 1 if alone else max(self.together.runs, len(group.seeds))
        programs = self.programs(group.variant, width)
        self.now(group.words)

        def save(done: Fit) -> None:
            keep(RunFile(group.variant, done, self.identity))
            signals.check()

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
                start=None if start is None else start.fit,
                save=save,
            )

    def time_alone(self, done: Sequence[Sequence[TimingRow]]) -> Iterator[list[TimingRow]]:
        """Time each variant alone, all in every repeat, so that a slow moment hits them all.

        Each repeat has an order of its own: what a variant finds in the caches of the one before it
        would otherwise be a difference that more repeats only make surer.

        Args:
            done: the repeats that are there, which stay.

        Yields:
            All rows so far, after each repeat.
        """
        rows = [row for repeat in done for row in repeat]
        for repeat in range(len(done) + 1, self.settings.timing_repeats + 1):
            seconds = {}
            for variant in np.random.default_rng(repeat).permutation(self.settings.variants):
                programs = self.programs(str(variant), 1)
                self.now(f"{variant}: timed alone, repeat {repeat}")
                seconds[str(variant)] = time_epoch(programs, self.train, self.test)
            rows += [
                TimingRow(variant, repeat, *(round(s, 6) for s in seconds[variant]))
                for variant in self.settings.variants
            ]
            yield rows


class Book:
    """What is known of a study's runs: kept in its folder, and shown.

    Attributes:
        records: what is known of every group, finished or not.
    """

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        folder: ResultsFolder,
        records: Records,
        display: Display,
    ):
        """Begin with the records of what is in the folder."""
        self.settings = settings
        self.identity = identity
        self.folder = folder
        self.records = dict(records)
        self.display = display

    @property
    def has_each_variant(self) -> bool:
        """Whether there is a finished run of every variant."""
        finished = {g.variant for g, r in self.records.items() if r.epoch == self.settings.epochs}
        return finished >= set(self.settings.variants)

    def path(self, group: Group) -> Path:
        """Return where the file of a group of runs is, or is to be."""
        return self.folder.path / run_store.RUNS / group.file_name

    def start(self, group: Group) -> RunFile | None:
        """Return where a group of runs stands; None if it begins."""
        return run_store.read(self.path(group)) if group in self.records else None

    def content(self, group: Group) -> bytes:
        """Return the same as the content of its file, for another process; empty if it begins."""
        return self.path(group).read_bytes() if group in self.records else b""

    def keep(self, run: RunFile) -> None:
        """Write everything that an epoch gives."""
        run_store.write(self.folder.path, run)
        self.note([(run.group, run.record)])

    def store(self, group: Group, content: bytes) -> tuple[Group, Record]:
        """Write the file of a group that another process trains, and nothing else.

        Args:
            group: the runs.
            content: of their file.

        Returns:
            What `note` takes.

        Raises:
            StorageError: if it can't be written.
            ValueError: if it is the file of other runs.
        """
        run = run_store.decode(content)
        if (run.group, run.identity) != (group, self.identity):
            raise ValueError(f"expected {group.words}, not {run.group.words}")
        run_store.write(self.folder.path, run)
        return group, run.record

    def note(self, new: Sequence[tuple[Group, Record]]) -> None:
        """Write the tables once more, and show what is new in them.

        Args:
            new: groups, each after one more epoch that is in its file.
        """
        if not new:
            return
        self.records |= dict(new)
        variants, epochs = self.settings.variants, self.settings.epochs
        run_store.write_results(self.folder, self.records, variants)
        if any(record.epoch == epochs for _, record in new):
            run_store.write_predictions(self.folder, self.records, variants, epochs)
        for _, record in new:
            self.display.add([row for row in record.rows if row.epoch == record.epoch])


def check_room(folder: ResultsFolder, runs: int, width: int, overwrite: bool) -> None:
    """Raise UserError if the disk has no room for so many runs and what is drawn from them.

    Args:
        folder: of the study.
        runs: that are to be trained.
        width: how many of them train together.
        overwrite: whether what is in the folder goes.
    """
    # A file that is replaced takes its room twice for a moment.
    needed = (runs + width) * RUN_BYTES + DRAWN_BYTES
    durable.room_for(folder.path, needed - (folder.size() if overwrite else 0))

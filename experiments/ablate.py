"""The report's experiment: LeNet-5 with and without batch norm and dropout, from many seeds.

    python -m experiments.ablate

trains the six variants on MNIST from ten seeds and leaves in ``results`` what they did, the
report's charts, and the answers to its five conclusions: summary.json, and report.html to read.
On two cores of an AMD EPYC server an epoch of a run takes 1.4 to 1.7 s, and there are 600. To
expect: a last epoch near 97.6% (LeNet), 98.6% (LeNet_BN_noDropout), 97.1% (LeNet_noBN_Dropout),
98.4% (LeNet_BN_Dropout), 97.4% (LeNet_noBN_drop6) and 98.6% (LeNet_BN_drop6).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments import cli, environment, kept_sweeps, label_errors, report
from experiments.progress import Display, say_results, say_source
from experiments.results import LabelledImages, ResultsFolder, Row, TimingRow
from experiments.settings import JaxSettings
from jax_lenet import (
    VARIANTS,
    Dataset,
    EpochResult,
    Programs,
    examples,
    fit,
    prepare_examples,
)
from jax_lenet.ensemble import compile_programs, devices_to_split, spread, time_epoch
from jax_lenet.models import LeNet5


@dataclass(frozen=True)
class Settings(JaxSettings):
    """Train LeNet-5's variants on MNIST and compare their time and accuracy, as the report did."""

    seeds_at_once: int | None = None
    """Runs of one variant that train together: 1 on a CPU, 32 on a GPU unless told otherwise."""
    timing_repeats: int = 10
    """How often each variant, in turn, is timed alone for an epoch; 0 leaves timing.csv out."""
    accuracy_margin: float = 0.1
    """A smaller difference of accuracy, in percentage points, has no practical meaning."""
    time_margin: float = 2.0
    """The same of time, in percent."""
    sweep: tuple[Path, ...] = ()
    """Folders of experiments.sweep that conclusions 2 and 3 also draw on; a copy is kept."""

    def check(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().check()
        if self.seeds_at_once is not None and self.seeds_at_once < 1:
            raise cli.UserError(f"--seeds-at-once: expected at least 1, not {self.seeds_at_once}")
        if self.timing_repeats < 0:
            raise cli.UserError(f"--timing-repeats: expected at least 0, not {self.timing_repeats}")
        for name in report.MARGINS:
            if not 0 < getattr(self, name) < np.inf:
                flag = f"--{name.replace('_', '-')}"
                raise cli.UserError(f"{flag}: expected above 0, not {getattr(self, name)}")

    @cached_property
    def width(self) -> int:
        """How many runs train together."""
        return self.seeds_at_once or (1 if jax.default_backend() == "cpu" else 32)


class Group(NamedTuple):
    """Runs of one variant that train together."""

    variant: str
    seeds: tuple[int, ...]


def groups_of(variants: tuple[str, ...], seeds: range, width: int) -> Iterator[Group]:
    """Yield the study's groups: the first seed of every variant, then the others.

    >>> [group.seeds for group in groups_of(("LeNet",), range(5), 2)]
    [(0,), (1, 2), (3, 4)]
    """
    rest = seeds[1:]
    for chunk in (seeds[:1], *(rest[i : i + width] for i in range(0, len(rest), width))):
        for variant in variants:
            yield Group(variant, tuple(chunk))


class Study:
    """The settings with everything that a study holds while it runs.

    Attributes:
        rows: of results.csv, so far.
        predictions: by variant and seed, the class that a finished run gives each test image.
    """

    def __init__(self, settings: Settings, data: Dataset, folder: ResultsFolder, display: Display):
        """Put the data on the device, prepared once for all models."""
        moments = any(VARIANTS[name].batch_norm for name in settings.variants)
        self.settings = settings
        self.folder = folder
        self.display = display
        train = examples(data.train_images, data.train_labels)
        test = examples(data.test_images, data.test_labels)
        train, test = prepare_examples(train, moments), prepare_examples(test, moments=False)
        sizes = len(train.labels), len(test.labels)
        self.devices = devices_to_split(*sizes, settings.batch_size)
        self.train, self.test = spread(train, test, self.devices)
        self.rows: list[Row] = []
        self.predictions: dict[str, dict[int, np.ndarray]] = {}
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
        return self._programs[variant, width]

    def train_group(self, group: Group) -> None:
        """Train a group of runs, and write what it gives as it comes."""
        programs = self.programs(group.variant, len(group.seeds))
        names = f"seed {group.seeds[0]}"
        if len(group.seeds) > 1:
            names = f"seeds {group.seeds[0]}-{group.seeds[-1]}"
        self.display.now(f"{group.variant} {names}")

        def record(result: EpochResult) -> None:
            rows = rows_of(group, result)
            self.rows += rows
            self.folder.write_results(self.rows)
            self.display.add(rows)

        done = fit(
            self.model(group.variant),
            self.train,
            self.test,
            seeds=group.seeds,
            epochs=self.settings.epochs,
            batch_size=self.settings.batch_size,
            learning_rate=self.settings.learning_rate,
            programs=programs,
            on_epoch=record,
        )
        by_seed = self.predictions.setdefault(group.variant, {})
        by_seed.update(zip(group.seeds, done.predictions, strict=True))
        self.folder.write_predictions(
            {variant: np.stack(list(runs.values())) for variant, runs in self.predictions.items()}
        )

    def time_alone(self) -> None:
        """Time each variant alone, in turn, so that a slow moment of the machine hits them all."""
        if not self.settings.timing_repeats:
            return
        rows = []
        for repeat in range(1, self.settings.timing_repeats + 1):
            for variant in self.settings.variants:
                programs = self.programs(variant, 1)
                self.display.now(f"{variant}: timed alone, repeat {repeat}")
                seconds = time_epoch(programs, self.train, self.test)
                rows.append(TimingRow(variant, repeat, *(round(s, 6) for s in seconds)))
        self.folder.write_timing(rows)


def rows_of(group: Group, result: EpochResult) -> list[Row]:
    """Return the rows of results.csv that one epoch of a group gives."""
    seconds = round((result.train_seconds + result.test_seconds) / len(group.seeds), 6)
    return [
        Row(
            variant=group.variant,
            seed=seed,
            epoch=result.epoch,
            train_loss=result.train_loss[run],
            train_accuracy=result.train_accuracy[run],
            test_loss=result.test_loss[run],
            test_accuracy=result.test_accuracy[run],
            seconds=seconds,
        )
        for run, seed in enumerate(group.seeds)
    ]


def labelled(data: Dataset) -> LabelledImages:
    """Return the test set as the results folder keeps it."""
    wrong = label_errors.find(data.test_images)
    return LabelledImages(data.test_images, data.test_labels.astype(np.uint8), wrong)


def main(settings: Settings) -> None:
    """Run the study."""
    settings.check()
    console = cli.console()
    ResultsFolder.check(settings.out, settings.overwrite)
    data = settings.load()
    cache = settings.start_jax()
    config = {
        "title": "LeNet-5 on MNIST: batch norm and dropout",
        "program": "experiments.ablate",
        "settings": settings.as_json(),
        "seeds_at_once": settings.width,
        "data": environment.data_facts(data),
        "device": environment.jax_device(),
        "machine": environment.machine(),
        "versions": environment.versions(),
    }
    sweeps = kept_sweeps.load(settings.sweep, config)
    folder = ResultsFolder.create(settings.out, settings.overwrite)
    folder.write_config(config | {"compilation_cache": cache.facts()})
    folder.write_sweeps(sweeps)
    folder.write_test_set(labelled(data))
    say_source(console, data)
    with Display(console, settings.variants, settings.seeds, settings.epochs) as display:
        study = Study(settings, data, folder, display)
        for number, group in enumerate(
            groups_of(settings.variants, settings.all_seeds, settings.width), 1
        ):
            study.train_group(group)
            if number == len(settings.variants):  # the report's own experiment is done
                report.remake(folder)
                study.time_alone()
    folder.write_config(config | {"compilation_cache": cache.facts()})  # now with what it served
    curves, summary = report.remake(folder)
    say_results(console, curves, folder, summary["verdicts"])


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "ablate"))

"""This library beside PyTorch and textbook Flax: the same training, timed in one run.

    python -m experiments.benchmark

times three models on MNIST and leaves benchmark.json and benchmark.png in ``results-benchmark``. On
two cores of an AMD EPYC server that takes about an hour, half of it for many runs at once;
``--variants LeNet --seeds-at-once 1`` takes ten minutes. To expect there: an epoch of LeNet in 1.2
to 1.3 seconds, more than twice as fast as PyTorch and six times as fast as textbook Flax. On a GPU
more of PyTorch's ways are timed, and up to 256 runs at once.

Nothing else should run on the machine. Without PyTorch the rest is measured.
"""

import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import (
    benchmark_report,
    benchmark_tables,
    cli,
    environment,
    startup,
)
from experiments.benchmark_numbers import Row, row_of
from experiments.benchmark_process import Job, Worker, cores_of
from experiments.benchmark_race import race, time_shares
from experiments.benchmark_scaling import ScalingRow, race_to_scale, ways_of
from experiments.benchmark_start import first_result, first_result_of_study, peak_of_study
from experiments.contenders import NAMES, NotMeasuredError, data_of, task_of, write_data
from experiments.progress import say, say_source
from experiments.settings import NamedPath, StudySettings, check_count
from jax_lenet import Dataset, load

#: What is timed unless told otherwise; on a GPU also `GPU_CONTENDERS`.
CONTENDERS = ("jax_lenet", "torch", "torch_dataloader", "flax")
GPU_CONTENDERS = ("torch_compile", "torch_cuda_graph")
#: Runs at once, unless told otherwise.
SEEDS_AT_ONCE = (1, 2, 4, 8, 16)
GPU_SEEDS_AT_ONCE = (1, 8, 64, 256)
#: The variant, besides the first, of which many runs train.
SCALED_VARIANT = "LeNet_BN_Dropout"
#: Images of every contender's epochs where many runs train on a CPU: 25 steps. On all images
#: PyTorch would take two minutes for one epoch of sixteen models under vmap.
SCALE_IMAGES = 3_200
#: Rounds there on a CPU, at most: the fewest that give an interval.
SCALE_ROUNDS = 6
#: Images of the epoch that is profiled, at most: the timed one's, which a trace can hold.
PROFILE_IMAGES = 50_000
#: Operations besides matrix products that a profile names.
PROFILE_OPERATIONS = 10


@dataclass(frozen=True)
class Settings:
    """Time this library beside PyTorch and textbook Flax, doing the same work in turn."""

    dataset: str = "mnist"
    """mnist, or mnist_sample: the 5,000 digits that ship with the package."""
    data_dir: NamedPath | None = None
    """A tensorflow_datasets directory or a folder of the four IDX files; without it the cache, a
    download or, where there is no network, the embedded sample."""
    train_size: int | None = None
    """Train on the first so many images; None is 50,000 (of the sample, 4,000)."""
    variants: tuple[str, ...] = ("LeNet", "LeNet_BN_noDropout", "LeNet_BN_Dropout")
    """Which models to train, by the report's names."""
    contenders: tuple[str, ...] | None = None
    """What to time: jax_lenet, torch, torch_dataloader and flax unless told otherwise, on a GPU
    also torch_compile and torch_cuda_graph."""
    repeats: int = 9
    """Rounds; in each every contender has a turn, in a new process. Six or more give intervals."""
    starts: int = 3
    """How often each start of a program is timed, of which the median counts."""
    epochs: int = 3
    """The most epochs in a turn; slow contenders train fewer, so that a turn takes some seconds."""
    seeds_at_once: tuple[int, ...] | None = None
    """Numbers of runs to train at once, in every way: 1 2 4 8 16 on a CPU, 1 8 64 256 on a GPU
    unless told otherwise; 1 alone leaves that comparison out."""
    threads: int | None = None
    """Cores that every contender may use; None is all."""
    batch_size: int = 128
    """Images in a step."""
    learning_rate: float = 0.01
    """Of plain SGD."""
    out: NamedPath = Path("results-benchmark")
    """The folder that gets the results."""
    overwrite: bool = False
    """Replace the results that the folder holds, once there are new ones."""

    def check(self) -> None:
        """Raise UserError if a value is out of its range."""
        self.study.check()
        check_count("repeats", self.repeats)
        check_count("starts", self.starts)
        check_count("threads", self.threads, most=startup.cores())
        if self.seeds_at_once is not None:
            check_seeds_at_once(self.seeds_at_once)
        if self.contenders is not None:
            check_contenders(self.contenders)

    @property
    def study(self) -> StudySettings:
        """What these settings have in common with those of the other programs."""
        return StudySettings(
            dataset=self.dataset,
            data_dir=self.data_dir,
            train_size=self.train_size,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            variants=self.variants,
            out=self.out,
            overwrite=self.overwrite,
        )

    def as_json(self) -> dict:
        """Return the settings in JSON's types."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


def data_arguments(settings: Settings) -> list[str]:
    """Return what tells another program which data these are."""
    names = ("dataset", "data_dir", "train_size")
    given = ((name, getattr(settings, name)) for name in names)
    return [
        text
        for name, value in given
        if value is not None
        for text in (f"--{name.replace('_', '-')}", str(value))
    ]


def check_seeds_at_once(numbers: tuple[int, ...]) -> None:
    """Raise UserError unless the numbers are different counts."""
    if not numbers:
        raise cli.UserError("--seeds-at-once: expected at least one number, not none")
    for number in numbers:
        check_count("seeds_at_once", number)
    if len(set(numbers)) != len(numbers):
        given = " ".join(map(str, numbers))
        raise cli.UserError(f"--seeds-at-once: expected each number once, not {given}")


def check_contenders(names: tuple[str, ...]) -> None:
    """Raise UserError unless the names are different contenders; suggest the nearest."""
    if not names:
        raise cli.UserError("--contenders: expected at least one name, not none")
    for name in names:
        if name not in NAMES:
            expected = f"expected {', '.join(NAMES)}"
            raise cli.UserError(f"--contenders: {expected}, not {name}{cli.nearest(name, NAMES)}")
    if len(set(names)) != len(names):
        raise cli.UserError("--contenders: expected each name once")


class Benchmark:
    """The settings with everything that a benchmark holds while it runs.

    Attributes:
        facts: what the numbers were made with.
        rows: one for each contender and variant, so far.
        scaling: one for each way, number of runs and variant, so far.
        profiles: one for each variant, so far.
        study: how a study of all six variants starts, and its memory; None if it wasn't measured.
    """

    def __init__(self, settings: Settings, data: Dataset, folder: Path, console: Console):
        """Look at the machine, and write the data for the processes into an empty folder."""
        self.settings = settings
        self.console = console
        self.cores = cores_of(settings.threads or startup.cores())
        try:
            with Worker(self.cores) as worker:
                machine = worker.ask("machine")
        except NotMeasuredError as error:
            raise cli.UserError(f"no process can be started: {error}") from None
        self.on_gpu = machine["jax_device"]["platform"] != "cpu"
        self.matmul_rate: float = machine["matmul_rate"]
        self.train_size = len(data.train_labels)
        self.data, self.sample = folder / "data", folder / "sample"
        write_data(self.data, data_of(data))
        write_data(self.sample, data_of(load("mnist_sample")))
        self.rows: list[Row] = []
        self.scaling: list[ScalingRow] = []
        self.profiles: list[dict[str, Any]] = []
        self.study: dict[str, Any] | None = None
        self.facts = {
            "title": "LeNet-5 on MNIST: this library beside PyTorch",
            "program": "experiments.benchmark",
            "date": benchmark_report.now(),
            "commit": benchmark_report.commit(),
            "settings": settings.as_json(),
            "threads": len(self.cores),
            "cores": machine["cores"],
            "matmul_rate": self.matmul_rate,
            "data": environment.data_facts(data),
            "device": machine["jax_device"],
            "machine": environment.machine(),
            "environment": machine["environment"],
            "versions": environment.versions((*environment.PACKAGES, "torch")),
        }

    @property
    def contenders(self) -> tuple[str, ...]:
        """What is timed."""
        default = (*CONTENDERS, *GPU_CONTENDERS) if self.on_gpu else CONTENDERS
        return self.settings.contenders or default

    def job(self, contender: str, variant: str, images: int | None = None) -> Job:
        """Return the job of a contender, on the first ``images`` training images or on all."""
        settings = self.settings
        return Job(
            contender=contender,
            task=task_of(variant, settings.batch_size, settings.learning_rate),
            data=str(self.data),
            train_size=min(images or self.train_size, self.train_size),
            torch_device="cuda" if self.on_gpu else "cpu",
        )

    def compare(self, variant: str) -> None:
        """Time every contender with one model."""
        jobs = [self.job(contender, variant) for contender in self.contenders]
        self._say(f"{variant:<20}from start to first result, each in a fresh process")
        starts = self.settings.starts
        firsts = [first_result(job, self.sample, self.cores, starts) for job in jobs]
        entrants = race(
            jobs,
            self.cores,
            rounds=self.settings.repeats,
            epochs=self.settings.epochs,
            say=self._say,
        )
        self.rows += [
            row_of(entrant, self.train_size, entrants, self.matmul_rate, first)
            for entrant, first in zip(entrants, firsts, strict=True)
        ]

    def scale(self, variant: str) -> None:
        """Time many runs at once, in every way of what can be measured here."""
        counts = self.settings.seeds_at_once
        if self.on_gpu:
            counts, images = counts or GPU_SEEDS_AT_ONCE, self.train_size
            rounds = self.settings.repeats
        else:
            counts, images = counts or SEEDS_AT_ONCE, min(SCALE_IMAGES, self.train_size)
            rounds = min(SCALE_ROUNDS, self.settings.repeats)
        if max(counts) == 1:
            return
        own = [row for row in self.rows if row.variant == variant]
        measured = [row.contender for row in own if row.reason is None]
        self.scaling += race_to_scale(
            self.job("", variant),
            ways_of(self.cores, measured, self.on_gpu),
            sorted({1, *counts}),
            images=images,
            rounds=rounds,
            say=self._say,
        )

    def start_study(self) -> None:
        """Time the start of the study that is the default, and see how much memory it takes."""
        self._say("experiments.ablate     a study of all variants: its first result, its memory")
        first = first_result_of_study(self.cores, self.settings.starts)
        peak = reason = None
        try:
            peak = peak_of_study(data_arguments(self.settings), self.cores)
        except NotMeasuredError as error:
            reason = str(error)
        self.study = {
            "first_result_seconds": first._asdict(),
            "peak_rss_bytes": peak,
            "reason": reason,
        }

    def profile(self, variant: str) -> None:
        """Find out where the time of this library's training epoch goes."""
        job = self.job("jax_lenet", variant, images=PROFILE_IMAGES)
        shares = time_shares(job, self.cores)
        if "operations" in shares:
            shares["operations"] = shares["operations"][:PROFILE_OPERATIONS]
        self.profiles.append({"variant": variant, "train_images": job.train_size, **shares})

    def write(self, finished: bool) -> None:
        """Write benchmark.json or, before the end, what there is of it."""
        content = {
            **self.facts,
            "commit_at_the_end": benchmark_report.commit() if finished else None,
            "finished": finished,
            "methods": benchmark_report.METHODS,
            "rows": [asdict(row) for row in self.rows],
            "scaling": [asdict(row) for row in self.scaling],
            "profiles": self.profiles,
            "study": self.study,
        }
        benchmark_report.write_json(self.settings.out, content, finished)

    def show(self) -> None:
        """Draw the chart and print the tables."""
        from experiments import benchmark_chart  # matplotlib takes a second to import

        path = self.settings.out / benchmark_report.CHART
        benchmark_chart.draw(path, self.facts, self.rows, self.scaling)
        self.console.print(benchmark_tables.table_of(self.rows))
        if self.scaling:
            self.console.print(benchmark_tables.scaling_table(self.scaling))
        if self.profiles:
            self.console.print(benchmark_tables.profile_table(self.profiles))

    def _say(self, text: str) -> None:
        say(self.console, text)


def main(settings: Settings) -> None:
    """Run the benchmark."""
    settings.check()
    console = cli.console()
    benchmark_report.check_folder(settings.out, settings.overwrite)
    data = settings.study.load()
    benchmark_report.make_folder(settings.out)
    say_source(console, data)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        benchmark = Benchmark(settings, data, Path(folder), console)
        for variant in settings.variants:
            benchmark.compare(variant)
            benchmark.write(finished=False)
            if variant in (settings.variants[0], SCALED_VARIANT):
                benchmark.scale(variant)
            if "jax_lenet" in benchmark.contenders:
                benchmark.profile(variant)
            benchmark.write(finished=False)
        if len(settings.variants) > 1 and "jax_lenet" in benchmark.contenders:
            benchmark.start_study()
    benchmark.write(finished=True)
    benchmark.show()
    say(console, f"Results: {settings.out.resolve()}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "benchmark", goes_on=False))

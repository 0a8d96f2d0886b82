"""A study's settings: the report's experiment, and how it is timed and judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax

from experiments import cli, launch, report, study_config
from experiments.going_on import flag
from experiments.launch import Place
from experiments.settings import JaxSettings, check_count
from experiments.startup import CompilationCache
from experiments.together import Together, affordable, asked_for
from jax_lenet import VARIANTS, Dataset, devices_for


@dataclass(frozen=True)
class Settings(JaxSettings):
    """Train LeNet-5's variants on MNIST and compare their time and accuracy, as the report did."""

    seeds_at_once: int | None = None
    """Runs of one variant that train together: on a CPU in all, unless told otherwise as many as it
    has devices, but on two of them 1, which they share; on each GPU, 32, or fewer where its memory
    has no room. The first run is alone in any case."""
    timing_repeats: int = 10
    """How often each variant, in turn, is timed alone for an epoch; 0 leaves timing.csv out."""
    accuracy_margin: float = 0.1
    """A smaller difference of accuracy, in percentage points, has no practical meaning."""
    time_margin: float = 2.0
    """The same of time, in percent."""
    sweep: tuple[Path, ...] = ()
    """Folders of experiments.sweep that conclusions 2 and 3 also draw on; a copy of each is kept,
    and takes the place of one of before if it answers all that that one does; others stay."""
    coordinator: str | None = None
    """Several processes, on one machine or many, can train one study: HOST:PORT of process 0, as
    the others reach it. Process 0 writes the results; each needs the data. Slurm, Open MPI and
    Kubernetes are asked for this and the next two where they start the processes."""
    processes: int | None = None
    """How many processes there are; 1 asks no launcher."""
    process_id: int | None = None
    """Which of them this is, counted from 0."""

    def check(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().check()
        check_count("seeds_at_once", self.seeds_at_once)
        check_count("timing_repeats", self.timing_repeats, least=0)
        for name in report.MARGINS:
            if not study_config.is_margin(getattr(self, name)):
                expected = f"expected {study_config.MARGIN.words}"
                raise cli.UserError(f"{flag(name)}: {expected}, not {getattr(self, name)}")

    @cached_property
    def place(self) -> Place | None:
        """Which of several processes this is; None if it is the only one."""
        return launch.place(self.coordinator, self.processes, self.process_id)

    def start_jax(self) -> CompilationCache:
        """Do what must come before JAX's first computation; return the compilation cache."""
        if self.place is not None:
            self.place.use_own_devices()
        return super().start_jax()

    def as_json(self) -> dict:
        """Return the settings in JSON's types; without who computes, which changes no number."""
        own = ("coordinator", "processes", "process_id")
        return {name: value for name, value in super().as_json().items() if name not in own}

    def together(self, data: Dataset, say: Callable[[str], None]) -> Together:
        """Return how many runs train together, but for the first seed's; known once JAX is started.

        Args:
            data: of the study.
            say: prints a line; it gets one where memory has room for fewer than are wanted.
        """
        models = {name: VARIANTS[name] for name in self.variants}
        devices, test = jax.local_device_count(), len(data.test_labels)
        alone = devices_for(1, len(data.train_labels), test, self.batch_size)
        on_cpu = 1 if devices <= alone else devices  # a run alone is split over two at most
        asked = asked_for(self.seeds_at_once, on_cpu=on_cpu, most=self.seeds)
        return affordable(asked, models, data, (test,), self.batch_size, say)

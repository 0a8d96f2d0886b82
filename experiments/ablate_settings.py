"""A study's settings: the report's experiment, and how it is timed and judged."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np

from experiments import cli, report
from experiments.going_on import flag
from experiments.settings import JaxSettings


@dataclass(frozen=True)
class Settings(JaxSettings):
    """Train LeNet-5's variants on MNIST and compare their time and accuracy, as the report did."""

    seeds_at_once: int | None = None
    """Runs of one variant that train together: 1 on a CPU, 32 on a GPU unless told otherwise. The
    first run is alone in any case."""
    timing_repeats: int = 10
    """How often each variant, in turn, is timed alone for an epoch; 0 leaves timing.csv out."""
    accuracy_margin: float = 0.1
    """A smaller difference of accuracy, in percentage points, has no practical meaning."""
    time_margin: float = 2.0
    """The same of time, in percent."""
    sweep: tuple[Path, ...] = ()
    """Folders of experiments.sweep that conclusions 2 and 3 also draw on; a copy is kept. Without
    any, those that were given before stay."""

    def check(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().check()
        if self.seeds_at_once is not None and self.seeds_at_once < 1:
            raise cli.UserError(f"--seeds-at-once: expected at least 1, not {self.seeds_at_once}")
        if self.timing_repeats < 0:
            raise cli.UserError(f"--timing-repeats: expected at least 0, not {self.timing_repeats}")
        for name in report.MARGINS:
            if not 0 < getattr(self, name) < np.inf:
                raise cli.UserError(f"{flag(name)}: expected above 0, not {getattr(self, name)}")

    @cached_property
    def width(self) -> int:
        """How many runs train together."""
        return self.seeds_at_once or (1 if jax.default_backend() == "cpu" else 32)

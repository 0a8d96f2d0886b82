"""A sweep's settings: which rates of which models to try, and how."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from experiments import cli
from experiments.settings import MOST, JaxSettings, NamedPath, check_count, is_learning_rate
from experiments.sweep_results import Candidates, Point
from experiments.together import Together, affordable, asked_for
from jax_lenet import VARIANTS, Dataset

DROPOUT_RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LAYERS = ("drop6", "drop7", "both")


@dataclass(frozen=True)
class Settings(JaxSettings):
    """Train LeNet-5 with many dropout rates, or learning rates, and choose one of them."""

    dropout_rates: tuple[float, ...] = DROPOUT_RATES
    """To try; 0, which the others are compared with, is added where it is missing."""
    layers: tuple[Literal["drop6", "drop7", "both"], ...] = LAYERS
    """Which layers have the rate; of several, one after the other."""
    learning_rates: tuple[float, ...] | None = None
    """To try, instead of dropout rates; --learning-rate, which the others are compared with, is
    added where it is missing."""
    learning_rate: float = 0.01
    """Of plain SGD; where learning rates are tried, the one that they are compared with."""
    epochs: int = 10
    """Epochs of each run. More of them take another folder: none are added to a sweep later."""
    seeds: int = 8
    """Runs of each rate."""
    variants: tuple[str, ...] = ("LeNet", "LeNet_BN_noDropout")
    """Which models to train. Dropout rates are for LeNet (no batch norm) and LeNet_BN_noDropout
    (batch norm); learning rates are for any of the six."""
    runs_at_once: int | None = None
    """Runs, of whatever rate and seed, that train together: on a CPU in all, one a device unless
    told otherwise; on each GPU, 32, or fewer where its memory has no room."""
    out: NamedPath = Path("results-sweep")
    """The folder that gets the results."""

    def check(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().check()
        check_count("runs_at_once", self.runs_at_once)
        if self.learning_rates is None:
            self._check_dropout()
        else:
            self._check_learning_rates(self.learning_rates)
        each = len(self.points)
        if each * self.seeds > MOST:
            raise cli.UserError(
                f"--seeds: expected at most {MOST:,} runs in all, of each seed {each}, not"
                f" {self.seeds} seeds"
            )

    def _check_dropout(self) -> None:
        _check_rates("--dropout-rates", self.dropout_rates, "in [0, 1)", is_dropout_rate)
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise cli.UserError("--layers: expected one or more of drop6, drop7, both, each once")
        for name in self.variants:
            if VARIANTS[name].dropout != (0, 0):
                raise cli.UserError(
                    "--variants: expected models without dropout, since the sweep sets it, LeNet or"
                    f" LeNet_BN_noDropout, not {name}"
                )

    def _check_learning_rates(self, rates: tuple[float, ...]) -> None:
        _check_rates("--learning-rates", rates, "that are positive", is_learning_rate)
        for flag, given, default in (
            ("--dropout-rates", self.dropout_rates, DROPOUT_RATES),
            ("--layers", self.layers, LAYERS),
        ):
            if given != default:
                raise cli.UserError(
                    f"{flag}: expected not beside --learning-rates: one sweep varies one rate"
                )

    def load(self) -> Dataset:
        """Read the data, and check that some images are left for validation."""
        data = super().load()
        if not len(data.validation_labels):
            most = {"mnist": 50_000, "mnist_sample": 3_000}[data.name]
            why = f" ({data.source.notice})" if data.source.notice else ""
            raise cli.UserError(
                "--train-size: expected some training images to be left for validation, which"
                f" chooses the rate, but all {len(data.train_labels):,} are trained on; with"
                f" --train-size {most} there are as many as test images{why}"
            )
        return data

    @property
    def candidates(self) -> tuple[Candidates, ...]:
        """The rates to choose among, for each model and choice of layers."""
        base = self.learning_rate
        if self.learning_rates is not None:
            rates = tuple(sorted({base, *self.learning_rates}))
            return tuple(Candidates(name, None, rates, base) for name in self.variants)
        rates = tuple(sorted({0.0, *self.dropout_rates}))
        return tuple(
            Candidates(name, layers, rates, base)
            for name in self.variants
            for layers in self.layers
        )

    @property
    def points(self) -> set[Point]:
        """What the runs of each seed are trained with."""
        return {c.point(rate) for c in self.candidates for rate in c.rates}

    def together(self, data: Dataset, say: Callable[[str], None]) -> Together:
        """Return how many runs train together; known once JAX is started.

        Args:
            data: of the sweep.
            say: prints a line; it gets one where memory has room for fewer than are wanted.
        """
        models = {name: VARIANTS[name] for name in self.variants}
        tests = len(data.validation_labels), len(data.test_labels)
        most = len(self.points) * self.seeds
        asked = asked_for(self.runs_at_once, on_cpu=jax.local_device_count(), most=most)
        return affordable(asked, models, data, tests, self.batch_size, say)


def is_dropout_rate(rate: float) -> bool:
    """Tell whether training can take a rate, which it does as float32."""
    return bool(0 <= rate < 1 and np.float32(rate) < 1)


def _check_rates(
    flag: str, rates: tuple[float, ...], expected: str, possible: Callable[[float], bool]
) -> None:
    if not rates:
        raise cli.UserError(f"{flag}: expected at least one rate, not none")
    for rate in rates:
        if not possible(rate):
            raise cli.UserError(f"{flag}: expected rates {expected}, not {rate:g}")
    if len({float(np.float32(rate)) for rate in rates}) < len(rates):
        given = " ".join(f"{rate:g}" for rate in rates)
        raise cli.UserError(f"{flag}: expected each rate once, not {given}")

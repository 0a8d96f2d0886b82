"""Further evidence from sweeps: batch norm at other learning rates, dropout at other rates.

In a sweep a run that diverged counts with the accuracy that it ends with: whoever picks its rate
gets that. The validation images choose rates; the test images, which are compared, have no say.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.evidence import LAST, Evidence
from experiments.questions import Pair, Question, sweep_data
from experiments.sweep_results import RateCurve, choose
from jax_lenet.decisions import Claim, Rules


class CurvePair(NamedTuple):
    """Two models in one learning-rate sweep.

    Attributes:
        treated: with batch norm.
        plain: without.
    """

    treated: RateCurve
    plain: RateCurve

    @property
    def gain_at_baseline(self) -> np.ndarray:
        """Treated less plain test accuracy at the baseline, the study's own rate, ``[seeds]``."""
        treated, plain = self
        return treated.test_accuracy[treated.baseline] - plain.test_accuracy[plain.baseline]

    @property
    def gain_at_best(self) -> np.ndarray:
        """The same with each model at the rate that its validation accuracy chooses."""
        treated, plain = self
        return treated.test_accuracy[treated.chosen] - plain.test_accuracy[plain.chosen]

    @property
    def gain_by_rate(self) -> dict[float, float]:
        """Mean gain in test accuracy with both models at one rate, by rate."""
        gains = (self.treated.test_accuracy - self.plain.test_accuracy).mean(1)
        return dict(zip(self.plain.candidates.rates, gains.tolist(), strict=True))


def learning_rate_pair(evidence: Evidence, variants: Pair) -> CurvePair | None:
    """Return two variants' curves from the first learning-rate sweep that has both."""
    for sweep in evidence.sweeps:
        curves = {c.candidates.variant: c for c in sweep.curves if c.candidates.layers is None}
        if curves.keys() >= set(variants):
            return CurvePair(*(curves[variant] for variant in variants))
    return None


def at_learning_rates(
    evidence: Evidence, pairs: dict[str, Pair], rules: Rules
) -> Iterator[Question]:
    """Yield whether batch norm's gain is there at the report's learning rate and at the best.

    Args:
        evidence: with its sweeps.
        pairs: by what both models have in common, with batch norm and without.
        rules: of comparing.
    """
    for condition, variants in pairs.items():
        pair = learning_rate_pair(evidence, variants)
        if pair is None:
            continue
        base = pair.plain.candidates.baseline
        for name, rates, gain in (
            ("report's learning rate", (base, base), pair.gain_at_baseline),
            ("best learning rates", tuple(c.chosen_rate for c in pair), pair.gain_at_best),
        ):
            yield Question(
                f"{name}, {condition}",
                f"Is last-epoch test accuracy higher with batch norm at the {name}, {condition}?",
                f"at the {name} by {{}}",
                condition,
                _labels(variants, rates),
                f"{LAST.name} in the sweep",
                Claim("greater", rules.accuracy_margin),
                sweep_data(gain, rules),
            )


def _labels(variants: Pair, rates: tuple[float, ...]) -> Pair:
    first, second = (f"{v} at {rate:g}" for v, rate in zip(variants, rates, strict=True))
    return first, second


def at_dropout_rates(evidence: Evidence, rules: Rules) -> Iterator[Question]:
    """Yield whether dropout at its best rate, the validation images' choice, does better than none.

    Args:
        evidence: with its sweeps.
        rules: of comparing.
    """
    for sweep in evidence.sweeps:
        for curve in sweep.curves:
            if curve.candidates.layers is not None and len(curve.candidates.rates) > 1:
                yield _dropout_question(curve, rules)


def _dropout_question(curve: RateCurve, rules: Rules) -> Question:
    candidates, none = curve.candidates, curve.baseline
    rated = [k for k in range(len(candidates.rates)) if k != none]
    best = rated[choose(curve.validation_accuracy[rated])]
    layers = "drop6 and drop7" if candidates.layers == "both" else str(candidates.layers)
    name = f"{layers} at {candidates.rates[best]:g}, {candidates.variant}"
    return Question(
        name,
        f"Of all rates above 0 this one has the best validation accuracy, with {layers} in"
        f" {candidates.variant}: is its test accuracy higher than without dropout?",
        f"with {name} by {{}}",
        "",
        (f"{candidates.variant} with {layers} at {candidates.rates[best]:g}", candidates.variant),
        f"{LAST.name} in the sweep",
        Claim("greater", rules.accuracy_margin),
        sweep_data(curve.test_accuracy[best] - curve.test_accuracy[none], rules),
    )

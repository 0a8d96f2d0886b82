"""Further evidence from sweeps: batch norm at other learning rates, dropout at other rates.

In a sweep a run that diverged counts with the accuracy that it ends with: whoever picks its rate
gets that. The validation images choose rates; the test images, which are compared, have no say.
Nor has the seed that is compared: a run with luck on the validation images has it on the test
images too, and a rate chosen for it would seem better than it is (`jax_lenet.leave_one_out`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.evidence import LAST, Evidence
from experiments.questions import Pair, Question, sweep_data
from experiments.sweep_results import RateCurve
from jax_lenet.decisions import Claim, Rules
from jax_lenet.leave_one_out import best_by_others

BY_OTHERS = "for each seed by the other seeds' validation accuracy"


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
        """Treated less plain correctness at the baseline, the study's own rate.

        ``[seeds, images]``, -1 to 1.
        """
        return self.treated.right_at_baseline - self.plain.right_at_baseline

    @property
    def gain_at_best(self) -> np.ndarray:
        """The same with each model at the rate that the other seeds find best."""
        chosen = self.chosen_by_others
        treated, plain = (curve.right_at(own) for curve, own in zip(self, chosen, strict=True))
        return treated - plain

    @property
    def chosen_by_others(self) -> np.ndarray:
        """Which rates the other seeds find best for each, index ``[models, seeds]``."""
        return np.stack([curve.chosen_by_others for curve in self])

    @property
    def gain_at_chosen(self) -> np.ndarray:
        """The same as `gain_at_best` with each model at the one rate that all seeds choose."""
        treated, plain = (curve.right[curve.chosen].astype(np.int8) for curve in self)
        return treated - plain

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
        base, chosen = f"{pair.plain.candidates.baseline:g}", pair.chosen_by_others
        treated, plain = (rates_in_words(*each) for each in zip(pair, chosen, strict=True))
        asked = {
            "report's learning rate": (
                "at the report's learning rate by {}",
                condition,
                (base, base),
                sweep_data(pair.gain_at_baseline, rules),
            ),
            "best learning rates": (
                "with each seed at the learning rates that the others find best, by {}",
                f"{condition}, at {treated} with batch norm and at {plain} without it",
                (treated, plain),
                sweep_data(pair.gain_at_best, rules, chosen),
            ),
        }
        for name, (clause, where, rates, data) in asked.items():
            yield Question(
                f"{name}, {condition}",
                f"Is last-epoch test accuracy higher with batch norm at the {name}, {condition}?",
                clause,
                where,
                _labels(variants, rates),
                f"{LAST.name} in the sweep",
                Claim("greater", rules.accuracy_margin),
                data,
            )


def rates_in_words(curve: RateCurve, chosen: np.ndarray) -> str:
    """Return every rate that some seed was given.

    Args:
        curve: of a model.
        chosen: the index of each seed's rate, ``[seeds]``.
    """
    *others, last = (f"{curve.candidates.rates[k]:g}" for k in sorted(set(chosen.tolist())))
    return f"{', '.join(others)} or {last}" if others else last


def _labels(variants: Pair, rates: tuple[str, ...]) -> Pair:
    first, second = (f"{v} at {rate}" for v, rate in zip(variants, rates, strict=True))
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
    rated = np.array([k for k in range(len(candidates.rates)) if k != none])
    best = rated[best_by_others(curve.validation_accuracy[rated])]
    layers = "drop6 and drop7" if candidates.layers == "both" else str(candidates.layers)
    rate = rates_in_words(curve, best)
    gain = curve.right_at(best) - curve.right_at_baseline
    return Question(
        f"{candidates.variant}, {layers} at {rate}",
        f"With {layers} in {candidates.variant} at the best rate above 0, chosen {BY_OTHERS}: is"
        " test accuracy higher than without dropout?",
        f"of {candidates.variant} by {{}}",
        f"with {layers} at {rate}",
        (f"{candidates.variant} with {layers} at {rate}", candidates.variant),
        f"{LAST.name} in the sweep",
        Claim("greater", rules.accuracy_margin),
        sweep_data(gain, rules, best),
    )

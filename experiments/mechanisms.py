"""Why a conclusion holds or not: one check each, computed from the results or on the model itself.

Each function returns summary.json's ``mechanism``: a title, the finding in words, its numbers. What
a folder lacks for a check is what the words then say.
"""

from functools import cache
from typing import NamedTuple

import jax
import numpy as np
import scipy
from flax import linen as nn

from experiments.evidence import Evidence, LackingError, Measure, log_time_ratios, paired
from experiments.questions import BOTH, DROP, DROPOUT_PAIRS, NORM, PLAIN
from experiments.rate_mechanism import gain_by_learning_rate
from experiments.sentences import joined, signed
from jax_lenet.decisions import Rules
from jax_lenet.models import CLASSES, IMAGE_SHAPE, VARIANTS
from jax_lenet.statistics import Interval, exponential, paired_interval


def where_time_goes(evidence: Evidence, rules: Rules) -> dict:
    """Conclusion 1: the same ratios for training and for testing, which were timed apart.

    In testing dropout does nothing, and batch norm is a fixed scale and shift. Whether either costs
    time there, by more than the margin, is what the intervals say.
    """
    title = "What training costs, and what testing costs"
    numbers: dict[str, dict[str, dict]] = {}
    for number, phase in enumerate(("training", "testing")):
        for name, variant in (("batch norm", NORM), ("dropout", DROP), ("both", BOTH)):
            try:
                ratios = log_time_ratios(evidence, (variant, PLAIN), lambda s, k=number: s[k])
            except LackingError as lacking:
                return _lacks(title, lacking)
            interval = paired_interval(ratios, rules.level, resamples=rules.resamples)
            numbers.setdefault(phase, {})[name] = _ratio(interval, rules)
    told = [
        f"{phase} takes " + joined([f"{_times(ratio)} with {n}" for n, ratio in own.items()])
        for phase, own in numbers.items()
    ]
    places: dict[str, list[str]] = {}
    for name, ratio in numbers["testing"].items():
        places.setdefault(ratio["place"], []).append(name)
    text = (
        f"Timed apart and beside the plain model, {told[0]}; {told[1]}"
        f" ({100 * rules.level:g}% intervals). In testing dropout does nothing and batch norm is a"
        f" fixed scale and shift; that time differs by {100 * rules.time_margin:g}% at most is"
        f" {joined([f'{place} with {joined(names)}' for place, names in places.items()])}."
    )
    return {"title": title, "text": text, "numbers": numbers}


def _ratio(interval: Interval, rules: Rules) -> dict:
    """Return a ratio's interval from its logarithm's, and its place beside the margin."""
    margin, place = rules.log_time_margin, "open"
    if interval.low is not None and interval.high is not None:
        if max(-interval.low, interval.high) < margin:
            place = "shown"
        elif interval.low > margin or interval.high < -margin:
            place = "refuted"
    ends = {end: getattr(exponential(interval), end) for end in ("estimate", "low", "high")}
    return ends | {"place": place}


def _times(ratio: dict) -> str:
    words = f"{ratio['estimate']:.3f} times as long"
    return words if ratio["low"] is None else f"{words} [{ratio['low']:.3f}, {ratio['high']:.3f}]"


def floor_of_loss(rate: float, classes: int = CLASSES) -> float:
    """Return the least expected loss that dropout on the logits leaves possible, in nats.

    ``rate * E[log(1 + D)]`` with D ~ Binomial(classes - 1, rate). Dropout sets each logit to zero
    with probability ``rate``. Where it keeps the true class's z, the loss is above 0, and comes as
    near as one likes with a large z. Where it drops it, ``exp(0) = 1`` competes with 1 for each of
    the D wrong logits that are dropped too, and with more than 0 for each that is kept: the loss is
    above ``log(1 + D)``, and comes near it with wrong logits far below zero. Both limits go
    together, so this is the infimum, for one image and so for any mean over images. No finite
    logits reach it.

    Args:
        rate: the fraction dropped.
        classes: how many logits.

    >>> round(floor_of_loss(0.5, classes=2), 4)  # by hand: log(2) in one of four cases
    0.1733
    """
    others = np.arange(classes)
    return float(rate * scipy.stats.binom.pmf(others, classes - 1, rate) @ np.log1p(others))


def loss_floor(evidence: Evidence) -> dict:
    """Conclusion 3: drop7 puts a floor under the training loss; is the measured loss above it?"""
    title = "The floor that drop7 puts under the training loss"
    rate = float(VARIANTS[DROP].dropout[1])
    floor = floor_of_loss(rate)
    losses = {name: loss for name in VARIANTS if (loss := _last_loss(evidence, name)) is not None}
    above = {name: loss - floor for name, loss in losses.items() if VARIANTS[name].dropout[1]}
    with_drop7 = [f"{losses[name]:.3f} ({name}), {_beside(by)}" for name, by in above.items()]
    without = [
        f"{loss:.3f} ({name})" for name, loss in losses.items() if not any(VARIANTS[name].dropout)
    ]
    text = (
        f"In {100 * rate:g}% of all draws drop7 sets the true class's logit to zero, level with"
        f" every other that it drops: no weights bring the expected training loss below"
        f" {floor:.3f}. Measured in the last epoch with drop7:"
        f" {'; '.join(with_drop7) or 'nothing'}."
        f" Without dropout: {joined(without) or 'nothing'}."
    )
    numbers = {"floor": floor, "rate": rate, **losses, "above_floor": above}
    return {"title": title, "text": text, "numbers": numbers}


def _beside(above: float) -> str:
    if above < 0:
        return f"BELOW the floor by {-above:.3f}: something is wrong"
    return f"above the floor by {above:.3f}"


def _last_loss(evidence: Evidence, variant: str) -> float | None:
    if variant not in evidence.runs:
        return None
    losses = evidence.runs[variant].train_loss[:, -1]
    finite = losses[np.isfinite(losses)]
    return float(finite.mean()) if len(finite) else None


class Reach(NamedTuple):
    """How much changes with the dropout mask, weights and images the same.

    Attributes:
        log_probs: the largest change of a log-probability.
        statistics: the largest change of a mean or variance that batch norm takes in.
    """

    log_probs: float
    statistics: float


def reach_of_dropout(model: nn.Module) -> Reach:
    """Train-mode passes of one model over the same images with two dropout keys, compared.

    Args:
        model: with batch norm and dropout; takes images float32 ``[N, 28, 28, 1]``.
    """
    draws = np.random.default_rng(0)
    images = np.asarray(draws.normal(size=(8, *IMAGE_SHAPE)), np.float32)
    # Any weights will do, and those of NumPy take no compiler.
    variables = jax.tree.map(
        lambda leaf: np.asarray(draws.normal(0, 0.1, leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )

    @jax.jit
    def output(variables: dict, images: jax.Array, seed: jax.Array) -> tuple:
        dropout = {"dropout": jax.random.key(seed)}
        return model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=dropout)

    # One program for both, so that only the mask can differ; operation by operation, what it runs
    # once or twice took four times as long to compile.
    (first, of_first), (second, of_second) = (
        output(variables, images, np.uint32(seed)) for seed in (1, 2)
    )
    return Reach(_largest_change(first, second), _largest_change(of_first, of_second))


def _largest_change(first: object, second: object) -> float:
    changes = jax.tree.map(lambda a, b: np.abs(np.subtract(a, b)).max(), first, second)
    return float(np.max(jax.tree.leaves(changes)))


@cache
def _reach(variant: str) -> Reach:
    return reach_of_dropout(VARIANTS[variant].clone(form="plain"))  # one quick compilation less


def order_of_layers(evidence: Evidence) -> dict:
    """Conclusion 4: whether dropout can disturb the variance that batch norm learns.

    Batch norm behind dropout learns the variance of what dropout has thinned out and scaled up, and
    meets another in evaluation (Li and others 2019, the variance shift). That needs a path from a
    dropout's output to a batch norm's input.
    """
    del evidence  # it is the models that are looked at
    both = [name for name, m in VARIANTS.items() if m.batch_norm and any(m.dropout)]
    found = {name: _reach(name) for name in both}
    moved = max(reach.statistics for reach in found.values())
    words = (
        "every batch norm stands before every dropout, and the known quarrel of the two, a variance"
        " that shifts between training and evaluation, cannot act here"
        if moved == 0
        else "dropout reaches batch norm, whose variance may shift between training and evaluation"
    )
    masks = joined([f"{reach.log_probs:.2g} ({name})" for name, reach in found.items()])
    text = (
        "With the same weights and images, another dropout mask changes the log-probabilities by up"
        f" to {masks}, and the means and variances that bn1, bn3 and bn5 take in by up to"
        f" {moved:.2g}: {words}."
    )
    return {
        "title": "Whether dropout can disturb batch norm",
        "text": text,
        "numbers": {name: reach._asdict() for name, reach in found.items()},
    }


#: Of every epoch, so ``[n, epochs]``.
COURSE = Measure("test accuracy", lambda runs: runs.test_accuracy)


def made_of(evidence: Evidence) -> dict:
    """Conclusion 5: what the difference in gain is made of, and in how many epochs dropout leads.

    The difference in gain from first to last epoch is that at the end less that at the start. A
    model that learns faster overtakes.
    """
    title = "What the difference in gain is made of"
    if evidence.epochs < 2:
        return _lacks(title, LackingError("one epoch is the first and the last"))
    told, numbers = [], {}
    for condition, pair in DROPOUT_PAIRS.items():
        try:
            courses = paired(evidence, pair, COURSE).differences
        except LackingError as lacking:
            return _lacks(title, lacking)
        course = 100 * courses.mean(0)
        start, last, ahead = -float(course[0]), float(course[-1]), int((course > 0).sum())
        numbers[condition] = {
            "from_start": start,
            "last": last,
            "gain": last + start,
            "epochs_ahead": ahead,
            "epochs": len(course),
        }
        told.append(
            f"{condition} the difference in gain, {_points(last + start)}, is {_points(start)} from"
            f" the start and {_points(last)} at the end, and dropout is ahead in {ahead} of the"
            f" {len(course)} epochs"
        )
    text = f"{'; '.join(told)}."
    return {"title": title, "text": text[0].upper() + text[1:], "numbers": numbers}


def who_leads(evidence: Evidence) -> str:
    """Return as a sentence in how many epochs dropout leads, and whether its start is all its gain.

    That gain is larger by what dropout starts lower where it ends no higher.
    """
    found = made_of(evidence)["numbers"]
    if not found:
        return ""
    ahead = [f"{each['epochs_ahead']} of {each['epochs']} epochs {c}" for c, each in found.items()]
    all_start = all(each["gain"] > 0 >= each["last"] for each in found.values())
    why = ": its larger gain is that of its low start" if all_start else ""
    return f"In mean test accuracy dropout is ahead in {joined(ahead)}{why}."


def _points(value: float) -> str:
    return f"{signed(value, 'points')} points"


def _lacks(title: str, lacking: LackingError) -> dict:
    return {"title": title, "text": f"Not computed: {lacking}.", "numbers": {}}


def of_all(evidence: Evidence, rules: Rules) -> tuple[dict, ...]:
    """Return the five conclusions' mechanisms, in order."""
    return (
        where_time_goes(evidence, rules),
        gain_by_learning_rate(evidence, rules),
        loss_floor(evidence),
        order_of_layers(evidence),
        made_of(evidence),
    )

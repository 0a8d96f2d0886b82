"""A question to a results folder: what is compared, what is claimed, and what the folder says."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from experiments.evidence import (
    Evidence,
    LackingError,
    Measure,
    Paired,
    in_words,
    log_time_ratios,
    paired,
)
from jax_lenet.decisions import (
    Claim,
    Comparison,
    Rules,
    Verdict,
    compare,
    compare_accuracy,
    compare_chosen,
    decide_all,
)
from jax_lenet.statistics import exponential

Pair = tuple[str, str]

PLAIN, NORM = "LeNet", "LeNet_BN_noDropout"
DROP, BOTH = "LeNet_noBN_Dropout", "LeNet_BN_Dropout"
NORM_DROP6 = "LeNet_BN_drop6"
# Of a model with batch norm and the same without: by what both have.
NORM_PAIRS: dict[str, Pair] = {"without dropout": (NORM, PLAIN), "with dropout": (BOTH, DROP)}
# Of a model with dropout in two layers and the same without.
DROPOUT_PAIRS: dict[str, Pair] = {
    "without batch norm": (DROP, PLAIN),
    "with batch norm": (BOTH, NORM),
}


class Data(NamedTuple):
    """What a folder says to a question.

    Attributes:
        comparison: None where there are no numbers.
        lacking: why the numbers, if any, decide nothing; None where they may.
        note: on how the comparison was made, beyond its own words.
        by_image: whether the test images count as a source of randomness.
        left_out: runs that diverged and whose seeds are not compared, in words.
    """

    comparison: Comparison | None
    lacking: str | None = None
    note: str = ""
    by_image: bool = False
    left_out: str = ""


@dataclass(frozen=True)
class Question:
    """One thing asked of the data.

    Attributes:
        name: short, and unlike the others' of its conclusion.
        text: the question.
        clause: of the conclusion's sentence, with a place ``{}`` for the numbers.
        condition: what follows the number there; empty where the clause says all.
        compared: the two sides, as a rule variants.
        measure: what is compared.
        claim: what is put to the test; of logarithms where ``unit`` is "ratio".
        data: what the folder says.
        unit: "points" for accuracy, "ratio" for time.
    """

    name: str
    text: str
    clause: str
    condition: str
    compared: Pair
    measure: str
    claim: Claim
    data: Data
    unit: Literal["points", "ratio"] = "points"

    @property
    def comparison(self) -> Comparison | None:
        """The comparison that can decide it, if there is one."""
        return None if self.data.lacking else self.data.comparison


def accuracy_data(evidence: Evidence, pair: Pair, measure: Measure, rules: Rules) -> Data:
    """Return what a folder says to a difference of two variants' accuracies.

    Seeds and images are both random where a measure is kept by image. Where it could be and the
    files are not there, the numbers are shown and decide nothing: an interval that takes the test
    images for granted is too narrow. Nor do they where too many seeds are lost to divergence.
    """
    try:
        if measure.two_epochs and evidence.epochs < 2:
            raise LackingError("one epoch is the first and the last")
        by_image = evidence.has_images(pair, measure)
        found = paired(evidence, pair, measure, by_image)
    except LackingError as lacking:
        return Data(None, str(lacking))
    no_images = measure.no_images if measure.of_image and not by_image else None
    return Data(
        (compare_accuracy if by_image else compare)(found.differences, rules),
        lacking=no_images or _too_many_lost(found, rules),
        note=f"over the seeds alone: {measure.why_not}" if measure.why_not else "",
        by_image=by_image,
        left_out=in_words(found.left_out),
    )


def _too_many_lost(found: Paired, rules: Rules) -> str | None:
    lost = len({run.seed for run in found.left_out})
    seeds = lost + len(found.seeds)
    if lost <= rules.most_left_out * seeds:
        return None
    return (
        f"{lost} of {seeds} seeds are lost to runs that diverged, and the others are no fair sample"
    )


class Asked(NamedTuple):
    """A question of accuracy, to be put to several pairs of variants.

    Attributes:
        name: as in `Question`; what the pair has in common is added.
        text: with a place ``{}`` for it.
        clause: as in `Question`.
        measure: what is compared.
        direction: claimed.
        at_least: as in `Claim`.
    """

    name: str
    text: str
    clause: str
    measure: Measure
    direction: Literal["greater", "less"]
    at_least: bool = False

    def of(self, pairs: dict[str, Pair], evidence: Evidence, rules: Rules) -> Iterator[Question]:
        """Yield the question for each pair, treated and plain, by what both have."""
        for condition, pair in pairs.items():
            yield Question(
                f"{self.name}, {condition}",
                self.text.format(condition),
                self.clause,
                condition,
                pair,
                self.measure.name,
                Claim(self.direction, rules.accuracy_margin, self.at_least),
                accuracy_data(evidence, pair, self.measure, rules),
            )


def time_data(evidence: Evidence, pair: Pair, rules: Rules) -> Data:
    """Return what a folder says to the ratio of two variants' times for an epoch."""
    try:
        ratios = log_time_ratios(evidence, pair)
    except LackingError as lacking:
        return Data(None, str(lacking))
    return Data(
        compare(ratios, rules, unit="repeats"), note="of the ratio's logarithm; all in one process"
    )


def sweep_data(differences: np.ndarray, rules: Rules, chosen: np.ndarray | None = None) -> Data:
    """Return what a sweep says.

    Args:
        differences: of correctness, ``[seeds, images]``.
        rules: of comparing.
        chosen: the rates that the others chose for each seed, as `compare_chosen` takes them; None
            where nothing was chosen.
    """
    if chosen is None:
        return Data(compare_accuracy(differences, rules), by_image=True)
    note = "each seed's rate chosen by the other seeds' validation accuracy"
    return Data(compare_chosen(differences, chosen, rules), note=note, by_image=True)


def decide_questions(questions: Sequence[Question], rules: Rules) -> list[Verdict | None]:
    """Decide a family of questions, in order; None for those that lack data, which do not count."""
    asked = [(q.comparison, q.claim) for q in questions if q.comparison is not None]
    verdicts = iter(decide_all(asked, rules) if asked else [])
    return [None if q.comparison is None else next(verdicts) for q in questions]


#: Part of a conclusion's verdict; beside it, in the same family of tests; evidence from elsewhere.
Role = Literal["claimed", "beside", "further"]


def as_json(question: Question, verdict: Verdict | None, family: int, role: Role) -> dict:
    """Return a question with its answer as one of the parts in summary.json.

    Args:
        question: the question.
        verdict: on it; None where data are lacking.
        family: how many tests were corrected together.
        role: in its conclusion.
    """
    data = question.data
    reason = verdict.reason if verdict else str(data.lacking)
    left_out = f"; left out, as a run diverged: {data.left_out}" if data.left_out else ""
    return {
        "name": question.name,
        "question": question.text,
        "clause": question.clause,
        "condition": question.condition,
        "compared": list(question.compared),
        "measure": question.measure,
        "unit": question.unit,
        "verdict": verdict.answer if verdict else "undecided",
        "reason": reason + left_out,
        **_numbers(question),
        "p_adjusted": verdict.adjusted_p if verdict else None,
        "p_margin": verdict.margin_p if verdict else None,
        "family": family,
        "margin": _margin(question),
        "direction": question.claim.direction,
        "at_least": question.claim.at_least,
        "seeds_needed": verdict.seeds_needed if verdict else None,
        "by_image": data.by_image,
        "left_out": data.left_out,
        "role": role,
    }


def _numbers(question: Question) -> dict:
    """Return estimate, interval and raw p in the question's unit."""
    comparison, note = question.data.comparison, question.data.note
    if comparison is None:
        empty = dict.fromkeys(("estimate", "low", "high", "level"))
        n_of = "repeats" if question.unit == "ratio" else "seeds"
        return empty | {"method": "none", "n": 0, "n_of": n_of, "p": None}
    interval = comparison.interval
    if question.unit == "ratio":
        interval = exponential(interval)
    else:
        ends = {end: getattr(interval, end) for end in ("estimate", "low", "high")}
        interval = interval._replace(**{k: v if v is None else 100 * v for k, v in ends.items()})
    tests = " and ".join(test.method for test in comparison.tests)
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "level": interval.level,
        "method": f"{interval.method}{f', {note}' if note else ''}; tested by {tests}",
        "n": interval.n,
        "n_of": comparison.unit,
        "p": comparison.p,
    }


def _margin(question: Question) -> float:
    """Return the margin in the question's unit; of a ratio, by how much it may differ from 1."""
    margin = question.claim.margin
    return float(np.expm1(margin)) if question.unit == "ratio" else 100 * margin

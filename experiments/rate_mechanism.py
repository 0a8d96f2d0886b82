"""Conclusion 2's mechanism: how much of batch norm's gain is the learning rate's.

One learning rate for both models also tests which of them that rate suits. A sweep tells what is
left of the gain where each model has the best of its rates.
"""

from collections.abc import Mapping

from experiments.evidence import Evidence
from experiments.questions import NORM, PLAIN
from experiments.sentences import difference, joined, signed
from experiments.sweep_questions import BY_OTHERS, CurvePair, learning_rate_pair, rates_in_words
from experiments.sweep_results import RateCurve
from jax_lenet.decisions import Rules, compare_chosen

SWEEP_COMMAND = (
    "python -m experiments.sweep --learning-rates 0.003 0.01 0.03 0.1 0.3"
    " --out results-learning-rate"
)

#: A run with a lower accuracy has learnt next to nothing: guessing one of ten classes gives half.
NEAR_CHANCE = 0.2


def gain_by_learning_rate(evidence: Evidence, rules: Rules) -> dict:
    """Conclusion 2: what is left of batch norm's gain where each model has its best learning rate.

    Beside the gain at each rate stand both accuracies, and which runs end near chance: where one
    model does not train at all, the gain is that, and where neither does, it is next to nothing.
    """
    title = "Batch norm's gain by learning rate"
    pair = learning_rate_pair(evidence, (NORM, PLAIN))
    if pair is None:
        text = (
            f"Both models were trained at learning rate {evidence.learning_rate:g} alone, which may"
            f" suit one of them better. `{SWEEP_COMMAND}` trains them at others, and `python -m"
            " experiments.report FOLDER --sweep results-learning-rate` takes that in."
        )
        return {"title": title, "text": text, "numbers": {}}
    numbers = _numbers(pair, rules)
    text = f"{_at_best(pair, numbers)} {_by_rate(numbers)}{_near_chance(pair, numbers)}"
    return {"title": title, "text": text, "numbers": numbers}


def _curves(pair: CurvePair) -> dict[str, RateCurve]:
    return {"with batch norm": pair.treated, "without batch norm": pair.plain}


def _numbers(pair: CurvePair, rules: Rules) -> dict:
    """Return summary.json's numbers; gains in points, accuracies as fractions."""
    curves = _curves(pair)
    rates = pair.plain.candidates.rates
    base = pair.plain.candidates.baseline
    by_rate = {rate: 100 * gain for rate, gain in pair.gain_by_rate.items()}
    at_best = pair.gain_at_best
    lost = compare_chosen(pair.gain_at_baseline - at_best, pair.chosen_by_others, rules).interval
    ends = {end: getattr(lost, end) for end in ("estimate", "low", "high")}
    near = {name: (curve.test_accuracy < NEAR_CHANCE).sum(1) for name, curve in curves.items()}
    return {
        "report_rate": base,
        "best_rate": {name: curve.chosen_rate for name, curve in curves.items()},
        "gain_at_report_rate": by_rate[base],
        "gain_at_best_rates": 100 * float(at_best.mean()),
        "gain_at_chosen_rates": 100 * float(pair.gain_at_chosen.mean()),
        "report_rates_less_best_rates": {
            **{end: v if v is None else 100 * v for end, v in ends.items()},
            "level": lost.level,
            "n": lost.n,
            "method": lost.method,
        },
        "gain_by_rate": {f"{rate:g}": value for rate, value in by_rate.items()},
        "accuracy_by_rate": {
            f"{rate:g}": {name: float(c.test_accuracy[k].mean()) for name, c in curves.items()}
            for k, rate in enumerate(rates)
        },
        "runs_near_chance": {
            name: {f"{rate:g}": int(n) for rate, n in zip(rates, counts, strict=True) if n}
            for name, counts in near.items()
        },
    }


def _at_best(pair: CurvePair, numbers: Mapping) -> str:
    """Return the gain at the report's rate and at the best, and what the best are."""
    curves, best = _curves(pair), numbers["best_rate"]
    given = zip(curves.items(), pair.chosen_by_others, strict=True)
    others = joined([f"{rates_in_words(curve, own)} {name}" for (name, curve), own in given])
    exactly = joined([f"{rate:g} {name}" for name, rate in best.items()])
    beyond = [_at_end(name, curve) for name, curve in curves.items() if curve.at_end]
    lost = {"unit": "points", **numbers["report_rates_less_best_rates"]}
    interval = f" ({100 * lost['level']:g}% interval)" if lost["low"] is not None else ""
    return (
        f"Over {len(pair.plain.seeds)} seeds batch norm changes last-epoch test accuracy by"
        f" {_points(numbers['gain_at_report_rate'])} at the report's learning rate"
        f" {numbers['report_rate']:g}, and by {_points(numbers['gain_at_best_rates'])} with rates"
        f" chosen {BY_OTHERS} ({others}); the first less the second is"
        f" {difference(lost)}{interval}. At exactly the rates that all seeds choose, {exactly},"
        f" it is {_points(numbers['gain_at_chosen_rates'])}, each seed's own luck in the choice"
        f" included.{''.join(beyond)}"
    )


def _by_rate(numbers: Mapping) -> str:
    told = []
    for rate, accuracy in numbers["accuracy_by_rate"].items():
        both = joined([f"{100 * own:.2f}%" for own in accuracy.values()])
        told.append(f"at {rate} {both} ({signed(numbers['gain_by_rate'][rate], 'points')})")
    names = joined(list(numbers["best_rate"]))
    return f"Mean accuracy by rate, {names}, and the gain: {'; '.join(told)}."


def _near_chance(pair: CurvePair, numbers: Mapping) -> str:
    """Return which runs have learnt next to nothing, in words."""
    seeds, told = len(pair.plain.seeds), []
    for name, counts in numbers["runs_near_chance"].items():
        of = {n: [r for r, k in counts.items() if k == n] for n in dict.fromkeys(counts.values())}
        runs = [
            f"{f'all {n}' if n == seeds else f'{n} of {seeds}'} runs at {joined(rates)}"
            for n, rates in of.items()
        ]
        if runs:
            told.append(f"{name} {joined(runs)}")
    if not told:
        return ""
    return (
        f" Near chance, below {100 * NEAR_CHANCE:g}% where guessing gets 10%, ended"
        f" {'; '.join(told)}. A gain there says which model trains at all, or that neither does."
    )


def _at_end(name: str, curve: RateCurve) -> str:
    end = "lowest" if curve.chosen == 0 else "highest"
    return f" {name.capitalize()} the {end} rate tried was chosen; one beyond may be better."


def _points(value: float) -> str:
    return f"{signed(value, 'points')} points"

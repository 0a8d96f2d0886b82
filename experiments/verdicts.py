"""The report's five conclusions put to the test: what is asked, by which rules, and the answers.

The rules were settled before the run of seeds 200 to 223 that docs/results keeps; earlier runs, of
seeds 0 to 9 and 100 to 123, had been seen when they were. `jax_lenet.decisions.Rules` says when a
difference counts. The *family* is every question of the five functions below, 19 in all; their
tests are corrected together, those that a folder lacks the data for left out. `verdict_of` makes a
conclusion's verdict from those of what it claims; what is asked beside that is in the family and
not in the verdict. Questions to a sweep are further evidence, and no part of any verdict. Each kind
of sweep has a family of its own: the questions of learning rates, conclusion 2's, and those of
dropout rates, conclusion 3's. Each kind is run, or not, for a question of its own; in one family,
whether somebody had tried dropout rates would change what is said of learning rates. That rule is
younger than the others: the learning-rate sweep that docs/results keeps had been seen, and has the
same family by it; of the dropout sweep that is kept there no answer to a test image had been.

All differences are of two variants from the same seeds, or the same repeats. The test images count
as a second source of randomness; the training images do not: what is claimed of training accuracy
is claimed of the images that are trained on.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from experiments import label_errors, mechanisms, sentences
from experiments.evidence import (
    FIRST,
    FIRST_LESS_LAST,
    GAIN,
    GAP,
    LAST,
    TRAINING,
    Evidence,
    LackingError,
    paired,
)
from experiments.questions import (
    BOTH,
    DROP,
    DROPOUT_PAIRS,
    NORM,
    NORM_DROP6,
    NORM_PAIRS,
    PLAIN,
    Asked,
    Pair,
    Question,
    as_json,
    decide_questions,
    time_data,
)
from experiments.sweep_questions import at_dropout_rates, at_learning_rates
from jax_lenet.decisions import Answer, Claim, Rules
from jax_lenet.statistics import mcnemar_test, pairing_gain


@dataclass(frozen=True)
class Conclusion:
    """One of the report's conclusions.

    Attributes:
        number: 1 to 5.
        claim: the conclusion in plain words.
        subject: with what its sentence begins.
        claimed: what it claims; together they make its verdict.
        beside: what a reader will ask at once and the report does not claim; of the same family.
        further: evidence from sweeps, all of one kind: a family of its own.
        note: what its mechanism says to the very words of the claim, as a sentence.
        swept: with what the sentence of the further evidence begins.
        found: what was looked for there; where it was supported is said last.
        unasked: what the claim leaves open where the folder has no data for it, as a sentence.
    """

    number: int
    claim: str
    subject: str
    claimed: tuple[Question, ...]
    beside: tuple[Question, ...] = ()
    further: tuple[Question, ...] = ()
    note: str = ""
    swept: str = ""
    found: str = ""
    unasked: str = ""


def running_time(evidence: Evidence, rules: Rules) -> Conclusion:
    """Batch normalization and dropout increase total execution time.

    One run alone, training and test of an epoch, with batch norm, with dropout in two layers, and
    with both, each as a ratio to the plain model; the report's total is ten such epochs.
    """
    asked = {
        "batch norm": (NORM, "Does batch norm make an epoch take longer?"),
        "dropout": (DROP, "Does dropout in two layers make an epoch take longer?"),
        "both": (BOTH, "Do both together make an epoch take longer?"),
    }
    questions = (
        Question(
            name,
            text,
            "by {}",
            f"with {name}",
            (variant, PLAIN),
            "time of an epoch",
            Claim("greater", rules.log_time_margin),
            time_data(evidence, (variant, PLAIN), rules),
            "ratio",
        )
        for name, (variant, text) in asked.items()
    )
    return Conclusion(
        1,
        "Batch normalization and dropout increase total execution time.",
        "the time of an epoch changes",
        tuple(questions),
    )


def batch_norm(evidence: Evidence, rules: Rules) -> Conclusion:
    """Batch normalization increases accuracy a lot, most of all in the first epoch.

    Test accuracy with batch norm less that without, at the last epoch, at the first, and the second
    difference less the first; each without dropout and with it in two layers.
    """
    asked = (
        Asked(
            "last epoch",
            "Is last-epoch test accuracy higher with batch norm, {}?",
            "at the last epoch by {}",
            LAST,
            "greater",
        ),
        Asked(
            "first epoch",
            "Is first-epoch test accuracy higher with batch norm, {}?",
            "at the first epoch by {}",
            FIRST,
            "greater",
        ),
        Asked(
            "first against last epoch",
            "Does batch norm help more at the first epoch than at the last, {}?",
            "the first epoch's change less the last's is {}",
            FIRST_LESS_LAST,
            "greater",
        ),
    )
    return Conclusion(
        2,
        "Batch normalization increases accuracy a lot, most of all in the first epoch.",
        "batch norm changes test accuracy",
        tuple(question for a in asked for question in a.of(NORM_PAIRS, evidence, rules)),
        further=tuple(at_learning_rates(evidence, NORM_PAIRS, rules)),
        swept="batch norm changes last-epoch test accuracy",
    )


def too_much_dropout(evidence: Evidence, rules: Rules) -> Conclusion:
    """Too much dropout decreases training accuracy; a right rate has to be found.

    Last-epoch training accuracy, in evaluation mode, with dropout in two layers less that without,
    for both kinds of model. Whether any rate does better than none is asked of a sweep.
    """
    asked = Asked(
        "last epoch",
        "Is last-epoch training accuracy lower with dropout in two layers, {}?",
        "at the last epoch by {}",
        TRAINING,
        "less",
    )
    further = tuple(at_dropout_rates(evidence, rules))
    return Conclusion(
        3,
        "Too much dropout decreases training accuracy; a right rate has to be found.",
        "dropout in two layers changes training accuracy",
        tuple(asked.of(DROPOUT_PAIRS, evidence, rules)),
        further=further,
        swept="dropout at its best rate changes last-epoch test accuracy",
        found="better than none",
        unasked="" if further else "Which rate is right was not asked: that takes a sweep.",
    )


def overfitting(evidence: Evidence, rules: Rules) -> Conclusion:
    """Dropout keeps the model from training too well, which makes test accuracy better.

    Claimed for batch norm with drop6 alone, beside batch norm without dropout, at the last epoch:
    the gap between training and test accuracy shrinks; test accuracy rises.
    """
    asked = (
        Asked(
            "gap",
            "Is the gap between training and test accuracy smaller with drop6, {}?",
            "the gap between training and test accuracy by {}",
            GAP,
            "less",
        ),
        Asked(
            "test accuracy",
            "Is last-epoch test accuracy higher with drop6, {}?",
            "test accuracy by {}",
            LAST,
            "greater",
        ),
    )
    pairs = {"with batch norm": (NORM_DROP6, NORM)}
    return Conclusion(
        4,
        "Dropout keeps the model from training too well, which makes test accuracy better"
        " (claimed for batch norm with drop6 alone).",
        "at the last epoch drop6 changes",
        tuple(question for a in asked for question in a.of(pairs, evidence, rules)),
    )


def slow_start(evidence: Evidence, rules: Rules) -> Conclusion:
    """Dropout gives a very bad first epoch, but then a better learning speed than the others.

    Test accuracy with dropout in two layers less that without: lower at the first epoch, and a
    larger gain from the first to the last. Whether it has caught up by the last, its test accuracy
    no more than the margin lower, is asked beside: the report does not claim it.
    """
    asked = (
        Asked(
            "first epoch",
            "Is first-epoch test accuracy lower with dropout in two layers, {}?",
            "at the first epoch by {}",
            FIRST,
            "less",
        ),
        Asked(
            "gain",
            "Does test accuracy gain more from first to last epoch with dropout, {}?",
            "its gain from the first to the last epoch by {}",
            GAIN,
            "greater",
        ),
    )
    caught_up = Asked(
        "last epoch",
        "Has dropout caught up by the last epoch, test accuracy no more than the margin lower, {}?",
        "that it has caught up by the last epoch, where test accuracy differs by {}",
        LAST,
        "greater",
        at_least=True,
    )
    return Conclusion(
        5,
        "Dropout gives a very bad first epoch, but then a better learning speed than the others.",
        "dropout in two layers changes test accuracy",
        tuple(question for a in asked for question in a.of(DROPOUT_PAIRS, evidence, rules)),
        beside=tuple(caught_up.of(DROPOUT_PAIRS, evidence, rules)),
        note=mechanisms.who_leads(evidence),
    )


CONCLUSIONS = (running_time, batch_norm, too_much_dropout, overfitting, slow_start)


def verdict_of(answers: Sequence[Answer]) -> Answer:
    """Return a conclusion's verdict: it claims all of its parts, so the worst of them counts.

    - one part contradicted: contradicted;
    - all supported: supported;
    - one undecided: undecided, since it may yet turn out either way;
    - else some part, or each, makes no practical difference, and the conclusion as a whole does
      not hold: no practical difference.

    >>> verdict_of(["supported", "undecided", "contradicted"])
    'contradicted'
    >>> verdict_of(["supported", "no practical difference"])
    'no practical difference'
    """
    worst_first: tuple[Answer, ...] = ("contradicted", "undecided", "no practical difference")
    for answer in worst_first:
        if answer in answers:
            return answer
    return "supported"


def summarize(evidence: Evidence, rules: Rules) -> dict:
    """Return summary.json's answers: rules, verdicts, and what else a reader will ask.

    Args:
        evidence: from a results folder.
        rules: of deciding.
    """
    conclusions = [conclusion(evidence, rules) for conclusion in CONCLUSIONS]
    entries, family = _answers(conclusions, rules)
    shorn = evidence.without_wrong_labels()
    without, _ = _answers([conclusion(shorn, rules) for conclusion in CONCLUSIONS], rules)
    wrong_labels = label_errors.summarize(evidence.wrong, entries, without)
    for entry, mechanism in zip(entries, mechanisms.of_all(evidence, rules), strict=True):
        entry["mechanism"] = mechanism
    pairs = dict.fromkeys(
        question.compared
        for conclusion in conclusions
        for question in (*conclusion.claimed, *conclusion.beside)
        if question.unit == "points"
    )
    return {
        "rules": asdict(rules) | {"family": family},
        "verdicts": entries,
        "pairing": [gain for pair in pairs for gain in _pairing(evidence, pair)],
        "mcnemar": [test for pair in pairs for test in _mcnemar(evidence, pair)],
        "wrong_labels": wrong_labels,
    }


def _answers(conclusions: Sequence[Conclusion], rules: Rules) -> tuple[list[dict], int]:
    """Return the conclusions as in summary.json, without mechanisms, and the first family's size.

    The claimed and what is beside are one family; each conclusion's further evidence is another.
    """
    questions = [
        question
        for conclusion in conclusions
        for question in (*conclusion.claimed, *conclusion.beside)
    ]
    verdicts = iter(decide_questions(questions, rules))
    family = sum(question.comparison is not None for question in questions)
    entries = []
    for conclusion in conclusions:
        claimed = [as_json(q, next(verdicts), family, "claimed") for q in conclusion.claimed]
        beside = [as_json(q, next(verdicts), family, "beside") for q in conclusion.beside]
        swept = decide_questions(conclusion.further, rules)
        further = [
            as_json(question, verdict, len(swept), "further")
            for question, verdict in zip(conclusion.further, swept, strict=True)
        ]
        entry = {
            "number": conclusion.number,
            "claim": conclusion.claim,
            "verdict": verdict_of([part["verdict"] for part in claimed]),
            "subject": conclusion.subject,
            "note": conclusion.note,
            "swept": conclusion.swept,
            "found": conclusion.found,
            "unasked": conclusion.unasked,
            "parts": [*claimed, *beside, *further],
        }
        said = (sentences.answer, sentences.beside, sentences.sentence)
        entries.append(entry | {say.__name__: say(entry) for say in said})
    return entries, family


def _pairing(evidence: Evidence, pair: Pair) -> Iterator[dict]:
    """Yield how much pairing by seed helps two variants' test accuracy."""
    for epoch, measure in (("first", FIRST), ("last", LAST)):
        if measure.two_epochs and evidence.epochs < 2:
            continue
        with suppress(LackingError):
            found = paired(evidence, pair, measure)
            if len(found.seeds) > 1:
                gain = pairing_gain(found.first, found.second)
                yield {"pair": list(pair), "epoch": epoch, **gain._asdict()}


def _mcnemar(evidence: Evidence, pair: Pair) -> Iterator[dict]:
    """Yield McNemar's test of two variants' runs from the first seed that both have."""
    with suppress(LackingError):
        if evidence.has_images(pair, LAST):
            found = paired(evidence, pair, LAST, by_image=True)
            test = mcnemar_test(found.first[0] == 1, found.second[0] == 1)
            yield {"pair": list(pair), "seed": found.seeds[0], **test._asdict()}

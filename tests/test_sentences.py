"""A verdict's sentence follows the numbers of its entry, and nothing else."""

import copy
import re

import pytest

from experiments.sentences import ORDER, about, difference, sentence, tally


def part(verdict="supported", **changes):
    return {
        "verdict": verdict,
        "reason": "the interval holds zero",
        "unit": "points",
        "estimate": 0.96,
        "low": 0.85,
        "high": 1.07,
        "level": 0.95,
        "n": 10,
        "n_of": "seeds",
        "seeds_needed": None,
        "left_out": "",
        "role": "claimed",
        "clause": "at the last epoch by {}",
        "condition": "without dropout",
    } | changes


def entry(verdict, *parts):
    return {
        "verdict": verdict,
        "subject": "it changes accuracy",
        "note": "",
        "swept": "the best rate changes accuracy",
        "found": "",
        "unasked": "",
        "parts": list(parts),
    }


FIRST = {"clause": "at the first epoch by {}"}
MIXED = entry(
    "contradicted",
    part(),
    part("contradicted", estimate=-0.5, low=-0.6, high=-0.4, condition="with dropout"),
    part("no practical difference", estimate=0.02, low=-0.05, high=0.08, **FIRST),
    part("undecided", estimate=0.3, low=-0.2, high=0.8, condition="with both", seeds_needed=40)
    | FIRST,
)


def test_parts_with_different_verdicts_are_counted_and_labelled():
    assert sentence(MIXED) == (
        "Contradicted as a whole, since the worst part decides"
        " (1 of 4 parts contradicted, 1 supported, 1 with no practical difference, 1 undecided):"
        " it changes accuracy at the last epoch by +0.96 points [+0.85, +1.07] without dropout and"
        " -0.50 points [-0.60, -0.40] with dropout (contradicted);"
        " at the first epoch by +0.02 points [-0.05, +0.08] without dropout"
        " (no practical difference) and +0.30 points [-0.20, +0.80] with both"
        " (undecided; a new run of about 40 seeds would decide it) (95% intervals, 10 seeds)."
    )


def test_where_all_parts_agree_nothing_is_labelled_and_one_clause_holds_its_parts():
    both = part(), part(estimate=1.5, condition="with dropout")
    assert tally(entry("supported", *both)) == ""
    assert sentence(entry("supported", *both)) == (
        "Supported: it changes accuracy at the last epoch by +0.96 points [+0.85, +1.07] without"
        " dropout and +1.50 points [+0.85, +1.07] with dropout (95% intervals, 10 seeds)."
    )


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("name", ["estimate", "low", "high"])
def test_another_number_is_another_sentence(number, name):
    changed = copy.deepcopy(MIXED)
    changed["parts"][number][name] += 0.01
    assert sentence(changed) != sentence(MIXED)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("answer", ORDER)
def test_it_holds_the_verdicts_of_its_entry_and_no_others(number, answer):
    changed = copy.deepcopy(MIXED)
    changed["parts"][number]["verdict"] = answer
    changed["verdict"] = answer
    words = re.findall("|".join(ORDER), sentence(changed).lower())
    assert words[0] == answer
    assert set(words) == {p["verdict"] for p in changed["parts"]}


def test_what_is_asked_beside_the_claim_is_told_and_does_not_count():
    beside = part("contradicted", estimate=-0.4, low=-0.5, high=-0.3, role="beside")
    told = entry("supported", part(), beside)
    assert tally(told) == ""
    assert sentence(told) == (
        "Supported: it changes accuracy at the last epoch by +0.96 points [+0.85, +1.07] without"
        " dropout; not claimed, so not counted: at the last epoch by -0.40 points [-0.50, -0.30]"
        " without dropout (contradicted) (95% intervals, 10 seeds)."
    )


@pytest.mark.parametrize("answer", ORDER)
def test_what_is_asked_beside_the_claim_has_its_verdict_whatever_it_is(answer):
    told = sentence(entry("supported", part(), part(answer, role="beside", seeds_needed=None)))
    assert f"at the last epoch by +0.96 points [+0.85, +1.07] without dropout ({answer})" in told


def test_what_a_claim_leaves_open_is_said_last():
    told = sentence(entry("supported", part()) | {"unasked": "Nobody asked why."})
    assert told.endswith("(95% intervals, 10 seeds). Nobody asked why.")


def test_what_a_sweep_says_comes_after_with_its_own_basis_and_verdict():
    further = part("undecided", estimate=-9.0, low=-19.0, high=1.0, role="further", n=8)
    told = sentence(entry("supported", part(), further) | {"unasked": "Nobody asked why."})
    assert told == (
        sentence(entry("supported", part()))
        + " A sweep, which has no part in it: the best rate changes accuracy at the last"
        " epoch by -9.00 points [-19.00, +1.00] without dropout (undecided) (95% intervals, 8"
        " seeds). Nobody asked why."
    )


def swept(*verdicts, **changes):
    return [
        part(answer, role="further", n=8, condition=f"at {number}", compared=[f"{number}", "none"])
        | changes
        for number, answer in enumerate(verdicts)
    ]


@pytest.mark.parametrize("answer", ORDER)
def test_a_verdict_that_all_of_a_sweep_has_is_told_once(answer):
    told = sentence(entry("supported", part(), *swept(answer, answer))).partition("in it: ")[2]
    assert told == (
        "the best rate changes accuracy at the last epoch by +0.96 points [+0.85, +1.07] at 0 and"
        f" +0.96 points [+0.85, +1.07] at 1 (verdict of each: {answer}, 95% intervals, 8 seeds)."
    )


def test_what_would_decide_all_of_a_sweep_is_told_once():
    parts = swept("undecided", "undecided", seeds_needed=276)
    assert (
        "(verdict of each: undecided; a new run of about 280 seeds would decide it, 95% intervals,"
        in sentence(entry("supported", part(), *parts))
    )


@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        (("undecided", "contradicted", "no practical difference"), "No rate was found better."),
        (("undecided", "supported"), "Better: 1."),
        (("supported",) * 3, "Better: 0, 1 and 2."),
    ],
)
def test_where_a_sweep_found_what_was_looked_for_follows_from_its_verdicts(verdicts, words):
    told = entry("supported", part(), *swept(*verdicts)) | {"found": "better"}
    assert sentence(told).endswith(f" seeds). {words}")
    without = entry("supported", part()) | {"found": "better"}
    assert "etter" not in sentence(without)


def test_what_a_mechanism_says_of_the_claim_comes_before_what_a_sweep_says():
    told = sentence(entry("supported", part(), *swept("undecided")) | {"note": "It leads nowhere."})
    assert "(95% intervals, 10 seeds). It leads nowhere. A sweep, which has no part in" in told


@pytest.mark.parametrize(
    ("number", "words"), [(8, "8"), (99, "99"), (101, "110"), (276, "280"), (1234, "1,300")]
)
def test_seeds_needed_are_rounded_up_to_what_is_known_of_them(number, words):
    assert about(number) == words


def test_ratios_are_percent_more_or_less():
    ratio = part(unit="ratio", estimate=1.173, low=1.161, high=0.985, n_of="repeats", n=12)
    assert "by +17.3% [+16.1, -1.5] without" in sentence(entry("supported", ratio))
    assert sentence(entry("supported", ratio)).endswith("(95% intervals, 12 repeats).")


def test_one_seed_has_no_interval_and_says_why_that_is_not_enough():
    alone = part("undecided", low=None, high=None, n=1, reason="1 seed cannot decide")
    assert sentence(entry("undecided", alone)) == (
        "Undecided: it changes accuracy at the last epoch by +0.96 points without dropout,"
        " since 1 seed cannot decide (1 seed)."
    )


def test_what_nobody_measured_is_an_unknown_amount():
    unknown = {"estimate": None, "low": None, "high": None, "n": 0, "reason": "there is no file"}
    parts = part("undecided", **unknown), part("undecided", **unknown, condition="with dropout")
    assert sentence(entry("undecided", *parts)) == (
        "Undecided: it changes accuracy at the last epoch by an unknown amount without dropout and"
        " with dropout, since there is no file."
    )


def test_where_all_is_undecided_for_one_reason_it_is_told_once_with_what_would_decide():
    parts = (part("undecided", seeds_needed=n, low=-0.1, condition=f"at {n}") for n in (17, 1234))
    assert sentence(entry("undecided", *parts)) == (
        "Undecided: it changes accuracy at the last epoch by +0.96 points [-0.10, +1.07] at 17 and"
        " +0.96 points [-0.10, +1.07] at 1234, since the interval holds zero; a new run of about"
        " 1,300 seeds would decide it (95% intervals, 10 seeds)."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": 0.004}, "+0.960 points [+0.004, +1.070]"),
        ({"low": -0.0996, "high": 0.02, "margin": 0.1}, "+0.9600 points [-0.0996, +0.0200]"),
        ({"low": -0.0951, "high": 0.02, "margin": 0.1}, "+0.960 points [-0.095, +0.020]"),
        ({"low": 0.0, "high": 0.1, "margin": 0.1}, "+0.96 points [0.00, +0.10]"),
        ({"unit": "ratio", "estimate": 1.1, "low": 1.0203, "high": 1.2, "margin": 0.02}, "+10.00%"),
    ],
)
def test_rounding_does_not_move_an_end_onto_zero_or_the_margin(changes, words):
    assert difference(part(**changes)).startswith(words)


def test_different_numbers_of_seeds_and_runs_left_out_are_told():
    short = part(n=9, left_out="LeNet seed 3 in epoch 1")
    assert sentence(entry("supported", part(), short)).endswith(
        "(95% intervals, 9 to 10 seeds, without those of runs that diverged)."
    )

"""A verdict's sentence follows the numbers of its entry, and nothing else."""

import copy
import re

import pytest

from experiments.sentences import ORDER, sentence


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
        "counts": True,
        "where": "at the last epoch",
    } | changes


def entry(verdict, *parts):
    return {"verdict": verdict, "subject": "it changes accuracy by", "parts": list(parts)}


MIXED = entry(
    "contradicted",
    part(),
    part("contradicted", estimate=-0.5, low=-0.6, high=-0.4, where="with dropout"),
    part("no practical difference", estimate=0.02, low=-0.05, high=0.08, where="with drop6"),
    part("undecided", estimate=0.3, low=-0.2, high=0.8, where="with both", seeds_needed=40),
)


def test_its_own_verdict_comes_first_and_every_part_stands_under_its_own():
    assert sentence(MIXED) == (
        "Contradicted in part: it changes accuracy by -0.50 points [-0.60, -0.40] with dropout;"
        " supported: +0.96 points [+0.85, +1.07] at the last epoch;"
        " no practical difference: +0.02 points [-0.05, +0.08] with drop6;"
        " undecided: +0.30 points [-0.20, +0.80] with both, since the interval holds zero, which"
        " about 40 seeds would decide (95% intervals, 10 seeds)."
    )


def test_where_all_parts_agree_there_is_one_group():
    assert sentence(entry("supported", part(), part(estimate=1.5, where="with dropout"))) == (
        "Supported: it changes accuracy by +0.96 points [+0.85, +1.07] at the last epoch and"
        " +1.50 points [+0.85, +1.07] with dropout (95% intervals, 10 seeds)."
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


def test_further_evidence_has_no_place_in_it():
    further = part("contradicted", estimate=-9.0, counts=False)
    assert sentence(entry("supported", part(), further)) == sentence(entry("supported", part()))


def test_ratios_are_percent_more_or_less():
    ratio = part(unit="ratio", estimate=1.173, low=1.161, high=0.985, n_of="repeats", n=12)
    assert "by +17.3% [+16.1, -1.5] at" in sentence(entry("supported", ratio))
    assert sentence(entry("supported", ratio)).endswith("(95% intervals, 12 repeats).")


def test_one_seed_has_no_interval_and_says_why_that_is_not_enough():
    alone = part("undecided", low=None, high=None, n=1, reason="1 seed cannot decide")
    assert sentence(entry("undecided", alone)) == (
        "Undecided: it changes accuracy by +0.96 points at the last epoch, since 1 seed cannot"
        " decide (1 seed)."
    )


def test_what_nobody_measured_is_an_unknown_amount():
    unknown = {"estimate": None, "low": None, "high": None, "n": 0, "reason": "there is no file"}
    parts = part("undecided", **unknown), part("undecided", **unknown, where="with dropout")
    assert sentence(entry("undecided", *parts)) == (
        "Undecided: it changes accuracy by an unknown amount at the last epoch and with dropout,"
        " since there is no file."
    )


def test_different_numbers_of_seeds_and_runs_left_out_are_told():
    short = part(n=9, left_out="LeNet seed 3 in epoch 1")
    assert sentence(entry("supported", part(), short)).endswith(
        "(95% intervals, 9 to 10 seeds, left out, as a run diverged: LeNet seed 3 in epoch 1)."
    )

"""The mechanisms' numbers against enumeration, simulation and hand counts."""

import itertools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import optimize, special, stats

from experiments.mechanisms import (
    floor_of_loss,
    loss_floor,
    made_of,
    order_of_layers,
    reach_of_dropout,
    where_time_goes,
    who_leads,
)
from jax_lenet import VARIANTS
from jax_lenet.decisions import Rules
from jax_lenet.layers import Dropout
from tests.simulated import (
    BOTH,
    LOSSES,
    Truth,
    drawn_evidence,
    evidence_of,
    write,
)

TRUTH = Truth(
    seeds=3,
    images=200,
    repeats=3,
    first={"LeNet_noBN_Dropout": -0.05},
    last={"LeNet_noBN_Dropout": -0.005},
    time={"LeNet_BN_noDropout": 0.2},
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write(tmp_path_factory.mktemp("study") / "r", TRUTH)


# The floor under the loss

MASKS = np.array(list(itertools.product([0.0, 1.0], repeat=10)))  # all 1,024, 1 where kept


def expected_loss(logits, rate):
    """Of the true class 0, over all masks, in float64: no formula of ours."""
    kept = MASKS.sum(1)
    weights = (1 - rate) ** kept * rate ** (10 - kept)
    dropped = MASKS * logits / (1 - rate)
    return weights @ (special.logsumexp(dropped, axis=1) - dropped[:, 0])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_logits_that_grow_apart_come_as_near_to_the_floor_as_one_likes(rate):
    floor = floor_of_loss(rate)
    losses = [expected_loss(np.array([size, *[-size] * 9]), rate) for size in (1, 5, 20)]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] == pytest.approx(floor, abs=1e-7)  # about exp(-20)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_no_logits_come_below_the_floor(rate):
    floor = floor_of_loss(rate)
    draws = np.random.default_rng(0)
    found = [expected_loss(draws.normal(0, draws.exponential(8), 10), rate) for _ in range(300)]
    assert min(found) > floor
    start = draws.normal(0, 3, 10)  # asymmetric: the wrong ones need not be equal
    best = optimize.minimize(expected_loss, start, (rate,), bounds=[(-12, 12)] * 10)
    assert floor < best.fun < floor + 1e-3


def test_the_dropout_layer_itself_meets_the_floor():
    # At logits of ±30 the expected loss is the floor to 1e-13; the mean of 100,000 draws scatters.
    logits = jnp.broadcast_to(jnp.array([30.0] + [-30.0] * 9, jnp.float32), (100_000, 10))
    dropped = Dropout(0.5).apply({}, logits, train=True, rngs={"dropout": jax.random.key(0)})
    losses = -np.asarray(jax.nn.log_softmax(jnp.asarray(dropped)))[:, 0]
    error = losses.std() / np.sqrt(len(losses))
    assert losses.mean() == pytest.approx(floor_of_loss(0.5), abs=4 * error)


def test_the_floor_of_two_classes_is_that_by_hand():
    # Both dropped, a quarter of the draws at 0.5: log 2; all others can be right.
    assert floor_of_loss(0.5, classes=2) == pytest.approx(np.log(2) / 4)
    assert floor_of_loss(0.0) == 0


def test_the_measured_losses_are_compared_with_the_floor(study):
    found = loss_floor(evidence_of(study))
    numbers = found["numbers"]
    assert numbers["LeNet_BN_Dropout"] == LOSSES[1]
    above = LOSSES[1] - floor_of_loss(0.5)
    names = ["LeNet_noBN_Dropout", "LeNet_BN_Dropout"]  # those with drop7
    assert numbers["above_floor"] == pytest.approx(dict.fromkeys(names, above))
    assert f"below {numbers['floor']:.3f}" in found["text"]
    for name in names:
        assert f"1.250 ({name}), above the floor by {above:.3f}" in found["text"]
    assert "BELOW" not in found["text"]


def test_a_loss_below_the_floor_is_said_to_be_wrong(study):
    evidence = evidence_of(study)
    low = replace(evidence.of(BOTH), train_loss=np.full((3, 3), 0.25))
    found = loss_floor(replace(evidence, runs={**evidence.runs, BOTH: low}))
    below = floor_of_loss(0.5) - 0.25
    assert f"0.250 ({BOTH}), BELOW the floor by {below:.3f}: something is wrong" in found["text"]
    assert found["numbers"]["above_floor"][BOTH] == pytest.approx(-below)


def test_a_run_that_diverged_has_no_loss(tmp_path):
    diverged = tuple(("LeNet", seed, 1) for seed in range(3))
    found = loss_floor(evidence_of(write(tmp_path / "r", replace(TRUTH, diverged=diverged))))
    assert "LeNet" not in found["numbers"]
    assert "Without dropout: 0.250 (LeNet_BN_noDropout)." in found["text"]


# The order of the layers


@pytest.mark.parametrize("variant", ["LeNet_BN_Dropout", "LeNet_BN_drop6"])
def test_in_lenet_dropout_reaches_the_output_and_no_batch_norm(variant):
    reach = reach_of_dropout(VARIANTS[variant].clone(form="plain"))
    assert reach.log_probs > 0.1
    assert reach.statistics == 0


class Behind(nn.Module):
    """Batch norm behind dropout."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dropout(0.5, deterministic=not train)(images.reshape(len(images), -1))
        return nn.Dense(10)(nn.BatchNorm(use_running_average=not train)(x))


def test_where_batch_norm_stands_behind_dropout_the_check_sees_it():
    assert reach_of_dropout(Behind()).statistics > 0.01


def test_the_words_say_what_the_check_found(study, monkeypatch):
    assert "cannot act here" in order_of_layers(evidence_of(study))["text"]
    monkeypatch.setattr("experiments.mechanisms._reach", lambda variant: reach_of_dropout(Behind()))
    other = order_of_layers(evidence_of(study))["text"]
    assert "dropout reaches batch norm" in other
    assert "cannot act here" not in other


# Time, gain, learning rate


def test_training_and_testing_are_timed_apart(tmp_path, study):
    rows = [
        r._replace(train_seconds=r.train_seconds * (2 if r.variant == "LeNet_BN_Dropout" else 1))
        for r in study.read_timing()
    ]
    folder = write(tmp_path / "r", TRUTH)
    folder.write_timing(rows)
    numbers = where_time_goes(evidence_of(folder), Rules())["numbers"]
    before = where_time_goes(evidence_of(study), Rules())["numbers"]
    for end in ("estimate", "low", "high"):
        doubled = 2 * before["training"]["both"][end]
        assert numbers["training"]["both"][end] == pytest.approx(doubled)
    assert numbers["testing"] == before["testing"]
    seconds = [
        [r.test_seconds for r in rows if r.variant == v] for v in ("LeNet_BN_noDropout", "LeNet")
    ]
    ratios = np.divide(*seconds)
    found = numbers["testing"]["batch norm"]
    assert found["estimate"] == pytest.approx(stats.gmean(ratios))
    ends = np.exp(stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.95))
    np.testing.assert_allclose([found["low"], found["high"]], ends)


@pytest.mark.parametrize(
    ("added", "place"), [(0.0, "shown"), (0.2, "refuted"), (-0.2, "refuted"), (0.01, "open")]
)
def test_whether_testing_costs_more_follows_from_its_interval_and_the_margin(added, place):
    # Testing takes twice as much more, in logarithms: 0.02, about the margin, at the last.
    truth = replace(TRUTH, repeats=12, time={BOTH: added})
    found = where_time_goes(drawn_evidence(truth, 0), Rules())
    assert found["numbers"]["testing"]["both"]["place"] == place
    (told,) = re.findall(r"differs by 2% at most is (.*)\.", found["text"])
    for words in re.split(r"(?=shown|refuted|open)", told):
        assert words.startswith(place) == ("both" in words)


def test_without_timing_the_check_says_so(tmp_path):
    found = where_time_goes(evidence_of(write(tmp_path / "r", replace(TRUTH, repeats=0))), Rules())
    assert found["numbers"] == {}
    assert "without timing.csv" in found["text"]


def test_the_difference_in_gain_is_start_and_end(study):
    found = made_of(evidence_of(study))
    numbers = found["numbers"]["without batch norm"]

    def mean(variant, epoch):
        rows = study.read_results()
        return np.mean([r.test_accuracy for r in rows if (r.variant, r.epoch) == (variant, epoch)])

    course = [mean("LeNet_noBN_Dropout", epoch) - mean("LeNet", epoch) for epoch in (1, 2, 3)]
    assert numbers["from_start"] == pytest.approx(-100 * course[0])
    assert numbers["last"] == pytest.approx(100 * course[-1])
    assert numbers["gain"] == pytest.approx(100 * (course[-1] - course[0]))
    assert numbers["epochs_ahead"] == sum(difference > 0 for difference in course)
    assert f"{numbers['from_start']:+.2f} points from the start" in found["text"]
    assert f"ahead in {numbers['epochs_ahead']} of the 3 epochs" in found["text"]


def test_one_epoch_has_no_gain_to_take_apart(study):
    found = made_of(replace(evidence_of(study), epochs=1))
    assert found["numbers"] == {}
    assert found["text"] == "Not computed: one epoch is the first and the last."


@pytest.mark.parametrize(
    ("first", "last", "words"),
    [
        # Behind all the time, least at the end; ahead from the middle on; ahead at first alone.
        (-0.05, -0.01, "0 of 3 epochs with batch norm: its larger gain is that of its low start."),
        (-0.01, 0.07, "2 of 3 epochs with batch norm."),
        (0.05, -0.07, "1 of 3 epochs with batch norm."),
    ],
)
def test_who_leads_and_whether_the_start_is_all_the_gain_is_told(first, last, words):
    dropout = ("LeNet_noBN_Dropout", BOTH)
    steady = Truth(seeds=3, scatter=1e-4, start_scatter=1e-4, own=0.0)
    effects = {name: dict.fromkeys(dropout, of) for name, of in (("first", first), ("last", last))}
    told = who_leads(drawn_evidence(replace(steady, **effects), 0))
    count = words[:1]
    assert told == (
        f"In mean test accuracy dropout is ahead in {count} of 3 epochs without batch norm and"
        f" {words}"
    )


def test_with_one_epoch_nobody_leads(study):
    assert who_leads(replace(evidence_of(study), epochs=1)) == ""

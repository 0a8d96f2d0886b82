"""The six models: their arguments, their variables, and what dropout and batch norm do."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jax_lenet import VARIANTS, init, lenet5
from jax_lenet.layers import BatchNorm, Dropout
from tests.torch_reference import digits, noise, perturbed

SHAPES = {
    "c1": {"kernel": (5, 5, 1, 6), "bias": (6,)},
    "c3": {"kernel": (5, 5, 6, 16), "bias": (16,)},
    "c5": {"kernel": (5, 5, 16, 120), "bias": (120,)},
    "f6": {"kernel": (120, 84), "bias": (84,)},
    "f7": {"kernel": (84, 10), "bias": (10,)},
}
BATCH_NORM_CHANNELS = {"bn1": 6, "bn3": 16, "bn5": 120}
# How many inputs one output of the layer sums over.
FAN_IN = {"c1": 25, "c3": 25 * 6, "c5": 25 * 16, "f6": 120, "f7": 84}


def train(model, variables, images, key):
    """Return the log-probabilities in training mode and what the layers sowed and updated."""
    return model.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": key},
    )


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_norm": 1}, "batch_norm must be True or False, not 1"),
        ({"batch_norm": "yes"}, "batch_norm must be True or False, not 'yes'"),
        ({"dropout": 0.5}, "dropout must be the two rates of drop6 and drop7, not 0.5"),
        ({"dropout": (0.5,)}, "dropout must be the two rates of drop6 and drop7, not (0.5,)"),
        ({"dropout": "ab"}, "dropout must be the two rates of drop6 and drop7, not 'ab'"),
        ({"dropout": (1.0, 0)}, "the rate of drop6 must be a number in [0, 1), not 1.0"),
        ({"dropout": (0, -0.1)}, "the rate of drop7 must be a number in [0, 1), not -0.1"),
        ({"dropout": (math.nan, 0)}, "the rate of drop6 must be a number in [0, 1), not nan"),
        ({"dropout": (True, 0)}, "the rate of drop6 must be a number in [0, 1), not True"),
        ({"dropout": (0, None)}, "the rate of drop7 must be a number in [0, 1), not None"),
        ({"dropout": ("0.5", 0)}, "the rate of drop6 must be a number in [0, 1), not '0.5'"),
        (
            {"dropout": (np.array([0.5]), 0)},
            "the rate of drop6 must be a number in [0, 1), not array([0.5])",
        ),
        (
            {"precision": "float32"},
            "precision must be 'highest', 'high' or 'default', not 'float32'",
        ),
    ],
)
def test_lenet5_says_what_is_wrong_with_an_argument(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared as a whole below
        lenet5(**arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("rate", "found"),
    [
        (np.zeros(2, np.float32), "a traced float32 array of shape (2,)"),
        (np.int32(0), "a traced int32 array of shape ()"),
    ],
)
def test_lenet5_says_what_is_wrong_with_a_traced_rate(rate, found):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared as a whole below
        jax.jit(lambda rate: lenet5(dropout=(0.0, rate)).dropout[1])(rate)
    assert str(error.value) == f"the rate of drop7 must be a number in [0, 1), not {found}"


def test_a_rate_may_be_an_array_and_the_model_still_be_hashed():
    for rate in (np.array(0.5), np.float32(0.5), jnp.array(0.5)):
        assert hash(lenet5(dropout=(rate, 0))) == hash(lenet5(dropout=(0.5, 0)))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 28, 28), "f"),
            "images must have shape [N, 28, 28, 1] with N > 0, not [2, 28, 28]",
        ),
        (
            np.zeros((2, 1, 28, 28), "f"),
            "images must have shape [N, 28, 28, 1] with N > 0, not [2, 1, 28, 28]",
        ),
        (
            np.zeros((0, 28, 28, 1), "f"),
            "images must have shape [N, 28, 28, 1] with N > 0, not [0, 28, 28, 1]",
        ),
        (
            np.zeros((2, 28, 28, 1), np.uint8),
            "images must be floating point, not uint8; jax_lenet.normalize makes them from uint8",
        ),
        (
            np.zeros((2, 28, 28, 1), np.float16),
            "images must be float32, as the parameters are, not float16",
        ),
    ],
)
def test_apply_says_what_is_wrong_with_the_images(images, message):
    variables = init(VARIANTS["LeNet"], 0).variables
    with pytest.raises(ValueError) as error:  # noqa: PT011 - compared as a whole below
        VARIANTS["LeNet"].apply(variables, images)
    assert str(error.value) == message


def test_batch_norm_refuses_to_train_on_a_single_image():
    model = VARIANTS["LeNet_BN_noDropout"]  # bn5 has one value per channel then
    with pytest.raises(ValueError, match="batch norm in training needs at least two values"):
        train(model, init(model, 0).variables, noise(1).images, jax.random.key(0))


# Variables


def test_the_variants_are_the_reports_four_and_two_of_its_second_figure():
    assert {name: (m.batch_norm, m.dropout) for name, m in VARIANTS.items()} == {
        "LeNet": (False, (0, 0)),
        "LeNet_BN_noDropout": (True, (0, 0)),
        "LeNet_noBN_Dropout": (False, (0.5, 0.5)),
        "LeNet_BN_Dropout": (True, (0.5, 0.5)),
        "LeNet_noBN_drop6": (False, (0.5, 0)),
        "LeNet_BN_drop6": (True, (0.5, 0)),
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_variables_have_the_reports_names_and_flaxs_shapes(variant):
    batch_norm = VARIANTS[variant].batch_norm
    expected = {"params": dict(SHAPES)}
    if batch_norm:
        for layer, channels in BATCH_NORM_CHANNELS.items():
            expected["params"][layer] = {"scale": (channels,), "bias": (channels,)}
        expected["batch_stats"] = {
            layer: {"mean": (channels,), "var": (channels,)}
            for layer, channels in BATCH_NORM_CHANNELS.items()
        }
    variables = VARIANTS[variant].init(jax.random.key(0), noise(2).images)
    assert jax.tree.map(np.shape, variables) == expected
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    trainable = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert trainable == (61_990 if batch_norm else 61_706)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_starts_from_the_weights_that_its_seeds_key_gives(variant):
    model = VARIANTS[variant]
    expected = model.init(jax.random.key(3), noise(2).images)
    jax.tree.map(np.testing.assert_array_equal, init(model, 3).variables, dict(expected))


def test_all_variants_of_one_seed_start_from_the_same_convolutions_and_linear_layers():
    plain = init(VARIANTS["LeNet"], 5).params
    for model in VARIANTS.values():
        params = init(model, 5).params
        for layer in SHAPES:
            jax.tree.map(np.testing.assert_array_equal, params[layer], plain[layer])


def test_batch_norm_starts_with_scale_one_shift_zero_mean_zero_and_variance_one():
    variables = init(VARIANTS["LeNet_BN_Dropout"], 0).variables
    for layer in BATCH_NORM_CHANNELS:
        assert (variables["params"][layer]["scale"] == 1).all()
        assert (variables["params"][layer]["bias"] == 0).all()
        assert (variables["batch_stats"][layer]["mean"] == 0).all()
        assert (variables["batch_stats"][layer]["var"] == 1).all()


@partial(jax.jit, static_argnames=("layer", "name"))
def initial_values(seeds, layer, name):
    return jax.vmap(lambda seed: init(VARIANTS["LeNet"], seed).params[layer][name])(seeds)


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_initial_weights_are_uniform_within_one_over_the_root_of_fan_in(layer, name):
    # Some 50,000 values from many seeds: a bound that is 3% off gives p < 1e-4.
    size = math.prod(SHAPES[layer][name])
    seeds = jnp.arange(max(1, 50_000 // size), dtype=jnp.uint32)
    values = np.asarray(initial_values(seeds, layer, name)).ravel()
    bound = 1 / math.sqrt(FAN_IN[layer])
    assert np.abs(values).max() <= np.float32(bound)
    # A right distribution fails one of the ten tests in a hundred choices of seeds.
    assert stats.kstest(values, "uniform", args=(-bound, 2 * bound)).pvalue > 1e-3


def test_no_two_arrays_start_from_the_same_draws():
    params = init(VARIANTS["LeNet"], 0).params
    first = [
        np.asarray(array).ravel()[:6] * math.sqrt(FAN_IN[layer])
        for layer, arrays in params.items()
        for array in arrays.values()
    ]
    distances = np.abs(np.stack(first)[:, None] - np.stack(first)).max(-1)
    assert distances[~np.eye(len(first), dtype=bool)].min() > 1e-3


def test_another_seed_starts_from_other_weights():
    first, second = init(VARIANTS["LeNet"], 0).params, init(VARIANTS["LeNet"], 1).params
    differ = jax.tree.map(lambda a, b: bool((a != b).all()), first, second)
    assert all(jax.tree.leaves(differ))


# Batch norm


def test_batch_norm_of_a_case_done_by_hand():
    # Two values, 0 and 4: mean 2, variance 4 over n, 8 over n - 1.
    variables = {
        "params": {"scale": jnp.full(1, -3.0), "bias": jnp.full(1, 0.5)},
        "batch_stats": {"mean": jnp.full(1, 10.0), "var": jnp.full(1, 2.0)},
    }
    x = jnp.array([[0.0], [4.0]])
    layer = BatchNorm(channels=1)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    # Normalized by the biased variance: -1 and 1. rsqrt and the 1e-5 beside 4 cost 2e-6.
    np.testing.assert_allclose(y, [[3.5], [-2.5]], atol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.9 * 10 + 0.1 * 2], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [0.9 * 2 + 0.1 * 8], rtol=1e-6)
    # Evaluation: (x - 10) / sqrt(2) * -3 + 0.5.
    y = layer.apply(variables, x, train=False)
    np.testing.assert_allclose(y, [[21.7132], [13.2279]], rtol=1e-5)


def test_evaluation_changes_no_statistics_and_drops_nothing():
    variables = perturbed("LeNet_BN_Dropout")
    images = digits(7).images
    model = VARIANTS["LeNet_BN_Dropout"]
    log_probs, updates = model.apply(
        variables, images, train=False, mutable=["batch_stats", "intermediates"]
    )
    jax.tree.map(
        np.testing.assert_array_equal, dict(updates), {"batch_stats": variables["batch_stats"]}
    )
    without = VARIANTS["LeNet_BN_noDropout"].apply(variables, images, train=False)
    np.testing.assert_array_equal(log_probs, without)


def test_probabilities_sum_to_one():
    for variant, model in VARIANTS.items():
        log_probs = model.apply(perturbed(variant), noise(5).images)
        # Ten float32 roundings.
        np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, atol=1e-6)


# Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_scales_what_it_keeps(rate):
    x = jnp.ones((1000, 84))
    y = Dropout(rate).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    values = np.unique(y)
    assert values[0] == 0
    np.testing.assert_allclose(values[1:], [1 / (1 - rate)], rtol=1e-6)
    # Four standard errors of a share.
    share = np.mean(np.asarray(y) > 0)
    assert abs(share - (1 - rate)) < 4 * math.sqrt(rate * (1 - rate) / x.size)


def test_dropout_drops_units_and_images_independently():
    x = jnp.ones((2000, 84))
    y = Dropout(0.5).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(y) > 0
    for axis, count in ((0, 2000), (1, 84)):
        # The share along an axis varies like a binomial's; its variance within 6 standard errors.
        variance = kept.mean(axis).var() * count / 0.25
        assert abs(variance - 1) < 6 * math.sqrt(2 / kept.mean(axis).size)


def test_drop6_and_drop7_draw_different_masks_that_follow_from_the_key():
    model, images = VARIANTS["LeNet_noBN_Dropout"], noise(64).images
    variables = perturbed("LeNet_noBN_Dropout")

    def masks(seed):
        _, updates = train(model, variables, images, jax.random.key(seed))
        return {
            name: np.asarray(sown["keep"][0]) for name, sown in updates["intermediates"].items()
        }

    first = masks(0)
    assert {name: mask.shape for name, mask in first.items()} == {
        "drop6": (64, 84),
        "drop7": (64, 10),
    }
    assert (first["drop6"][:, :10] != first["drop7"]).any()
    jax.tree.map(np.testing.assert_array_equal, masks(0), first)
    for name, mask in masks(1).items():
        assert 0.3 < (mask != first[name]).mean() < 0.7


def test_drop7_sets_logits_to_zero_before_the_log_softmax():
    model, variables = VARIANTS["LeNet_noBN_Dropout"], perturbed("LeNet_noBN_Dropout")
    log_probs, updates = train(model, variables, noise(64).images, jax.random.key(0))
    keep = np.asarray(updates["intermediates"]["drop7"]["keep"][0])
    rows = keep.any(-1) & ~keep.all(-1)
    # A dropped class has the logit 0: within a row they are all equally likely, and the kept
    # ones' probabilities are the exponentials of their logits as many times as likely.
    dropped = np.where(keep, np.nan, log_probs)[rows]
    np.testing.assert_array_equal(np.nanmax(dropped, -1), np.nanmin(dropped, -1))
    logits = np.asarray(log_probs)[rows] - np.nanmax(dropped, -1, keepdims=True)
    assert (logits[~keep[rows]] == 0).all()
    assert (logits[keep[rows]] != 0).all()


def test_drop6_zeroes_what_f7_sees():
    model, variables = VARIANTS["LeNet_noBN_drop6"], perturbed("LeNet_noBN_drop6")
    # f6 gives 1 and f7 counts: the logit of class 0 is the number of units kept, times 2.
    variables["params"]["f6"]["kernel"][:] = 0
    variables["params"]["f6"]["bias"][:] = 1
    variables["params"]["f7"]["kernel"][:] = 0
    variables["params"]["f7"]["kernel"][:, 0] = 0.01
    variables["params"]["f7"]["bias"][:] = 0
    log_probs, updates = train(model, variables, noise(64).images, jax.random.key(0))
    keep = np.asarray(updates["intermediates"]["drop6"]["keep"][0])
    logits = np.asarray(log_probs[:, 0] - log_probs[:, 1])
    np.testing.assert_allclose(logits, 0.01 * 2 * keep.sum(-1), rtol=1e-5)


def test_a_traced_rate_gives_the_static_rates_bits_with_one_compilation():
    batch_norm = True
    variables = perturbed("LeNet_BN_Dropout")
    images, key = noise(16).images, jax.random.key(0)
    traces = 0

    @jax.jit
    def with_traced_rates(rates):
        nonlocal traces
        traces += 1
        return train(lenet5(batch_norm, (rates[0], rates[1])), variables, images, key)

    for rates in ((0.5, 0.5), (0.25, 0.75), (0.1, 0.3)):
        expected = jax.jit(
            lambda rates=rates: train(lenet5(batch_norm, rates), variables, images, key)
        )()
        found = with_traced_rates(jnp.array(rates))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert traces == 1


@pytest.mark.parametrize("variant", ["LeNet", "LeNet_BN_noDropout"])
def test_a_traced_rate_of_zero_is_no_dropout(variant):
    batch_norm = VARIANTS[variant].batch_norm
    variables, images, key = perturbed(variant), noise(16).images, jax.random.key(0)
    found, updates = jax.jit(
        lambda rate: train(lenet5(batch_norm, (rate, rate)), variables, images, key)
    )(jnp.float32(0))
    expected, _ = jax.jit(lambda: train(VARIANTS[variant], variables, images, key))()
    # The same numbers but for how XLA fuses two different programs: a few units in the last place.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert all(mask.all() for mask in jax.tree.leaves(updates["intermediates"]))


def test_a_growing_rate_drops_more_of_the_same_units():
    variables, images, key = perturbed("LeNet"), noise(16).images, jax.random.key(0)
    kept = []
    for rate in (0.2, 0.5, 0.8):
        _, updates = train(lenet5(dropout=(rate, 0)), variables, images, key)
        kept.append(np.asarray(updates["intermediates"]["drop6"]["keep"][0]))
    assert (kept[0] >= kept[1]).all()
    assert (kept[1] >= kept[2]).all()
    assert kept[0].sum() > kept[1].sum() > kept[2].sum() > 0

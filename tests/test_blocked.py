"""The fast form of c1 to relu5 against plain convolutions, poolings and batch norms.

The yardstick is in float64: there the two forms differ by rounding alone, 1e-15 of a result's size
and up to 1e-12 where batch norm divides by a small variance. So 1e-10 leaves no room for an error.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_lenet import load, normalize
from jax_lenet.blocked import features, max4, prepare, relu
from jax_lenet.moments import filter_statistics

EPSILON, MOMENTUM = 1e-5, 0.9
FLOAT64 = 1e-10

KINDS = ["digits", "flat", "noise"]
MODES = [("plain", False, True), ("training", True, True), ("evaluation", True, False)]
in_every_mode = pytest.mark.parametrize(
    ("batch_norm", "train"), [pytest.param(*mode, id=name) for name, *mode in MODES]
)


def plain_features(images, params, batch_stats, batch_norm, train):
    """What `features` computes, from the definitions of convolution, pooling and batch norm."""
    updated = {}

    def conv(x, name, padding):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        layout = ("NHWC", "HWIO", "NHWC")
        return bias + lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=layout, precision="highest"
        )

    def norm(x, name):
        if not batch_norm:
            return x
        mean, var = batch_stats[name]["mean"], batch_stats[name]["var"]
        if train:
            running_mean, running_var = mean, var
            count = x.size // x.shape[-1]
            mean = x.mean((0, 1, 2))
            var = jnp.square(x - mean).mean((0, 1, 2))
            updated[name] = {
                "mean": MOMENTUM * running_mean + (1 - MOMENTUM) * mean,
                "var": MOMENTUM * running_var + (1 - MOMENTUM) * var * (count / (count - 1)),
            }
        normalized = (x - mean) / jnp.sqrt(var + EPSILON)
        return normalized * params[name]["scale"] + params[name]["bias"]

    def pool(x):
        return lax.reduce_window(x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    x = pool(jax.nn.relu(norm(conv(images, "c1", [(2, 2), (2, 2)]), "bn1")))
    x = pool(jax.nn.relu(norm(conv(x, "c3", "VALID"), "bn3")))
    x = jax.nn.relu(norm(conv(x, "c5", "VALID"), "bn5"))
    return x.reshape(-1, 120), updated or batch_stats


def variables(seed=0, dtype=np.float32):
    """Weights as PyTorch draws them; batch norm with scales of either sign and of zero."""
    rng = np.random.default_rng(seed)
    params, batch_stats = {}, {}
    for number, inputs, channels in (1, 1, 6), (3, 6, 16), (5, 16, 120):
        window = 5, 5, inputs
        bound = 1 / np.sqrt(np.prod(window))
        params[f"c{number}"] = {
            "kernel": rng.uniform(-bound, bound, (*window, channels)),
            "bias": rng.uniform(-bound, bound, channels),
        }
        scale = rng.normal(1, 1, channels)
        scale[:3] = 0, -0.7, 1.3
        params[f"bn{number}"] = {"scale": scale, "bias": rng.normal(0.2, 1, channels)}
        batch_stats[f"bn{number}"] = {
            "mean": rng.normal(0, 1, channels),
            "var": rng.uniform(0.5, 2, channels),
        }
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, batch_stats))


def images_of(kind, count, dtype=np.float32):
    """Normalized images: real digits, noise, or squares of one grey on a flat background."""
    rng = np.random.default_rng(count)
    if kind == "digits":
        pixels = load("mnist_sample").train_images[:count]
    elif kind == "noise":
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
    else:
        pixels = np.zeros((count, 28, 28), np.uint8)
        for image, (row, column) in zip(pixels, rng.integers(2, 18, (count, 2)), strict=True):
            image[row : row + 8, column : column + 8] = 200
    return jnp.asarray(normalize(pixels), dtype)


def blocked_features(images, params, batch_stats, batch_norm, train):
    prepared = prepare(images, moments=batch_norm and train)
    return features(prepared, params, batch_stats, batch_norm=batch_norm, train=train)


@partial(jax.jit, static_argnames=("form", "batch_norm", "train"))
def results(form, params, batch_stats, images, batch_norm, train):
    """Outputs, running statistics, and gradients of a fixed weighting of the outputs."""
    weights = np.random.default_rng(1).normal(size=(len(images), 120))

    def weighted(params):
        output, updated = form(images, params, batch_stats, batch_norm, train)
        return jnp.sum(output * jnp.asarray(weights, output.dtype)), (output, updated)

    (_, (output, updated)), gradients = jax.value_and_grad(weighted, has_aux=True)(params)
    if batch_norm and train:
        # Batch norm takes these biases out again: the plain form's gradient is rounding error.
        for name in ("c1", "c3", "c5"):
            gradients[name].pop("bias")
    return {"output": output, "batch_stats": updated, "gradients": gradients}


def assert_close(actual, expected, tolerance):
    """Each array's largest error is at most ``tolerance`` times the array's largest entry."""

    def check(path, actual, expected):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        error = np.abs(actual - expected).max()
        assert error <= tolerance * np.abs(expected).max(), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(check, actual, expected)


prepare_with_moments = jax.jit(partial(prepare, moments=True))


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("batch_norm", "train", "count"),
    [
        pytest.param(batch_norm, train, count, id=f"{name}-{count}")
        for name, batch_norm, train in MODES
        for count in ((128,) if name == "evaluation" else (128, 80, 2))
    ],
)
def test_outputs_statistics_and_gradients_are_those_of_the_plain_form(
    float64, batch_norm, train, count, kind
):
    params, batch_stats = variables(dtype=np.float64)
    images = images_of(kind, count, np.float64)
    arguments = params, batch_stats, images, batch_norm, train
    blocked = results(blocked_features, *arguments)
    assert blocked["output"].dtype == np.float64
    assert_close(blocked, results(plain_features, *arguments), FLOAT64)


@pytest.mark.parametrize(("batch_norm", "train"), [(False, True), (True, False)])
def test_one_image_is_enough_without_batch_statistics(float64, batch_norm, train):
    images = images_of("digits", 1, np.float64)
    arguments = *variables(dtype=np.float64), images, batch_norm, train
    assert_close(
        results(blocked_features, *arguments), results(plain_features, *arguments), FLOAT64
    )


def test_one_image_has_no_batch_variance():
    train = partial(blocked_features, batch_norm=True, train=True)
    with pytest.raises(ValueError, match="at least two values per channel"):
        jax.eval_shape(train, images_of("digits", 1), *variables())


def test_batch_norm_in_training_needs_moments():
    train = partial(features, batch_norm=True, train=True)
    with pytest.raises(ValueError, match="moments=True"):
        jax.eval_shape(train, prepare(images_of("digits", 2), moments=False), *variables())


# Sums of some thousand float32 products with errors of 6e-8 each, which partly cancel; on digits
# batch norm's differences of large sums add a digit. A gradient also jumps where rounding moves an
# output across ReLU's or the maximum's kink, by as much as one of the outputs' shares in it.
@in_every_mode
def test_float32_is_within_rounding_of_float64(batch_norm, train):
    arguments = *variables(), images_of("digits", 128)
    blocked = results(blocked_features, *arguments, batch_norm, train)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(x, np.float64), arguments)
        plain = results(plain_features, *wide, batch_norm, train)
    assert blocked["output"].dtype == np.float32
    assert_close(blocked["output"], plain["output"], 5e-6)
    assert_close(blocked["batch_stats"], plain["batch_stats"], 2e-6)
    assert_close(blocked["gradients"], plain["gradients"], 1e-4)


@in_every_mode
def test_seeds_at_once_are_seeds_one_by_one(float64, batch_norm, train):
    run = partial(results, blocked_features, batch_norm=batch_norm, train=train)
    seeds = [
        (*variables(seed, np.float64), images_of(kind, 2, np.float64))
        for seed, kind in enumerate(KINDS)
    ]
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    at_once = jax.vmap(run)(*stack(*seeds))
    assert_close(at_once, stack(*(run(*seed) for seed in seeds)), FLOAT64)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_gradient_with_respect_to_the_images_is_right_too(float64, batch_norm):
    params, batch_stats = variables(dtype=np.float64)

    def gradient(form):
        def total(images):
            return form(images, params, batch_stats, batch_norm, True)[0].sum()

        return jax.jit(jax.grad(total))(images_of("noise", 2, np.float64))

    assert_close(gradient(blocked_features), gradient(plain_features), FLOAT64)


def test_a_prepared_data_set_gives_what_its_images_give():
    images = images_of("digits", 128)
    chosen = np.array([40, 0, 127])
    prepared = jax.tree.map(lambda x: x[chosen], prepare_with_moments(images))
    assert_close(prepared, prepare_with_moments(images[chosen]), 1e-6)


def test_the_variance_of_a_filter_that_hardly_sees_digits_keeps_its_digits():
    images = images_of("digits", 128)
    smooth, difference = [1, 4, 6, 4, 1], [1, -4, 6, -4, 1]
    pairs = [(smooth, smooth), (smooth, difference), (difference, difference)]
    kernel = np.stack([np.outer(*pair) / 256 for pair in pairs], -1)[:, :, None, :]
    mean, var = filter_statistics(
        prepare_with_moments(images).moments, jnp.asarray(kernel, jnp.float32)
    )
    padded = np.pad(np.asarray(images, np.float64)[..., 0], ((0, 0), (2, 2), (2, 2)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    outputs = np.einsum("...ab,abc->...c", patches, kernel[:, :, 0]).reshape(-1, 3)
    # The third variance is a few thousandths of the first, which may cost it as many digits.
    assert outputs.var(0)[2] < 4e-3 * outputs.var(0)[0]
    np.testing.assert_allclose(mean, outputs.mean(0), atol=1e-6)
    np.testing.assert_allclose(var, outputs.var(0), rtol=1e-4)


@pytest.mark.parametrize("values", ["ties", "zeros"])
def test_a_maximum_sends_its_gradient_where_pytorch_does(values):
    torch = pytest.importorskip("torch", reason="PyTorch's pooling is the reference")
    rng = np.random.default_rng(0)
    x = rng.integers(-1, 2, (5, 2, 6, 6)).astype(np.float32)
    if values == "zeros":
        x = np.minimum(x, 0)
    weights = rng.normal(size=(5, 2, 3, 3)).astype(np.float32)

    reference = torch.tensor(x, requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(torch.relu(reference), 2)
    (pooled * torch.tensor(weights)).sum().backward()

    def pool(x):
        windows = x.reshape(5, 2, 3, 2, 3, 2).transpose(0, 3, 5, 1, 2, 4).reshape(5, 4, 2, 3, 3)
        return relu(max4(windows))

    actual, pull_back = jax.vjp(pool, jnp.asarray(x))
    np.testing.assert_array_equal(actual, pooled.detach().numpy())
    np.testing.assert_array_equal(pull_back(jnp.asarray(weights))[0], reference.grad.numpy())


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = jnp.asarray([[1.0, 1, 0, 1], [0, 2, 2, 1], [3, 4, 5, 5], [0, 0, 0, 1]])
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(jax.grad(lambda x: max4(x).sum())(x), expected)


@pytest.mark.parametrize("member", range(4))
def test_not_a_number_passes_through_the_maximum_and_relu(member):
    x = jnp.zeros((1, 4, 3)).at[0, member, 1].set(jnp.nan)
    np.testing.assert_array_equal(relu(max4(x)), [[0, np.nan, 0]])


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("seeds", [None, 2])
def test_a_training_step_compiles_to_neither_convolution_nor_scatter(batch_norm, seeds):
    params, batch_stats = variables()

    def loss(params, prepared):
        output, _ = features(prepared, params, batch_stats, batch_norm=batch_norm, train=True)
        return output.sum()

    step, prepared = jax.grad(loss), prepare_with_moments(images_of("digits", 8))
    arguments = params, prepared
    if seeds:
        step = jax.vmap(step)
        arguments = jax.tree.map(lambda x: jnp.stack([x] * seeds), arguments)
    program = jax.jit(step).lower(*arguments).compile().as_text()
    operations = set(re.findall(r"[\]}] ([a-z][a-z0-9-]*)\(", program))
    assert operations & {"dot", "fusion"}
    assert not operations & {"convolution", "scatter", "custom-call"}


def test_it_runs_in_a_scan():
    params, batch_stats = variables()
    prepared = prepare_with_moments(images_of("digits", 8))

    @jax.jit
    def update(batch_stats, chosen):
        batch = jax.tree.map(lambda x: x[chosen], prepared)
        output, batch_stats = features(batch, params, batch_stats, batch_norm=True, train=True)
        return batch_stats, output

    chosen = jnp.arange(8).reshape(2, 4)
    scanned, outputs = jax.jit(partial(lax.scan, update))(batch_stats, chosen)
    expected = batch_stats
    for step in range(2):
        expected, output = update(expected, chosen[step])
        assert_close(outputs[step], output, 1e-5)
    assert_close(scanned, expected, 1e-6)

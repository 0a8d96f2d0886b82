"""The blocked form of every variant against the plain one: the whole model, as a step uses it.

In float64 the two differ by rounding alone, 2e-12 of an array's largest entry at the most where
batch norm divides by a small variance. So 1e-10 leaves no room for an error. `test_blocked` looks
at the convolution part by itself, with other images and weights.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_lenet import VARIANTS, load, normalize
from jax_lenet.fitting import state_shapes
from jax_lenet.models import LeNet5
from jax_lenet.training import negative_log_likelihood

FORMS = ("blocked", "plain")
FLOAT64, FLOAT32 = 1e-10, 1e-4
#: Images, odd so that no vector or device divides them: for a variant by itself, and for runs at
#: once. One image has no batch statistics, and with batch norm is evaluated.
COUNT, COUNTS = 3, (1, 33)
#: Rates of drop6 and drop7: those of all variants.
RATES = ((0.0, 0.0), (0.5, 0.5), (0.5, 0.0))
#: Compiled to be compared, not to be fast.
QUICKLY = {"xla_backend_optimization_level": 0}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def images_of(count):
    data = load("mnist_sample")
    images = jnp.asarray(normalize(data.train_images[:count]), jnp.float64)
    return images, jnp.asarray(data.train_labels[:count])


def variables_of(model, seed):
    """Weights of the usual size; scales, shifts and statistics away from their start."""
    rng = np.random.default_rng(seed)
    state = state_shapes(model)

    def drawn(path, leaf):
        name, size = path[-1].key, leaf.shape
        if name == "kernel":
            values = rng.normal(size=size) / np.sqrt(np.prod(size[:-1]))
        elif name == "scale":
            values = rng.normal(1, 1, size)  # of either sign
        elif name == "var":
            values = rng.uniform(0.5, 2, size)
        else:
            values = rng.normal(0.2, 0.5, size)
        return jnp.asarray(values, jnp.float64)

    return jax.tree_util.tree_map_with_path(drawn, dict(state.variables))


def results(model, train, variables, images, labels, key):
    """Log-probabilities, the statistics after, and the gradients of the mean loss."""

    def loss_of(params):
        log_probs, updates = model.apply(
            {**variables, "params": params},
            images,
            train=train,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss = negative_log_likelihood(log_probs, labels).mean()
        return loss, {"log_probs": log_probs, "batch_stats": updates.get("batch_stats") or {}}

    gradients, found = jax.grad(loss_of, has_aux=True)(variables["params"])
    if model.batch_norm and train:
        # Batch norm takes these biases out again: the plain form's gradient is rounding error.
        for name in ("c1", "c3", "c5"):
            del gradients[name]["bias"]
    return {**found, "gradients": gradients}


def assert_same(actual, expected, dtype=jnp.float64, bound=FLOAT64):
    def check(path, actual, expected):
        assert actual.dtype == expected.dtype == dtype
        error, scale = (
            np.abs(np.asarray(actual) - np.asarray(expected)).max(),
            np.abs(expected).max(),
        )
        assert scale > 0
        assert error <= bound * scale, (jax.tree_util.keystr(path), error / scale)

    jax.tree_util.tree_map_with_path(check, actual, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variants_forms_are_the_same_function(variant):
    model = VARIANTS[variant]

    @partial(jax.jit, compiler_options=QUICKLY)
    def both(*arguments):
        return [results(model.clone(form=form), True, *arguments) for form in FORMS]

    blocked, plain = both(variables_of(model, 1), *images_of(COUNT), jax.random.key(2))
    assert_same(blocked, plain)
    assert bool(plain["batch_stats"]) == model.batch_norm


@pytest.mark.parametrize("variant", VARIANTS)
def test_in_float32_a_variants_forms_differ_by_rounding(variant):
    """Float32 has 1.2e-7 between neighbours; batch norm's small variances make more of it."""
    model = VARIANTS[variant]
    wide = variables_of(model, 1), images_of(127)
    variables, (images, labels) = jax.tree.map(np.asarray, wide)
    with jax.enable_x64(False):
        narrow = partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float32))
        arguments = narrow(variables), narrow(images), jnp.asarray(labels), jax.random.key(2)

        @partial(jax.jit, compiler_options=QUICKLY)
        def both(*arguments):
            return [results(model.clone(form=form), True, *arguments) for form in FORMS]

        assert_same(*both(*arguments), jnp.float32, FLOAT32)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch norm"])
def test_runs_at_once_under_traced_rates_are_plain_ones_one_by_one(batch_norm, count, form):
    train = count > 1 or not batch_norm

    def run(form, variables, rates, key, images, labels):
        model = LeNet5(batch_norm, (rates[0], rates[1]), form=form)
        return results(model, train, variables, images, labels, key)

    # Every run has weights, rates and masks of its own.
    weights = [variables_of(LeNet5(batch_norm), seed) for seed in range(len(RATES))]
    runs = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *weights),
        jnp.asarray(RATES, jnp.float64),
        jax.random.split(jax.random.key(5), len(RATES)),
    )
    images = images_of(count)
    at_once = jax.vmap(partial(run, form), in_axes=(0, 0, 0, None, None))
    together = jax.jit(at_once, compiler_options=QUICKLY)(*runs, *images)
    alone = jax.jit(partial(run, "plain"), compiler_options=QUICKLY)
    for i in range(len(RATES)):
        own = jax.tree.map(lambda x, i=i: x[i], (together, *runs))
        assert_same(own[0], alone(*own[1:], *images))

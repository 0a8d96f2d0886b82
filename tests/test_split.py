"""Runs on two devices are the runs on one device.

In float64 the two differ by the order of sums alone, so 1e-10 leaves no room for an error; what a
device does with a wrong share, a local statistic or another mask shows at 1e-3. In float32 that
order makes an ulp or two of the largest weights: 1.2e-7 measured, ten times as much allowed for
another version of XLA.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jax_lenet import VARIANTS, Hyperparameters, examples, fit, init, load, split, step
from jax_lenet.ensemble import compile_programs
from jax_lenet.split import AXIS, mesh_of, on_each
from jax_lenet.training import Examples

TRAIN, TEST = 144, 64  # a step of 128 and one of 16
FLOAT32 = 1.2e-6

pytestmark = pytest.mark.skipif(
    jax.device_count() < 2, reason="needs two devices; conftest asks for two CPU devices"
)


@pytest.fixture(scope="module")
def digits():
    data = load("mnist_sample")
    train = examples(data.train_images[:TRAIN], data.train_labels[:TRAIN])
    test = examples(data.test_images[:TEST], data.test_labels[:TEST])
    return train, test


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def assert_close(actual, expected, tolerance):
    def check(path, actual, expected):
        error = np.abs(np.asarray(actual) - np.asarray(expected)).max(initial=0)
        assert error <= tolerance, (jax.tree_util.keystr(path), error)

    jax.tree_util.tree_map_with_path(check, actual, expected)


def split_step(model, hyperparameters, state, batch, key):
    def own_step(hyperparameters, state, batch, key):
        return step(model.clone(axis_name=AXIS), hyperparameters, state, batch, key)

    whole, rows = PartitionSpec(), PartitionSpec(AXIS)
    return on_each(own_step, mesh_of(2), (whole, whole, rows, whole), whole)(
        hyperparameters, state, batch, key
    )


@pytest.mark.parametrize(
    ("form", "variant", "count"),
    [
        *(("blocked", variant, 128) for variant in VARIANTS),
        ("blocked", "LeNet_BN_Dropout", 2),  # an image a device: no device has a variance
        ("plain", "LeNet_noBN_Dropout", 128),
        ("plain", "LeNet_BN_Dropout", 128),
    ],
)
def test_a_split_step_is_the_step_on_one_device(float64, digits, variant, form, count):
    model = VARIANTS[variant].clone(form=form)
    wide = partial(jax.tree.map, lambda x: jnp.asarray(x, jnp.float64))
    state = init(model, seed=1)
    params, batch_stats = wide((state.params, state.batch_stats))
    # Away from their start, where scales of one and shifts of zero would hide an error.
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
    state = state._replace(params=params, batch_stats=batch_stats)
    batch = Examples(wide(digits[0].images[:count]), digits[0].labels[:count])
    arguments = Hyperparameters(jnp.asarray(0.5)), state, batch, jax.random.key(3)
    expected = jax.jit(partial(step, model))(*arguments)
    actual = jax.jit(partial(split_step, model))(*arguments)
    assert actual[1].dtype == jnp.float64
    assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize("runs", [1, 3])  # split; two runs, and one and a place that is left
def test_a_fit_on_two_devices_is_the_fit_on_one_device(digits, runs):
    model = VARIANTS["LeNet_BN_Dropout"]

    def fitted(devices):
        return fit(model, *digits, seeds=range(runs), epochs=2, devices=devices, dropout=(0.3, 0.1))

    one, two = fitted(1), fitted(2)
    assert_close(two.state, one.state, FLOAT32)
    for actual, expected in zip(two.history, one.history, strict=True):
        for name in ("train_loss", "test_loss"):
            np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=FLOAT32)
        # Rounding may turn an image whose two likeliest classes are as likely; none did here.
        np.testing.assert_allclose(actual.test_accuracy, expected.test_accuracy, atol=1 / TEST)
        np.testing.assert_allclose(actual.train_accuracy, expected.train_accuracy, atol=1 / TRAIN)
    assert (two.predictions != one.predictions).sum() <= runs
    # Each run's state is a plain tree of arrays that `apply` takes.
    assert model.apply(two.variables(), digits[1].images).shape == (TEST, 10)


def test_a_step_without_batch_norm_exchanges_once(digits):
    model = VARIANTS["LeNet_noBN_Dropout"]
    arguments = Hyperparameters(jnp.float32(0.1)), init(model, 0), digits[0], jax.random.key(0)
    program = jax.jit(partial(split_step, model)).lower(*arguments).compile().as_text()
    assert program.count(" all-reduce(") == 1
    assert " all-gather(" not in program


@pytest.mark.parametrize(
    ("batch_size", "count"), [(127, TRAIN), (128, TRAIN - 1)], ids=["batch", "last batch"]
)
def test_what_cannot_be_shared_evenly_is_refused(digits, batch_size, count):
    train = jax.tree.map(lambda x: x[:count], digits[0])
    with pytest.raises(ValueError, match="cannot be shared evenly by 2 devices"):
        compile_programs(VARIANTS["LeNet"], train, digits[1], batch_size=batch_size, devices=2)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(ValueError, match=f"at most {jax.device_count()} devices, not 64"):
        mesh_of(64)


def test_one_device_needs_no_mesh():
    assert mesh_of(1) is None
    assert split.devices_of(None) == 1


@pytest.mark.parametrize("name", ["devices", "runs", "batch_size"])
def test_programs_for_nothing_are_refused_by_name(name, digits):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        compile_programs(VARIANTS["LeNet"], *digits, **{name: 0})

"""The epoch and the test as a GPU or TPU would get them: nothing in them is the host's.

No machine of the tests has either. What JAX hands to XLA can be looked at all the same.
"""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_lenet import VARIANTS, Examples, Hyperparameters, compile_programs, prepare_examples, split
from jax_lenet.ensemble import evaluate_runs, init_runs, train_runs
from jax_lenet.memory import example_shapes

#: Two full batches: the step for what is left over would be traced a second time.
TRAIN, TEST, BATCH_SIZE = 256, 500, 128
PLATFORMS = ("cuda", "tpu")

#: What leaves the program, is one element after the other on a GPU, or sums in an order of chance.
#: Callbacks are custom calls; of those none is wanted at all.
FORBIDDEN = {
    "custom_call",
    "infeed",
    "outfeed",
    "send",
    "recv",
    "scatter",
    "select_and_scatter",
    "convolution",
    "all_reduce",
    "all_gather",
}


def operations(traced, platform):
    """Return the names of the operations that a traced function lowers to."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return set(re.findall(r"stablehlo\.(\w+)", text))


def targets(traced, platform):
    """Return what the custom calls of a traced function call."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return re.findall(r"custom_call @(\w+)", text)


def programs(model, runs, traced_dropout, mesh=None):
    """Return the traced epoch and test, for shapes alone."""
    seeds = jax.ShapeDtypeStruct((runs,), np.uint32)
    rates = jax.ShapeDtypeStruct((runs,), np.float32)
    state = jax.eval_shape(partial(init_runs, model), seeds)
    hyperparameters = Hyperparameters(rates, (rates, rates) if traced_dropout else None)
    train, test = example_shapes(TRAIN, model.batch_norm), example_shapes(TEST, moments=False)
    yield train_runs.trace(model, hyperparameters, state, train, seeds, BATCH_SIZE, mesh)
    yield evaluate_runs.trace(model, state.variables, test, mesh)


@pytest.mark.parametrize("runs", [1, 64])
@pytest.mark.parametrize(
    ("variant", "traced_dropout"),
    [*((name, False) for name in VARIANTS), ("LeNet", True), ("LeNet_BN_noDropout", True)],
)
def test_the_epoch_and_the_test_lower_for_gpu_and_tpu_and_leave_nothing_to_the_host(
    variant, traced_dropout, runs
):
    train, test = programs(VARIANTS[variant], runs, traced_dropout)
    for platform in PLATFORMS:
        found = operations(train, platform)
        assert not found & FORBIDDEN
        assert {"dot_general", "while", "sort"} <= found  # products, steps, the shuffled order
        found = operations(test, platform)
        assert not found & FORBIDDEN
        assert {"dot_general", "while"} <= found


@pytest.mark.parametrize("variant", ["LeNet", "LeNet_BN_Dropout"])
def test_runs_that_several_devices_share_lower_too_and_nothing_is_exchanged(variant):
    """On a mesh of a CPU's devices, for a GPU's: lowering looks at their number alone."""
    mesh = split.mesh_of(2, split.RUNS)
    train, test = programs(VARIANTS[variant], 64, traced_dropout=False, mesh=mesh)
    for platform in PLATFORMS:
        for traced in (train, test):
            found = operations(traced, platform)
            assert not (found - {"custom_call"}) & FORBIDDEN
            assert set(targets(traced, platform)) <= {
                "Sharding",
                "SPMDFullToShardShape",
                "SPMDShardToFullShape",
            }


@pytest.mark.parametrize("platform", PLATFORMS)
def test_scatters_are_found(platform):
    scatter = jax.jit(lambda x, rows: x.at[rows].add(1.0))
    traced = scatter.trace(jnp.zeros((64, 64)), jnp.zeros(5, jnp.int32))
    assert "scatter" in operations(traced, platform) & FORBIDDEN


def test_callbacks_are_found():
    @jax.jit
    def program(x):
        jax.debug.callback(lambda value: None, x[0])
        return x

    # JAX itself refuses to lower one for a platform that is not there.
    assert "custom_call" in operations(program.trace(jnp.zeros(3)), "cpu") & FORBIDDEN


@pytest.mark.parametrize("devices", [1, 2])
def test_an_epoch_and_its_test_move_nothing_between_host_and_device(devices):
    if jax.local_device_count() < devices:
        pytest.skip("needs two devices; conftest asks for two CPU devices")
    model = VARIANTS["LeNet"]
    images = jnp.zeros((TRAIN, 28, 28, 1), jnp.float32)
    data = prepare_examples(Examples(images, jnp.zeros(TRAIN, jnp.int32)), moments=False)
    compiled = compile_programs(model, data, data, runs=2, devices=devices, warm_up=False)
    placed = compiled.place(*split.spread(data, data, devices))
    seeds, rates = split.place_runs(
        (jnp.arange(2, dtype=jnp.uint32), Hyperparameters(jnp.full(2, 0.1))), compiled.mesh
    )
    state = compiled.init(seeds)
    with jax.transfer_guard("disallow"):
        for _ in range(2):
            state, loss = compiled.epoch(rates, state, placed.train, seeds)
            tested = compiled.evaluate_test(state.variables, placed.test)
            checked = compiled.evaluate_train(state.variables, placed.check)
        jax.block_until_ready((loss, tested, checked))
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            compiled.epoch(rates, state, placed.train, np.zeros(2, np.uint32))
    assert np.isfinite(loss).all()

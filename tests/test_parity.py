"""The library against PyTorch: from the same weights, the same numbers.

PyTorch's side runs in float64 throughout. In float32 PyTorch's own gradients are up to 5% away from
its float64 ones (on digits with batch norm its sums over the flat background lose digits, and a
ReLU or a pooling window then falls on the other side of its kink), so that they are no yardstick.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from experiments.torch_baseline import LeNet5 as LeNet5Reference
from jax_lenet import VARIANTS, Examples, Hyperparameters, TrainState, step
from jax_lenet.models import LeNet5
from jax_lenet.torch_weights import from_torch
from jax_lenet.training import epoch_order, init, negative_log_likelihood
from tests import torch_reference
from tests.torch_reference import digits, float64, noise, perturbed

# 80 is what batches of 128 leave of 50,000 images.
# The forms differ in the convolution part alone, which dropout does not touch: the form that
# everything runs is compared for all variants, the plain one with and without batch norm.
all_variants = pytest.mark.parametrize(
    ("form", "variant"),
    [
        *(("blocked", variant) for variant in VARIANTS),
        ("plain", "LeNet"),
        ("plain", "LeNet_BN_Dropout"),
    ],
)
batch_sizes = pytest.mark.parametrize("count", [128, 80])
images = pytest.mark.parametrize("source", [noise, digits])


class Pass(NamedTuple):
    """What one forward and backward pass in training mode gives."""

    loss: Any
    gradients: Any
    updates: Any


@partial(jax.jit, static_argnames="model")
def training_pass(model: LeNet5, variables: dict, batch: Examples, key: jax.Array) -> Pass:
    def loss_of(params: dict) -> tuple[jax.Array, dict]:
        log_probs, updates = model.apply(
            {**variables, "params": params},
            batch.images,
            train=True,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": key},
        )
        return negative_log_likelihood(log_probs, batch.labels).mean(), updates

    (loss, updates), gradients = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
    return Pass(loss, gradients, updates)


def reference_of(variant: str, variables: dict, updates: dict) -> LeNet5Reference:
    """PyTorch's model in float64, in training mode, under the masks that a Flax model drew."""
    model = torch_reference.reference(variant, as_float64(variables)).train()
    torch_reference.set_masks(model, updates.get("intermediates", {}))
    return model


def reference_loss(model: LeNet5Reference, batch: Examples) -> torch.Tensor:
    log_probs = model(torch_reference.to_nchw(batch.images).double())
    return functional.nll_loss(log_probs, torch_reference.to_labels(batch.labels))


def reference_pass(model: LeNet5Reference, batch: Examples) -> Pass:
    loss = reference_loss(model, batch)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    values = from_torch({**model.state_dict(), **gradients})
    return Pass(loss.item(), values["params"], values)


def as_float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.array(leaf, np.float64), tree)


def assert_gradients_agree(found: Any, expected: Any, relative: float) -> None:
    """Check each array's distance from the expected one against the length of the latter."""
    for layer, arrays in expected.items():
        for name, array in arrays.items():
            # Batch norm takes a channel's mean away, so that the bias before it has no gradient but
            # rounding: its layer's kernel says what is small.
            none = name == "bias" and np.linalg.norm(array) < 1e-12
            length = np.linalg.norm(arrays["kernel"] if none else array)
            error = np.linalg.norm(np.asarray(found[layer][name], np.float64) - array)
            assert error <= relative * length, f"{layer}.{name}: {error / length:.1e}"


def assert_close(found: Any, expected: Any, relative: float, absolute: float) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=relative, atol=absolute),
        jax.tree.map(np.asarray, dict(found)),
        dict(expected),
    )


@all_variants
@batch_sizes
@images
def test_evaluation_gives_pytorchs_log_probabilities(form, variant, count, source):
    model = torch_reference.build(form, variant)
    variables = perturbed(variant)
    batch = source(count)
    log_probs = jax.jit(model.apply)(variables, batch.images)
    reference = torch_reference.reference(variant, as_float64(variables)).eval()
    with torch.no_grad():
        expected = reference(torch_reference.to_nchw(batch.images).double()).numpy()
    # Some 100 roundings of numbers near 2.
    np.testing.assert_allclose(log_probs, expected, rtol=0, atol=2e-5)


@all_variants
@batch_sizes
@images
def test_training_gives_pytorchs_loss_gradients_and_running_statistics(
    form, variant, count, source
):
    model = torch_reference.build(form, variant)
    batch = source(count)
    # A gradient jumps where a ReLU's input crosses zero or two pixels change places in a pooling
    # window, and rounding decides which side a near tie is on. Take the first weights without one.
    for seed in range(50):
        variables = perturbed(variant, seed)
        found = training_pass(model, variables, batch, jax.random.key(seed))
        reference = reference_of(variant, variables, found.updates)
        if torch_reference.margin(reference, batch.images) > 5e-7:
            break
    else:
        pytest.fail("no weights without a near tie")
    expected = reference_pass(reference, batch)
    assert abs(found.loss - expected.loss) < 2e-5
    # The largest seen is 3e-5, c1's kernel behind batch norm on digits.
    assert_gradients_agree(found.gradients, expected.gradients, relative=1e-4)
    if model.batch_norm:
        # float32's rounding of sums over up to 100,000 values, with room for other summing orders.
        statistics = expected.updates["batch_stats"]
        assert_close(found.updates["batch_stats"], statistics, relative=1e-5, absolute=1e-6)


@partial(jax.jit, static_argnames="model")
def step_with_masks(
    model: LeNet5, hyperparameters: Hyperparameters, state: TrainState, batch: Examples, key
) -> tuple[TrainState, jax.Array, dict]:
    """`step`, and the masks that it drew: the same key gives them again."""
    _, updates = model.apply(
        state.variables,
        batch.images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        rngs={"dropout": key},
    )
    return *step(model, hyperparameters, state, batch, key), updates


@all_variants
def test_an_epoch_of_sgd_in_float64_follows_pytorch_step_by_step(form, variant):
    batch_size, rest, learning_rate = 64, 40, 0.1
    count = 8 * batch_size + rest
    model = torch_reference.build(form, variant)
    data = digits(count, np.float64)
    order = np.asarray(epoch_order(0, 0, count))
    state = init(model, seed=0)
    with float64():
        variables = perturbed(variant, dtype=np.float64)
        state = state._replace(
            params=variables["params"], batch_stats=variables.get("batch_stats", {})
        )
        hyperparameters = Hyperparameters(jnp.asarray(learning_rate))
        reference = torch_reference.reference(variant, variables).train()
        optimizer = torch.optim.SGD(reference.parameters(), lr=learning_rate)
        for number, start in enumerate(range(0, count, batch_size)):
            indices = order[start : start + batch_size]
            batch = Examples(data.images[indices], data.labels[indices])
            key = jax.random.key(number)
            state, loss, updates = step_with_masks(model, hyperparameters, state, batch, key)
            torch_reference.set_masks(reference, updates.get("intermediates", {}))
            optimizer.zero_grad()
            expected = reference_loss(reference, batch)
            expected.backward()
            optimizer.step()
            # float64 rounds in the 16th digit, which sums over flat
            # backgrounds and the steps make the 12th; one pixel on the wrong side of a tie in one
            # pooling window would be the 4th.
            assert loss.dtype == np.float64
            assert abs(loss - expected.item()) < 1e-9, f"step {number}"
            after = from_torch(reference.state_dict())
            assert_close(state.variables, after, relative=1e-8, absolute=1e-10)
        assert len(indices) == rest

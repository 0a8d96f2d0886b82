"""The compiled training epoch: no convolution, scatter or callback, and not more operations.

On one device, and split over two as the programs train a run alone on two cores: there also not
more exchanges between the devices, which cost a step more than any other operation but products.
"""

from collections import Counter
from functools import cache

import jax
import jax.numpy as jnp
import pytest

from experiments import hlo
from jax_lenet import VARIANTS, Examples, compile_programs, lenet5
from jax_lenet.models import LeNet5

EXAMPLES = 640  # five full batches: the step for what is left over would be compiled a second time

#: What XLA of jaxlib 0.10.2 runs in one step on a CPU, in operations: (variant, devices) -> number.
#: Fusions count as one, copies too; what is inside fusions depends more on XLA's mood.
OPERATIONS = {
    ("LeNet", 1): 67,
    ("LeNet_BN_noDropout", 1): 118,
    ("LeNet_noBN_Dropout", 1): 189,  # some 60 a mask: the rounds of the random generator
    ("LeNet_BN_Dropout", 1): 240,
    ("LeNet_noBN_drop6", 1): 138,
    ("LeNet_BN_drop6", 1): 189,
    # Of split ones the two that have fewest and most; the layers between are the same.
    ("LeNet", 2): 67,
    ("LeNet_BN_Dropout", 2): 257,
}
#: Exchanges in a step of a split run, and what for; exactly, since each is written by hand.
EXCHANGES = {
    "LeNet": {"all-reduce": 1},  # the loss and all gradients, in one
    # Also bn1's moments, which need no gradient; bn3's and bn5's statistics, and their gradients.
    "LeNet_BN_Dropout": {"all-reduce": 1 + 1 + 2, "all-gather": 2},
}
#: How much more another version of XLA may make of it before somebody should look.
ALLOWANCE = 1.2

#: Slow in a loop: convolutions as XLA does them on a CPU, scatters (one element after the other),
#: and whatever leaves the program; a custom call is a library's function or Python.
FORBIDDEN = {
    "convolution",
    "scatter",
    "select-and-scatter",
    "custom-call",
    "infeed",
    "outfeed",
    "send",
    "recv",
}


@cache
def compiled_step(model: LeNet5, devices: int) -> tuple[hlo.Module, str]:
    """Return the epoch that `fit` would run and which of its computations is one step."""
    images = jnp.zeros((EXAMPLES, 28, 28, 1), jnp.float32)
    data = Examples(images, jnp.zeros(EXAMPLES, jnp.int32))
    programs = compile_programs(model, data, data, devices=devices, warm_up=False)
    module = hlo.parse(programs.epoch.as_text() or "")
    return module, module.training_loop().body


def forbidden_in(module: hlo.Module, computation: str) -> dict[str, str]:
    """Return name -> operation of all forbidden ones, also of those inside fusions."""
    return {
        one.name: f"{one.opcode} {one.target} {one.source}"
        for one in module.below(computation)
        if one.opcode in FORBIDDEN
    }


in_every_variant = pytest.mark.parametrize(("variant", "devices"), OPERATIONS)


@in_every_variant
def test_a_step_has_no_convolution_no_scatter_and_no_call_to_the_host(variant, devices):
    assert not forbidden_in(*compiled_step(VARIANTS[variant], devices))


@in_every_variant
def test_a_step_is_not_more_operations_than_it_was(variant, devices):
    module, step = compiled_step(VARIANTS[variant], devices)
    operations = len(list(module.executed(step)))
    before = OPERATIONS[variant, devices]
    assert operations <= ALLOWANCE * before, f"{operations} operations a step, before {before}"


def test_every_variant_is_looked_at():
    assert {variant for variant, devices in OPERATIONS if devices == 1} == set(VARIANTS)


@pytest.mark.parametrize("variant", EXCHANGES)
def test_a_split_step_exchanges_no_more_often_than_it_must(variant):
    module, step = compiled_step(VARIANTS[variant], 2)
    found = Counter(one.opcode for one in module.executed(step) if one.is_collective)
    assert found == EXCHANGES[variant]


def test_on_one_device_nothing_is_exchanged():
    module, _ = compiled_step(VARIANTS["LeNet_BN_Dropout"], 1)
    assert not module.collectives


@pytest.mark.parametrize(
    ("variant", "devices"), [("LeNet", 1), ("LeNet_BN_Dropout", 1), ("LeNet_BN_Dropout", 2)]
)
def test_the_loop_that_is_looked_at_has_all_products_of_a_step(variant, devices):
    module, step = compiled_step(VARIANTS[variant], devices)
    assert module.training_loop().trip_count == EXAMPLES // 128
    # Seven forward (c1 and c3 twice: the kernel's matrix, and the layer); backward one for each
    # operand that depends on the parameters: four that have one such, three that have two less
    # c1's windows. Batch norm adds those with the images' moments.
    products = [one for one in module.below(step) if one.opcode == "dot"]
    assert len(products) >= 7 + 11


def test_the_plain_forms_convolutions_are_found():
    module, step = compiled_step(lenet5(form="plain"), 1)
    found = " ".join(forbidden_in(module, step).values())
    assert "convolution" in found
    assert "scatter" in found  # the gradient of its pooling


def test_scatters_and_callbacks_are_found():
    def body(x, index):
        x = x.at[index].add(1, mode="promise_in_bounds")
        jax.debug.callback(lambda value: None, x[0])
        return x @ x, None

    @jax.jit
    def program(x, indices):
        return jax.lax.scan(body, x, indices)[0]

    compiled = program.lower(jnp.zeros((64, 64)), jnp.zeros((4, 5), jnp.int32)).compile()
    module = hlo.parse(compiled.as_text() or "")
    found = " ".join(forbidden_in(module, module.training_loop().body).values())
    assert "scatter" in found
    assert "callback" in found

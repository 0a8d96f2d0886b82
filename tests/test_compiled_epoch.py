"""The compiled training epoch: no convolution, scatter or callback, and not more operations."""

from functools import cache

import jax
import jax.numpy as jnp
import pytest

from experiments import hlo
from jax_lenet import VARIANTS, Examples, compile_programs, lenet5
from jax_lenet.models import LeNet5

EXAMPLES = 640  # five full batches: the step for what is left over would be compiled a second time

#: What XLA of jaxlib 0.10.2 runs in one step on a CPU, in operations: (variant, seeds) -> number.
#: Fusions count as one, copies too; what is inside fusions depends more on XLA's mood.
OPERATIONS = {
    ("LeNet", 1): 67,
    ("LeNet_BN_noDropout", 1): 118,
    ("LeNet_noBN_Dropout", 1): 189,  # some 60 a mask: the rounds of the random generator
    ("LeNet_BN_Dropout", 1): 240,
    ("LeNet_noBN_drop6", 1): 138,
    ("LeNet_BN_drop6", 1): 189,
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
def compiled_step(model: LeNet5, seeds: int) -> tuple[hlo.Module, str]:
    """Return the epoch that `fit` would run and which of its computations is one step."""
    images = jnp.zeros((EXAMPLES, 28, 28, 1), jnp.float32)
    data = Examples(images, jnp.zeros(EXAMPLES, jnp.int32))
    programs = compile_programs(model, data, data, runs=seeds, warm_up=False)
    module = hlo.parse(programs.epoch.as_text() or "")
    return module, module.training_loop().body


def forbidden_in(module: hlo.Module, computation: str) -> dict[str, str]:
    """Return name -> operation of all forbidden ones, also of those inside fusions."""
    return {
        one.name: f"{one.opcode} {one.target} {one.source}"
        for one in module.below(computation)
        if one.opcode in FORBIDDEN
    }


in_every_variant = pytest.mark.parametrize(("variant", "seeds"), OPERATIONS)


@in_every_variant
def test_a_step_has_no_convolution_no_scatter_and_no_call_to_the_host(variant, seeds):
    assert not forbidden_in(*compiled_step(VARIANTS[variant], seeds))


@in_every_variant
def test_a_step_is_not_more_operations_than_it_was(variant, seeds):
    module, step = compiled_step(VARIANTS[variant], seeds)
    operations = len(list(module.executed(step)))
    before = OPERATIONS[variant, seeds]
    assert operations <= ALLOWANCE * before, f"{operations} operations a step, before {before}"


def test_every_variant_is_looked_at():
    assert {variant for variant, seeds in OPERATIONS if seeds == 1} == set(VARIANTS)


@pytest.mark.parametrize(("variant", "seeds"), [("LeNet", 1), ("LeNet_BN_Dropout", 1)])
def test_the_loop_that_is_looked_at_has_all_products_of_a_step(variant, seeds):
    module, step = compiled_step(VARIANTS[variant], seeds)
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

"""The compiled training epoch: no convolution, scatter or callback, and not more operations.

However the programs train: a run alone on one device or split over two, as on two cores; several
runs, each on a device or some in turn; with the model's own dropout rates or, as in a sweep, rates
that are arguments. A split run also has not more exchanges between the devices, which cost a step
more than any other operation but products, and runs on devices of their own have none.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import jax
import jax.numpy as jnp
import pytest
from jax.stages import Compiled

from experiments import hlo
from jax_lenet import VARIANTS, Examples, compile_programs

BATCH = 128
EXAMPLES = 5 * BATCH  # full batches: the step for what is left over would be compiled a second time


@dataclass(frozen=True)
class Case:
    """What is compiled; see `compile_programs`.

    Attributes:
        variant: one of `VARIANTS`.
        devices: that share the runs or, of a run alone, each batch.
        runs: how many at once.
        traced_dropout: whether the dropout rates are arguments.
        for_users: as the programs compile it, not as `conftest.py` lets tests.
        form: of the model.
    """

    variant: str
    devices: int = 1
    runs: int = 1
    traced_dropout: bool = False
    for_users: bool = False
    form: str = "blocked"

    def __str__(self) -> str:
        flags = "-traced" * self.traced_dropout + "-users" * self.for_users
        return f"{self.variant}-{self.devices}-{self.runs}{flags}"

    @property
    def is_split(self) -> bool:
        """Whether the devices share each batch of one run."""
        return self.devices > 1 and self.runs == 1


#: What XLA of jaxlib 0.10.2 runs in one step on a CPU, in operations. Fusions count as one, copies
#: too; what is inside fusions depends more on XLA's mood. What a loop repeats counts once: so do
#: the five rounds of the random generator, which runs for every mask and key.
OPERATIONS = {
    Case("LeNet"): 67,
    Case("LeNet_BN_noDropout"): 118,
    Case("LeNet_noBN_Dropout"): 189,  # some 60 a mask: the rounds of the random generator
    Case("LeNet_BN_Dropout"): 240,
    Case("LeNet_noBN_drop6"): 138,
    Case("LeNet_BN_drop6"): 189,
    # Split: batch norm's exchanges, and what packs and unpacks them.
    Case("LeNet", 2): 67,
    Case("LeNet_BN_noDropout", 2): 134,
    Case("LeNet_noBN_Dropout", 2): 190,
    Case("LeNet_BN_Dropout", 2): 257,
    Case("LeNet_noBN_drop6", 2): 138,
    Case("LeNet_BN_drop6", 2): 205,
    # A device for each run: as a run alone on one.
    Case("LeNet", 2, runs=2): 67,
    Case("LeNet_BN_Dropout", 2, runs=2): 240,
    # The sweep's two models, which get both masks: split, a device for each, and two runs on each.
    Case("LeNet_BN_noDropout", 2, traced_dropout=True): 257,
    Case("LeNet", 2, runs=2, traced_dropout=True): 191,
    Case("LeNet_BN_noDropout", 2, runs=4, traced_dropout=True): 240,
    # XLA's part is the same: see `test_users_get_the_operations_that_are_looked_at`.
    Case("LeNet", 2, for_users=True): 67,
    Case("LeNet_BN_Dropout", 2, for_users=True): 257,
}
#: Exchanges in a step of a split run, without batch norm and with it, and what for; exactly, since
#: each is written by hand. Dropout needs none: each device draws the mask of the whole batch.
EXCHANGES = {
    False: {"all-reduce": 1},  # the loss and all gradients, in one
    # Also bn1's moments, which need no gradient; bn3's and bn5's statistics, and their gradients.
    True: {"all-reduce": 1 + 1 + 2, "all-gather": 2},
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
def compiled(case: Case) -> Compiled:
    """Return the epoch that `fit` would run."""
    model = VARIANTS[case.variant].clone(form=case.form)
    images = jnp.zeros((EXAMPLES, 28, 28, 1), jnp.float32)
    data = Examples(images, jnp.zeros(EXAMPLES, jnp.int32))
    # Not by `as_for_users`, which once asked for would hold for the other cases of this file too.
    with pytest.MonkeyPatch.context() as patch:
        if case.for_users:
            patch.delenv("XLA_FLAGS")
        programs = compile_programs(
            model,
            data,
            data,
            runs=case.runs,
            batch_size=BATCH,
            traced_dropout=case.traced_dropout,
            devices=case.devices,
            warm_up=False,
        )
    return programs.epoch


def size_of(case: Case) -> int:
    """Return the bytes of the epoch's program, machine code and all."""
    executable = compiled(case).runtime_executable()
    assert executable is not None
    return len(executable.serialize())


@cache
def epoch_of(case: Case) -> hlo.Module:
    """Return the epoch as XLA made it."""
    return hlo.parse(compiled(case).as_text() or "")


def loops_of(case: Case) -> list[hlo.Instruction]:
    """Return the loops around a step, outermost first; the last one's body is the step."""
    module = epoch_of(case)
    loops = [module.training_loop()]
    if case.runs > case.devices:  # a device's runs follow one another, each with its steps
        loops.append(replace(module, entry=loops[0].body).training_loop())
    return loops


def step_of(case: Case) -> tuple[hlo.Module, str]:
    """Return the epoch and which of its computations is one step."""
    return epoch_of(case), loops_of(case)[-1].body


def forbidden_in(module: hlo.Module, computation: str) -> dict[str, str]:
    """Return name -> operation of all forbidden ones, also of those inside fusions."""
    return {
        one.name: f"{one.opcode} {one.target} {one.source}"
        for one in module.below(computation)
        if one.opcode in FORBIDDEN
    }


def exchanges_in(module: hlo.Module, computation: str) -> Counter[str]:
    """Return how many exchanges of each kind it runs."""
    return Counter(one.opcode for one in module.executed(computation) if one.is_collective)


in_every_case = pytest.mark.parametrize("case", OPERATIONS, ids=str)
in_every_split_case = pytest.mark.parametrize(
    "case", [case for case in OPERATIONS if case.is_split], ids=str
)


@in_every_case
def test_a_step_has_no_convolution_no_scatter_and_no_call_to_the_host(case):
    assert not forbidden_in(*step_of(case))


@in_every_case
def test_a_step_is_not_more_operations_than_it_was(case):
    module, step = step_of(case)
    operations = len(list(module.executed(step)))
    before = OPERATIONS[case]
    assert operations <= ALLOWANCE * before, f"{operations} operations a step, before {before}"


@pytest.mark.parametrize("devices", [1, 2])
def test_every_variant_is_looked_at(devices):
    assert {Case(variant, devices) for variant in VARIANTS} <= set(OPERATIONS)


@in_every_split_case
def test_a_split_step_exchanges_no_more_often_than_it_must(case):
    expected = EXCHANGES[VARIANTS[case.variant].batch_norm]
    assert exchanges_in(*step_of(case)) == expected
    assert len(epoch_of(case).collectives) == sum(expected.values())  # and none around the steps


@pytest.mark.parametrize("case", [case for case in OPERATIONS if not case.is_split], ids=str)
def test_runs_that_are_not_split_exchange_nothing(case):
    assert not epoch_of(case).collectives


@in_every_case
def test_the_loop_that_is_looked_at_has_all_products_of_a_step(case):
    runs = [case.runs // case.devices] if case.runs > case.devices else []
    assert [loop.trip_count for loop in loops_of(case)] == [*runs, EXAMPLES // BATCH]
    module, step = step_of(case)
    # Seven forward (c1 and c3 twice: the kernel's matrix, and the layer); backward one for each
    # operand that depends on the parameters: four that have one such, three that have two less
    # c1's windows. Batch norm adds those with the images' moments.
    products = [one for one in module.below(step) if one.opcode == "dot"]
    assert len(products) >= 7 + 11


@pytest.mark.parametrize("case", [case for case in OPERATIONS if case.for_users], ids=str)
def test_users_get_the_operations_that_are_looked_at(case):
    """What `conftest.py` has tests do without comes after XLA: LLVM's work on machine code."""
    as_tested = replace(case, for_users=False)
    operations, tested = (
        Counter(one.opcode for one in epoch_of(each).instructions.values())
        for each in (case, as_tested)
    )
    assert operations == tested
    # Which says something only where LLVM did more: 3 and 5% more code, of those compiled alike 0.
    assert abs(size_of(case) / size_of(as_tested) - 1) > 0.01


def test_the_plain_forms_convolutions_are_found():
    found = " ".join(forbidden_in(*step_of(Case("LeNet", form="plain"))).values())
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

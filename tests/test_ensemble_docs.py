"""The numbers of docs/gpu.md and docs/scaling.md are those that the code counts."""

import json
import math
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import hlo
from experiments.flops import product_flops
from jax_lenet import VARIANTS, Hyperparameters, memory, training
from jax_lenet.ensemble import evaluate_runs, init_runs, train_runs
from jax_lenet.memory import Room, example_shapes

DOCS = Path(__file__).parents[1] / "docs"
GPU, SCALING = ((DOCS / name).read_text(encoding="utf-8") for name in ("gpu.md", "scaling.md"))
#: The report's four models.
MODELS = ("LeNet", "LeNet_BN_noDropout", "LeNet_noBN_Dropout", "LeNet_BN_Dropout")
RUNS, STEPS, TESTS = 64, math.ceil(50_000 / 128), 20_000 // 250
EPOCHS = len(MODELS) * 1000 * 10
#: Of an H100, by its data sheet; and of a launch, assumed.
FLOPS, BANDWIDTH, LAUNCH = 67e12, 3.35e12, 3e-6


def row(start):
    """Return the numbers in a row of one of the tables, by where its first cell begins."""
    (line,) = [line for line in SCALING.splitlines() if line.startswith(f"| {start}")]
    cells = [cell.strip() for cell in line.strip("|").split("|")[1:]]
    return [
        float(match[0].replace(",", "")) for cell in cells if (match := re.match(r"[\d.,]+", cell))
    ]


def says(text):
    return " ".join(text.split()) in " ".join(SCALING.split())


def shapes(variant, runs):
    seeds = jax.ShapeDtypeStruct((runs,), np.uint32)
    rates = Hyperparameters(jax.ShapeDtypeStruct((runs,), np.float32))
    state = jax.eval_shape(partial(init_runs, VARIANTS[variant]), seeds)
    return rates, state, example_shapes(50_000, VARIANTS[variant].batch_norm), seeds


def step_of_64_runs(variant):
    """Return a step that a GPU would get, traced, with the drawing of its batch."""
    rates, state, data, seeds = shapes(variant, RUNS)

    def step(rates, state, data, rows, seed):
        batch = jax.tree.map(lambda x: x[rows], data)
        return training.step(VARIANTS[variant], rates, state, batch, jax.random.key(seed))

    together = jax.jit(jax.vmap(step, in_axes=(0, 0, None, 0, 0)), donate_argnums=1)
    return together.trace(rates, state, data, jax.ShapeDtypeStruct((RUNS, 128), np.int32), seeds)


def product_bytes(jaxpr):
    """Return the bytes of all operands and results of matrix products."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            arrays = [*equation.invars, *equation.outvars]
            total += sum(math.prod(x.aval.shape) * x.aval.dtype.itemsize for x in arrays)
        total += sum(product_bytes(one) for one in memory.jaxprs_in(equation.params))
    return total


def test_the_table_of_memory_is_what_the_command_prints():
    assert f"```\n{memory.table()}\n```" in GPU


def test_the_notice_is_the_librarys():
    notice = Room(32, 64, 1_200_000_000, 900_000_000).notice("LeNet")
    assert f"```\n{notice}\n```" in GPU


@pytest.mark.parametrize(("column", "variant"), list(enumerate(("LeNet", "LeNet_BN_Dropout"))))
def test_the_operations_are_those_of_all_products(column, variant):
    model, arguments = VARIANTS[variant], shapes(variant, 1)
    train = product_flops(train_runs, model, *arguments, 128, None)
    state, images = arguments[1], example_shapes(10_000, moments=False)
    test = product_flops(evaluate_runs, model, state.variables, images, None)
    assert row("training an image")[column] == round(train / 50_000 / 1e6, 3)
    assert row("testing an image")[column] == round(test / 10_000 / 1e6, 3)
    assert row("an epoch:")[column] == round((train + 2 * test) / 1e9, 1)


@pytest.mark.parametrize(("column", "variant"), list(enumerate(("LeNet", "LeNet_BN_Dropout"))))
def test_the_bytes_of_products_are_those_in_the_trace(column, variant):
    found = product_bytes(step_of_64_runs(variant).jaxpr) / RUNS
    assert row("of that, in and out")[column] == round(found / 1e6, 1)


def test_the_bytes_and_operations_of_a_step_are_xlas_of_this_version_or_near_it():
    compiled = step_of_64_runs("LeNet").lower().compile()
    moved = compiled.cost_analysis()["bytes accessed"] / RUNS / 1e6
    assert row("a step of 128 images")[0] == pytest.approx(moved, rel=0.1)
    module = hlo.parse(compiled.as_text())
    operations = len(list(module.executed(module.entry)))
    assert row("operations in a step")[0] == pytest.approx(operations, rel=0.2)


def test_the_estimates_follow_from_the_counts():
    trained, tested = row("training an image")[0], row("testing an image")[0]
    flops = EPOCHS * (50_000 * trained + 20_000 * tested) * 1e6
    steps, operations = row("a step of 128 images"), row("operations in a step")
    epochs = [STEPS * step * 1e6 + TESTS * 33e6 for step in steps]
    moved = EPOCHS * sum(epochs) / 2
    assert says(f"so moves {epochs[0] / 1e9:.1f} GB (`LeNet`) to {epochs[1] / 1e9:.1f} GB")
    assert says(
        f"are {flops / 1e15:.1f} PFLOP and, at the mean of both models, {moved / 1e15:.2f} PB"
    )
    shares = np.array([1, 0.5, 0.1])
    assert row("by products") == pytest.approx(flops / FLOPS / shares / 60, rel=0.02)
    by_memory = moved / BANDWIDTH / shares
    assert row("by memory") == pytest.approx(by_memory / 60, rel=0.01)
    assert says(f"a step has {128 * trained / steps[1]:.0f} FLOP for each byte")
    assert says(f"balance is {FLOPS / BANDWIDTH:.0f}.")
    launches, run = STEPS * operations[1] * LAUNCH, epochs[1] / BANDWIDTH
    assert says(f"epoch take {launches:.2f} s whatever")
    assert says(f"memory traffic {run * 1e3:.1f} ms a run")
    assert says("up to 3 s a model")
    assert 2 < 10 * launches < 3
    mean_launches = STEPS * sum(operations) / 2 * LAUNCH
    assert EPOCHS * mean_launches / 3600 == pytest.approx(2, rel=0.15)
    assert launches / run == pytest.approx(30, rel=0.1)
    assert launches / (256 * run) == pytest.approx(0.1, rel=0.2)
    assert [row("1 GPU")[0], row("8 GPUs")[0], row("100 hosts")[0]] == [4000, 500, 40]
    assert row("1 GPU")[1] == pytest.approx(by_memory[1] / 60, rel=0.01)
    assert row("8 GPUs")[1] == pytest.approx(by_memory[1] / 8, rel=0.01)
    assert row("100 hosts")[1] == pytest.approx(by_memory[1] / 100, rel=0.1)


def test_the_hosts_part_follows_from_what_was_measured():
    file_seconds, table_seconds = row("a file of 64 runs")[0], row("`results.csv`, written")[0]
    assert says(f"write {EPOCHS * 270e3 / 1e9:.1f} GB of run files")
    assert EPOCHS / 64 * file_seconds == pytest.approx(50, rel=0.1)
    # Each time half of the rows, on average.
    minutes = EPOCHS / 64 * table_seconds / 2 / 60
    assert minutes == pytest.approx(4.5, rel=0.1)
    assert EPOCHS / 256 * table_seconds / 2 == pytest.approx(70, rel=0.1)
    all_predictions = row("predictions, written")[0]
    assert says("writing the predictions anew after each group, to 60 s and 15 s")
    assert EPOCHS / 10 / 64 * all_predictions / 2 == pytest.approx(60, rel=0.1)
    assert EPOCHS / 10 / 256 * all_predictions / 2 == pytest.approx(15, rel=0.1)


def test_sixteen_hours_on_two_cores_are_those_of_the_kept_study():
    summary = json.loads((DOCS / "results" / "summary.json").read_text(encoding="utf-8"))
    seconds = [summary["variants"][name]["total_seconds"]["estimate"] for name in MODELS]
    assert row("a seed of all four models")[0] == pytest.approx(sum(seconds), rel=0.1)
    assert 1000 * sum(seconds) / 3600 == pytest.approx(16, rel=0.1)

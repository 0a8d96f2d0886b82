"""The memory that runs need, estimated from shapes, beside XLA's account of what it compiled.

XLA works operations into one another, which the estimate does not: it may say up to twice as much,
and never less.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_lenet import VARIANTS, Hyperparameters, memory, training
from jax_lenet.ensemble import evaluate_runs, init_runs, train_runs
from jax_lenet.memory import Needed, Room, bytes_needed, example_shapes, working_bytes

TRAIN, TEST, BATCH_SIZE = 256, 500, 128
MIB = 2**20


def shapes_of(variant, runs):
    """Return what `train_runs` takes after the model, up to the batch size; and the test data."""
    model = VARIANTS[variant]
    seeds = jax.ShapeDtypeStruct((runs,), np.uint32)
    rates = Hyperparameters(jax.ShapeDtypeStruct((runs,), np.float32))
    state = jax.eval_shape(partial(init_runs, model), seeds)
    train = example_shapes(TRAIN, model.batch_norm)
    return (rates, state, train, seeds), example_shapes(TEST, moments=False)


def at_once(model):
    """Return training and testing of runs side by side, which is what a GPU compiles."""

    def train(rates, state, data, seeds):
        return jax.vmap(lambda *one: training.epoch(model, *one[:2], data, one[2], BATCH_SIZE))(
            rates, state, seeds
        )

    def test(variables, data):
        return jax.vmap(lambda one: training.evaluate(model, one, data))(variables)

    return jax.jit(train, donate_argnums=1), jax.jit(test)


def by_xla(lowered):
    """Return the bytes that a program takes beside its arguments, and those of its arguments."""
    account = lowered.compile().memory_analysis()
    written_over = account.alias_size_in_bytes
    work = account.temp_size_in_bytes + account.output_size_in_bytes - written_over
    return work, account.argument_size_in_bytes


@pytest.mark.parametrize(
    ("variant", "runs", "platform"),
    [("LeNet", 1, "cpu"), ("LeNet", 4, "cpu"), ("LeNet_BN_noDropout", 4, "cuda")],
)
def test_the_estimate_is_between_one_and_two_times_what_xla_needs(variant, runs, platform):
    model = VARIANTS[variant]
    arguments, test_data = shapes_of(variant, runs)
    train_traced = train_runs.trace(model, *arguments, BATCH_SIZE, None)
    test_traced = evaluate_runs.trace(model, arguments[1].variables, test_data, None)
    if platform == "cpu":
        train_program, test_program = train_traced.lower(), test_traced.lower()
    else:
        train, test = at_once(model)
        train_program = train.lower(*arguments)
        test_program = test.lower(arguments[1].variables, test_data)

    train_work, train_arguments = by_xla(train_program)
    test_work, _ = by_xla(test_program)
    assert train_work <= working_bytes(train_traced, platform) <= 2 * train_work
    assert test_work <= working_bytes(test_traced, platform) <= 2 * test_work

    needed = bytes_needed(model, arguments[2], test_data, runs, BATCH_SIZE, platform)
    # Beside the training examples: those of the two tests, of which the first is of all images.
    strips = 4 * 8 * 128 + 4
    assert needed.examples + needed.states == pytest.approx(
        train_arguments + (TRAIN + TEST) * strips, rel=1e-3
    )
    assert train_work <= needed.work <= 2 * max(train_work, test_work)


def test_on_a_gpu_each_run_needs_as_much_again_and_on_a_cpu_little_more_than_its_state():
    model = VARIANTS["LeNet"]
    data = example_shapes(TRAIN, moments=False), example_shapes(TEST, moments=False)
    gpu = [bytes_needed(model, *data, runs, BATCH_SIZE, "cuda") for runs in (8, 16)]
    cpu = [bytes_needed(model, *data, runs, BATCH_SIZE, "cpu") for runs in (8, 16)]
    assert gpu[1].work == pytest.approx(2 * gpu[0].work, rel=0.05)
    assert gpu[0].states == cpu[0].states
    # Beside the states there are those after the epoch.
    assert cpu[1].work - cpu[0].work == pytest.approx(cpu[0].states, rel=0.05)
    assert gpu[0].total == gpu[0].examples + gpu[0].states + gpu[0].work


def test_examples_that_no_machine_holds_are_counted():
    count = 10**9
    train, test = example_shapes(count, moments=True), example_shapes(1000, moments=False)
    needed = bytes_needed(VARIANTS["LeNet_BN_noDropout"], train, test, 1)
    assert needed.examples > count * 4 * (8 * 128 + 350)


# Counting, by hand


def traced(function, *arguments):
    return jax.jit(function).trace(*arguments)


def test_an_array_counts_until_its_last_use():
    def function(x):  # 4,000 bytes, an argument
        y = x + 1  # 4,000
        z = y * x  # 8,000
        return z.sum()  # y is gone: 4,004

    assert working_bytes(traced(function, jnp.zeros(1000)), "cpu") == 8000


def test_results_count_to_the_end():
    def function(x):
        y = x + 1
        z = jnp.concatenate([x, x])
        return y, z.sum()

    assert working_bytes(traced(function, jnp.zeros(1000)), "cpu") == 4000 + 8000 + 4


def test_another_shape_of_an_array_is_the_array():
    def function(x):
        y = (x + 1).reshape(10, 100)
        return y.reshape(1000)[0:1000] * 2

    assert working_bytes(traced(function, jnp.zeros(1000)), "cpu") == 8000


def test_a_loop_holds_its_results_and_what_one_turn_takes():
    def function(first, sequence):
        return lax.scan(lambda carry, x: (carry + x, carry * 2), first, sequence)

    # 40 + 5 * 40 of results; a turn has its 40 of the sequence, and its own two results.
    found = working_bytes(traced(function, jnp.zeros(10), jnp.zeros((5, 10))), "cpu")
    assert found == 240 + 40 + 80


def test_a_platform_has_the_memory_of_its_own_branch():
    def function(x):
        return lax.platform_dependent(
            x, cpu=lambda x: x.sum(), default=lambda x: (x[:, None] * x).sum()
        )

    program = traced(function, jnp.zeros(100))
    assert working_bytes(program, "cpu") < 1000
    assert working_bytes(program, "cuda") == working_bytes(program, "tpu") > 40_000


# What fits


@pytest.fixture
def ten_bytes_a_run(monkeypatch):
    """Runs that need 10 bytes each, beside examples of 100; return a call of `runs_that_fit`."""
    monkeypatch.setattr(
        memory, "bytes_needed", lambda model, train, test, runs, *_: Needed(100, runs, 9 * runs)
    )

    def fit(wanted, available, **place):
        return memory.runs_that_fit(None, None, None, 128, wanted, available, **place)

    return fit


@pytest.mark.parametrize(
    ("wanted", "available", "devices", "platform", "expected"),
    [
        (64, 740, 1, "cuda", 64),
        (64, 739, 1, "cuda", 32),
        (5, 130, 1, "cuda", 3),
        (64, 0, 1, "cuda", 1),  # an estimate must not forbid
        (64, None, 1, "cuda", 64),  # nor what is not known
        (64, 260, 4, "cuda", 64),  # 16 on each
        (6, 120, 4, "cuda", 6),  # 2 on each would be 8
        (64, 259, 4, "cuda", 32),
        (64, 260, 4, "cpu", 16),  # on one host: 100 for examples, and 4 times 4 runs
        (64, 259, 4, "cpu", 8),
    ],
)
def test_runs_are_halved_until_they_fit(
    ten_bytes_a_run, wanted, available, devices, platform, expected
):
    room = ten_bytes_a_run(wanted, available, devices=devices, platform=platform)
    assert room.runs == expected
    assert bool(room.notice("LeNet")) == (expected < wanted or available == 0)


def test_the_user_is_told_how_many_runs_train_instead():
    room = Room(runs=32, wanted=64, needed=2 * 2**30, available=3 * 2**29)
    assert room.notice("LeNet_BN_Dropout") == (
        "64 runs of LeNet_BN_Dropout need about 2.0 GiB and the device has 1.5 GiB free: 32 at once"
        " instead"
    )
    assert Room(1, 1, 2**30, 2**29).notice("LeNet") == (
        "1 run of LeNet needs about 1.0 GiB and the device has 0.5 GiB free: it may fail"
    )


def test_a_gpus_free_memory_is_what_jax_may_take_and_has_not():
    gpu = SimpleNamespace(
        platform="gpu", memory_stats=lambda: {"bytes_limit": 60 * MIB, "bytes_in_use": 20 * MIB}
    )
    assert memory.bytes_available(gpu) == 40 * MIB


def test_a_device_that_does_not_tell_has_no_limit():
    unknown = SimpleNamespace(platform="other", memory_stats=lambda: None)
    assert memory.bytes_available(unknown) is None


def test_a_cpus_free_memory_is_the_hosts(monkeypatch, tmp_path):
    host = memory.os.sysconf("SC_PHYS_PAGES") * memory.os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.bytes_available() <= host
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\nHugePages_Free:  0\n")
    monkeypatch.setattr(memory, "MEMINFO", facts)
    assert memory.bytes_available() == 1000 * 1024
    limit, used = tmp_path / "memory.max", tmp_path / "memory.current"
    monkeypatch.setattr(memory, "LIMITS", ((tmp_path / "none", used), (limit, used)))
    used.write_text("600000\n")
    for text, free in (("1000000\n", 400_000), ("500000\n", 0), ("max\n", 1000 * 1024)):
        limit.write_text(text)
        assert memory.bytes_available() == free
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "another system's")
    assert memory.bytes_available() == host
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.bytes_available() is None

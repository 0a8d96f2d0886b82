"""JAX's side of `contenders`: this library, and Flax as its examples write it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.stages import Compiled, Wrapped

from experiments import flops, profile, startup
from experiments.contenders import TEST_BATCH, Contender, Data, Task, batch_sizes
from jax_lenet import (
    Examples,
    Hyperparameters,
    LeNet5,
    TrainState,
    compile_programs,
    examples,
    prepare_examples,
    split,
    training,
)
from jax_lenet.ensemble import devices_for, train_runs
from jax_lenet.timing import compile_ahead, timed


def start() -> None:
    """Do what the programs do before JAX's first computation: a CPU device for each core."""
    startup.use_cpu_devices(None)


def build(name: str, task: Task, data: Data, runs: int) -> Contender:
    """Return one of JAX's contenders; see `contenders.build`."""
    return JaxLenet(task, data, runs) if name == "jax_lenet" else Flax(task, data)


class JaxLenet:
    """This library, as the programs use it: a CPU's devices share the runs, or split one.

    See `Contender`.
    """

    name = "jax_lenet"

    def __init__(self, task: Task, data: Data, runs: int = 1):
        """Prepare the data and compile; see `contenders.build`."""
        model = task.model("blocked")
        (train, test), self.prepare_seconds = timed(_prepared, data, model.batch_norm)
        self.runs = runs
        self.devices = devices_for(runs, len(train.labels), len(test.labels), task.batch_size)
        self.train_loss = self._accuracy = float("nan")
        (train, test), seconds = timed(split.spread, train, test, self.devices)
        self.prepare_seconds += seconds
        with startup.returning_memory():  # as the programs do
            self._programs = compile_programs(
                model,
                train,
                test,
                runs=runs,
                batch_size=task.batch_size,
                devices=self.devices,
                warm_up=False,
            )
        self.compile_seconds: float | None = self._programs.compile_seconds
        (self._train, _, self._test), seconds = timed(self._programs.place, train, test)
        self.prepare_seconds += seconds
        places = self._programs.runs  # as `fit` does, with the last run in those that are left
        seeds = task.first_seed + np.minimum(np.arange(places), runs - 1)
        seeds = jnp.asarray(seeds, jnp.uint32)
        rates = Hyperparameters(jnp.full(places, task.learning_rate, jnp.float32))
        self._seeds, self._rates = split.place_runs((seeds, rates), self._programs.mesh)
        self._state = self._programs.init(self._seeds)
        jax.block_until_ready((self._train, self._test, self._state))

    def train_epoch(self) -> float:
        """Train for an epoch; return its seconds."""
        losses, seconds = timed(self._epoch)
        self.train_loss = float(np.mean(np.asarray(losses)[: self.runs]))
        return seconds

    def _epoch(self) -> jax.Array:
        """Train for an epoch; return the mean losses, ``[R]``."""
        trained = self._programs.epoch(self._rates, self._state, self._train, self._seeds)
        self._state, losses = jax.block_until_ready(trained)
        return losses

    def test(self) -> float:
        """Evaluate; return the seconds."""
        result, seconds = timed(self._programs.evaluate_test, self._state.variables, self._test)
        self._accuracy = float(np.mean(result.accuracy[: self.runs]))
        return seconds

    def accuracy(self) -> float:
        """Return the fraction right in the last test."""
        return self._accuracy

    def product_flops(self) -> float | None:
        """Return the operations of an epoch's matrix products, of all runs and devices."""
        return flops.product_flops(
            train_runs,
            self._programs.model,
            self._rates,
            self._state,
            self._train,
            self._seeds,
            self._programs.batch_size,
            self._programs.mesh,
        )

    def time_shares(self) -> tuple[profile.Shares | None, str]:
        """Train for an epoch under the profiler; see `profile.time_shares`."""
        return profile.time_shares(self._epoch, self._programs.epoch)


def _prepared(data: Data, moments: bool) -> tuple[Examples, Examples]:
    """Return training and test examples as the blocked form reads them: blocks, and moments."""
    train, test = jax_examples(data)
    return prepare_examples(train, moments), prepare_examples(test, moments=False)


def jax_examples(data: Data) -> tuple[Examples, Examples]:
    """Return training and test examples, images float32 ``[N, 28, 28, 1]``."""
    return (
        examples(data.train_images, data.train_labels),
        examples(data.test_images, data.test_labels),
    )


class _Carry(NamedTuple):
    """What a step of `Flax` hands to the next: all of it on the device, all of it donated."""

    state: TrainState
    key: jax.Array
    loss_sum: jax.Array


class _Totals(NamedTuple):
    """Sums over the test images so far."""

    loss: jax.Array
    right: jax.Array


@partial(jax.jit, static_argnames="model", donate_argnames="carry")
def _flax_step(
    model: LeNet5,
    hyperparameters: Hyperparameters,
    carry: _Carry,
    train: Examples,
    indices: jax.Array,
) -> _Carry:
    """Take a step on the images at ``indices``, gathered inside, to the benefit of Flax."""
    key, dropout_key = jax.random.split(carry.key)
    batch = jax.tree.map(lambda x: x[indices], train)
    state, loss = training.step(model, hyperparameters, carry.state, batch, dropout_key)
    return _Carry(state, key, carry.loss_sum + loss * len(indices))


@partial(jax.jit, static_argnames=("count", "batch_size"))
def _flax_order(
    seed: jax.Array, epoch: jax.Array, count: int, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """Return an epoch's order in batches, int32 ``[steps, batch_size]``, and what is left over."""
    order = training.epoch_order(seed, epoch, count)
    full = count - count % batch_size
    return order[:full].reshape(-1, batch_size), order[full:]


@partial(jax.jit, static_argnames=("model", "size"))
def _flax_test(
    model: LeNet5,
    state: TrainState,
    totals: _Totals,
    test: Examples,
    start: jax.Array,
    size: int,
) -> _Totals:
    """Add to the totals those of the ``size`` test images from ``start`` on."""
    batch = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), test)
    log_probs = cast(jax.Array, model.apply(state.variables, batch.images, train=False))
    loss = training.negative_log_likelihood(log_probs, batch.labels).sum()
    right = (log_probs.argmax(-1) == batch.labels).sum()
    return _Totals(totals.loss + loss, totals.right + right)


class Flax:
    """The way Flax's examples train: a jitted step, called from a Python loop. See `Contender`.

    The model is the plain form, whose convolutions are XLA's. State and images stay on the device,
    and each step is one call: the key, the sum of the losses and the gathering of the batch are
    inside. A test is the same: a call for each batch of `TEST_BATCH` images.
    """

    name = "flax"
    runs = 1
    devices = 1

    def __init__(self, task: Task, data: Data):
        """Compile; see `contenders.build`."""
        self.train_loss = self._accuracy = float("nan")
        self.compile_seconds: float | None = 0.0
        self._model = task.model("plain")
        self._batch_size = task.batch_size
        (self._train, self._test), self.prepare_seconds = timed(jax_examples, data)
        self._rate = Hyperparameters(jnp.asarray(task.learning_rate, jnp.float32))
        self._seed = jnp.asarray(task.first_seed, jnp.uint32)
        self._carry = _Carry(
            training.init(self._model, self._seed),
            training.run_key(self._seed, training.Role.DROPOUT),
            jnp.zeros((), jnp.float32),
        )
        count, tests = len(self._train.labels), len(self._test.labels)
        self._sizes = batch_sizes(count, task.batch_size), batch_sizes(tests, TEST_BATCH)
        self._order = self._compile(
            _flax_order, self._seed, self._carry.state.epoch, count, task.batch_size
        )
        self._steps = {
            size: self._compile(_flax_step, *self._step_arguments(size)) for size in self._sizes[0]
        }
        self._starts = [jnp.asarray(start, jnp.int32) for start in range(0, tests, TEST_BATCH)]
        arguments = self._model, self._carry.state, _no_totals(), self._test, self._starts[0]
        self._tests = {size: self._compile(_flax_test, *arguments, size) for size in self._sizes[1]}
        jax.block_until_ready((self._train, self._test, self._carry))

    def _compile(self, function: Callable, *args: Any) -> Compiled:
        compiled, seconds = compile_ahead(cast(Wrapped, function), *args)
        self.compile_seconds = (self.compile_seconds or 0.0) + seconds
        return compiled

    def _step_arguments(self, size: int) -> tuple:
        indices = jax.ShapeDtypeStruct((size,), jnp.int32)
        return self._model, self._rate, self._carry, self._train, indices

    def train_epoch(self) -> float:
        """Train for an epoch; return its seconds."""
        loss_sum, seconds = timed(self._epoch)
        self.train_loss = float(loss_sum) / len(self._train.labels)
        return seconds

    def _epoch(self) -> jax.Array:
        """Train for an epoch; return the sum of the losses, which the last step is the last to add.

        Nothing is read from the device on the way, so that Python runs ahead of it.
        """
        carry = self._carry._replace(loss_sum=jnp.zeros((), jnp.float32))
        batches, rest = self._order(self._seed, carry.state.epoch)
        for indices in (*batches, *((rest,) if len(rest) else ())):
            carry = self._steps[len(indices)](self._rate, carry, self._train, indices)
        state = carry.state._replace(epoch=carry.state.epoch + 1)
        self._carry = jax.block_until_ready(carry._replace(state=state))
        return carry.loss_sum

    def test(self) -> float:
        """Evaluate; return the seconds."""
        totals, seconds = timed(self._tested)
        self._accuracy = int(totals.right) / len(self._test.labels)
        return seconds

    def _tested(self) -> _Totals:
        totals, sizes = _no_totals(), self._sizes[1]
        for start in self._starts:
            size = sizes[-1] if start is self._starts[-1] else sizes[0]
            totals = self._tests[size](self._carry.state, totals, self._test, start)
        return totals

    def accuracy(self) -> float:
        """Return the fraction right in the last test."""
        return self._accuracy

    def product_flops(self) -> float | None:
        """Return the operations of an epoch's matrix products and convolutions."""
        full_steps, rest = divmod(len(self._train.labels), self._batch_size)
        repeats = {self._batch_size: full_steps, rest: 1}
        return sum(
            repeats[size] * flops.product_flops(_flax_step, *self._step_arguments(size))
            for size in self._steps
        )


def _no_totals() -> _Totals:
    return _Totals(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

"""Many runs at once: `jax.vmap` over seeds, learning rates and dropout rates.

Arrays of several runs have the run as their first axis, a single run included. `compile_programs`
makes what `fit` runs, once for all groups of the same shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from jax_lenet import training
from jax_lenet.blocked import Prepared
from jax_lenet.models import LeNet5
from jax_lenet.timing import compile_ahead, timed
from jax_lenet.training import Evaluation, Examples, Hyperparameters, TrainState, Variables

#: Training accuracy is that of the first 10,000 training images: as many as MNIST's test set has.
TRAIN_ACCURACY_IMAGES = 10_000


@dataclass(frozen=True)
class Programs:
    """The compiled functions that train and test R runs of one model, for data of given sizes.

    Attributes:
        model: what they train.
        runs: how many at once.
        batch_size: images in a step.
        traced_dropout: whether the rates are arguments, not the model's own.
        epoch: ``(hyperparameters, state, train, seeds) -> (state, loss [R])``; the state that goes
            in is donated.
        evaluate_train: ``(variables, examples) -> Evaluation`` on the images of `train_check`.
        evaluate_test: the same on the test images.
        compile_seconds: what tracing and compiling all of them took.
    """

    model: LeNet5
    runs: int
    batch_size: int
    traced_dropout: bool
    epoch: Compiled
    evaluate_train: Compiled
    evaluate_test: Compiled
    compile_seconds: float


def map_runs(function: Callable, *args: Any) -> Any:
    """Apply a function of one run's arrays to those of R runs.

    That is `jax.vmap`, except that a run alone goes without: on a CPU a batch axis of one costs a
    quarter of the speed.

    Args:
        function: of arrays of one run, to arrays of one run.
        *args: pytrees whose leaves all have the run as their first axis.
    """
    runs = len(jax.tree.leaves(args)[0])
    if runs > 1:
        return jax.vmap(function)(*args)
    result = function(*jax.tree.map(lambda x: x[0], args))
    return jax.tree.map(lambda x: x[None], result)


def init_runs(model: LeNet5, seeds: jax.Array) -> TrainState:
    """`training.init` for each of ``seeds``, uint32 ``[R]``."""
    return map_runs(partial(training.init, model), seeds)


@partial(jax.jit, static_argnames=("model", "batch_size"), donate_argnames="state")
def train_runs(
    model: LeNet5,
    hyperparameters: Hyperparameters,
    state: TrainState,
    data: Examples,
    seeds: jax.Array,
    batch_size: int,
) -> tuple[TrainState, jax.Array]:
    """`training.epoch` for R runs on the same data; return their states and mean losses ``[R]``."""

    def one_run(hyperparameters: Hyperparameters, state: TrainState, seed: jax.Array):
        return training.epoch(model, hyperparameters, state, data, seed, batch_size)

    return map_runs(one_run, hyperparameters, state, seeds)


@partial(jax.jit, static_argnames="model")
def evaluate_runs(model: LeNet5, variables: Variables, data: Examples) -> Evaluation:
    """`training.evaluate` for R runs on the same data."""
    return map_runs(lambda variables: training.evaluate(model, variables, data), variables)


def train_check(train: Examples) -> Examples:
    """Return the training examples on which training accuracy is measured, as those of a test."""
    if isinstance(train.images, Prepared):
        train = train._replace(images=train.images._replace(moments=None))
    return jax.tree.map(lambda x: x[:TRAIN_ACCURACY_IMAGES], train)


def in_form(model: LeNet5, data: Examples, train: bool) -> Examples:
    """Return the examples as the model's form wants them; what is prepared already stays.

    Args:
        model: built by `lenet5`.
        data: with images or `Prepared`.
        train: whether the model will be trained on them.

    Raises:
        ValueError: if they are prepared without the moments that batch norm needs.
    """
    if not train and isinstance(data.images, Prepared):  # all tests alike: one program for all
        return data._replace(images=data.images._replace(moments=None))
    if not isinstance(data.images, Prepared):
        moments = train and model.batch_norm
        return data if model.form == "plain" else training.prepare_examples(data, moments)
    if train and model.batch_norm and data.images.moments is None:
        raise ValueError("batch norm needs examples prepared with moments=True")
    return data


def compile_programs(
    model: LeNet5,
    train: Examples,
    test: Examples,
    *,
    runs: int = 1,
    batch_size: int = 128,
    traced_dropout: bool = False,
    warm_up: bool = True,
) -> Programs:
    """Compile everything that `fit` runs, so that nothing compiles while a clock is running.

    Args:
        model: built by `lenet5`.
        train: training examples; only their sizes matter, unless ``warm_up``.
        test: test examples; the same.
        runs: how many runs train at once.
        batch_size: images in a step.
        traced_dropout: whether `fit` will be given dropout rates in place of the model's own.
        warm_up: also run each function once (one epoch of training) on a state that is thrown away:
            a first call is slower than those that follow.
    """
    train, test = in_form(model, train, train=True), in_form(model, test, train=False)
    seeds = jnp.zeros(runs, jnp.uint32)
    rates = jnp.zeros(runs, jnp.float32)
    hyperparameters = Hyperparameters(rates, (rates, rates) if traced_dropout else None)
    check = train_check(train)
    state = jax.eval_shape(partial(init_runs, model), seeds)
    epoch, epoch_seconds = compile_ahead(
        train_runs, model, hyperparameters, state, train, seeds, batch_size
    )
    evaluate_test, test_seconds = compile_ahead(evaluate_runs, model, state.variables, test)
    if len(check.labels) == len(test.labels):
        evaluate_train, check_seconds = evaluate_test, 0.0
    else:
        evaluate_train, check_seconds = compile_ahead(evaluate_runs, model, state.variables, check)
    seconds = epoch_seconds + test_seconds + check_seconds
    programs = Programs(
        model, runs, batch_size, traced_dropout, epoch, evaluate_train, evaluate_test, seconds
    )
    if warm_up:
        warmed, _ = programs.epoch(hyperparameters, init_runs(model, seeds), train, seeds)
        programs.evaluate_train(warmed.variables, check)
        jax.block_until_ready(programs.evaluate_test(warmed.variables, test))
    return programs


def time_epoch(programs: Programs, train: Examples, test: Examples) -> tuple[float, float]:
    """Time the first epoch of one run alone, and the test after it.

    Args:
        programs: compiled for one run, warmed up.
        train: training examples, on the device.
        test: test examples, on the device.

    Returns:
        Wall-clock seconds of training and of testing.
    """
    seeds = jnp.zeros(1, jnp.uint32)
    state = jax.block_until_ready(init_runs(programs.model, seeds))
    hyperparameters = Hyperparameters(jnp.full(1, 0.01, jnp.float32))
    (state, _), train_seconds = timed(programs.epoch, hyperparameters, state, train, seeds)
    _, test_seconds = timed(programs.evaluate_test, state.variables, test)
    return train_seconds, test_seconds

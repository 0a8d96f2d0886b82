"""Many runs at once: `jax.vmap` over seeds, learning rates and dropout rates.

Arrays of several runs have the run as their first axis, a single run included. `fit` is the entry;
`compile_programs` makes what it runs, for callers that train several groups of the same shape and
want to compile once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Compiled
from jax.typing import ArrayLike

from jax_lenet import training
from jax_lenet.models import CLASSES, LeNet5, check_images
from jax_lenet.timing import compile_ahead, timed
from jax_lenet.training import Evaluation, Examples, Hyperparameters, TrainState, Variables

#: Training accuracy is that of the first 10,000 training images: as many as MNIST's test set has.
TRAIN_ACCURACY_IMAGES = 10_000


class EpochResult(NamedTuple):
    """What one epoch of R runs gave.

    Attributes:
        epoch: counted from 1.
        train_loss: mean loss as minimized, dropout on, float32 ``[R]``.
        train_accuracy: fraction, in evaluation mode, of the first 10,000 training images, ``[R]``.
        test_loss: mean loss on the test images, in evaluation mode, ``[R]``.
        test_accuracy: fraction of the test images, ``[R]``.
        train_seconds: wall clock of the training, of all R runs together.
        test_seconds: wall clock of the testing, of all R runs together.
    """

    epoch: int
    train_loss: np.ndarray
    train_accuracy: np.ndarray
    test_loss: np.ndarray
    test_accuracy: np.ndarray
    train_seconds: float
    test_seconds: float


@dataclass(frozen=True)
class Fit:
    """R finished runs.

    Attributes:
        seeds: of each run.
        history: one `EpochResult` per epoch.
        predictions: class given to each test image at the end, uint8 ``[R, test images]``.
        state: after the last epoch, every leaf with the run as its first axis.
    """

    seeds: tuple[int, ...]
    history: tuple[EpochResult, ...]
    predictions: np.ndarray
    state: TrainState

    def variables(self, run: int = 0) -> Variables:
        """Return what ``model.apply`` takes, for one run counted from 0."""
        return jax.tree.map(lambda leaf: leaf[run], self.state.variables)

    @property
    def test_accuracy(self) -> np.ndarray:
        """Fraction of the test images right, ``[R, epochs]``."""
        return np.stack([result.test_accuracy for result in self.history], axis=1)

    @property
    def diverged(self) -> np.ndarray:
        """Whether a run's loss was ever NaN or infinite, bool ``[R]``."""
        losses = [[result.train_loss, result.test_loss] for result in self.history]
        return np.logical_not(np.isfinite(losses).all((0, 1)))


@dataclass(frozen=True)
class Programs:
    """The compiled functions that train and test R runs of one model, for data of given sizes.

    Attributes:
        init: ``seeds -> state``.
        epoch: ``(hyperparameters, state, train, seeds) -> (state, loss [R])``; the state that goes
            in is donated.
        evaluate_train: ``(variables, examples) -> Evaluation`` on the images of `train_check`.
        evaluate_test: the same on the test images.
        compile_seconds: what tracing and compiling all of them took.
    """

    init: Compiled
    epoch: Compiled
    evaluate_train: Compiled
    evaluate_test: Compiled
    compile_seconds: float


@partial(jax.jit, static_argnames="model")
def init_runs(model: LeNet5, seeds: jax.Array) -> TrainState:
    """`training.init` for each of ``seeds``, uint32 ``[R]``."""
    return jax.vmap(partial(training.init, model))(seeds)


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

    return jax.vmap(one_run)(hyperparameters, state, seeds)


@partial(jax.jit, static_argnames="model")
def evaluate_runs(model: LeNet5, variables: Variables, data: Examples) -> Evaluation:
    """`training.evaluate` for R runs on the same data."""
    return jax.vmap(lambda variables: training.evaluate(model, variables, data))(variables)


def train_check(train: Examples) -> Examples:
    """Return the training examples on which training accuracy is measured."""
    return jax.tree.map(lambda x: x[:TRAIN_ACCURACY_IMAGES], train)


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
    seeds = jnp.zeros(runs, jnp.uint32)
    rates = jnp.zeros(runs)
    hyperparameters = Hyperparameters(rates, (rates, rates) if traced_dropout else None)
    check = train_check(train)
    state = jax.eval_shape(partial(init_runs, model), seeds)
    init, init_seconds = compile_ahead(init_runs, model, seeds)
    epoch, epoch_seconds = compile_ahead(
        train_runs, model, hyperparameters, state, train, seeds, batch_size
    )
    evaluate_test, test_seconds = compile_ahead(evaluate_runs, model, state.variables, test)
    if len(check.labels) == len(test.labels):
        evaluate_train, check_seconds = evaluate_test, 0.0
    else:
        evaluate_train, check_seconds = compile_ahead(evaluate_runs, model, state.variables, check)
    seconds = init_seconds + epoch_seconds + test_seconds + check_seconds
    programs = Programs(init, epoch, evaluate_train, evaluate_test, seconds)
    if warm_up:
        warmed, _ = programs.epoch(hyperparameters, programs.init(seeds), train, seeds)
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
    state = jax.block_until_ready(programs.init(seeds))
    hyperparameters = Hyperparameters(jnp.full(1, 0.01))
    (state, _), train_seconds = timed(programs.epoch, hyperparameters, state, train, seeds)
    _, test_seconds = timed(programs.evaluate_test, state.variables, test)
    return train_seconds, test_seconds


def fit(
    model: LeNet5,
    train: Examples,
    test: Examples,
    *,
    seeds: Sequence[int] = (0,),
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: ArrayLike = 0.01,
    dropout: tuple[ArrayLike, ArrayLike] | None = None,
    programs: Programs | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
) -> Fit:
    """Train one model from several seeds at once, testing after every epoch.

    A run whose loss becomes NaN or infinite stays in the result (`Fit.diverged` tells) and does not
    disturb the others.

    Args:
        model: built by `lenet5`, or one of `VARIANTS`.
        train: training examples; `examples` makes them from pixels.
        test: test examples.
        seeds: R different whole numbers in [0, 2**32), a run each.
        epochs: at least 1.
        batch_size: images in a step, at most the number of training examples.
        learning_rate: of plain SGD, a number or one per run ``[R]``.
        dropout: rates of drop6 and drop7 in place of the model's own, each a number or ``[R]``.
            They are traced: other rates do not compile again.
        programs: from `compile_programs` for this model, these sizes and R runs; None compiles.
        on_epoch: called after each epoch.

    Returns:
        The histories, last predictions and final states.

    Raises:
        ValueError: if an argument has the wrong shape, dtype or range.

    >>> from jax_lenet import VARIANTS, examples, fit, load
    >>> data = load("mnist_sample", train_size=640)
    >>> train = examples(data.train_images, data.train_labels)
    >>> test = examples(data.test_images, data.test_labels)
    >>> result = fit(VARIANTS["LeNet_BN_noDropout"], train, test, seeds=[0, 1], epochs=3)
    >>> result.test_accuracy.shape
    (2, 3)
    >>> bool((result.test_accuracy[:, -1] > 0.5).all())
    True
    """
    seeds = tuple(int(seed) for seed in seeds)
    train, test = _checked("training", train), _checked("test", test)
    _check_settings(model, len(train.labels), seeds, epochs, batch_size)
    hyperparameters = _hyperparameters(len(seeds), learning_rate, dropout)
    if programs is None:
        programs = compile_programs(
            model,
            train,
            test,
            runs=len(seeds),
            batch_size=batch_size,
            traced_dropout=dropout is not None,
            warm_up=False,
        )
    seed_array = jnp.asarray(seeds, jnp.uint32)
    state = programs.init(seed_array)
    predictions = np.empty((len(seeds), len(test.labels)), np.uint8)
    history = []
    for _ in range(epochs):
        state, result, predictions = _train_and_test(
            programs, hyperparameters, state, train, test, seed_array
        )
        history.append(result)
        if on_epoch is not None:
            on_epoch(result)
    return Fit(seeds, tuple(history), predictions, state)


def _train_and_test(
    programs: Programs,
    hyperparameters: Hyperparameters,
    state: TrainState,
    train: Examples,
    test: Examples,
    seeds: jax.Array,
) -> tuple[TrainState, EpochResult, np.ndarray]:
    """Train R runs for an epoch; return their states, the result, and the predictions."""
    (state, train_loss), train_seconds = timed(programs.epoch, hyperparameters, state, train, seeds)
    tested, test_seconds = timed(programs.evaluate_test, state.variables, test)
    checked = programs.evaluate_train(state.variables, train_check(train))
    result = EpochResult(
        epoch=int(state.epoch[0]),
        train_loss=np.asarray(train_loss),
        train_accuracy=checked.accuracy,
        test_loss=np.asarray(tested.loss),
        test_accuracy=tested.accuracy,
        train_seconds=train_seconds,
        test_seconds=test_seconds,
    )
    return state, result, np.asarray(tested.predictions)


def _checked(name: str, data: Examples) -> Examples:
    """Return the examples on the device, or say what is wrong with them."""
    images, labels = data
    try:
        check_images(images)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
    labels = np.asarray(labels)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} labels must be whole numbers of shape [{len(images)}], one per image, not"
            f" {labels.dtype} of shape {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(
            f"{name} labels must lie in 0..{CLASSES - 1}, not in {labels.min()}..{labels.max()}"
        )
    return Examples(jnp.asarray(images), jnp.asarray(labels, jnp.int32))


def _check_settings(
    model: LeNet5, count: int, seeds: tuple[int, ...], epochs: int, batch_size: int
) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0 or max(seeds) >= 2**32:
        raise ValueError(f"seeds must be different whole numbers in [0, 2**32), not {seeds}")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}")
    check_batch_size(model, count, batch_size)


def check_batch_size(model: LeNet5, count: int, batch_size: int) -> None:
    """Raise ValueError unless ``count`` training images can be cut into such batches."""
    if not 1 <= batch_size <= count:
        raise ValueError(
            f"batch size must lie between 1 and the number of training images, {count},"
            f" not {batch_size}"
        )
    if model.batch_norm and 1 in (batch_size, count % batch_size):
        raise ValueError(
            f"batch norm needs at least two images in a batch, and batch size {batch_size} leaves"
            f" one of {count} alone"
        )


def _hyperparameters(
    runs: int, learning_rate: ArrayLike, dropout: tuple[ArrayLike, ArrayLike] | None
) -> Hyperparameters:
    rates = _per_run("learning rate", learning_rate, runs)
    if not np.all(np.isfinite(rates) & (rates > 0)):
        raise ValueError(f"learning rate must be a positive number, not {learning_rate}")
    if dropout is None:
        return Hyperparameters(jnp.asarray(rates))
    drop6, drop7 = (_per_run("dropout", rate, runs) for rate in dropout)
    for name, rate in (("drop6", drop6), ("drop7", drop7)):
        if not np.all((rate >= 0) & (rate < 1)):
            raise ValueError(f"the rate of {name} must be a number in [0, 1), not {rate.tolist()}")
    return Hyperparameters(jnp.asarray(rates), (jnp.asarray(drop6), jnp.asarray(drop7)))


def _per_run(name: str, value: ArrayLike, runs: int) -> np.ndarray:
    array = np.asarray(value, np.float32)
    if array.shape not in ((), (runs,)):
        raise ValueError(
            f"{name} must be one number or one per run ({runs}), not of shape {list(array.shape)}"
        )
    return np.broadcast_to(array, (runs,))

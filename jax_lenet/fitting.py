"""`fit`: a model, data and seeds in; histories, predictions and trained weights out."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_lenet import split
from jax_lenet.blocked import Prepared
from jax_lenet.ensemble import Placed, Programs, compile_programs, in_form
from jax_lenet.models import CLASSES, LeNet5, check_dtype, check_images
from jax_lenet.timing import timed
from jax_lenet.training import Examples, Hyperparameters, TrainState, Variables, init

Tree = TypeVar("Tree")


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
    """R runs after an epoch: finished, or to go on from.

    Attributes:
        seeds: of each run.
        history: one `EpochResult` per epoch so far.
        first_predictions: class given to each test image after the first of them, uint8
            ``[R, test images]``; of no meaning before it.
        predictions: the same after the last of them.
        state: after the last of them, every leaf with the run as its first axis.
    """

    seeds: tuple[int, ...]
    history: tuple[EpochResult, ...]
    first_predictions: np.ndarray
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
    devices: int = 1,
    programs: Programs | None = None,
    on_epoch: Callable[[EpochResult], None] | None = None,
    start: Fit | None = None,
    save: Callable[[Fit], None] | None = None,
) -> Fit:
    """Train one model from several seeds at once, testing after every epoch.

    A run whose loss becomes NaN or infinite stays in the result (`Fit.diverged` tells) and does not
    disturb the others. Runs that go on, from ``start``, have the same bits as without the stop.

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
        devices: that share the runs, or the batches of one run, as in `compile_programs`;
            `devices_for` tells how many of JAX's are best.
        programs: from `compile_programs` for this model, these sizes and at least R runs; the
            places that are left train the last run again. None compiles for R, and does not warm
            up, so that the first epoch's time is that of a first call. Given, they say how many
            devices there are.
        on_epoch: called after each epoch.
        start: earlier epochs of these runs, which are not trained again; its arrays may be NumPy's.
        save: called after each epoch, before ``on_epoch``, with what ``start`` takes. The next
            epoch writes over the memory of its state: copy what is to be kept.

    Returns:
        The histories, first and last predictions and final states.

    Raises:
        ValueError: if an argument has the wrong shape, dtype or range.

    >>> from jax_lenet import VARIANTS, examples, fit, load
    >>> data = load("mnist_sample", train_size=640)
    >>> train = examples(data.train_images, data.train_labels)
    >>> test = examples(data.test_images, data.test_labels)
    >>> model = VARIANTS["LeNet_BN_noDropout"]
    >>> result = fit(model, train, test, seeds=[0, 1], epochs=3, batch_size=32)
    >>> result.test_accuracy.shape
    (2, 3)
    >>> bool((result.test_accuracy[:, -1] > 0.5).all())
    True
    """
    seeds, epochs = _checked_seeds(seeds), _checked_epochs(epochs)
    train = in_form(model, _checked("training", train), train=True)
    test = in_form(model, _checked("test", test), train=False)
    check_batch_size(model, len(train.labels), batch_size)
    hyperparameters = _hyperparameters(len(seeds), learning_rate, dropout)
    if programs is None:
        programs = compile_programs(
            model,
            train,
            test,
            runs=len(seeds),
            batch_size=batch_size,
            traced_dropout=dropout is not None,
            devices=devices,
            warm_up=False,
        )
    _check_programs(programs, model, len(seeds), batch_size, dropout is not None)
    if start is not None:
        _check_start(start, model, seeds, epochs, len(test.labels))
    placed = programs.place(train, test)
    seed_array, hyperparameters = split.place_runs(
        fill_places((jnp.asarray(seeds, jnp.uint32), hyperparameters), programs.runs), programs.mesh
    )
    if start is None:
        state = programs.init(seed_array)
        none = np.zeros((len(seeds), len(test.labels)), np.uint8)
        done = Fit(seeds, (), none, none, state)
    else:
        state = split.place_runs(fill_places(start.state, programs.runs), programs.mesh)
        done = start
    jax.block_until_ready(state)
    for _ in range(len(done.history), epochs):
        state, result, predictions = _train_and_test(
            programs, hyperparameters, state, placed, seed_array, len(seeds)
        )
        first = done.first_predictions if done.history else predictions
        history = (*done.history, result)
        done = Fit(seeds, history, first, predictions, without_places(state, len(seeds)))
        if save is not None:
            save(done)
        if on_epoch is not None:
            on_epoch(result)
    return done


def state_shapes(model: LeNet5) -> TrainState:
    """Return the shapes and dtypes of one run's state, as `jax.ShapeDtypeStruct`; computes nothing.

    >>> state_shapes(LeNet5()).params["f7"]["kernel"].shape
    (84, 10)
    """
    return jax.eval_shape(partial(init, model), 0)


def _train_and_test(
    programs: Programs,
    hyperparameters: Hyperparameters,
    state: TrainState,
    data: Placed,
    seeds: jax.Array,
    runs: int,
) -> tuple[TrainState, EpochResult, np.ndarray]:
    """Train for an epoch; return the states, and the first R runs' result and predictions."""
    (state, train_loss), train_seconds = timed(
        programs.epoch, hyperparameters, state, data.train, seeds
    )
    tested, test_seconds = timed(programs.evaluate_test, state.variables, data.test)
    checked = programs.evaluate_train(state.variables, data.check)
    result = EpochResult(
        epoch=int(state.epoch[0]),
        train_loss=np.asarray(train_loss)[:runs],
        train_accuracy=checked.accuracy[:runs],
        test_loss=np.asarray(tested.loss)[:runs],
        test_accuracy=tested.accuracy[:runs],
        train_seconds=train_seconds,
        test_seconds=test_seconds,
    )
    return state, result, np.asarray(tested.predictions)[:runs]


def fill_places(tree: Tree, places: int) -> Tree:
    """Return copies of arrays of R runs, on the device, with the last run in the places left."""

    def fill(x: ArrayLike) -> jax.Array:
        x = np.asarray(x)
        # A copy, since the state is donated and the caller's must stay.
        return jnp.array(x[np.minimum(np.arange(places), len(x) - 1)])

    return jax.tree.map(fill, tree)


def without_places(state: TrainState, runs: int) -> TrainState:
    """Return the first R runs' states."""
    if len(state.epoch) == runs:
        return state
    return jax.tree.map(lambda leaf: leaf[:runs], state)


def _checked(name: str, data: Examples) -> Examples:
    """Return the examples on the device, or say what is wrong with them."""
    images, labels = data
    if not isinstance(images, Prepared):
        try:
            check_images(images)
            check_dtype(images, jnp.float32)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    count = len(jax.tree.leaves(images)[0])
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{name} labels must be whole numbers of shape [{count}], one per image, not"
            f" {labels.dtype} of shape {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(
            f"{name} labels must lie in 0..{CLASSES - 1}, not in {labels.min()}..{labels.max()}"
        )
    return Examples(jax.tree.map(jnp.asarray, images), jnp.asarray(labels, jnp.int32))


def _check_programs(
    programs: Programs, model: LeNet5, runs: int, batch_size: int, traced_dropout: bool
) -> None:
    compiled = (programs.model, programs.batch_size, programs.traced_dropout)
    if compiled != (model, batch_size, traced_dropout):
        raise ValueError(
            "programs must be compiled for the same model, batch size and choice of traced dropout,"
            f" {(model, batch_size, traced_dropout)}, not {compiled}"
        )
    if programs.runs < runs:
        raise ValueError(
            f"programs must be compiled for at least {runs} runs, not for {programs.runs}"
        )


def _check_start(
    start: Fit, model: LeNet5, seeds: tuple[int, ...], epochs: int, test_images: int
) -> None:
    if start.seeds != seeds:
        raise ValueError(f"start must be of the seeds {list(seeds)}, not {list(start.seeds)}")
    finished = {len(start.history), *np.asarray(start.state.epoch).tolist()}
    if len(finished) > 1 or max(finished) > epochs:
        raise ValueError(
            f"start must be the same number of epochs after the beginning in history and state, at"
            f" most {epochs}, not {sorted(finished)}"
        )
    shapes = jax.tree.map(lambda x: ((len(seeds), *x.shape), x.dtype), state_shapes(model))
    if jax.tree.map(lambda x: (x.shape, x.dtype), start.state) != shapes:
        raise ValueError("start must have the state of this model's runs")
    for predictions in (start.first_predictions, start.predictions):
        if predictions.shape != (len(seeds), test_images):
            raise ValueError(
                f"start must have predictions of shape {[len(seeds), test_images]}, not"
                f" {list(predictions.shape)}"
            )


def _checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    try:
        whole = tuple(operator.index(seed) for seed in seeds)
    except TypeError:
        whole = ()
    if not whole or len(set(whole)) < len(whole) or min(whole) < 0 or max(whole) >= 2**32:
        raise ValueError(f"seeds must be different whole numbers in [0, 2**32), not {seeds}")
    return whole


def _checked_epochs(epochs: int) -> int:
    if not isinstance(epochs, int | np.integer) or epochs < 1:
        raise ValueError(f"epochs must be a whole number of at least 1, not {epochs}")
    return int(epochs)


def check_batch_size(model: LeNet5, count: int, batch_size: int) -> None:
    """Raise ValueError unless ``count`` training images can be cut into such batches."""
    if not isinstance(batch_size, int | np.integer) or not 1 <= batch_size <= count:
        raise ValueError(
            f"batch size must be a whole number from 1 to the number of training images, {count},"
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
    if not isinstance(dropout, tuple | list) or len(dropout) != 2:
        raise ValueError(f"dropout must be the two rates of drop6 and drop7, not {dropout!r}")
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

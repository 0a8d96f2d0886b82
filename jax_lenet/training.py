"""A training run as pure functions: state in, state out.

    run(seed) = init -> epoch -> epoch -> ...      epoch = shuffle, then step -> step -> ...

A run with seed s starts from the weights that ``model.init(jax.random.key(s), images)`` gives. Its
other random numbers come from keys that `run_key` derives from the seed and what the key is for;
`jax.random.fold_in` then counts epochs and steps. So a run draws the same numbers alone, beside
other runs, or continued from a saved state, and all variants of one seed start from the same
weights and see the same batches.
"""

from collections.abc import Mapping
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jax_lenet import split
from jax_lenet.blocked import Prepared, prepare
from jax_lenet.data import normalize
from jax_lenet.layers import Rate
from jax_lenet.models import CLASSES, IMAGE_SHAPE, LeNet5

Seed = int | jax.Array
#: A collection of a model's variables: layer -> name -> array.
Variables = Mapping[str, Any]


class Examples(NamedTuple):
    """Images with their labels.

    Attributes:
        images: normalized, float32 ``[N, 28, 28, 1]``, or `Prepared` for the blocked form.
        labels: integers 0..9, int32 ``[N]``.
    """

    images: jax.Array | Prepared
    labels: jax.Array


def examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    """Return examples for `fit` from pixels.

    Args:
        images: uint8 ``[N, 28, 28]``, as `load` gives them.
        labels: integers 0..9, ``[N]``.

    Raises:
        ValueError: if the images are not uint8 ``[N, 28, 28]`` or the labels not whole numbers.
    """
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise ValueError(f"labels must be whole numbers, not {np.asarray(labels).dtype}")
    return Examples(jnp.asarray(normalize(images)), jnp.asarray(labels, jnp.int32))


def prepare_examples(data: Examples, moments: bool) -> Examples:
    """Return the same examples with their images as the blocked form reads them.

    Without this each step prepares its own batch. In pieces, since the intermediate arrays of a
    whole data set would take gigabytes, each written to its place, since pieces and whole together
    would take twice the memory.

    Args:
        data: with images float32 ``[N, 28, 28, 1]``.
        moments: whether a model with batch norm will be trained on them.
    """
    count = len(data.images)
    rows = min(count, 1000)
    piece = jax.eval_shape(partial(prepare, moments=moments), data.images[:rows])
    prepared = jax.tree.map(lambda x: jnp.empty((count, *x.shape[1:]), x.dtype), piece)
    for start in range(0, count, rows):
        start = min(start, count - rows)  # the last piece is as long, and prepares some again
        prepared = _prepare_into(prepared, data.images, start, rows, moments)
    return data._replace(images=prepared)


@partial(jax.jit, static_argnames=("rows", "moments"), donate_argnames="whole")
def _prepare_into(
    whole: Prepared, images: jax.Array, start: int, rows: int, moments: bool
) -> Prepared:
    """Return ``whole`` with its rows from ``start`` on made of these images."""
    pieces = prepare(lax.dynamic_slice_in_dim(images, start, rows), moments)
    return jax.tree.map(
        lambda all_rows, piece: lax.dynamic_update_slice_in_dim(all_rows, piece, start, 0),
        whole,
        pieces,
    )


class Hyperparameters(NamedTuple):
    """What a sweep varies: traced values, so that one compiled function serves them all.

    Attributes:
        learning_rate: of plain SGD.
        dropout: rates of drop6 and drop7 in place of the model's own; None keeps those.
    """

    learning_rate: Rate
    dropout: tuple[Rate, Rate] | None = None


class TrainState(NamedTuple):
    """Everything that training changes; with the seed, all that a run needs to go on.

    Attributes:
        params: the model's trainable parameters.
        batch_stats: batch norm's running statistics; empty without batch norm.
        opt_state: the optimizer's state.
        epoch: int32 ``[]``, how many epochs are finished.
    """

    params: Variables
    batch_stats: Variables
    opt_state: optax.OptState
    epoch: jax.Array

    @property
    def variables(self) -> Variables:
        """What ``model.apply`` takes."""
        if not self.batch_stats:
            return {"params": self.params}
        return {"params": self.params, "batch_stats": self.batch_stats}


class Evaluation(NamedTuple):
    """How a model does on a set of examples, in evaluation mode.

    Attributes:
        loss: mean negative log-likelihood, float32 ``[]``.
        correct: how many are right, int32 ``[]``: a count, so that the accuracy is exact.
        predictions: the most likely class of each image, uint8 ``[N]``.
    """

    loss: jax.Array
    correct: jax.Array
    predictions: jax.Array

    @property
    def accuracy(self) -> np.ndarray:
        """The fraction right, float64, on the host."""
        return np.asarray(self.correct) / self.predictions.shape[-1]


class Role(IntEnum):
    """What a key is for. The numbers are part of every result: never renumber them."""

    ORDER = 1
    DROPOUT = 2


def run_key(seed: Seed, role: Role) -> jax.Array:
    """Return the key of one run for one role; ``seed`` may be traced."""
    return jax.random.fold_in(jax.random.key(seed), role)


def optimizer(learning_rate: Rate) -> optax.GradientTransformation:
    """Return plain SGD, the report's optimizer: no momentum, no weight decay."""
    return optax.sgd(learning_rate)


def init(model: LeNet5, seed: Seed) -> TrainState:
    """Return the state before the first epoch.

    The convolutions and linear layers start with the same weights in every variant: Flax derives a
    parameter's key from its layer's name.

    >>> from jax_lenet.models import VARIANTS
    >>> state = init(VARIANTS["LeNet_BN_Dropout"], seed=0)
    >>> sum(leaf.size for leaf in jax.tree.leaves(state.params))
    61990
    """
    return first_state(model, initial_variables(jax.random.key(seed)))


def first_state(model: LeNet5, variables: Variables) -> TrainState:
    """Return the state before the first epoch, from what `initial_variables` has drawn."""
    layers = [name for name in variables["params"] if model.batch_norm or "bn" not in name]
    params = {name: variables["params"][name] for name in layers}
    return TrainState(
        params=params,
        batch_stats=variables["batch_stats"] if model.batch_norm else {},
        opt_state=optimizer(0.0).init(params),
        epoch=jnp.zeros((), jnp.int32),
    )


@jax.jit
def initial_variables(key: jax.Array) -> Variables:
    """Return the variables of the model that has all layers.

    One function for all variants, so that it compiles once: drawing a few arrays of random numbers
    takes as long to compile as half an epoch.
    """
    images = jnp.zeros((1, *IMAGE_SHAPE), jnp.float32)
    return LeNet5(batch_norm=True, form="plain").init(key, images)


def negative_log_likelihood(log_probs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return ``-log_probs[i, labels[i]]`` for each example, ``[N]``.

    Written as a selection rather than an index: the gradient of an index is a scatter, which is
    slow on a CPU and not deterministic on a GPU.

    Raises:
        ValueError: if there is not one whole number per image.
    """
    if labels.shape != log_probs.shape[:1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be whole numbers of shape [{len(log_probs)}], one per image, not"
            f" {labels.dtype} of shape {list(labels.shape)}"
        )
    is_label = labels[:, None] == jnp.arange(CLASSES, dtype=labels.dtype)
    return -jnp.where(is_label, log_probs, 0).sum(-1)


def step(
    model: LeNet5,
    hyperparameters: Hyperparameters,
    state: TrainState,
    batch: Examples,
    key: jax.Array,
) -> tuple[TrainState, jax.Array]:
    """Take one SGD step on the mean loss of one batch.

    Args:
        model: built by `lenet5`.
        hyperparameters: the learning rate and, if not the model's own, the dropout rates.
        state: before the step.
        batch: examples, of any number; of a split run, this device's share of them.
        key: for the dropout masks.

    Returns:
        The state after the step (``epoch`` unchanged) and the loss before it, with dropout on.
    """
    if hyperparameters.dropout is not None:
        model = model.clone(dropout=hyperparameters.dropout)

    def loss_of(params: Variables) -> tuple[jax.Array, Variables]:
        log_probs, updates = model.apply(
            state._replace(params=params).variables,
            batch.images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        loss = negative_log_likelihood(log_probs, batch.labels).mean()
        return loss, updates.get("batch_stats") or {}

    (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    loss, gradients = split.average((loss, gradients), model.axis_name)
    updates, opt_state = optimizer(hyperparameters.learning_rate).update(
        gradients, state.opt_state, state.params
    )
    params = cast(Variables, optax.apply_updates(cast(optax.Params, state.params), updates))
    return TrainState(params, batch_stats, opt_state, state.epoch), loss


def epoch(
    model: LeNet5,
    hyperparameters: Hyperparameters,
    state: TrainState,
    data: Examples,
    seed: Seed,
    batch_size: int,
) -> tuple[TrainState, jax.Array]:
    """Train on every example once, in a new order.

    The last batch is what is left over (80 images of 50,000 at batch size 128) and counts its own
    mean, as in PyTorch.

    Args:
        model: built by `lenet5`.
        hyperparameters: see `step`.
        state: before the epoch; ``state.epoch`` decides the order and the dropout masks.
        data: all training examples.
        seed: of the run.
        batch_size: images in a step, at most the number of examples. Of a split run the devices
            share each, so their number divides it, and what is left over, evenly.

    Returns:
        The state after the epoch and the epoch's mean loss as minimized (before each step, dropout
        on), each example weighing the same.
    """
    count = len(data.labels)
    full_steps, rest = divmod(count, batch_size)
    order = epoch_order(seed, state.epoch, count)
    dropout_key = jax.random.fold_in(run_key(seed, Role.DROPOUT), state.epoch)

    def step_on(state: TrainState, number: Seed, indices: jax.Array):
        own = split.own_share(indices, model.axis_name)
        batch = jax.tree.map(lambda x: x[own], data)
        key = jax.random.fold_in(dropout_key, number)
        return step(model, hyperparameters, state, batch, key)

    batches = order[: full_steps * batch_size].reshape(full_steps, batch_size)
    state, losses = lax.scan(
        lambda state, numbered: step_on(state, *numbered), state, (jnp.arange(full_steps), batches)
    )
    total = losses.sum() * batch_size
    if rest:
        state, loss = step_on(state, full_steps, order[-rest:])
        total += loss * rest
    return state._replace(epoch=state.epoch + 1), total / count


def epoch_order(seed: Seed, epoch: Seed, count: int) -> jax.Array:
    """Return the order in which an epoch visits its examples: int32 ``[count]``, a permutation."""
    key = jax.random.fold_in(run_key(seed, Role.ORDER), epoch)
    return jax.random.permutation(key, count)


def evaluate(
    model: LeNet5, variables: Variables, data: Examples, batch_size: int = 250
) -> Evaluation:
    """Return loss, accuracy and predictions over all of ``data``, in evaluation mode.

    The result is the same, to rounding, for any ``batch_size``, which bounds the memory. What 250
    images take stays in a CPU's cache: 94 ms for 10,000 images on two cores, 120 ms by thousands.
    """
    count = len(data.labels)
    batch_size = min(batch_size, count)
    full = count - count % batch_size

    def totals_of(batch: Examples) -> tuple[jax.Array, jax.Array]:
        log_probs = cast(jax.Array, model.apply(variables, batch.images, train=False))
        loss = negative_log_likelihood(log_probs, batch.labels).sum()
        return loss, log_probs.argmax(-1).astype(jnp.uint8)

    batches = jax.tree.map(lambda x: x[:full].reshape(-1, batch_size, *x.shape[1:]), data)
    losses, predictions = lax.map(totals_of, batches)
    loss, predictions = losses.sum(), predictions.reshape(full)
    if full < count:
        last_loss, last_predictions = totals_of(jax.tree.map(lambda x: x[full:], data))
        loss, predictions = loss + last_loss, jnp.concatenate([predictions, last_predictions])
    correct = jnp.sum(predictions.astype(jnp.int32) == data.labels)
    return Evaluation(loss / count, correct, predictions)

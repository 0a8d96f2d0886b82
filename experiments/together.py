"""How many runs of a model train together: as many as are asked for, or as memory has room."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from jax_lenet.data import Dataset
from jax_lenet.memory import bytes_available, example_shapes, runs_that_fit
from jax_lenet.models import LeNet5

#: Side by side on a GPU unless the user says otherwise.
ON_A_GPU = 32


class Together(NamedTuple):
    """Runs of one model that train together.

    Attributes:
        each: how many on each GPU, which decides the last bits of their numbers. On a CPU, where
            they follow one another and it decides nothing, how many were asked for.
        runs: how many in all.
    """

    each: int
    runs: int


def asked_for(runs: int | None, on_cpu: int, most: int) -> Together:
    """Return how many runs a user wants to train together; known once JAX is started.

    Args:
        runs: what the user says.
        on_cpu: how many it is on a CPU where the user says nothing.
        most: how many there are.
    """
    if jax.default_backend() == "cpu":
        each = runs or on_cpu
        return Together(each, min(each, max(most, 2)))  # one alone would have other bits
    each = runs or ON_A_GPU
    return Together(each, each * jax.local_device_count())


def affordable(
    asked: Together,
    models: dict[str, LeNet5],
    data: Dataset,
    tests: Sequence[int],
    batch_size: int,
    say: Callable[[str], None],
) -> Together:
    """Return how many runs there is memory for, before any of it is taken.

    Args:
        asked: how many are wanted.
        models: that train one after another, by name.
        data: to train on.
        tests: how many images each of them is tested on.
        batch_size: images in a step.
        say: prints a line; it gets one for each model of which fewer runs fit.
    """
    devices = jax.local_device_count()
    if asked.runs <= devices:  # an estimate must not forbid what may work
        return asked
    moments = any(model.batch_norm for model in models.values())
    train = example_shapes(len(data.train_labels), moments)
    test = example_shapes(sum(tests), moments=False)
    on_cpu = jax.default_backend() == "cpu"
    fitting, free = asked.runs, bytes_available()
    for name, model in models.items():
        room = runs_that_fit(model, train, test, batch_size, asked.runs, free, devices)
        if on_cpu:
            room = room._replace(runs=max(room.runs, 2))  # one alone would have other bits
        if notice := room.notice(name):
            say(notice)
        fitting = min(fitting, room.runs)
    if on_cpu:
        return asked._replace(runs=fitting)
    return Together(fitting // devices, fitting)

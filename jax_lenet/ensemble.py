"""Many runs in one call: over seeds, learning rates and dropout rates, and over devices.

Arrays of several runs have the run as their first axis, a single run included. `compile_programs`
makes what `fit` runs, once for all groups of the same shape.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from time import perf_counter
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jax.stages import Compiled

from jax_lenet import split, training
from jax_lenet.blocked import Prepared
from jax_lenet.models import LeNet5
from jax_lenet.timing import compile_together, timed
from jax_lenet.training import Evaluation, Examples, Hyperparameters, TrainState, Variables

#: Training accuracy is that of the first 10,000 training images: as many as MNIST's test set has.
TRAIN_ACCURACY_IMAGES = 10_000


@dataclass(frozen=True)
class Programs:
    """The compiled functions that train and test R runs of one model, for data of given sizes.

    Attributes:
        model: what they train.
        runs: how many at once; a multiple of the devices that share them.
        batch_size: images in a step.
        traced_dropout: whether the rates are arguments, not the model's own.
        mesh: of the devices that share the runs, or one run's batches; None for one device.
        draw: ``seeds -> variables``, the initial ones of a model with all layers.
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
    mesh: Mesh | None
    draw: Compiled
    epoch: Compiled
    evaluate_train: Compiled
    evaluate_test: Compiled
    compile_seconds: float

    def place(self, train: Examples, test: Examples) -> "Placed":
        """Return the examples where the compiled functions want them; what is there stays."""
        return Placed(
            split.shared(train, self.mesh),
            split.place_tests(train_check(train), self.mesh),
            split.place_tests(test, self.mesh),
        )

    def init(self, seeds: jax.Array) -> TrainState:
        """Return the states before the first epoch, for seeds uint32 ``[R]``."""
        variables = self.draw(jnp.asarray(np.asarray(seeds)))  # on one device, where it belongs
        states = map_runs(partial(training.first_state, self.model), variables)
        return split.place_runs(states, self.mesh)


class Placed(NamedTuple):
    """A study's examples on the devices.

    Attributes:
        train: to train on; of a split run, all on each device.
        check: on which training accuracy is measured; of a split run, a share on each device.
        test: to test on; the same.
    """

    train: Examples
    check: Examples
    test: Examples


def map_runs(function: Callable, *args: Any) -> Any:
    """Apply a function of one run's arrays to those of R runs.

    On a GPU or TPU that is `jax.vmap`. On a CPU the runs follow one another, which is faster (eight
    under `jax.vmap` take a quarter longer), and a run has the same bits in any company.

    Args:
        function: of arrays of one run, to arrays of one run.
        *args: pytrees whose leaves all have the run as their first axis.
    """
    if len(jax.tree.leaves(args)[0]) == 1:
        result = function(*jax.tree.map(lambda x: x[0], args))
        return jax.tree.map(lambda x: x[None], result)
    return lax.platform_dependent(
        *args,
        cpu=lambda *args: lax.map(lambda one: function(*one), args),
        default=jax.vmap(function),
    )


def init_runs(model: LeNet5, seeds: jax.Array) -> TrainState:
    """`training.init` for each of ``seeds``, uint32 ``[R]``."""
    return map_runs(partial(training.init, model), seeds)


@cache
def _compiled_draw(runs: int) -> Compiled:
    """Return ``seeds [R] -> variables``, the initial ones of R models with all layers.

    Compiled once for all models, and optimized no more than a function deserves that runs in no
    time: 0.9 s instead of 2.2 s, to the same bits.
    """

    @jax.jit
    def draw(seeds: jax.Array) -> Variables:
        return map_runs(lambda seed: training.initial_variables(jax.random.key(seed)), seeds)

    lowered = draw.lower(jax.ShapeDtypeStruct((runs,), jnp.uint32))
    options: Any = {"xla_backend_optimization_level": 1}  # a dict, whatever JAX's type says
    return lowered.compile(compiler_options=options)


@partial(jax.jit, static_argnames=("model", "batch_size", "mesh"), donate_argnames="state")
def train_runs(
    model: LeNet5,
    hyperparameters: Hyperparameters,
    state: TrainState,
    data: Examples,
    seeds: jax.Array,
    batch_size: int,
    mesh: Mesh | None = None,
) -> tuple[TrainState, jax.Array]:
    """`training.epoch` for R runs on the same data; return their states and mean losses ``[R]``.

    With a mesh its devices share the runs, or each run's batches (see `split`).
    """
    if split.batch_axis(mesh):
        model = model.clone(axis_name=split.AXIS)

    def runs(
        hyperparameters: Hyperparameters, state: TrainState, data: Examples, seeds: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        def one_run(hyperparameters: Hyperparameters, state: TrainState, seed: jax.Array):
            return training.epoch(model, hyperparameters, state, data, seed, batch_size)

        return map_runs(one_run, hyperparameters, state, seeds)

    each, whole = split.spec_of_runs(mesh), PartitionSpec()
    return split.on_each(runs, mesh, (each, each, whole, each), each)(
        hyperparameters, state, data, seeds
    )


@partial(jax.jit, static_argnames=("model", "mesh"))
def evaluate_runs(
    model: LeNet5, variables: Variables, data: Examples, mesh: Mesh | None = None
) -> Evaluation:
    """`training.evaluate` for R runs on the same data.

    With a mesh each device tests its runs, or every run on its share of the examples.
    """
    axis_name = split.batch_axis(mesh)

    def runs(variables: Variables, data: Examples) -> Evaluation:
        own: Evaluation = map_runs(
            lambda variables: training.evaluate(model, variables, data), variables
        )
        loss: jax.Array = split.average(own.loss, axis_name)
        return Evaluation(loss, split.total(own.correct, axis_name), own.predictions)

    each, rows = split.spec_of_runs(mesh), split.spec_of_tests(mesh)
    # A tree of places in the shape of a tree of arrays.
    results = Evaluation(*cast(Any, (each, each, PartitionSpec(*(each or (None,)), *rows))))
    return split.on_each(runs, mesh, (each, rows), results)(variables, data)


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
    devices: int = 1,
    warm_up: bool = True,
) -> Programs:
    """Compile everything that `fit` runs, so that nothing compiles while a clock is running.

    For a CPU at LLVM's second level of optimization, which takes half the time of the third and
    gives programs that are as fast; ``--xla_backend_optimization_level`` in ``XLA_FLAGS`` is heeded
    instead.

    Args:
        model: built by `lenet5`.
        train: training examples; only their sizes matter, unless ``warm_up``.
        test: test examples; the same.
        runs: how many runs train at once.
        batch_size: images in a step.
        traced_dropout: whether `fit` will be given dropout rates in place of the model's own.
        devices: that share the runs, or of a run alone each batch, which must then divide evenly
            (`split.split_evenly`). R that they do not divide becomes the next number that they do,
            `Programs.runs`; `fit` fills the places. `devices_for` tells how many are best. Two CPU
            devices make one run a sixth faster than one device with two cores does;
            ``jax.config.update("jax_num_cpu_devices", 2)`` before anything else gives a CPU two.
        warm_up: also run each function once (one epoch of training) on a state that is thrown away:
            a first call is slower than those that follow.
    """
    train, test = in_form(model, train, train=True), in_form(model, test, train=False)
    check = train_check(train)
    counts = (len(train.labels), len(check.labels), len(test.labels))
    mesh = _mesh_for(devices, runs, batch_size, *counts)
    runs = split.places(runs, devices)
    seeds = jnp.zeros(runs, jnp.uint32)
    rates = jnp.zeros(runs, jnp.float32)
    hyperparameters = Hyperparameters(rates, (rates, rates) if traced_dropout else None)
    state = jax.eval_shape(partial(init_runs, model), seeds)
    each = partial(split.shapes, mesh=mesh, spec=split.spec_of_runs(mesh))
    whole = partial(split.shapes, mesh=mesh, spec=PartitionSpec())
    rows = partial(split.shapes, mesh=mesh, spec=split.spec_of_tests(mesh))
    arguments = each(hyperparameters), each(state), whole(train), each(seeds)
    tests = {len(data.labels): data for data in (test, check)}  # of one size: one program
    start = perf_counter()
    draw = _compiled_draw(runs)
    epoch, *evaluate = compile_together(
        train_runs.lower(model, *arguments, batch_size, mesh),
        *(
            evaluate_runs.lower(model, each(state.variables), rows(data), mesh)
            for data in tests.values()
        ),
    )
    evaluate_by_size = dict(zip(tests, evaluate, strict=True))
    programs = Programs(
        model,
        runs,
        batch_size,
        traced_dropout,
        mesh,
        draw,
        epoch,
        evaluate_train=evaluate_by_size[len(check.labels)],
        evaluate_test=evaluate_by_size[len(test.labels)],
        compile_seconds=perf_counter() - start,
    )
    if warm_up:
        _warm_up(programs, hyperparameters, seeds, programs.place(train, test))
    return programs


def _mesh_for(
    devices: int, runs: int, batch_size: int, train: int, check: int, test: int
) -> Mesh | None:
    """Return the mesh on which devices share the runs or, of a run alone, each batch."""
    for name, number in (("devices", devices), ("runs", runs), ("batch_size", batch_size)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}")
    if runs > 1:
        return split.mesh_of(devices, split.RUNS)
    if not split.split_evenly(devices, batch_size, train, check, test):
        raise ValueError(
            f"batches of {batch_size} from {train} training images and {test} test images"
            f" cannot be shared evenly by {devices} devices"
        )
    return split.mesh_of(devices, split.AXIS)


def _warm_up(
    programs: Programs, hyperparameters: Hyperparameters, seeds: jax.Array, data: "Placed"
) -> None:
    """Run each program once, on a state that is thrown away."""
    rates = split.place_runs((hyperparameters, programs.init(seeds)), programs.mesh)
    warmed, _ = programs.epoch(*rates, data.train, seeds)
    programs.evaluate_train(warmed.variables, data.check)
    jax.block_until_ready(programs.evaluate_test(warmed.variables, data.test))


def devices_for(runs: int, train: int, test: int, batch_size: int) -> int:
    """Return how many of this process's devices are best for R runs that train together.

    Each trains as many runs as any other, on no more devices than that takes: five runs on four
    devices are two on each of three, as a fourth would only wait. A run alone is split over two of
    a CPU's, where they can share the work evenly. More have not been measured, and a GPU is faster
    than what it would take two to talk to each other.

    Args:
        runs: how many.
        train: number of training examples.
        test: number of test examples.
        batch_size: images in a step.
    """
    devices = jax.local_device_count()
    if runs > 1:
        turns = -(-runs // devices)
        return -(-runs // turns)
    two = jax.default_backend() == "cpu" and devices > 1
    check = min(train, TRAIN_ACCURACY_IMAGES)
    return 2 if two and split.split_evenly(2, batch_size, train, check, test) else 1


def time_epoch(programs: Programs, train: Examples, test: Examples) -> tuple[float, float]:
    """Time the first epoch of one run alone, and the test after it: of seed 0 at rate 0.01.

    Args:
        programs: compiled for one run, warmed up.
        train: training examples.
        test: test examples.

    Returns:
        Wall-clock seconds of training and of testing.
    """
    train, _, test = jax.block_until_ready(programs.place(train, test))
    seeds = split.place_runs(jnp.zeros(1, jnp.uint32), programs.mesh)
    state = jax.block_until_ready(programs.init(seeds))
    hyperparameters = Hyperparameters(jnp.full(1, 0.01, jnp.float32))
    hyperparameters = split.place_runs(hyperparameters, programs.mesh)
    (state, _), train_seconds = timed(programs.epoch, hyperparameters, state, train, seeds)
    _, test_seconds = timed(programs.evaluate_test, state.variables, test)
    return train_seconds, test_seconds

"""What the benchmark times: every contender does the same work."""

import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import contenders, jax_contenders
from experiments.contenders import (
    NAMES,
    SEVERAL,
    Data,
    NotMeasuredError,
    Task,
    batch_sizes,
    data_of,
    read_data,
    task_of,
    write_data,
)
from jax_lenet import VARIANTS, examples, load, normalize, training

NEEDS_CUDA = ("torch_compile", "torch_cuda_graph")
ANYWHERE = [name for name in NAMES if name not in NEEDS_CUDA]
#: Ten steps of 60 images, and a ragged one of 40.
BATCH_SIZE = 60


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Compile each program once for all tests: that is most of their time."""

    def once(compile_function):
        programs = {}

        def compile_once(*args, **settings):
            leaves, structure = jax.tree.flatten((args, settings))
            shapes = [(x.shape, x.dtype) if isinstance(x, jax.Array) else x for x in leaves]
            key = (structure, *shapes)
            if key not in programs:
                programs[key] = compile_function(*args, **settings)
            return programs[key]

        return compile_once

    with pytest.MonkeyPatch.context() as patch:
        for name in ("compile_programs", "compile_ahead"):
            patch.setattr(jax_contenders, name, once(getattr(jax_contenders, name)))
        yield


@cache
def data():
    return data_of(load("mnist_sample", train_size=640))


def task(variant="LeNet_BN_noDropout", learning_rate=0.1, first_seed=0):
    return task_of(variant, BATCH_SIZE, learning_rate, first_seed)


def build(name, task, runs=1):
    if name.startswith("torch"):
        pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    return contenders.build(name, task, data(), runs=runs)


def torch_modules():
    """PyTorch and the files that need it, or a skip."""
    torch = pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    from experiments import torch_contenders, torch_model

    return torch, torch_model, torch_contenders


# The interface


@pytest.mark.parametrize("name", ANYWHERE)
def test_a_contender_learns_and_all_learn_alike(name):
    contender = build(name, task())
    assert (contender.name, contender.runs) == (name, 1)
    assert math.isnan(contender.train_loss)
    assert math.isnan(contender.accuracy())
    seconds, losses, accuracies = [], [], []
    seconds.append(contender.test())
    accuracies.append(contender.accuracy())
    for _ in range(4):
        seconds += [contender.train_epoch(), contender.test()]
        losses.append(contender.train_loss)
        accuracies.append(contender.accuracy())
    assert all(0 < value < 60 for value in seconds)
    assert losses == sorted(losses, reverse=True)
    assert accuracies[0] < 0.35  # random weights; chance is 0.1
    # 44 steps: within 85% to 90% over ten seeds in either library.
    assert 0.8 < accuracies[-1] < 0.95
    assert (contender.compile_seconds is None) == name.startswith("torch")


@pytest.mark.parametrize(
    ("name", "runs"),
    [(name, runs) for name in ANYWHERE for runs in (1, 3) if runs == 1 or name in SEVERAL],
)
def test_an_epoch_goes_over_every_image_once(name, runs):
    # At rate 0 the weights stay: the epoch's mean loss is that of the initial weights on all
    # images, whatever the order, and an image left out or seen twice would move it by some 1e-4.
    contender = build(name, task("LeNet", learning_rate=0.0, first_seed=2), runs)
    expected = np.mean([initial_loss(name, seed) for seed in range(2, 2 + runs)])
    for _ in range(2):
        contender.train_epoch()
        assert contender.train_loss == pytest.approx(expected, rel=2e-6)


def initial_loss(name, seed):
    """The mean loss on the training images of the weights that a seed starts from."""
    if name.startswith("torch"):
        torch, torch_model, torch_contenders = torch_modules()
        torch.manual_seed(seed)
        model = torch_model.LeNet5()
        return torch_model.evaluate(model, torch_contenders.tensors(data())[0])[0].item()
    model = task("LeNet").model("plain")
    variables = training.init(model, seed).variables
    train = examples(data().train_images, data().train_labels)
    return float(training.evaluate(model, variables, train).loss)


@pytest.mark.parametrize("name", ["flax", "torch_vmap"])
def test_a_test_goes_over_every_image_once_also_in_ragged_batches(name, monkeypatch):
    module = jax_contenders if name == "flax" else torch_modules()[2]
    accuracies = []
    for test_batch in (1000, 300):  # of a thousand test images
        monkeypatch.setattr(module, "TEST_BATCH", test_batch)
        contender = build(name, task())
        contender.test()
        accuracies.append(contender.accuracy())
    assert accuracies[0] == accuracies[1]


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(640, 60, (60, 40)), (640, 64, (64,)), (640, 640, (640,)), (640, 1000, (640,))],
)
def test_batch_sizes_are_those_that_a_split_gives(count, batch_size, sizes):
    pieces = [
        len(piece) for piece in np.split(np.arange(count), range(batch_size, count, batch_size))
    ]
    assert batch_sizes(count, batch_size) == sizes == tuple(dict.fromkeys(pieces))


def test_a_task_is_the_variant_of_its_name():
    for name, model in VARIANTS.items():
        assert task_of(name).model("blocked") == model
        assert task_of(name).model("plain") == model.clone(form="plain")
    with pytest.raises(ValueError, match=r"must be one of LeNet, .*, not 'LeNet5'$"):
        task_of("LeNet5")


def test_all_are_given_the_same_images():
    read = load("mnist_sample", train_size=640)
    expected = normalize(read.train_images)
    np.testing.assert_array_equal(jax_contenders.jax_examples(data())[0].images, expected)
    _, _, torch_contenders = torch_modules()
    (images, labels), (_, test_labels) = torch_contenders.tensors(data())
    assert images.shape == (640, 1, 28, 28)
    np.testing.assert_array_equal(images[:, 0], expected[..., 0])  # bit for bit
    np.testing.assert_array_equal(labels, read.train_labels)
    np.testing.assert_array_equal(test_labels, read.test_labels)


def test_what_a_process_reads_is_what_was_written(tmp_path):
    write_data(tmp_path / "data", data())
    for size, count in ((None, 640), (100, 100)):
        found = read_data(tmp_path / "data", size)
        for name in Data._fields:
            expected = getattr(data(), name)[: count if name.startswith("train") else None]
            np.testing.assert_array_equal(getattr(found, name), expected, strict=True)


@pytest.mark.parametrize("name", ANYWHERE)
def test_preparing_is_timed_apart(name):
    assert 0 < build(name, task()).prepare_seconds < 60


@pytest.mark.parametrize("name", ["flax", "torch", "torch_dataloader"])
def test_the_other_contenders_are_tested_by_the_same_batches(name, monkeypatch):
    """By 500 images, the fastest of those tried, and not by what suits this library."""
    sizes = []
    if name == "flax":
        contender = build(name, task())
        tests = {size: contender._tests[size] for size in contender._tests}
        for size, program in tests.items():
            monkeypatch.setitem(
                contender._tests, size, lambda *args, n=size, f=program: sizes.append(n) or f(*args)
            )
    else:
        _, torch_model, _ = torch_modules()
        contender = build(name, task())
        forward = torch_model.LeNet5.forward
        monkeypatch.setattr(
            torch_model.LeNet5,
            "forward",
            lambda self, images: sizes.append(len(images)) or forward(self, images),
        )
    contender.test()
    assert sizes == [contenders.TEST_BATCH] * 2  # of a thousand test images
    assert contenders.TEST_BATCH == 500


# JAX's


def test_flax_takes_the_steps_of_this_library():
    # Without dropout both draw the same numbers: weights and orders.
    library, flax = build("jax_lenet", task()), build("flax", task())
    for _ in range(2):
        for contender in (library, flax):
            contender.train_epoch()
            contender.test()
        # Rounding grows from step to step, tenfold in twenty.
        assert flax.train_loss == pytest.approx(library.train_loss, rel=1e-3)
        assert flax.accuracy() == pytest.approx(library.accuracy(), abs=0.01)


def test_several_runs_are_those_of_the_seeds_one_by_one():
    together = build("jax_lenet", task(first_seed=3), runs=2)
    alone = [build("jax_lenet", task(first_seed=seed)) for seed in (3, 4)]
    for contender in (together, *alone):
        contender.train_epoch()
    mean = np.mean([contender.train_loss for contender in alone])
    assert together.train_loss == pytest.approx(mean, rel=1e-4)


def test_flax_draws_other_masks_at_every_step():
    # At rate 0 two epochs differ in order and masks only, and the order can't move the mean.
    flax = build("flax", task("LeNet_noBN_Dropout", learning_rate=0.0))
    losses = []
    for _ in range(2):
        flax.train_epoch()
        losses.append(flax.train_loss)
    assert abs(losses[0] - losses[1]) > 1e-5


# PyTorch's


def test_both_loaders_train_the_same():
    memory, loader = build("torch", task()), build("torch_dataloader", task())
    for _ in range(2):
        for contender in (memory, loader):
            contender.train_epoch()
            contender.test()
        assert loader.train_loss == memory.train_loss
        assert loader.accuracy() == memory.accuracy()


@pytest.fixture
def float64(monkeypatch):
    """PyTorch in double precision, where rounding stays rounding.

    In float32 batch norm puts many of a flat background's outputs within a rounding error of each
    other, and then max-pooling takes one or the other of a tie: after eleven steps the weights of
    two correct implementations differ by up to 0.007.
    """
    torch, _, _ = torch_modules()
    wide = data()._replace(normalized=data().normalized.astype(np.float64))
    monkeypatch.setitem(globals(), "data", lambda: wide)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("variant", ["LeNet", "LeNet_BN_noDropout"])
def test_models_under_vmap_are_those_trained_one_after_the_other(variant):
    torch, _, _ = torch_modules()
    together = build("torch_vmap", task(variant, first_seed=5), runs=2)
    together.train_epoch()
    together.test()
    losses, accuracies = [], []
    for run in range(2):
        alone = build("torch", task(variant, first_seed=5 + run))
        alone.train_epoch()
        alone.test()
        losses.append(alone.train_loss)
        accuracies.append(alone.accuracy())
        expected, found = alone._model.state_dict(), together.state_dict(run)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # Rounding over eleven steps, 1e-15 measured; num_batches_tracked is a whole number.
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-12, msg=name)
        if variant == "LeNet_BN_noDropout":
            assert found["convnet.bn3.num_batches_tracked"].item() == 11
            assert not torch.allclose(found["convnet.bn3.running_mean"], torch.zeros(16))
    assert together.train_loss == pytest.approx(np.mean(losses), rel=1e-12)
    assert together.accuracy() == pytest.approx(np.mean(accuracies), rel=1e-12)


def test_models_under_vmap_draw_masks_of_their_own():
    torch, _, _ = torch_modules()
    contender = build("torch_vmap", task("LeNet_BN_Dropout"), runs=2)
    for value in (contender._params | contender._buffers).values():
        value[1] = value[0]
    indices = torch.arange(BATCH_SIZE).expand(2, BATCH_SIZE)
    contender._model.train()
    first, second = contender._step(indices)
    assert abs(first - second) > 1e-4


def test_dropout_trains_under_vmap():
    contender = build("torch_vmap", task("LeNet_BN_Dropout"), runs=2)
    for _ in range(4):
        contender.train_epoch()
    contender.test()
    assert contender.accuracy() > 0.7


# PyTorch's that need a GPU: here, that what they replay is the step of eager PyTorch


def without_graphs(torch_contenders, name):
    """The class of a contender, with a stand-in for what only a GPU can do."""
    if name == "torch_cuda_graph":

        class Replayed(torch_contenders.CudaGraph):
            def _faster(self, indices):
                self._step(indices)  # as capturing does
                return self._step

        return Replayed

    class Traced(torch_contenders.Compiled):
        options = {"backend": "aot_eager", "dynamic": False}  # noqa: RUF012

    return Traced


# PyTorch warns of itself when it imports its compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", NEEDS_CUDA)
def test_the_step_that_a_gpu_replays_is_that_of_eager_pytorch(name):
    torch, _, torch_contenders = torch_modules()
    prepared = without_graphs(torch_contenders, name)(name, task(), data(), torch.device("cpu"))
    eager = build("torch", task())
    for _ in range(2):
        for contender in (prepared, eager):
            contender.train_epoch()
            contender.test()
        assert prepared.train_loss == pytest.approx(eager.train_loss, rel=1e-4)
        assert prepared.accuracy() == pytest.approx(eager.accuracy(), abs=0.003)
    assert prepared.compile_seconds > 0


@pytest.mark.parametrize("name", NEEDS_CUDA)
def test_a_gpus_contender_learns_like_eager_pytorch(name):
    torch, _, _ = torch_modules()
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU that PyTorch sees")
    losses = []
    for contender in (name, "torch"):
        built = contenders.build(contender, task(), data(), torch_device="cuda")
        built.train_epoch()
        losses.append(built.train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


# What can't be measured


@pytest.mark.parametrize("name", NEEDS_CUDA)
def test_a_gpus_contender_says_in_one_line_that_it_needs_one(name):
    with pytest.raises(NotMeasuredError, match=f"^{name} needs a CUDA device$"):
        build(name, task())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("torch")])
def test_a_missing_gpu_is_told_in_one_line(name, monkeypatch):
    torch, _, _ = torch_modules()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotMeasuredError, match=r"^PyTorch sees no GPU$"):
        contenders.build(name, task(), data(), torch_device="cuda")


def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch):
    _, _, torch_contenders = torch_modules()

    def fail(*_args):
        raise RuntimeError("no ptxas\nand a long trace")

    monkeypatch.setattr(torch_contenders, "Vmap", fail)
    expected = "^torch_vmap: RuntimeError: no ptxas$"
    with pytest.raises(NotMeasuredError, match=expected):
        build("torch_vmap", task())


def test_without_pytorch_the_jax_contenders_are_there_and_the_others_say_why():
    program = """
import sys
from experiments import contenders
assert not {"torch", "jax"} & set(sys.modules)
sys.modules["torch"] = None  # as if it were not installed
try:
    contenders.build("torch", contenders.Task(), None)
except contenders.NotMeasuredError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "PyTorch is not installed; pip install '.[test]'\n"


@pytest.mark.parametrize(
    ("name", "runs", "message"),
    [
        ("tensorflow", 1, "one of jax_lenet, flax"),
        ("flax", 2, "it trains one model at a time"),
        ("jax_lenet", 0, "must be at least 1; found 0"),
    ],
)
def test_a_bad_argument_is_named(name, runs, message):
    with pytest.raises(ValueError, match=message):
        contenders.build(name, Task(), data(), runs=runs)

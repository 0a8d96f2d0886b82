"""What `experiments.benchmark` times: one epoch of the same training, written in several ways.

name               what it is                                                  models at once
jax_lenet          this library: an epoch is one compiled program              any number
flax               textbook Flax: a compiled step, called from a Python loop   1
torch              eager PyTorch, data in the device's memory                  1
torch_dataloader   the same with a `torch.utils.data.DataLoader`               1
torch_compile      the same as torch, by `torch.compile`; needs CUDA           1
torch_cuda_graph   the same as torch, replaying a CUDA graph; needs CUDA       1
torch_vmap         `torch.func.vmap` over stacked models                       any number

All do the same work: a new order each epoch, every image once, the same ragged last batch, plain
SGD on the mean loss, the loss summed on the device and read once at the end of the epoch. They
differ in which random numbers they draw. `build` makes any of them, compiled, with its data in
place; a first epoch is slower than those that follow, so whoever times them trains one before.

Those of JAX are in `jax_contenders`, those of PyTorch in `torch_contenders`. This file imports
neither library, so that a process with a contender of one holds nothing of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from jax_lenet import Dataset, LeNet5

#: Images in a batch of the other contenders' tests: of 250, 500 and 1000 PyTorch's fastest on two
#: cores. This library has its own, in `training.evaluate`.
TEST_BATCH = 500
#: Every contender, in the order of the table above.
NAMES = (
    "jax_lenet",
    "flax",
    "torch",
    "torch_dataloader",
    "torch_compile",
    "torch_cuda_graph",
    "torch_vmap",
)
#: Those that train several models at once.
SEVERAL = ("jax_lenet", "torch_vmap")


class NotMeasuredError(RuntimeError):
    """Why a contender can't run here, in one line."""


@dataclass(frozen=True)
class Task:
    """What is trained, by every contender alike; in full float32.

    Attributes:
        variant: the report's name of it.
        batch_norm: whether it has bn1, bn3 and bn5.
        dropout: the rates of drop6 and drop7.
        batch_size: images in a step.
        learning_rate: of plain SGD.
        first_seed: of the first of the models that train at once; the others' follow it.
    """

    variant: str = "LeNet"
    batch_norm: bool = False
    dropout: tuple[float, float] = (0.0, 0.0)
    batch_size: int = 128
    learning_rate: float = 0.01
    first_seed: int = 0

    def model(self, form: str) -> LeNet5:
        """Return this library's model in a form."""
        from jax_lenet import lenet5

        return lenet5(self.batch_norm, self.dropout, form=form)


def task_of(
    variant: str, batch_size: int = 128, learning_rate: float = 0.01, first_seed: int = 0
) -> Task:
    """Return what training one of `jax_lenet.VARIANTS` means.

    Raises:
        ValueError: if there is no such variant.
    """
    from jax_lenet import VARIANTS

    if variant not in VARIANTS:
        raise ValueError(f"a variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
    model = VARIANTS[variant]
    drop6, drop7 = model.dropout
    rates = float(drop6), float(drop7)
    return Task(variant, model.batch_norm, rates, batch_size, learning_rate, first_seed)


class Data(NamedTuple):
    """What is trained and tested on, as plain arrays: files of it need neither library to read.

    Attributes:
        train_images: uint8 ``[N, 28, 28]``.
        train_labels: int32 ``[N]``.
        test_images: uint8 ``[M, 28, 28]``.
        test_labels: int32 ``[M]``.
        normalized: what a model is given for each of a pixel's 256 values, float32 ``[256]``.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    normalized: np.ndarray


def data_of(dataset: Dataset) -> Data:
    """Return the training and the test set of what `jax_lenet.load` read."""
    from jax_lenet import normalize

    every_value = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    return Data(
        dataset.train_images,
        dataset.train_labels,
        dataset.test_images,
        dataset.test_labels,
        normalize(every_value).reshape(256),
    )


def write_data(folder: Path, data: Data) -> None:
    """Write the arrays to a folder, which is made."""
    folder.mkdir()
    for name, array in data._asdict().items():
        np.save(folder / f"{name}.npy", array)


def read_data(folder: Path, train_size: int | None = None) -> Data:
    """Return what `write_data` wrote, with the first ``train_size`` training images or all."""
    data = Data(*(np.load(folder / f"{name}.npy", allow_pickle=False) for name in Data._fields))
    return data._replace(
        train_images=data.train_images[:train_size], train_labels=data.train_labels[:train_size]
    )


class Contender(Protocol):
    """Something that trains, an epoch at a time, from the state it holds.

    Attributes:
        name: as in `NAMES`.
        runs: how many models train at once, R.
        devices: how many CPU devices of JAX share the R models or, of one alone, each batch; 1
            where one device does all, and for PyTorch, whose threads share.
        prepare_seconds: from pixels to what an epoch reads, once for all runs on these data.
        compile_seconds: of compilation ahead of time; None where nothing is compiled.
        train_loss: the last epoch's mean loss as minimized, averaged over the R models; NaN before
            the first.
    """

    name: str
    runs: int
    devices: int
    prepare_seconds: float
    compile_seconds: float | None
    train_loss: float

    def train_epoch(self) -> float:
        """Train all models for an epoch; return its seconds, the device synchronized."""
        ...

    def test(self) -> float:
        """Evaluate all models on all test images; return the seconds, the device synchronized."""
        ...

    def accuracy(self) -> float:
        """Return the fraction right in the last test, averaged over the R models."""
        ...

    def product_flops(self) -> float | None:
        """Return the operations of an epoch's matrix products; None where nobody counts them."""
        ...


def build(
    name: str, task: Task, data: Data, *, runs: int = 1, torch_device: str = "cpu"
) -> Contender:
    """Return a contender in its first state, compiled, with its data in place.

    Args:
        name: one of `NAMES`.
        task: what to train.
        data: to train and test on.
        runs: how many models train at once; more than one only for those in `SEVERAL`.
        torch_device: PyTorch's, ``"cpu"`` or ``"cuda"``; JAX's contenders use JAX's own.

    Raises:
        ValueError: if the name or the number of runs is not one of those allowed.
        NotMeasuredError: in one line, if it can't run here.

    >>> from jax_lenet import load
    >>> data = data_of(load("mnist_sample", train_size=640))
    >>> contender = build("jax_lenet", task_of("LeNet_BN_noDropout", learning_rate=0.1), data)
    >>> seconds = [contender.train_epoch() for _ in range(5)]
    >>> contender.test() < 60 and contender.accuracy() > 0.5
    True
    """
    _check(name, runs)
    if not name.startswith("torch"):
        from experiments import jax_contenders

        return jax_contenders.build(name, task, data, runs)
    try:
        from experiments import torch_contenders
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise NotMeasuredError("PyTorch is not installed; pip install '.[test]'") from None
    return torch_contenders.build(name, task, data, runs, torch_device)


def _check(name: str, runs: int) -> None:
    if name not in NAMES:
        raise ValueError(f"a contender must be one of {', '.join(NAMES)}, not {name!r}")
    if runs < 1 or (runs > 1 and name not in SEVERAL):
        allowed = "at least 1" if name in SEVERAL else "1: it trains one model at a time"
        raise ValueError(f"{name}: runs must be {allowed}; found {runs}")


def batch_sizes(count: int, batch_size: int) -> tuple[int, ...]:
    """Return the different sizes of the batches that ``count`` examples make, the last one last.

    >>> batch_sizes(50_000, 128), batch_sizes(256, 128), batch_sizes(80, 128)
    ((128, 80), (128,), (80,))
    """
    sizes = (min(count, batch_size), count % batch_size or min(count, batch_size))
    return tuple(dict.fromkeys(sizes))

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

Those of JAX are in `jax_contenders`, those of PyTorch in `torch_contenders`, so that this file and
the former work without PyTorch.
"""

from dataclasses import dataclass
from typing import Protocol

from jax_lenet import VARIANTS, Dataset, LeNet5, lenet5

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
    """What is trained, by every contender alike.

    Attributes:
        variant: one of `VARIANTS`.
        batch_size: images in a step.
        learning_rate: of plain SGD.
        precision: of convolutions and products, as `lenet5` has it. PyTorch's contenders know only
            ``"highest"``.
        first_seed: of the first of the models that train at once; the others' follow it.
    """

    variant: str = "LeNet"
    batch_size: int = 128
    learning_rate: float = 0.01
    precision: str = "highest"
    first_seed: int = 0

    def model(self, form: str) -> LeNet5:
        """Return this library's model in a form."""
        variant = VARIANTS[self.variant]
        return lenet5(variant.batch_norm, variant.dropout, self.precision, form)


class Contender(Protocol):
    """Something that trains, an epoch at a time, from the state it holds.

    Attributes:
        name: as in `NAMES`.
        runs: how many models train at once, R.
        devices: over how many of a CPU's JAX devices each batch is split; 1 for PyTorch.
        compile_seconds: of compilation ahead of time; None where nothing is compiled.
        train_loss: the last epoch's mean loss as minimized, averaged over the R models; NaN before
            the first.
    """

    name: str
    runs: int
    devices: int
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
    name: str, task: Task, data: Dataset, *, runs: int = 1, torch_device: str = "cpu"
) -> Contender:
    """Return a contender in its first state, compiled, with its data in place.

    Args:
        name: one of `NAMES`.
        task: what to train.
        data: to train and test on.
        runs: how many models train at once; more than one only for those in `SEVERAL`.
        torch_device: PyTorch's, ``"cpu"`` or ``"cuda"``; JAX's contenders use JAX's own.

    Raises:
        ValueError: if the name, the variant or the number of runs is not one of those allowed.
        NotMeasuredError: in one line, if it can't run here.

    >>> from jax_lenet import load
    >>> data = load("mnist_sample", train_size=640)
    >>> contender = build("jax_lenet", Task("LeNet_BN_noDropout", learning_rate=0.1), data)
    >>> seconds = [contender.train_epoch() for _ in range(5)]
    >>> contender.test() < 60 and contender.accuracy() > 0.5
    True
    """
    _check(name, task, runs)
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


def _check(name: str, task: Task, runs: int) -> None:
    if name not in NAMES:
        raise ValueError(f"a contender must be one of {', '.join(NAMES)}, not {name!r}")
    if task.variant not in VARIANTS:
        raise ValueError(f"a variant must be one of {', '.join(VARIANTS)}, not {task.variant!r}")
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

"""PyTorch's side of `contenders`: eager, compiled, as CUDA graphs, and many models by `vmap`.

Models, batches, epochs and tests are those of `torch_model`. Convolutions and products run in full
float32 on every device.
"""

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional

from experiments.contenders import TEST_BATCH, Contender, Data, NotMeasuredError, Task, batch_sizes
from experiments.torch_model import (
    Examples,
    LeNet5,
    Shuffled,
    batches_of,
    evaluate,
    train_epoch,
    use_full_precision,
)

#: A step on the training images at some indices; it adds its loss to a sum on the device.
Step = Callable[[Tensor], None]


def build(name: str, task: Task, data: Data, runs: int, device: str) -> Contender:
    """Return one of PyTorch's contenders; see `contenders.build`."""
    place = _checked_device(name, device)
    use_full_precision()
    if name in ("torch", "torch_dataloader"):
        return Eager(name, task, data, place)
    with _reason(name):
        if name == "torch_vmap":
            return Vmap(task, data, place, runs)
        prepared = Compiled if name == "torch_compile" else CudaGraph
        return prepared(name, task, data, place)


def _checked_device(name: str, device: str) -> torch.device:
    if device not in ("cpu", "cuda"):
        raise ValueError(f"a device must be 'cpu' or 'cuda', not {device!r}")
    if device == "cpu" and name in ("torch_compile", "torch_cuda_graph"):
        raise NotMeasuredError(f"{name} needs a CUDA device")
    if device == "cuda" and not torch.cuda.is_available():
        raise NotMeasuredError("PyTorch sees no GPU")
    return torch.device(device)


def tensors(data: Data) -> tuple[Examples, Examples]:
    """Return the training and the test set as tensors in host memory."""

    def examples(images: np.ndarray, labels: np.ndarray) -> Examples:
        pixels = torch.from_numpy(data.normalized[images]).unsqueeze(1)  # [N, 1, 28, 28]
        return Examples(pixels, torch.from_numpy(labels).long())

    return (
        examples(data.train_images, data.train_labels),
        examples(data.test_images, data.test_labels),
    )


@contextmanager
def _reason(name: str) -> Iterator[None]:
    """Turn whatever goes wrong into the one line that says so.

    What can fail here is the compiler, the driver or the memory of the machine at hand, each with
    an exception of its own; the other contenders are to be timed all the same.
    """
    try:
        yield
    except Exception as error:
        text = str(error).strip() or "no message"
        reason = f"{name}: {type(error).__name__}: {text.splitlines()[0]}"
        raise NotMeasuredError(reason) from error


class _Torch(ABC):
    """What PyTorch's contenders share: clocks, and the results they read. See `Contender`."""

    devices = 1

    def __init__(self, name: str, data: Data, device: torch.device, runs: int = 1):
        self.name = name
        self.runs = runs
        self.compile_seconds: float | None = None
        self.train_loss = float("nan")
        self._device = device
        self._accuracy = float("nan")
        start = self._clock()
        self._train, self._test = (x.to(device) for x in tensors(data))
        self.prepare_seconds = self._clock() - start

    def train_epoch(self) -> float:
        """Train for an epoch; return its seconds."""
        start = self._clock()
        loss = self._epoch()
        seconds = self._clock() - start
        self.train_loss = loss.mean().item()
        return seconds

    def test(self) -> float:
        """Evaluate; return the seconds."""
        start = self._clock()
        right, count = self._right()
        seconds = self._clock() - start
        self._accuracy = right.double().mean().item() / count
        return seconds

    def accuracy(self) -> float:
        """Return the fraction right in the last test."""
        return self._accuracy

    def product_flops(self) -> float | None:
        """Return None: only what JAX traces is counted."""
        return None

    def _clock(self) -> float:
        """Return the time in seconds, once the device has finished what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @abstractmethod
    def _epoch(self) -> Tensor:
        """Train for an epoch; return the mean loss, ``[]`` or ``[R]``."""

    @abstractmethod
    def _right(self) -> tuple[Tensor, int]:
        """Evaluate; return how many test images are right, ``[]`` or ``[R]``, and of how many."""


class Eager(_Torch):
    """`torch_model` as it is, with data in memory or by a DataLoader. See `Contender`."""

    def __init__(self, name: str, task: Task, data: Data, device: torch.device):
        """Place the data; see `contenders.build`."""
        super().__init__(name, data, device)
        loader = "dataloader" if name == "torch_dataloader" else "memory"
        # A DataLoader reads from the host and moves each batch.
        train = self._train if loader == "memory" else self._train.to(torch.device("cpu"))
        self._batches = batches_of(train, task.batch_size, task.first_seed, device, loader)
        self._model, self._optimizer = _model_of(task, device)

    def _epoch(self) -> Tensor:
        return train_epoch(self._model, self._batches, self._optimizer)

    def _right(self) -> tuple[Tensor, int]:
        _, right = evaluate(self._model, self._test, TEST_BATCH)
        return right, len(self._test.labels)


def _model_of(task: Task, device: torch.device) -> tuple[LeNet5, torch.optim.Optimizer]:
    model = _seeded(task, task.first_seed).to(device)
    return model, torch.optim.SGD(model.parameters(), lr=task.learning_rate)


def _seeded(task: Task, seed: int) -> LeNet5:
    torch.manual_seed(seed)
    return LeNet5(task.batch_norm, task.dropout)


class _Prepared(_Torch):
    """The steps of `torch`, made faster beforehand; tests are eager.

    Subclasses say how, in `_faster`.
    """

    def __init__(self, name: str, task: Task, data: Data, device: torch.device):
        """Make the step for each size of batch; see `contenders.build`."""
        super().__init__(name, data, device)
        self._sampler = Shuffled(len(self._train.labels), task.first_seed)
        self._batch_size = task.batch_size
        self._loss_sum = torch.zeros((), device=device)
        self._model, self._optimizer = _model_of(task, device)
        initial = copy.deepcopy(self._model.state_dict())
        self._model.train()
        start = self._clock()
        self._steps = {
            size: self._faster(torch.arange(size, device=device))
            for size in batch_sizes(len(self._train.labels), task.batch_size)
        }
        self.compile_seconds: float | None = self._clock() - start
        # Copied into the same memory, which is where the steps made above look for the weights.
        self._model.load_state_dict(initial)
        torch.manual_seed(task.first_seed)

    @abstractmethod
    def _faster(self, indices: Tensor) -> Step:
        """Return the step for as many images as there are ``indices``, warmed up on these.

        It may train on the way: the weights are put back.
        """

    def _step(self, indices: Tensor) -> None:
        """Take an eager step: that of `torch_model.train_epoch`, gathering included."""
        images, labels = self._train.images[indices], self._train.labels[indices]
        self._optimizer.zero_grad()
        loss = self._loss_of(images, labels)
        loss.backward()
        self._optimizer.step()
        self._loss_sum += loss.detach() * len(indices)

    def _loss_of(self, images: Tensor, labels: Tensor) -> Tensor:
        return functional.nll_loss(self._model(images), labels)

    def _epoch(self) -> Tensor:
        self._model.train()
        self._loss_sum.zero_()
        order = self._sampler.order().to(self._device)
        for indices in order.split(self._batch_size):
            self._steps[len(indices)](indices)
        return self._loss_sum / len(order)

    def _right(self) -> tuple[Tensor, int]:
        _, right = evaluate(self._model, self._test, TEST_BATCH)
        return right, len(self._test.labels)


class CudaGraph(_Prepared):
    """Each step replays a CUDA graph of all of it. See `Contender`.

    That is gathering, forward, backward and update, as PyTorch's notes on CUDA semantics have it
    under "Whole-network capture".
    """

    def _faster(self, indices: Tensor) -> Step:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(indices)
        torch.cuda.current_stream().wait_stream(stream)
        # Without gradients from before, the captured backward pass makes its own, in the graph's
        # memory, and each replay writes them anew; otherwise it would add to the old ones.
        self._optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step(indices)

        def replay(new_indices: Tensor) -> None:
            indices.copy_(new_indices)  # the graph reads its input where it was captured
            graph.replay()

        return replay


class Compiled(_Prepared):
    """The loss and its gradient by ``torch.compile``. See `Contender`.

    ``mode="reduce-overhead"`` replays both as CUDA graphs. The batch is gathered outside, since a
    compiled function's inputs are copied to where its graph reads them, and that would be all
    training images at every step; the update is outside, too. Each size of batch is compiled for
    itself (``dynamic=False``): the ragged last one would otherwise have all compiled anew, for any
    size.
    """

    #: What `torch.compile` is told; another in the tests, which have no GPU.
    options: ClassVar[dict[str, Any]] = {"mode": "reduce-overhead", "dynamic": False}

    def _faster(self, indices: Tensor) -> Step:
        if "_loss_of" not in vars(self):
            self._loss_of = torch.compile(self._loss_of, **self.options)

        def step(indices: Tensor) -> None:
            # The last step's loss and gradients, in the graphs' memory, are no longer needed.
            torch.compiler.cudagraph_mark_step_begin()
            self._step(indices)

        for _ in range(4):  # compiles, warms up, records, replays
            step(indices)
        return step


class Vmap(_Torch):
    """PyTorch's own way to train R models at once: `torch.func`. See `Contender`.

    Parameters and buffers are stacked, and a step is `vmap` of `grad_and_value`. As in `jax_lenet`
    every model has its own seed, its own weights, its own order of the images, which is that of the
    contender ``torch`` with its seed, and its own dropout masks (``randomness="different"``).

    Running statistics and ``num_batches_tracked`` are stacked too; batch norm updates them in
    place, and since they are arguments of the mapped function each model's update goes to its own.

    All R batches are in memory at once: about 0.1 MB per image and model in a step, 4 GB for 256
    models and batches of 128. The test's batches are smaller for more than eight models.
    """

    def __init__(self, task: Task, data: Data, device: torch.device, runs: int):
        """Stack the models; see `contenders.build`."""
        super().__init__("torch_vmap", data, device, runs)
        self._batch_size = task.batch_size
        seeds = range(task.first_seed, task.first_seed + runs)
        models = [_seeded(task, seed).to(device) for seed in seeds]
        self._samplers = [Shuffled(len(self._train.labels), seed) for seed in seeds]
        # What the models have in common; it holds no numbers.
        self._model = copy.deepcopy(models[0]).to("meta")
        params, self._buffers = stack_module_state(list(models))
        # `grad_and_value` needs no requires_grad; with it, PyTorch would record the steps as well.
        self._params = {name: value.detach() for name, value in params.items()}
        self._optimizer = torch.optim.SGD(self._params.values(), lr=task.learning_rate)
        self._gradients = vmap(grad_and_value(self._loss_of), randomness="different")
        self._log_probs = vmap(self._log_probs_of, in_dims=(0, 0, None))

    def state_dict(self, run: int) -> dict[str, Tensor]:
        """Return one model's parameters and running statistics, by PyTorch's names."""
        return {name: value[run] for name, value in (self._params | self._buffers).items()}

    def _log_probs_of(
        self, params: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
    ) -> Tensor:
        """Return one model's log-probabilities, ``[N, 10]``, of ``[N, 1, 28, 28]``."""
        return functional_call(self._model, (params, buffers), (images,))

    def _loss_of(
        self,
        params: dict[str, Tensor],
        buffers: dict[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Return one model's mean loss on its batch."""
        return functional.nll_loss(self._log_probs_of(params, buffers, images), labels)

    def _step(self, indices: Tensor) -> Tensor:
        """Take a step of every model on its images, int64 ``[R, N]``; return losses, ``[R]``."""
        images, labels = self._train.images[indices], self._train.labels[indices]
        gradients, losses = self._gradients(self._params, self._buffers, images, labels)
        for name, param in self._params.items():
            param.grad = gradients[name]
        self._optimizer.step()
        return losses

    @torch.no_grad()
    def _epoch(self) -> Tensor:
        self._model.train()
        total = torch.zeros(self.runs, device=self._device)
        orders = torch.stack([sampler.order() for sampler in self._samplers]).to(self._device)
        for indices in orders.split(self._batch_size, dim=1):
            total += self._step(indices) * indices.shape[1]
        return total / orders.shape[1]

    @torch.no_grad()
    def _right(self) -> tuple[Tensor, int]:
        self._model.eval()
        loss = torch.zeros(self.runs, device=self._device)
        right = torch.zeros(self.runs, dtype=torch.int64, device=self._device)
        size = min(TEST_BATCH, max(1, 8 * TEST_BATCH // self.runs))
        for images, labels in zip(*(x.split(size) for x in self._test), strict=True):
            log_probs = self._log_probs(self._params, self._buffers, images)  # [R, N, 10]
            at_labels = log_probs.gather(-1, labels.expand(self.runs, -1)[..., None])
            loss -= at_labels.sum((1, 2))  # as every contender's test does
            right += (log_probs.argmax(-1) == labels).sum(-1)
        return right, len(self._test.labels)

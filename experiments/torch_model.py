"""LeNet-5 in PyTorch as the report builds and trains it: model, batches, epoch, evaluation.

Nothing of JAX is imported here, so that a process of the benchmark that times PyTorch holds and
starts what a user of PyTorch would.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Sampler, TensorDataset


class LeNet5(nn.Module):
    """The report's model, with its names: ``convnet`` (c1 to relu5) and ``fc`` (f6 to sig7)."""

    def __init__(self, batch_norm: bool = False, dropout: tuple[float, float] = (0.0, 0.0)):
        """Draw the weights as PyTorch does by default.

        Args:
            batch_norm: whether bn1, bn3 and bn5 are there.
            dropout: the rates of drop6 and drop7; 0 leaves the layer out.
        """
        super().__init__()

        def normalized(number: int, channels: int) -> list[tuple[str, nn.Module]]:
            return [(f"bn{number}", nn.BatchNorm2d(channels))] if batch_norm else []

        def dropped(number: int, rate: float) -> list[tuple[str, nn.Module]]:
            return [(f"drop{number}", nn.Dropout(rate))] if rate else []

        self.convnet = nn.Sequential(
            OrderedDict(
                [
                    ("c1", nn.Conv2d(1, 6, kernel_size=5, padding=2)),  # [N, 6, 28, 28]
                    *normalized(1, 6),
                    ("relu1", nn.ReLU()),
                    ("s2", nn.MaxPool2d(kernel_size=2, stride=2)),  # [N, 6, 14, 14]
                    ("c3", nn.Conv2d(6, 16, kernel_size=5)),  # [N, 16, 10, 10]
                    *normalized(3, 16),
                    ("relu3", nn.ReLU()),
                    ("s4", nn.MaxPool2d(kernel_size=2, stride=2)),  # [N, 16, 5, 5]
                    ("c5", nn.Conv2d(16, 120, kernel_size=5)),  # [N, 120, 1, 1]
                    *normalized(5, 120),
                    ("relu5", nn.ReLU()),
                ]
            )
        )
        self.fc = nn.Sequential(
            OrderedDict(
                [
                    ("f6", nn.Linear(120, 84)),
                    *dropped(6, dropout[0]),
                    ("relu6", nn.ReLU()),
                    ("f7", nn.Linear(84, 10)),
                    *dropped(7, dropout[1]),
                    ("sig7", nn.LogSoftmax(dim=-1)),
                ]
            )
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return log-probabilities ``[N, 10]`` of normalized images ``[N, 1, 28, 28]``."""
        return self.fc(self.convnet(images).flatten(start_dim=1))


class Examples(NamedTuple):
    """Images with their labels.

    Attributes:
        images: normalized, float32 ``[N, 1, 28, 28]``.
        labels: int64 ``[N]``.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Examples":
        """Return the same on a device."""
        return Examples(self.images.to(device), self.labels.to(device))


class Shuffled(Sampler[int]):
    """A new order of all examples each time it is iterated, from a generator of its own.

    `torch.utils.data.RandomSampler` draws a second permutation after each epoch, which it throws
    away; drawing one keeps the two loaders' batches the same.
    """

    def __init__(self, count: int, seed: int):
        # Away from the seed of the weights: the same one would give the same stream of numbers.
        self.count = count
        self.generator = torch.Generator().manual_seed(2**32 + seed)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()

    def order(self) -> Tensor:
        """Return the next order, int64 ``[count]``."""
        return torch.randperm(self.count, generator=self.generator)


class MemoryLoader:
    """Batches of shuffled examples, gathered from tensors where they lie."""

    def __init__(self, data: Examples, batch_size: int, sampler: Shuffled):
        """Keep references; nothing is copied."""
        self.data = data
        self.batch_size = batch_size
        self.sampler = sampler

    def __iter__(self) -> Iterator[Examples]:
        """Yield every example once; the last batch is what is left over."""
        order = self.sampler.order().to(self.data.labels.device)
        for indices in order.split(self.batch_size):
            yield Examples(self.data.images[indices], self.data.labels[indices])


def batches_of(
    train: Examples, batch_size: int, seed: int, device: torch.device, loader: str = "memory"
) -> Iterable[Iterable[Tensor]]:
    """Return the training batches of one run: each iteration is an epoch in a new order.

    Args:
        train: in host memory.
        batch_size: images in a batch, but for the last.
        seed: of the run.
        device: where it trains.
        loader: ``"memory"``, tensors on the device, or ``"dataloader"``, a DataLoader on the CPU;
            the batches are the same.
    """
    sampler = Shuffled(len(train.labels), seed)
    if loader == "memory":
        return MemoryLoader(train.to(device), batch_size, sampler)
    # A DataLoader draws a seed for its workers each epoch: not from the generator of the masks.
    return DataLoader(
        TensorDataset(*train),
        batch_size,
        sampler=sampler,
        generator=torch.Generator(),
        pin_memory=device.type == "cuda",
    )


def train_epoch(
    model: nn.Module, batches: Iterable[Iterable[Tensor]], optimizer: torch.optim.Optimizer
) -> Tensor:
    """Take a step on each batch; return the mean loss per image, before each step, dropout on."""
    model.train()
    device = next(model.parameters()).device
    # Summed on the device: reading each loss would wait for the device at each step.
    total, count = torch.zeros((), device=device), 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = functional.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(labels)
        count += len(labels)
    return total / count


@torch.inference_mode()
def evaluate(model: nn.Module, data: Examples, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Return the mean loss over all of ``data`` and how many are right, in evaluation mode."""
    model.eval()
    loss = torch.zeros((), device=data.labels.device)
    right = torch.zeros((), dtype=torch.int64, device=data.labels.device)
    for images, labels in zip(*(x.split(batch_size) for x in data), strict=True):
        log_probs = model(images)
        loss += functional.nll_loss(log_probs, labels, reduction="sum")
        right += (log_probs.argmax(dim=-1) == labels).sum()
    return loss / len(data.labels), right


def use_full_precision() -> None:
    """Keep convolutions on a GPU in float32, as linear layers are; cuDNN's default is TF32."""
    # Made at import time, which a type checker does not see.
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # pyright: ignore[reportAttributeAccessIssue]

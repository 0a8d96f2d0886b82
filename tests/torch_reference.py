"""PyTorch's side of the tests: the report's model with weights and dropout masks from outside."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn

import jax_lenet
from experiments import torch_baseline
from jax_lenet import VARIANTS, Examples, normalize
from jax_lenet.models import LeNet5
from jax_lenet.torch_weights import from_torch, to_torch

#: The ways in which the library writes the model. All have to agree with PyTorch.
FORMS = {
    form: lambda variant, form=form: VARIANTS[variant].clone(form=form)
    for form in ("blocked", "plain")
}


def build(form: str, variant: str) -> LeNet5:
    return FORMS[form](variant)


@contextmanager
def float64() -> Iterator[None]:
    """64-bit JAX, for this block only."""
    with jax.enable_x64(True):
        yield


class GivenDropout(nn.Module):
    """Dropout with a mask from outside, by the formula of the PyTorch documentation."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.keep: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        assert self.keep is not None, "set the mask first"
        return x * self.keep / (1 - self.rate)


def reference(variant: str, variables: Mapping[str, Any]) -> torch_baseline.LeNet5:
    """The report's model with the given weights, in their precision, awaiting dropout masks."""
    model = torch_baseline.build(variant)
    state_dict = to_torch(variables)
    model = model.to(state_dict["fc.f7.weight"].dtype)
    model.load_state_dict(state_dict)
    for name, layer in list(model.fc.named_children()):
        if isinstance(layer, nn.Dropout):
            setattr(model.fc, name, GivenDropout(layer.p))
    return model


def set_masks(model: torch_baseline.LeNet5, intermediates: Mapping[str, Any]) -> None:
    """Give the reference the masks that a Flax model sowed."""
    for name, layer in model.fc.named_children():
        if isinstance(layer, GivenDropout):
            (keep,) = intermediates[name]["keep"]
            layer.keep = torch.from_numpy(np.array(keep))


def to_nchw(images: Any) -> Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).contiguous()


def to_labels(labels: Any) -> Tensor:
    return torch.from_numpy(np.array(labels)).long()


@cache
def sample() -> jax_lenet.Dataset:
    return jax_lenet.load("mnist_sample")


def digits(count: int, dtype: Any = np.float32) -> Examples:
    """The sample's first training digits. Their flat backgrounds make ties in the pooling."""
    images = normalize(sample().train_images[:count]).astype(dtype)
    return Examples(images, sample().train_labels[:count])


def noise(count: int, dtype: Any = np.float32, seed: int = 0) -> Examples:
    """Random images, of the same mean and spread as normalized digits, with random labels."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((count, 28, 28, 1)).astype(dtype)
    return Examples(images, random.integers(0, 10, count).astype(np.int32))


def perturbed(variant: str, seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    """Variables as they might be after training, or worse: scales negative, and some exactly zero.

    A channel with scale zero is the same number everywhere: nothing but ties in the pooling. Its
    shift is positive, or ReLU would hide it.
    """
    random = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        variables = from_torch(torch_baseline.build(variant).state_dict())
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    for name, layer in variables["params"].items():
        if name.startswith("bn"):
            channels = len(layer["scale"])
            scale = random.uniform(0.5, 1.5, channels) * random.choice([-1, 1], channels)
            shift = random.normal(0, 0.3, channels)
            scale[::5], shift[::5] = 0, 0.2
            layer["scale"][:], layer["bias"][:] = scale, shift
            stats = variables["batch_stats"][name]
            stats["mean"][:] = random.normal(0, 0.3, channels)
            stats["var"][:] = random.uniform(0.3, 3, channels)
            stats["var"][1] = 0.01  # small enough for epsilon to tell
    return variables


def margin(model: torch_baseline.LeNet5, images: Any) -> float:
    """How far the model's training pass stays from a kink, where its gradient jumps.

    That is the least difference between a pooling window's maximum and the values below it, and the
    least distance of a ReLU's input from zero. Exact ties and zeros do not count: first-wins and
    ReLU'(0) = 0 decide those, in any precision.
    """
    distances: list[float] = []

    def record(values: Tensor) -> None:
        distances.append(values[values > 1e-12].min().item())

    def before_relu(_layer: nn.Module, inputs: tuple[Tensor]) -> None:
        (x,) = inputs
        if x.ndim == 4 and x.shape[-1] > 1:  # the pooling keeps only the largest
            x = nn.functional.max_pool2d(x, 2)
        record(x.abs())

    def before_pool(_layer: nn.Module, inputs: tuple[Tensor]) -> None:
        windows = inputs[0].unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
        highest = windows.amax(-1, keepdim=True)
        record(torch.where(highest > 0, highest - windows, 0))

    model = copy.deepcopy(model)
    for layer in model.modules():
        if isinstance(layer, nn.ReLU):
            layer.register_forward_pre_hook(before_relu)
        if isinstance(layer, nn.MaxPool2d):
            layer.register_forward_pre_hook(before_pool)
    with torch.no_grad():
        model(to_nchw(images).double())
    return min(distances)

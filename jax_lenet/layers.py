"""The parts of LeNet-5 where Flax's own differ from PyTorch's, which the report used.

- Initial weights: PyTorch draws kernel and bias uniformly within ±1/sqrt(fan_in); Flax draws a
  truncated normal kernel and a zero bias.
- Batch norm: PyTorch's running variance is the unbiased one (1/(n-1)); Flax's is biased (1/n).
- Dropout: Flax's rate must be a Python number; here it may be traced, so that one compiled function
  serves every rate.
"""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.nn.initializers import Initializer

from jax_lenet import split

Rate = float | jax.Array

#: Added to a variance before its root is taken; PyTorch's default.
EPSILON = 1e-5
#: The share of an old running statistic that is kept, as Flax counts it: PyTorch's momentum is 0.1.
MOMENTUM = 0.9


def fan_in_uniform(fan_in: int) -> Initializer:
    """Return an initializer that draws uniformly within ±1/sqrt(fan_in).

    That is PyTorch's default for the kernel and for the bias of convolutions and linear layers
    (``kaiming_uniform_(a=sqrt(5))``).

    Args:
        fan_in: the number of inputs that one output sums over; ``height * width * channels`` for a
            convolution.

    Returns:
        A function ``(key, shape, dtype) -> array``.

    >>> fan_in_uniform(25)(jax.random.key(0), (1000,), jnp.float32).max() < 0.2
    Array(True, dtype=bool)
    """
    bound = 1 / math.sqrt(fan_in)

    def initializer(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initializer


class Conv(nn.Module):
    """A square convolution with stride 1, PyTorch's initial weights, and its variables at hand.

    Attributes:
        inputs: channels in.
        features: channels out.
        size: of the kernel, in pixels.
        padding: zeros added on every side.
        precision: as `jax.lax.Precision` names it.

    Variables: ``params`` kernel ``[size, size, inputs, features]`` and bias ``[features]``.
    """

    inputs: int
    features: int
    size: int = 5
    padding: int = 0
    precision: str = "highest"

    def setup(self) -> None:
        """Declare the variables."""
        init = fan_in_uniform(self.size * self.size * self.inputs)
        shape = (self.size, self.size, self.inputs, self.features)
        self.kernel = self.param("kernel", init, shape, jnp.float32)
        self.bias = self.param("bias", init, (self.features,), jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve ``x``, ``[N, height, width, inputs]``."""
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel,
            window_strides=(1, 1),
            padding=[(self.padding, self.padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=self.precision,
        )
        return y + self.bias


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, with PyTorch's statistics.

    Training: ``y = (x - mean) / sqrt(var + EPSILON) * scale + bias`` with the mean and the *biased*
    variance (1/n) of the batch; the running variance takes in the *unbiased* one (1/(n-1)), as
    ``torch.nn.BatchNorm2d`` does. Evaluation: the same with the running values.

    Attributes:
        channels: of the last axis.
        axis_name: of the mesh axis that the batch is split along, if it is (see `split`).

    Variables: ``params`` scale and bias, ``batch_stats`` mean and var, each ``[channels]``.
    """

    channels: int
    axis_name: str | None = None

    def setup(self) -> None:
        """Declare the variables."""
        shape = (self.channels,)
        self.scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalize ``x`` (``[N, ..., channels]``); in training also update ``batch_stats``.

        Raises:
            ValueError: in training, if a channel has a single value: its variance is undefined.
        """
        mean, var = self.mean.value, self.var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = split.average(x.mean(axes), self.axis_name)
            var = split.average(jnp.square(x - mean).mean(axes), self.axis_name)
            count = x.size // self.channels * split.devices_of(self.axis_name)
            self.update(updated_statistics(self.statistics, mean, var, count))
        return (x - mean) * (jax.lax.rsqrt(var + EPSILON) * self.scale) + self.bias

    @property
    def statistics(self) -> dict[str, jax.Array]:
        """The running mean and var."""
        return {"mean": self.mean.value, "var": self.var.value}

    def update(self, statistics: Mapping[str, jax.Array]) -> None:
        """Set the running mean and var; not while the variables are being made."""
        if not self.is_initializing():
            self.mean.value, self.var.value = statistics["mean"], statistics["var"]


def updated_statistics(
    running: Mapping[str, jax.Array], mean: jax.Array, var: jax.Array, count: int
) -> dict[str, jax.Array]:
    """Return running statistics that have taken in a batch's.

    Args:
        running: mean and var, each ``[channels]``.
        mean: of the batch, ``[channels]``.
        var: the batch's biased variance; the running one takes in the unbiased one.
        count: how many values of a channel they come from.
    """
    unbiased_var = unbiased_factor(count) * var
    return {
        "mean": MOMENTUM * running["mean"] + (1 - MOMENTUM) * mean,
        "var": MOMENTUM * running["var"] + (1 - MOMENTUM) * unbiased_var,
    }


def unbiased_factor(count: int) -> float:
    """Return n/(n-1), which turns the biased variance of ``count`` values into the unbiased one.

    Raises:
        ValueError: if ``count`` is 1.

    >>> unbiased_factor(128)
    1.0078740157480315
    """
    if count < 2:
        raise ValueError(
            "batch norm in training needs at least two values per channel, and this batch has one;"
            " choose a batch size that leaves no last batch of a single image"
        )
    return count / (count - 1)


class Dropout(nn.Module):
    """Inverted dropout: keep each value with probability ``1 - rate``, scaled by ``1/(1 - rate)``.

    The rate may be a traced array. Where it is the Python number 0 the layer costs nothing. The key
    comes from the ``dropout`` stream; a value is kept where a uniform draw is at least the rate, so
    one key gives nested masks for growing rates. The mask is sown as ``intermediates/keep``.

    Attributes:
        rate: the fraction dropped, in [0, 1).
        axis_name: of the mesh axis that the batch is split along, if it is (see `split`); its mask
            is the one that the whole batch would have.
    """

    rate: Rate
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Drop values of ``x`` in training; return it as it is in evaluation."""
        if not train or (isinstance(self.rate, (int, float)) and self.rate == 0):
            return x
        # float32 draws whatever x is, so that the mask does not depend on the precision of the run.
        shape = (len(x) * split.devices_of(self.axis_name), *x.shape[1:])
        draws = jax.random.uniform(self.make_rng("dropout"), shape, jnp.float32)
        draws = split.own_share(draws, self.axis_name)
        rate = jnp.asarray(self.rate, jnp.float32)
        keep = draws >= rate
        self.sow("intermediates", "keep", keep)
        return jnp.where(keep, x / (1 - rate).astype(x.dtype), 0)

"""LeNet-5 as the report builds it: one Flax module, six named variants.

layer   what it does                                    output for one image
c1      conv 1 -> 6, 5x5, zero padding 2                28 x 28 x 6
bn1     batch norm (optional)
relu1   ReLU; s2: max-pool 2x2                          14 x 14 x 6
c3      conv 6 -> 16, 5x5, no padding                   10 x 10 x 16
bn3     batch norm (optional)
relu3   ReLU; s4: max-pool 2x2                           5 x 5 x 16
c5      conv 16 -> 120, 5x5, no padding                  1 x 1 x 120
bn5     batch norm (optional)
relu5   ReLU, flatten                                    120
f6      linear 120 -> 84                                 84
drop6   dropout (optional), before relu6
relu6   ReLU; f7: linear 84 -> 10                        10
drop7   dropout (optional), on the ten logits
sig7    log-softmax                                      10
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jax.typing import DTypeLike

from jax_lenet.blocked import Prepared, features, prepare
from jax_lenet.layers import BatchNorm, Conv, Dropout, Rate, fan_in_uniform

IMAGE_SHAPE = (28, 28, 1)
CLASSES = 10


class LeNet5(nn.Module):
    """LeNet-5 with optional batch norm in its convolutions and dropout in its linear layers.

    Build it with `lenet5`, which checks the arguments.

    Attributes:
        batch_norm: whether bn1, bn3 and bn5 are there.
        dropout: the rates (fraction dropped) of drop6 and drop7. A Python 0 leaves the layer out; a
            traced scalar is allowed.
        precision: of convolutions and products, as `jax.lax.Precision` names it. ``"highest"`` is
            float32 everywhere; on a GPU ``"default"`` allows TF32.
        form: how the convolution part is computed. ``"plain"`` is the specification, layer by
            layer; ``"blocked"`` is the same function as matrix products (see `blocked`).
        axis_name: of the mesh axis that a batch is split along, where a run is (see `split`).

    Variables: ``params`` holds c1, c3, c5, f6, f7 (kernel, bias) and bn1, bn3, bn5 (scale, bias);
    ``batch_stats`` holds bn1, bn3, bn5 (mean, var).
    """

    batch_norm: bool = False
    dropout: tuple[Rate, Rate] = (0.0, 0.0)
    precision: str = "highest"
    form: str = "blocked"
    axis_name: str | None = None

    def setup(self) -> None:
        """Name the layers as the report does."""
        self.c1 = Conv(1, 6, padding=2, precision=self.precision)
        self.c3 = Conv(6, 16, precision=self.precision)
        self.c5 = Conv(16, 120, precision=self.precision)
        if self.batch_norm:
            self.bn1 = BatchNorm(6, self.axis_name)
            self.bn3 = BatchNorm(16, self.axis_name)
            self.bn5 = BatchNorm(120, self.axis_name)
        self.f6 = self._linear(120, 84)
        self.drop6 = Dropout(self.dropout[0], self.axis_name)
        self.f7 = self._linear(84, CLASSES)
        self.drop7 = Dropout(self.dropout[1], self.axis_name)

    def _linear(self, inputs: int, features: int) -> nn.Dense:
        init = fan_in_uniform(inputs)
        return nn.Dense(features, precision=self.precision, kernel_init=init, bias_init=init)

    def __call__(self, images: jax.Array | Prepared, train: bool = False) -> jax.Array:
        """Return the log-probabilities of the ten classes.

        Args:
            images: normalized images, float32 ``[N, 28, 28, 1]``; in blocked form also what
                `prepare` makes of them.
            train: whether batch norm uses (and updates) the batch's statistics and dropout drops.
                Then call ``apply`` with ``mutable=["batch_stats"]`` and ``rngs={"dropout": key}``.

        Returns:
            float32 ``[N, 10]``; the exponentials of a row sum to one.

        Raises:
            ValueError: if ``images`` has another shape or is not floating point.
        """
        if not isinstance(images, Prepared):
            check_images(images)
            check_dtype(images, self.c1.kernel.dtype)
        if self.form == "blocked":
            x = self._blocked(images, train)  # [N, 120]
        elif isinstance(images, Prepared):
            raise ValueError("a model in plain form takes images as they are, not prepared ones")
        else:
            x = self._plain(images, train)
        x = self.drop6(self.f6(x), train)  # [N, 84]
        x = self.drop7(self.f7(nn.relu(x)), train)  # [N, 10]
        return nn.log_softmax(x)  # sig7

    def _plain(self, images: jax.Array, train: bool) -> jax.Array:
        """Return what the convolution part makes of the images, ``[N, 120]``."""
        bn1, bn3, bn5 = self._batch_norms(train)
        x = nn.relu(bn1(self.c1(images)))  # [N, 28, 28, 6]
        x = nn.max_pool(x, (2, 2), (2, 2))  # s2: [N, 14, 14, 6]
        x = nn.relu(bn3(self.c3(x)))  # [N, 10, 10, 16]
        x = nn.max_pool(x, (2, 2), (2, 2))  # s4: [N, 5, 5, 16]
        x = nn.relu(bn5(self.c5(x)))  # [N, 1, 1, 120]
        return x.reshape(len(x), 120)

    def _blocked(self, images: jax.Array | Prepared, train: bool) -> jax.Array:
        """Return the same by matrix products."""
        if not isinstance(images, Prepared):
            images = prepare(images, moments=self.batch_norm and train)
        convs = {"c1": self.c1, "c3": self.c3, "c5": self.c5}
        norms = {"bn1": self.bn1, "bn3": self.bn3, "bn5": self.bn5} if self.batch_norm else {}
        params = {name: {"kernel": c.kernel, "bias": c.bias} for name, c in convs.items()}
        params |= {name: {"scale": n.scale, "bias": n.bias} for name, n in norms.items()}
        x, batch_stats = features(
            images,
            params,
            {name: n.statistics for name, n in norms.items()},
            batch_norm=self.batch_norm,
            train=train,
            precision=self.precision,
            axis_name=self.axis_name,
        )
        if train:
            for name, n in norms.items():
                n.update(batch_stats[name])
        return x

    def _batch_norms(self, train: bool) -> list[Callable[[jax.Array], jax.Array]]:
        if not self.batch_norm:
            return [lambda x: x] * 3
        return [partial(layer, train=train) for layer in (self.bn1, self.bn3, self.bn5)]


def lenet5(
    batch_norm: bool = False,
    dropout: tuple[Rate, Rate] = (0.0, 0.0),
    precision: str = "highest",
    form: str = "blocked",
) -> LeNet5:
    """Build LeNet-5, as a Flax linen module.

    Args:
        batch_norm: whether batch norm stands between each convolution and its ReLU.
        dropout: the rates of drop6 (84 units, before relu6) and drop7 (the ten logits): the
            fraction dropped, in [0, 1). Each may be a scalar array, traced or not.
        precision: ``"highest"`` (float32 throughout), ``"high"`` or ``"default"``, as in
            `jax.lax.Precision`. They differ on GPU and TPU only.
        form: ``"blocked"``, matrix products, or ``"plain"``, convolutions; the same function.
            Only the plain form has forward-mode derivatives (`jax.jvp`).

    Returns:
        A module; see `LeNet5` for its variables.

    Raises:
        ValueError: if an argument has the wrong type, shape or range.

    >>> import jax, jax.numpy as jnp
    >>> model = lenet5(batch_norm=True, dropout=(0.5, 0.5))
    >>> images = jnp.zeros((2, 28, 28, 1))
    >>> variables = model.init(jax.random.key(0), images)
    >>> model.apply(variables, images, train=False).shape
    (2, 10)
    """
    if not isinstance(batch_norm, bool):
        raise ValueError(f"batch_norm must be True or False, not {batch_norm!r}")
    if not isinstance(dropout, tuple | list) or len(dropout) != 2:
        raise ValueError(f"dropout must be the two rates of drop6 and drop7, not {dropout!r}")
    drop6, drop7 = _checked_rate("drop6", dropout[0]), _checked_rate("drop7", dropout[1])
    if precision not in ("highest", "high", "default"):
        raise ValueError(f"precision must be 'highest', 'high' or 'default', not {precision!r}")
    if form not in ("blocked", "plain"):
        raise ValueError(f"form must be 'blocked' or 'plain', not {form!r}")
    return LeNet5(batch_norm=batch_norm, dropout=(drop6, drop7), precision=precision, form=form)


def _checked_rate(layer: str, rate: Rate) -> Rate:
    """Return a traced rate as it is, and any other as a Python float, so that models hash."""
    expected = f"the rate of {layer} must be a number in [0, 1)"
    if isinstance(rate, Tracer):
        if rate.ndim or not jnp.issubdtype(rate.dtype, jnp.floating):
            raise ValueError(f"{expected}, not a traced {rate.dtype} array of shape {rate.shape}")
        return rate
    number = np.asarray(rate)
    if number.ndim or number.dtype.kind not in "iuf" or not 0 <= number < 1:
        raise ValueError(f"{expected}, not {rate!r}")
    return float(number)


def check_images(images: jax.Array) -> None:
    """Raise ValueError unless ``images`` is a floating-point ``[N, 28, 28, 1]`` array, N > 0."""
    shape = jnp.shape(images)
    if len(shape) != 4 or shape[1:] != IMAGE_SHAPE or shape[0] == 0:
        raise ValueError(f"images must have shape [N, 28, 28, 1] with N > 0, not {list(shape)}")
    dtype = jnp.result_type(images)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images must be floating point, not {dtype}; jax_lenet.normalize makes them from uint8"
        )


def check_dtype(images: jax.Array, expected: DTypeLike) -> None:
    """Raise ValueError unless the images have the parameters' dtype: nothing is cast silently."""
    dtype, expected = jnp.result_type(images), jnp.dtype(expected)  # of NumPy's: what JAX makes it
    if dtype != expected:
        raise ValueError(f"images must be {expected}, as the parameters are, not {dtype}")


#: The report's four models under its own names, and the two of its second figure (drop6 alone).
VARIANTS: Mapping[str, LeNet5] = MappingProxyType(
    {
        "LeNet": lenet5(),
        "LeNet_BN_noDropout": lenet5(batch_norm=True),
        "LeNet_noBN_Dropout": lenet5(dropout=(0.5, 0.5)),
        "LeNet_BN_Dropout": lenet5(batch_norm=True, dropout=(0.5, 0.5)),
        "LeNet_noBN_drop6": lenet5(dropout=(0.5, 0.0)),
        "LeNet_BN_drop6": lenet5(batch_norm=True, dropout=(0.5, 0.0)),
    }
)

"""Batch norm's statistics without a pass over what they are the statistics of.

c1 is a linear map of the image, so the mean and the variance of its output follow from the image's
own moments, which no training step changes. With k the 25 taps of one of c1's filters, and m and C
the mean and the covariance of the 25 pixels under the taps (over all positions and images of the
batch),

    mean(c1) = k'm        variance(c1) = k'Ck

so that each image needs 25 sums and 325 sums of products once, before training, and a step only
adds those of its batch.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_lenet import split

TAPS = 25
#: Positions of c1's filters on one image: its output is 28 x 28.
POSITIONS = 28 * 28
#: Which two taps each of the 325 products is of, and where to find each pair of taps among them.
FIRST, SECOND = np.triu_indices(TAPS)
PAIR = np.zeros((TAPS, TAPS), np.int32)
PAIR[FIRST, SECOND] = PAIR[SECOND, FIRST] = np.arange(len(FIRST))


def image_moments(windows: jax.Array, taps: np.ndarray) -> jax.Array:
    """Return each image's sums of c1's taps, and of the products of every two.

    A window holds the pixels under the taps of several positions. Its pixels' products summed over
    the image's windows, ``W[u, v] = sum(w[u] * w[v])``, hold every wanted product once per position
    in the window: ``S[s, t] = sum over positions o of W[taps[o, s], taps[o, t]]``. That is a
    product of W with a constant matrix of small counts.

    Args:
        windows: ``[N, windows, pixels]``, which together cover each position once.
        taps: for each position in a window, the pixels under the 25 taps: int ``[positions, 25]``.

    Returns:
        ``[N, 350]``: the 25 sums, then the 325 sums of products, ``FIRST`` times ``SECOND``.
    """
    images, _, pixels = windows.shape
    dtype = windows.dtype
    sums = _product(windows.sum(1), jnp.asarray(_counts(taps, pixels), dtype))
    products = lax.dot_general(
        windows, windows, (((1,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    )
    pairs = jnp.asarray(_pair_counts(taps, pixels), dtype)
    return jnp.concatenate([sums, _product(products.reshape(images, pixels**2), pairs)], 1)


def _counts(taps: np.ndarray, pixels: int) -> np.ndarray:
    """Return ``[pixels, 25]``: at how many positions a pixel of the window is under a tap."""
    counts = np.zeros((pixels, TAPS), np.int8)
    for at in taps:
        counts[at, np.arange(TAPS)] += 1
    return counts


def _pair_counts(taps: np.ndarray, pixels: int) -> np.ndarray:
    """Return ``[pixels * pixels, 325]``: the same for two pixels and two taps."""
    counts = np.zeros((pixels, pixels, len(FIRST)), np.int8)
    for at in taps:
        counts[at[FIRST], at[SECOND], np.arange(len(FIRST))] += 1
    return counts.reshape(pixels**2, len(FIRST))


def tap_statistics(moments: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Return the mean ``[25]`` and the covariance ``[25, 25]`` of a batch's pixels under the taps.

    Args:
        moments: of the batch's images, ``[N, 350]``.
        axis_name: of the mesh axis that the batch is split along, if it is (see `split`).
    """
    means = split.average(jnp.mean(moments, 0), axis_name) / POSITIONS
    mean, products = means[:TAPS], means[TAPS:]
    return mean, products[PAIR] - jnp.outer(mean, mean)


def filter_statistics(
    moments: jax.Array, kernel: jax.Array, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance of c1's output over a batch, before its bias.

    Subtracting the means' products before the quadratic form, not after it, keeps the variance of a
    filter that hardly sees the images (one that adds up to zero, say) from drowning in rounding.

    Args:
        moments: of the batch's images, ``[N, 350]``.
        kernel: c1's, ``[5, 5, 1, 6]``.
        axis_name: of the mesh axis that the batch is split along, if it is (see `split`).

    Returns:
        Two ``[6]``.
    """
    taps = kernel.reshape(TAPS, -1)
    mean, covariance = tap_statistics(moments, axis_name)
    return _product(mean, taps), jnp.sum(taps * _product(covariance, taps), 0)


def row_statistics(x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Return mean and biased variance of each row of ``x``, ``[rows, n]``: two ``[rows]``.

    In two passes, as a difference of squares loses digits. Its gradient is the one formula

        d mean / dx = 1 / n        d variance / dx = 2 (x - mean) / n

    where autodiff would go through ``x`` once more for the mean that the variance contains, which
    adds up to nothing.

    Of a split batch each device has some columns. The variance of all is the mean of each device's,
    and of the squares of what its mean differs by.

    Args:
        x: ``[rows, n]``.
        axis_name: of the mesh axis that the columns are split along, if they are (see `split`).
    """
    return cast(tuple[jax.Array, jax.Array], _row_statistics(x, axis_name))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _row_statistics(x: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    mean = jnp.mean(x, 1)
    variance = jnp.mean(jnp.square(x - mean[:, None]), 1)
    if axis_name is None:
        return mean, variance
    means, variances = split.gathered(jnp.stack([mean, variance]), axis_name).swapaxes(0, 1)
    mean = jnp.mean(means, 0)
    return mean, jnp.mean(variances + jnp.square(means - mean), 0)


def _row_statistics_forward(x, axis_name):
    mean, variance = row_statistics(x, axis_name)
    return (mean, variance), (x, mean)


def _row_statistics_backward(axis_name, saved, gradients):
    x, mean = saved
    # Every device's loss depends on the statistics, and so on this device's columns.
    gradients = split.total(jnp.stack(gradients), axis_name)
    count = x.shape[1] * split.devices_of(axis_name)
    of_mean, of_variance = (gradient[:, None] / count for gradient in gradients)
    return (of_mean + 2 * of_variance * (x - mean[:, None]),)


_row_statistics.defvjp(_row_statistics_forward, _row_statistics_backward)

# Sums keep full precision whatever the model's: a variance of rounded values is another variance.
_product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)

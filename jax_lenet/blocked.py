"""c1 to relu5 as matrix products: what `LeNet5` computes, in a form that is fast.

A convolution on a CPU, and a batched convolution anywhere, is slower than the product of matrices
that it amounts to. Here every one is such a product, and batch norm and pooling are arranged so
that little is left beside the products. `features` is the whole; the plain form in `models` is its
specification.

*Blocks.* Pooling 2x2 of a 5x5 convolution needs, for one pooled pixel, a window of 6x6 pixels and
four outputs. With windows as columns, convolution and pooling are one product and a maximum of four
rows. c1's windows have 8x8 pixels and give 2x2 pooled pixels, so that seven by seven of them make
up an image; c3's have 6x6 pixels of the 6 channels. A kernel becomes the product's matrix by
standing at each output's place in the window, with zeros elsewhere. (Smaller windows for c1 would
have fewer zeros, but their kernel gradient's product runs at half the rate.)

*The images come last*, ``[channels, rows, columns, N]``: cutting windows, adding up their gradients
and taking maxima then run along contiguous memory.

*Batch norm* never touches the convolutions' full output on its own. bn1's statistics come from the
images' moments (see `moments`), and its scale and shift go into c1's kernel and bias. bn3's come
from the product's output, and it normalizes after the maximum, on a quarter of the values; that is
right for a negative scale because c3's kernel is negated there, which turns minimum into maximum.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_lenet import split
from jax_lenet.layers import EPSILON, updated_statistics
from jax_lenet.moments import filter_statistics, image_moments, row_statistics

#: layer -> name -> array, as Flax keeps them.
Layers = Mapping[str, Mapping[str, jax.Array]]
Statistics = tuple[jax.Array, jax.Array]


class Prepared(NamedTuple):
    """Images in the form that `features` reads.

    Attributes:
        strips: the image, padded to 32x32 and cut into 8 strips of 4 rows, each column by column:
            ``[N, 8, 128]``. A window of c1 is then two runs of 32 numbers.
        moments: what bn1's statistics are made of, ``[N, 350]``; None where there is no bn1.
    """

    strips: jax.Array
    moments: jax.Array | None


def prepare(images: jax.Array, moments: bool) -> Prepared:
    """Return images in the form that `features` reads; a data set needs this only once.

    Args:
        images: ``[N, 28, 28, 1]``, normalized.
        moments: whether batch norm will be trained on them.

    >>> prepared = prepare(jnp.zeros((3, 28, 28, 1)), moments=True)
    >>> jax.tree.map(jnp.shape, prepared)
    Prepared(strips=(3, 8, 128), moments=(3, 350))
    """
    padded = jnp.pad(images[..., 0], ((0, 0), (2, 2), (2, 2)))
    strips = padded.reshape(-1, 8, 4, 32).transpose(0, 1, 3, 2).reshape(-1, 8, 128)
    if not moments:
        return Prepared(strips, None)
    # Some hundred at a time: on the way to its 350 moments an image takes 7,000 numbers.
    return Prepared(strips, lax.map(_moments, strips, batch_size=500))


def _moments(strips: jax.Array) -> jax.Array:
    """Return the moments, ``[350]``, of one image, ``[8, 128]``."""
    return image_moments(c1_windows(strips[None]).swapaxes(0, 1), C1_TAPS)[0]


def c1_windows(strips: jax.Array) -> jax.Array:
    """Cut c1's 7x7 windows of 8x8 pixels, which overlap by half: ``[49, N, 64]``.

    The strips are brought to the front first, as a stack of nine, of which one is too many: XLA
    works a stack of up to eight into whatever reads it. Each of the fourteen slices below would
    then gather the batch's images anew (0.35 ms for a batch of 128 instead of 0.05).
    """
    strips = jnp.stack([strips[:, row] for row in (*range(8), 0)])[:8]  # [8, N, 128]

    def windows_at(column: int) -> jax.Array:
        runs = strips[..., 16 * column : 16 * column + 32]
        return jnp.stack([runs[:7], runs[1:]], 2)  # [7, N, 2, 32]

    return jnp.stack([windows_at(column) for column in range(7)], 1).reshape(49, -1, 64)


def _taps_under(outputs: list[tuple[int, int]], pixel: Callable[[int, int], int]) -> np.ndarray:
    """Return which pixel of the window is under each tap of each output: int ``[outputs, 25]``.

    Args:
        outputs: row and column of each in the window.
        pixel: from row and column to the pixel's place in the window.
    """
    return np.array(
        [[pixel(row + tap // 5, column + tap % 5) for tap in range(25)] for row, column in outputs]
    )


#: Members of a pooled pixel, in the order in which the first of equal ones is its maximum.
MEMBERS = [(0, 0), (0, 1), (1, 0), (1, 1)]
#: c1's 16 outputs in a window: all first members of its four pooled pixels, then all second, ...
C1_TAPS = _taps_under(
    [(row + 2 * i, column + 2 * j) for row, column in MEMBERS for i, j in MEMBERS],
    lambda row, column: row // 4 * 32 + column * 4 + row % 4,
)
#: c3's four outputs in a window of 3x3 blocks of 2x2 pixels.
C3_TAPS = _taps_under(
    MEMBERS, lambda row, column: (row // 2 * 3 + column // 2) * 4 + row % 2 * 2 + column % 2
)


def _placement(taps: np.ndarray, pixels: int, dtype: jnp.dtype) -> jax.Array:
    """Return ones where an output's tap is over a pixel: ``[outputs * pixels, 25]``.

    As a product with this constant, making a matrix of a kernel has a product for its gradient,
    too, and no scatter.
    """
    at = taps[:, None, :] == np.arange(pixels)[None, :, None]
    return jnp.asarray(at.reshape(-1, 25), dtype)


def c1_matrix(kernel: jax.Array) -> jax.Array:
    """Return the matrix that takes a window to its outputs.

    Args:
        kernel: c1's, ``[5, 5, 1, 6]``.

    Returns:
        ``[6 * 4 * 4, 64]``: the rows are channel, member, pooled pixel.
    """
    placed = _dot(kernel.reshape(25, 6).T, _placement(C1_TAPS, 64, kernel.dtype).T)
    return placed.reshape(96, 64)


def c3_matrix(kernel: jax.Array) -> jax.Array:
    """Return the matrix that takes a window to its outputs.

    Args:
        kernel: c3's, ``[5, 5, 6, 16]``.

    Returns:
        ``[16 * 4, 9 * 24]``: the rows are channel, member; the columns are those of `c3_windows`.
    """
    placed = _dot(_placement(C3_TAPS, 36, kernel.dtype), kernel.reshape(25, 96))
    placed = placed.reshape(4, 9, 4, 6, 16)  # member, block, pixel, channel, channel
    return placed.transpose(4, 0, 1, 3, 2).reshape(64, 216)


@jax.custom_vjp
def c3_windows(x: jax.Array) -> jax.Array:
    """Cut c3's 5x5 windows of 3x3 blocks.

    Its gradient adds each block's up over the windows that hold it, first along rows, then along
    columns, each result as one expression: autodiff would pad nine arrays and add those.

    Args:
        x: c1's pooled output in blocks of 2x2 pixels, ``[24, 7, 7, N]``.

    Returns:
        ``[9 * 24, 25 * N]``.
    """
    rows = jnp.stack([x[:, row : row + 5] for row in range(3)])  # [3, 24, 5, 7, N]
    windows = [rows[..., column : column + 5, :] for column in range(3)]
    return jnp.stack(windows, 1).reshape(216, -1)


def _c3_windows_forward(x):
    return c3_windows(x), None


def _c3_windows_backward(_, gradient):
    def add_up(pieces, axis):
        """``pieces[i]`` stands ``i`` further on along ``axis``."""
        at = partial(lax.index_in_dim, axis=axis, keepdims=False)
        return jnp.stack(
            [
                sum(at(piece, place - i) for i, piece in enumerate(pieces) if 0 <= place - i < 5)
                for place in range(7)
            ],
            axis,
        )

    gradient = gradient.reshape(3, 3, 24, 5, 5, -1)
    rows = add_up([gradient[:, column] for column in range(3)], axis=3)  # [3, 24, 5, 7, N]
    return (add_up(list(rows), axis=1),)


c3_windows.defvjp(_c3_windows_forward, _c3_windows_backward)


@jax.custom_vjp
def max4(x: jax.Array) -> jax.Array:
    """Return the maximum over axis 1, of length 4; NaN where any is NaN.

    Its gradient goes to the first of equal maxima, as in PyTorch's pooling; images with a flat
    background are full of them. (Autodiff shares it among them, in more passes over ``x``.)
    """
    first, second, third, fourth = _members(x)
    return jnp.maximum(jnp.maximum(first, second), jnp.maximum(third, fourth))


def _max4_forward(x):
    maximum = max4(x)
    return maximum, (x, maximum)


def _max4_backward(saved, gradient):
    x, maximum = saved
    first, second, third, _ = (member == maximum for member in _members(x))
    wins = first, ~first & second, ~(first | second) & third, ~(first | second | third)
    return (jnp.stack([jnp.where(win, gradient, 0) for win in wins], 1),)


def _members(x):
    return [lax.index_in_dim(x, member, 1, keepdims=False) for member in range(4)]


max4.defvjp(_max4_forward, _max4_backward)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Return ``max(x, 0)``; its gradient looks at the result, so that ``x`` need not be kept."""
    return jnp.maximum(x, 0)


def _relu_forward(x):
    result = relu(x)
    return result, result


def _relu_backward(result, gradient):
    return (jnp.where(result > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def features(
    prepared: Prepared,
    params: Layers,
    batch_stats: Layers,
    *,
    batch_norm: bool,
    train: bool,
    precision: str = "highest",
    axis_name: str | None = None,
) -> tuple[jax.Array, Layers]:
    """Return what relu5 puts out, and batch norm's running statistics after it.

    Args:
        prepared: N images, with moments for batch norm in training.
        params: c1, c3, c5 (kernel, bias) and with batch norm bn1, bn3, bn5 (scale, bias).
        batch_stats: with batch norm bn1, bn3, bn5 (mean, var).
        batch_norm: whether bn1, bn3 and bn5 are there.
        train: whether batch norm uses and updates the batch's statistics.
        precision: of the products with kernels, as `jax.lax.Precision` names it.
        axis_name: of the mesh axis that the batch is split along, if it is (see `split`).

    Returns:
        ``[N, 120]``, and ``batch_stats`` as they were or updated.

    Raises:
        ValueError: in training with batch norm, if there is one image or there are no moments.
    """
    dot = partial(_dot, precision=precision)
    if not batch_norm:
        return _features(dot, prepared, params), batch_stats
    if not train:
        return _features(dot, prepared, _folded(params, batch_stats)), batch_stats
    x, batch_statistics = _features_in_training(dot, prepared, params, axis_name)
    return x, {
        name: updated_statistics(batch_stats[name], *batch_statistics[name])
        for name in batch_statistics
    }


def _features(dot: Callable, prepared: Prepared, params: Layers) -> jax.Array:
    x = max4(_c1(dot, prepared.strips, params["c1"]["kernel"]))
    x = relu(x + params["c1"]["bias"][:, None, None])
    x = max4(_c3(dot, x, params["c3"]["kernel"]))
    x = relu(x + params["c3"]["bias"][:, None])
    return relu(_c5(dot, x, params["c5"]["kernel"]) + params["c5"]["bias"])


def _c1(dot: Callable, strips: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return c1's output before its bias, ``[6, 4, 4, 49 * N]``: axis 1 is to be pooled."""
    windows = c1_windows(strips).reshape(-1, 64)
    return dot(c1_matrix(kernel), windows.T).reshape(6, 4, 4, -1)


def _c3(dot: Callable, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return c3's output before its bias, ``[16, 4, 25 * N]``, from ``[6, 4, 49 * N]``."""
    return dot(c3_matrix(kernel), c3_windows(x.reshape(24, 7, 7, -1))).reshape(16, 4, -1)


def _c5(dot: Callable, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Return c5's output before its bias, ``[N, 120]``, from ``[16, 25 * N]``."""
    # The kernel stays as it is: it is twice as large as a batch's pixels at this place, and its
    # gradient would have to be put in order, too.
    pixels = x.reshape(16, 25, -1).swapaxes(0, 1).reshape(400, -1)
    return dot(pixels.T, kernel.reshape(400, 120))


def _features_in_training(
    dot: Callable, prepared: Prepared, params: Layers, axis_name: str | None
) -> tuple[jax.Array, dict[str, tuple[jax.Array, jax.Array, int]]]:
    """Return relu5's output, and of each batch norm its batch's mean, variance and count."""
    strips, moments = prepared
    if moments is None:
        raise ValueError("batch norm in training needs prepare(images, moments=True)")
    count = len(strips) * split.devices_of(axis_name)

    kernel = params["c1"]["kernel"]
    mean1, var1 = filter_statistics(moments, kernel, axis_name)
    factor, shift = _affine(params["bn1"], mean1, var1)
    x = relu(max4(_c1(dot, strips, kernel * factor)) + shift[:, None, None])

    scale = params["bn3"]["scale"]
    sign = jnp.where(scale < 0, -1, 1).astype(scale.dtype)
    y = _c3(dot, x, params["c3"]["kernel"] * sign)
    mean3, var3 = row_statistics(y.reshape(16, -1), axis_name)
    mean3 = mean3 * sign
    factor, shift = _affine(params["bn3"], mean3, var3)
    # With a scale of 0 all normalized values are equal, and the first is the maximum.
    maximum = jnp.where(scale[:, None] == 0, lax.stop_gradient(y[:, 0]), max4(y))
    x = relu(maximum * (factor * sign)[:, None] + shift[:, None])

    y = _c5(dot, x, params["c5"]["kernel"])
    mean5, var5 = row_statistics(y.T, axis_name)
    factor, shift = _affine(params["bn5"], mean5, var5)
    return relu(y * factor + shift), {
        "bn1": (mean1 + params["c1"]["bias"], var1, 784 * count),
        "bn3": (mean3 + params["c3"]["bias"], var3, 100 * count),
        "bn5": (mean5 + params["c5"]["bias"], var5, count),
    }


def _affine(params: Mapping[str, jax.Array], mean: jax.Array, var: jax.Array) -> Statistics:
    """Return factor and shift with which ``x * factor + shift`` is the normalized ``x``."""
    factor = params["scale"] * lax.rsqrt(var + EPSILON)
    return factor, params["bias"] - mean * factor


def _folded(params: Layers, batch_stats: Layers) -> Layers:
    """Return convolutions that do what those in ``params`` and batch norm in evaluation do."""
    folded = {}
    for conv, norm in (("c1", "bn1"), ("c3", "bn3"), ("c5", "bn5")):
        factor, shift = _affine(params[norm], **batch_stats[norm])
        kernel, bias = params[conv]["kernel"], params[conv]["bias"]
        folded[conv] = {"kernel": kernel * factor, "bias": bias * factor + shift}
    return folded


_dot = partial(jnp.matmul, precision="highest")

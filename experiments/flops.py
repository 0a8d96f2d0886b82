"""What an epoch's matrix products need: their operations, and the rate a machine reaches in them.

`product_flops` counts what must be computed, `matmul_rate` measures how fast the machine does such
work: their quotient is the time below which no arrangement of the same products gets.
"""

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.stages import Wrapped


def product_flops(function: Wrapped, *args: Any, **kwargs: Any) -> float:
    """Return the floating-point operations of all matrix products in one call of a function.

    A product of ``[m, k]`` and ``[k, n]`` has ``2 m k n``, and so has a convolution with k taps (of
    one output, over all channels) for n outputs in m channels, taps over the padding included. They
    are counted in what JAX traces, before XLA: the same number on every device. What every device
    does of a function that is split by `jax.shard_map` is added up.

    Args:
        function: what `jax.jit` returned.
        *args: arrays or `jax.ShapeDtypeStruct`; static arguments as they are.
        **kwargs: the same.

    Raises:
        ValueError: if there is a product in a loop whose length is known only when it runs.

    >>> step = jax.jit(lambda x, w: jax.lax.scan(lambda x, _: (x @ w, None), x, length=10)[0])
    >>> product_flops(step, jnp.zeros((3, 5)), jnp.zeros((5, 5)))
    1500.0
    """
    return float(_flops(function.trace(*args, **kwargs).jaxpr))


def _flops(jaxpr: Any) -> int:
    return sum(map(_equation_flops, jaxpr.eqns))


def _equation_flops(equation: Any) -> int:
    """Return the operations of one equation of a jaxpr, with those of the jaxprs in it."""
    name, params = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        length = math.prod(shapes[0][axis] for axis in contracted)
        return 2 * length * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        features = shapes[1][params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1]) // features
    inside = [_flops(jaxpr) for value in params.values() for jaxpr in _jaxprs_in(value)]
    if name == "while" and any(inside):
        raise ValueError("a matrix product in a loop of unknown length cannot be counted")
    if name == "cond":
        return max(inside)
    return _repetitions(name, params) * sum(inside)


def _jaxprs_in(value: Any) -> list:
    """Return the jaxprs in an equation's parameter: itself, or the members of a tuple."""
    values = value if isinstance(value, tuple | list) else [value]
    return [one for one in values if hasattr(one, "eqns")]


def _repetitions(name: str, params: Mapping[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        axes = params.get("newly_manual_axes", params.get("manual_axes"))
        mesh = params["mesh"]
        return math.prod(mesh.shape[axis] for axis in (mesh.axis_names if axes is None else axes))
    return 1


def matmul_rate(precision: str = "highest", seconds: float = 3.0) -> float:
    """Return how many floating-point operations per second JAX reaches in float32 products.

    Square matrices of 1024 rows, then of twice as many, and so on up to 8192 while the time lasts;
    the best of all products. It is the rate of one JAX device, which on a CPU uses all cores.

    Args:
        precision: as `jax.lax.Precision` names it; ``"default"`` allows TF32 on a GPU.
        seconds: after which no further product starts; on a slow machine the last takes as long
            again.
    """
    product = jax.jit(partial(jnp.matmul, precision=precision))
    stop = time.perf_counter() + seconds
    best = 0.0
    for size in (1024, 2048, 4096, 8192):
        if best and 2 * size**3 / best > stop - time.perf_counter():
            break
        x = jnp.full((size, size), 0.5, jnp.float32)
        jax.block_until_ready(product(x, x))  # compiles
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(product(x, x))
            end = time.perf_counter()
            best = max(best, 2 * size**3 / (end - start))
            if end > stop:
                break
    return best

"""Time that can be trusted: compiled before the clock starts, finished before it stops."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.stages import Compiled, Lowered, Wrapped


def compile_ahead(function: Wrapped, *args: Any, **kwargs: Any) -> tuple[Compiled, float]:
    """Compile a jitted function for the given arguments without running it.

    Args:
        function: what `jax.jit` returned.
        *args: arrays or `jax.ShapeDtypeStruct`; static arguments as they are.
        **kwargs: the same.

    Returns:
        The executable, which takes the arguments that are not static, and the seconds that tracing,
        lowering and compiling took.

    >>> import jax.numpy as jnp
    >>> compiled, seconds = compile_ahead(jax.jit(jnp.sin), jnp.zeros(3))
    >>> compiled(jnp.zeros(3))
    Array([0., 0., 0.], dtype=float32)
    """
    start = time.perf_counter()
    compiled = function.lower(*args, **kwargs).compile()
    return compiled, time.perf_counter() - start


def compile_together(*lowered: Lowered) -> list[Compiled]:
    """Compile what ``jax.jit(f).lower(...)`` returned, all at the same time.

    XLA uses more than one core for only a part of a compilation: on two cores four programs took
    4.1 s at the same time, 4.8 s one after the other.
    """
    pool = ThreadPoolExecutor()
    try:
        return list(pool.map(_compile, lowered))
    finally:  # at once, where Ctrl-C comes
        pool.shutdown(wait=False, cancel_futures=True)


def _compile(lowered: Lowered) -> Compiled:
    """Compile a program; for a CPU without LLVM's last level of optimization.

    The epoch of a model with batch norm and dropout took 12.7 s of one core with it and takes 6.9 s
    without; the program is no slower, its results agree to the last digit or two. A level that the
    user gives in ``XLA_FLAGS`` stays.
    """
    level = "xla_backend_optimization_level"
    given = jax.default_backend() != "cpu" or level in os.environ.get("XLA_FLAGS", "")
    options: Any = None if given else {level: 2}  # a dict, whatever JAX's type says
    return lowered.compile(compiler_options=options)


def timed(function: Callable, *args: Any) -> tuple[Any, float]:
    """Call a function and wait for its result on the device.

    JAX returns before a device has finished; without the wait the clock would show the dispatch.

    Returns:
        The result, ready, and the wall-clock seconds from call to ready.
    """
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start

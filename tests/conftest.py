"""What every test runs under; the programs' subprocesses run as a user's do, without it."""

import jax

# Two CPU devices, as where the programs use both cores, and no silent change of dtype: a float32
# run that meets a float64 constant is a bug here.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")

"""What every test runs under."""

import os

# PyTorch's threads wait for one another in a loop, which beside JAX's on two cores makes a second's
# work take half a minute; these models are too small to need more than one.
os.environ["OMP_NUM_THREADS"] = "1"

# Nearly all of the time goes into XLA's compiler, and what most tests compile runs for a moment.
# test_startup.py compares it with what users get; see also `as_for_users`.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

# What a test looks at it has compiled, and not an earlier one into a folder that the user names.
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import hypothesis
import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

# Two CPU devices, as where the programs use both cores, and no silent change of dtype: a float32
# run that meets a float64 constant is a bug here.
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# An example's time says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(config, items):
    """Skip the full crash run where nobody asks for it."""
    if "crash" not in config.option.markexpr:
        skip = pytest.mark.skip(reason="takes hours: pytest -n 0 -m crash")
        for item in items:
            if item.get_closest_marker("crash"):
                item.add_marker(skip)


@pytest.fixture(scope="session", autouse=True)
def users_cache(tmp_path_factory):
    """Keep the programs' downloads and compiled programs out of the user's own folder for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def settings_of_jax():
    """Take back what a program's start in this process told JAX about its compilation cache."""
    before = dict(jax.config.values)
    yield
    told = [name for name in before if "cache" in name and jax.config.values[name] != before[name]]
    for name in told:
        jax.config.update(name, before[name])
    if told:
        reset_cache()


@pytest.fixture(scope="session")
def claimed(tmp_path_factory):
    """A study with every effect that the report claims, and its answers; to be read alone."""
    from tests.simulated import AS_CLAIMED, summary_of, write

    folder = write(tmp_path_factory.mktemp("claimed") / "r", AS_CLAIMED)
    return folder, summary_of(folder)


@pytest.fixture(scope="module")
def as_for_users():
    """Compile what trains as the programs do: twice as long, to run in less than half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS")
        yield

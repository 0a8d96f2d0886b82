"""Runs are independent: whatever trains beside a run, and on whatever devices, its numbers stay."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import lax

from jax_lenet import VARIANTS, split
from jax_lenet.ensemble import devices_for
from tests import ensemble_child
from tests.ensemble_child import COMPANIES

ROOT = Path(__file__).parents[1]

# Which devices


@pytest.fixture
def with_devices(monkeypatch):
    """Make JAX count so many devices of this process."""
    return lambda count: monkeypatch.setattr(jax, "local_device_count", lambda: count)


def best(runs):
    return devices_for(runs, 50_000, 10_000, 128)


@pytest.mark.parametrize(
    ("devices", "runs", "expected"),
    [
        (1, 1, 1),
        (1, 64, 1),
        (2, 1, 2),  # split
        (4, 1, 2),  # more have not been measured
        (4, 2, 2),
        (4, 4, 4),
        (4, 5, 3),  # two each: a fourth device would end no sooner
        (4, 8, 4),
        (8, 1000, 8),
    ],
)
def test_runs_get_the_devices_that_they_can_use(with_devices, devices, runs, expected):
    with_devices(devices)
    assert best(runs) == expected


def test_every_run_has_a_place_and_no_device_trains_longer_than_it_must(with_devices):
    for devices in range(1, 17):
        with_devices(devices)
        for runs in range(2, 40):
            used = best(runs)
            places = split.places(runs, used)
            assert runs <= places < runs + used <= runs + devices
            assert places // used == -(-runs // devices)


def test_a_run_alone_is_not_split_where_it_cannot_be_shared_evenly(with_devices):
    with_devices(2)
    assert devices_for(1, 50_001, 10_000, 128) == 1
    assert devices_for(1, 50_000, 10_001, 128) == 1


def test_only_this_processs_devices_are_used(monkeypatch):
    # As in one of several processes: JAX knows of more devices than this one may use.
    own = jax.devices()[-1:]
    monkeypatch.setattr(jax, "local_devices", lambda: own)
    assert split.mesh_of(1) is None
    with pytest.raises(ValueError, match="at most 1 devices, not 2"):
        split.mesh_of(2)


# The same numbers


def test_a_run_has_the_same_bits_in_any_company_and_order_and_on_any_number_of_devices():
    child = subprocess.run(
        [sys.executable, "-m", "tests.ensemble_child"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        # Compiled as users compile, without the tests' flags.
        env={**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_FLAGS": ""},
        timeout=280,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    by_model = json.loads(child.stdout)
    assert list(by_model) == list(ensemble_child.NAMES)
    for found in by_model.values():
        assert list(found) == ["1", "2", "4"]
        # On a CPU the runs of a device follow one another: even their number changes nothing.
        runs = [
            (seed, bits) for one in found.values() for c in one.values() for seed, bits in c.items()
        ]
        assert len({bits for seed, bits in runs if seed == "0"}) == 1
        assert len(runs) == 3 * (4 + 4 + 2)  # of the short group's places, two runs
        assert len(set(runs)) == len({seed for seed, _ in runs}) == 7  # and seeds differ


@pytest.fixture(scope="module", params=ensemble_child.NAMES)
def as_on_a_gpu(request):
    """Compile as for a GPU, all runs of a device at once; return training by runs and devices."""
    model = VARIANTS[request.param]
    cases = [(4, 1), (2, 1)] + ([(8, 2)] if jax.local_device_count() > 1 else [])
    train = ensemble_child.digits(model.batch_norm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lax, "platform_dependent", lambda *args, cpu, default: default(*args))
        jax.clear_caches()  # of what was traced for a CPU
        programs = dict(zip(cases, ensemble_child.compiled(train, cases, model), strict=True))
    jax.clear_caches()
    four, two = (programs[runs, 1].memory_analysis().temp_size_in_bytes for runs in (4, 2))
    assert four > 1.5 * two  # side by side indeed

    def trained(seeds, runs, devices):
        mesh = split.mesh_of(devices, split.RUNS)
        placed = split.shared(train, mesh)
        return ensemble_child.trained(programs[runs, devices], mesh, placed, seeds, model)

    return trained


def test_runs_side_by_side_have_the_same_bits_in_any_company_and_order(as_on_a_gpu):
    expected = as_on_a_gpu((0, 1, 2, 3), 4, 1)
    for seeds in COMPANIES.values():
        jax.tree.map(np.testing.assert_array_equal, as_on_a_gpu(seeds, 4, 1)[0], expected[0])
    if jax.local_device_count() > 1:  # as many on each of two devices
        on_two = as_on_a_gpu(range(8), 8, 2)
        for seed in range(4):
            jax.tree.map(np.testing.assert_array_equal, on_two[seed], expected[seed])


def test_another_number_of_runs_side_by_side_changes_no_more_than_rounding(as_on_a_gpu):
    found, expected = as_on_a_gpu((0, 1), 2, 1), as_on_a_gpu((0, 1, 2, 3), 4, 1)
    # Measured 1e-8 to 1.2e-7 after so many steps; another seed's weights differ by 0.1.
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-6)
    for seed in (0, 1):
        jax.tree.map(close, found[seed], expected[seed])

"""Runs of a sweep in training: what is written comes back whole, nothing else is taken for it."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import npz, sweep_store
from experiments.cli import UserError
from experiments.going_on import Identity
from experiments.kept_state import DamagedError
from experiments.sweep_files import SweepFolder
from experiments.sweep_results import Point, Run
from experiments.sweep_store import Begun, Progress
from jax_lenet import VARIANTS
from jax_lenet.fitting import state_shapes

IDENTITY = Identity({"--batch-size": 128, "--epochs": 3}, {"jax": "0.10.2"})
RUNS = (Run(Point(1, 0.0, 0.1, 0.01), 4), Run(Point(1, 0.3, 0.1, 0.01), 4))
EPOCHS = 2


def begun(variant="LeNet_BN_noDropout", runs=RUNS, identity=IDENTITY):
    """Runs that nobody trained, of random numbers; the first one's loss is NaN."""
    draws = np.random.default_rng(5)

    def leaf(shape):
        shape = (len(runs), *shape.shape)
        return draws.normal(size=shape).astype(np.float32) if len(shape) > 1 else epoch

    epoch = np.full(len(runs), EPOCHS, np.int32)
    state = jax.tree.map(leaf, state_shapes(VARIANTS[variant]))
    losses = draws.random((EPOCHS, len(runs))).astype(np.float32)
    losses[1, 0] = np.nan
    return Begun(variant, runs, identity, Progress(losses, 1 / 3, state))


@pytest.fixture
def folder(tmp_path):
    return SweepFolder(tmp_path)


def read(folder, identity=IDENTITY, wanted=None, done=()):
    damaged, wanted = [], wanted or {"LeNet_BN_noDropout": RUNS}
    found = sweep_store.read(folder, identity, wanted, done, damaged)
    assert folder.has("begun.npz") or not damaged  # to read changes nothing
    return found, damaged


def test_runs_in_training_are_read_back_to_the_last_bit(folder):
    written = begun()
    sweep_store.write(folder, written)
    found, damaged = read(folder)
    assert damaged == []
    assert found is not None
    assert (found.variant, found.runs, found.identity) == (written.variant, RUNS, IDENTITY)
    assert jax.tree.structure(found.progress) == jax.tree.structure(written.progress)
    jax.tree.map(np.testing.assert_array_equal, found.progress, written.progress)
    assert sweep_store.encode(found) == sweep_store.encode(written)


def test_without_a_file_nothing_is_in_training(folder):
    assert read(folder) == (None, [])


@pytest.mark.parametrize(
    ("identity", "wanted"),
    [
        (Identity({"--batch-size": 64, "--epochs": 3}, IDENTITY.environment), None),
        (IDENTITY, {"LeNet_BN_noDropout": RUNS[:1]}),
        (IDENTITY, {"LeNet": RUNS}),
    ],
)
def test_another_sweeps_runs_are_to_be_set_aside(folder, identity, wanted):
    sweep_store.write(folder, begun())
    found, (damaged,) = read(folder, identity, wanted)
    assert found is None
    assert damaged.path == folder.path / "begun.npz"
    assert "its runs are another sweep's" in damaged.why


def test_more_epochs_than_there_should_be_are_to_be_set_aside(folder):
    identity = IDENTITY._replace(settings=IDENTITY.settings | {"--epochs": EPOCHS - 1})
    sweep_store.write(folder, begun(identity=identity))
    found, (damaged,) = read(folder, identity)
    assert found is None
    assert "more epochs than they should" in damaged.why


def test_finished_runs_are_in_training_no_more(folder):
    sweep_store.write(folder, begun())
    assert read(folder, done=RUNS) == (None, [])


WHOLE = sweep_store.encode(begun())


@given(position=st.integers(0, len(WHOLE) - 1), flips=st.integers(1, 255))
def test_a_byte_that_changed_is_noticed_or_without_effect(position, flips):
    changed = bytearray(WHOLE)
    changed[position] ^= flips
    try:
        found = sweep_store.decode(bytes(changed))
    except DamagedError:
        return
    assert sweep_store.encode(found) == WHOLE


@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_is_damaged(length):
    with pytest.raises(DamagedError):
        sweep_store.decode(WHOLE[:length])


def changed(about=None, arrays=None):
    """The file with another description or other arrays."""
    kept = npz.decode(WHOLE)
    described = json.loads(str(kept["about"])) | (about or {})
    return npz.encode(kept | {"about": np.array(json.dumps(described))} | (arrays or {}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        npz.encode({"about": np.array("[]")}),
        changed({"variant": "AlexNet"}),
        changed({"variant": ["LeNet"]}),
        changed({"variant": "LeNet"}),  # which has no batch statistics
        changed({"runs": []}),
        changed({"runs": [[[1, 0.0, 0.1, 0.01], 4]] * 2}),
        changed({"runs": [[[1, 0.0, 0.1, 0.01], 4]]}),
        changed({"runs": 3}),
        changed({"runs": [[[1, 0.0, 0.1], 4], [[1, 0.3, 0.1, 0.01], 4]]}),
        changed({"runs": [[[[], 0.0, 0.1, 0.01], 4], [[1, 0.3, 0.1, 0.01], 4]]}),
        changed({"identity": {"settings": {}}}),
        changed({"identity": {"settings": [], "environment": {}}}),
        changed({"seconds": "1"}),
        changed({"seconds": -1.0}),
        changed({"seconds": float("inf")}),
        changed(arrays={"losses": np.zeros((EPOCHS + 1, 2), np.float32)}),
        changed(arrays={"losses": np.zeros((EPOCHS, 2))}),
        changed(arrays={"losses": np.zeros((0, 2), np.float32)}),
        changed(arrays={"state/epoch": np.full(2, EPOCHS + 1, np.int32)}),
        changed(arrays={"surplus": np.zeros(2)}),
    ],
)
def test_what_is_no_such_file_is_damaged(content):
    with pytest.raises(DamagedError):
        sweep_store.decode(content)


def test_a_file_of_another_version_is_refused_and_stays(folder):
    (folder.path / "begun.npz").write_bytes(changed({"format": 0}))
    with pytest.raises(UserError, match=r"begun.npz: expected format 1, but another version wrote"):
        read(folder)
    assert folder.has("begun.npz")

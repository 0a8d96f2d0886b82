"""The run files: what is written comes back whole, and nothing else is taken for it."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import going_on, npz, run_store
from experiments.cli import UserError
from experiments.going_on import Identity
from experiments.kept_state import DamagedError
from experiments.results import ResultsFolder
from experiments.run_store import Group, RunFile
from jax_lenet import VARIANTS, EpochResult, Fit
from jax_lenet.fitting import state_shapes

IDENTITY = Identity({"--batch-size": 128, "--learning-rate": 0.1}, {"jax": "0.10.2"})
IMAGES = 20


def run_file(variant="LeNet", seeds=(0,), epochs=2, identity=IDENTITY):
    """Runs that nobody trained, of random numbers; the first run's loss and one weight are NaN."""
    draws = np.random.default_rng(sum(seeds) + epochs)

    def leaf(shape):
        shape = (len(seeds), *shape.shape)
        return draws.normal(size=shape).astype(np.float32) if len(shape) > 1 else epoch

    epoch = np.full(len(seeds), epochs, np.int32)
    state = jax.tree.map(leaf, state_shapes(VARIANTS[variant]))
    state.params["f7"]["bias"][0, 0] = np.nan
    history = [
        EpochResult(
            number,
            train_loss=np.float32([np.nan, *draws.random(len(seeds) - 1)]),
            train_accuracy=draws.random(len(seeds)),
            test_loss=draws.random(len(seeds)).astype(np.float32),
            test_accuracy=draws.random(len(seeds)),
            train_seconds=0.1 * number,
            test_seconds=1 / 3,
        )
        for number in range(1, epochs + 1)
    ]
    first, last = draws.integers(0, 10, (2, len(seeds), IMAGES)).astype(np.uint8)
    return RunFile(variant, Fit(seeds, tuple(history), first, last, state), identity)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path


def wanted(group, epoch):
    return True


# Writing and reading


@pytest.mark.parametrize("variant", ["LeNet", "LeNet_BN_Dropout"])
@pytest.mark.parametrize("seeds", [(0,), (3, 4, 5), (4294967295,)])
def test_a_run_file_is_read_back_to_the_last_bit(folder, variant, seeds):
    written = run_file(variant, seeds)
    run_store.write(folder, written)
    found = run_store.read(folder / "runs" / written.group.file_name)
    assert (found.variant, found.fit.seeds, found.identity) == (variant, seeds, IDENTITY)
    assert jax.tree.structure(found.fit.state) == jax.tree.structure(written.fit.state)
    for one, other in (
        (found.fit.state, written.fit.state),
        (found.fit.history, written.fit.history),
        (found.fit.first_predictions, written.fit.first_predictions),
        (found.fit.predictions, written.fit.predictions),
    ):
        jax.tree.map(np.testing.assert_array_equal, one, other)
        types = [np.asarray(leaf).dtype for leaf in jax.tree.leaves(other)]
        assert [np.asarray(leaf).dtype for leaf in jax.tree.leaves(one)][-5:] == types[-5:]


def test_the_name_tells_variant_and_seeds():
    assert run_file("LeNet", (0,)).group.file_name == "LeNet.seeds-0.npz"
    assert run_file("LeNet", (1, 2, 3)).group.file_name == "LeNet.seeds-1-3.npz"


def test_the_same_runs_give_the_same_bytes():
    assert run_store.encode(run_file()) == run_store.encode(run_file())


def test_rows_are_by_seed_and_epoch_and_share_the_groups_time():
    rows = run_file(seeds=(3, 4)).record.rows
    assert [(row.seed, row.epoch) for row in rows] == [(3, 1), (3, 2), (4, 1), (4, 2)]
    assert rows[1].seconds == round((0.2 + 1 / 3) / 2, 6)
    assert rows[3].test_accuracy == run_file(seeds=(3, 4)).fit.history[1].test_accuracy[1]
    assert type(rows[3].test_loss) is np.float32  # whose shortest digits results.csv has


# Damage

WHOLE = run_store.encode(run_file("LeNet_BN_drop6", (1, 2)))


def damaged_or_whole(content):
    """Decode, and make sure that what comes back is exactly what was written."""
    try:
        found = run_store.decode(content)
    except DamagedError:
        return
    assert run_store.encode(found) == WHOLE


@given(position=st.integers(0, len(WHOLE) - 1), flips=st.integers(1, 255))
def test_a_byte_that_changed_is_noticed_or_without_effect(position, flips):
    changed = bytearray(WHOLE)
    changed[position] ^= flips
    damaged_or_whole(bytes(changed))


@given(from_end=st.integers(1, 4000), flips=st.integers(1, 255))
def test_a_byte_that_changed_in_the_directory_is_noticed_or_without_effect(from_end, flips):
    changed = bytearray(WHOLE)
    changed[-from_end] ^= flips
    damaged_or_whole(bytes(changed))


@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_is_damaged(length):
    with pytest.raises(DamagedError):
        run_store.decode(WHOLE[:length])


@given(start=st.integers(0, len(WHOLE)), surplus=st.binary(min_size=1, max_size=50))
def test_bytes_put_in_are_noticed_or_without_effect(start, surplus):
    damaged_or_whole(WHOLE[:start] + surplus + WHOLE[start:])


@given(content=st.binary(max_size=300))
def test_any_other_bytes_are_damaged(content):
    with pytest.raises(DamagedError):
        run_store.decode(content)


def with_about(**changes):
    def edit(arrays):
        about = json.loads(str(arrays["about"])) | changes
        arrays["about"] = np.array(json.dumps(about))

    return edit


def with_array(name, change):
    def edit(arrays):
        arrays[name] = change(arrays[name])

    return edit


def without(name):
    return lambda arrays: arrays.pop(name)


def set_first(value):
    def change(array):
        array = array.copy()
        array.flat[0] = value
        return array

    return change


FOREIGN = {
    "no description": without("about"),
    "a description that is no JSON": with_array("about", lambda x: np.array("{")),
    "a description that is a number": with_array("about", lambda x: np.array(3.0)),
    "a description that is a list": with_array("about", lambda x: np.array("[]")),
    "a variant that is not known": with_about(variant="AlexNet"),
    "a variant that is a list": with_about(variant=["LeNet"]),
    "another variant": with_about(variant="LeNet"),
    "no seeds": with_about(seeds=[]),
    "seeds with a gap": with_about(seeds=[1, 3]),
    "seeds that are text": with_about(seeds=["1", "2"]),
    "a seed too many": with_about(seeds=[1, 2, 3]),
    "a negative seed": with_about(seeds=[-1, 0]),
    "a seed that is too large": with_about(seeds=[2**32 - 1, 2**32]),
    "seeds with a gap that no memory holds": with_about(seeds=[0, 10**15]),
    "seeds that are a number": with_about(seeds=1),
    "no identity": with_about(identity=None),
    "an identity of other parts": with_about(identity={"settings": {}}),
    "an identity that is a list": with_about(identity={"settings": [], "environment": {}}),
    "no predictions": without("predictions"),
    "none after the first epoch": without("first_predictions"),
    "more images after the first epoch": with_array("first_predictions", lambda x: x.repeat(2, 1)),
    "a class that the first epoch has not": with_array("first_predictions", set_first(10)),
    "no image": with_array("predictions", lambda x: x[:, :0]),
    "predictions as floats": with_array("predictions", lambda x: x.astype(np.float32)),
    "a class that there is not": with_array("predictions", set_first(10)),
    "a layer that is missing": without("state/params/c1/kernel"),
    "a layer too many": lambda arrays: arrays.update({"state/params/c9/kernel": np.zeros(2)}),
    "a kernel of another shape": with_array("state/params/f7/kernel", lambda x: x[..., :9]),
    "a kernel of another dtype": with_array("state/params/f7/kernel", np.float64),
    "a state of another epoch": with_array("state/epoch", lambda x: x + 1),
    "a history of another length": with_array("history/test_loss", lambda x: x[:1]),
    "no epoch": lambda arrays: arrays.update(
        {name: x[:0] for name, x in arrays.items() if name.startswith("history/")}
    ),
    "a time that is one number": with_array("history/train_seconds", lambda x: x[0]),
    "an accuracy above 1": with_array("history/test_accuracy", set_first(1.5)),
    "an accuracy that is none": with_array("history/train_accuracy", set_first(np.nan)),
    "a negative time": with_array("history/train_seconds", set_first(-1)),
    "an endless time": with_array("history/test_seconds", set_first(np.inf)),
}


@pytest.mark.parametrize("edit", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_sound_file_of_something_else_is_damaged(edit):
    arrays = npz.decode(WHOLE)
    edit(arrays)
    with pytest.raises(DamagedError):
        run_store.decode(npz.encode(arrays))


def test_a_file_of_another_version_is_named_with_both_versions(folder):
    arrays = npz.decode(run_store.encode(run_file()))
    with_about(format=run_store.FORMAT + 1)(arrays)
    path = folder / "runs" / "LeNet.seeds-0.npz"
    path.write_bytes(npz.encode(arrays))
    with pytest.raises(UserError) as caught:
        run_store.read(path)
    assert str(caught.value) == f"{path}: expected format 2, but another version wrote format 3"


# Looking through the folder


def scan(folder, said, wanted=wanted):
    damaged = []
    records = run_store.scan(folder, IDENTITY, wanted, damaged)
    going_on.set_aside(damaged, said.append)
    return records


def test_sound_files_are_found_and_other_names_are_left_alone(folder):
    for seeds in ((0,), (1, 2)):
        run_store.write(folder, run_file(seeds=seeds))
    (folder / "runs" / "notes.npz").write_text("the user's")
    said = []
    assert set(scan(folder, said)) == {Group("LeNet", (0,)), Group("LeNet", (1, 2))}
    assert not said
    assert (folder / "runs" / "notes.npz").read_text() == "the user's"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def rename(path):
    path.rename(path.with_name("LeNet.seeds-7.npz"))


def of_another_study(path):
    path.write_bytes(run_store.encode(run_file(identity=Identity({"--batch-size": 64}, {}))))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, empty, rename, of_another_study])
def test_a_file_that_cannot_be_used_is_named_and_set_aside(folder, damage):
    run_store.write(folder, run_file())
    run_store.write(folder, run_file("LeNet_BN_drop6"))
    damage(folder / "runs" / "LeNet.seeds-0.npz")
    (path,) = [p for p in run_store.files(folder) if "drop6" not in p.name]
    content = path.read_bytes()
    said = []
    assert set(scan(folder, said)) == {Group("LeNet_BN_drop6", (0,))}
    (line,) = said
    assert line.startswith(f"{path} cannot be used (")
    assert line.endswith(f"it is now {path.name}.damaged-1, and its runs come again")
    assert path.with_name(f"{path.name}.damaged-1").read_bytes() == content
    assert not path.exists()
    assert len(scan(folder, said)) == 1
    assert len(said) == 1


def test_runs_that_the_study_does_not_have_are_set_aside(folder):
    run_store.write(folder, run_file(epochs=3))
    said = []
    assert not scan(folder, said, lambda group, epoch: epoch < 3)
    assert "the study has no such runs" in said[0]


def test_of_two_files_with_the_same_run_the_second_is_set_aside(folder):
    for seeds in ((1, 2), (2, 3)):
        run_store.write(folder, run_file(seeds=seeds))
    said = []
    assert set(scan(folder, said)) == {Group("LeNet", (1, 2))}
    assert "another file has some of its runs" in said[0]


def test_a_file_of_another_version_stays_where_it_is(folder):
    arrays = npz.decode(run_store.encode(run_file()))
    with_about(format=run_store.FORMAT + 1)(arrays)
    path = folder / "runs" / "LeNet.seeds-0.npz"
    path.write_bytes(npz.encode(arrays))
    with pytest.raises(UserError, match="expected format 2"):
        scan(folder, [])
    assert path.exists()


# The tables


def test_tables_have_one_order_whatever_was_trained_first(tmp_path):
    files = [
        run_file(variant, seeds, epochs)
        for variant in ("LeNet_BN_drop6", "LeNet")
        for seeds, epochs in (((0,), 2), ((3,), 2), ((1, 2), 2), ((4,), 1))
    ]
    tables = []
    for number, order in enumerate((files, files[::-1])):
        folder = ResultsFolder(tmp_path / str(number))
        folder.path.mkdir()
        records = {run.group: run.record for run in order}
        run_store.write_results(folder, records, ("LeNet", "LeNet_BN_drop6"))
        run_store.write_predictions(folder, records, ("LeNet", "LeNet_BN_drop6"), epochs=2)
        names = "results.csv", "predictions.npz", "first_predictions.npz"
        tables.append([(folder.path / name).read_bytes() for name in names])
    assert tables[0] == tables[1]
    rows = [(row.variant, row.seed, row.epoch) for row in folder.read_results()]
    runs = [(seed, epoch) for seed in range(4) for epoch in (1, 2)] + [(4, 1)]
    assert rows == [(name, *run) for name in ("LeNet", "LeNet_BN_drop6") for run in runs]
    predictions = folder.read_predictions()
    assert list(predictions) == ["LeNet", "LeNet_BN_drop6"]
    expected = [run_file("LeNet", seeds).fit.predictions for seeds in ((0,), (1, 2), (3,))]
    np.testing.assert_array_equal(predictions["LeNet"], np.concatenate(expected))
    first = folder.read_predictions("first_predictions.npz")
    expected = [run_file("LeNet", seeds).fit.first_predictions for seeds in ((0,), (1, 2), (3,))]
    np.testing.assert_array_equal(first["LeNet"], np.concatenate(expected))

"""A results folder without its test images: they are made from the data, or nothing is unmade."""

import json
import shutil

import numpy as np
import pytest

from experiments import cli, label_errors, report
from experiments.cli import UserError
from experiments.results import LabelledImages
from experiments.tested_images import labelled
from jax_lenet.data import load
from tests import mnist_files
from tests.simulated import LEARNING_RATES, Truth, write, write_sweep

IMAGES = 10_000  # as many as a test set of MNIST's has
STUDY = Truth(seeds=1, images=IMAGES, repeats=2, variants=("LeNet", "LeNet_BN_noDropout"))


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return mnist_files.write_plain(tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="module")
def published(tmp_path_factory, mnist):
    """A study of the made-up MNIST without its test images; its answers were made with them."""
    folder = write(tmp_path_factory.mktemp("published") / "r", STUDY)
    data = load("mnist", mnist)
    old = folder.read_test_set().labels
    for name in ("predictions.npz", "first_predictions.npz"):
        said = {
            v: (x + data.test_labels - old) % 10 for v, x in folder.read_predictions(name).items()
        }
        folder.write_predictions({v: x.astype(np.uint8) for v, x in said.items()}, name)
    config = folder.read_config()
    config["data"]["files"] = data.source.files
    folder.write_config(config)
    folder.write_test_set(labelled(data))
    assert run(folder.path) == 0
    (folder.path / "test_set.npz").unlink()
    return folder


@pytest.fixture
def study(published):
    """The same to change, where it was: the page names its folder."""
    kept = contents(published)
    yield published
    shutil.rmtree(published.path)
    published.path.mkdir()
    for name, content in kept.items():
        (published.path / name).write_bytes(content)


def run(*arguments):
    return cli.run(report.main, report.Settings, "report", [str(a) for a in arguments])


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.path.iterdir()) if p.is_file()}


def with_files(folder, files):
    config = folder.read_config()
    config["data"]["files"] = files
    folder.write_config(config)


@pytest.mark.parametrize("left", ["predictions.npz", "first_predictions.npz"])
def test_without_them_and_without_data_nothing_is_overwritten(study, capsys, left):
    for name in {"predictions.npz", "first_predictions.npz"} - {left}:
        (study.path / name).unlink()
    before = contents(study)
    assert run(study.path) == 2
    said = capsys.readouterr().err
    assert f"{study.path} has {left} but no test_set.npz" in said
    assert "give --data-dir, the folder that holds the study's MNIST, to make it" in said
    assert said.count("\n") == 1
    assert contents(study) == before


def test_they_are_made_from_the_data_and_the_answers_are_as_before(study, mnist):
    before = contents(study)
    assert run(study.path, "--data-dir", mnist) == 0
    after = contents(study)
    made = after.pop("test_set.npz")
    assert after == before  # summary, figures and page among them
    expected, found = load("mnist", mnist), study.read_test_set()
    np.testing.assert_array_equal(found.images, expected.test_images)
    np.testing.assert_array_equal(found.labels, expected.test_labels)
    assert run(study.path) == 0  # from now on without the data
    assert contents(study) == before | {"test_set.npz": made}


def test_data_with_other_contents_are_refused_by_their_digest(study, mnist, capsys):
    name, *others = load("mnist", mnist).source.files
    with_files(study, {name: {"sha256": "0" * 64}, **{n: {"sha256": "1" * 64} for n in others}})
    before = contents(study)
    assert run(study.path, "--data-dir", mnist) == 2
    expected = f"--data-dir: expected the study's data, but in {mnist} {name} has other contents"
    assert expected in capsys.readouterr().err
    assert contents(study) == before


def test_where_no_digest_tells_the_predictions_do(study, mnist, capsys):
    # The other form of MNIST has files of other names; another order of its images shows at once.
    with_files(study, {"mnist-test.array_record": {"sha256": "0" * 64}})
    assert run(study.path, "--data-dir", mnist) == 0
    (study.path / "test_set.npz").unlink()
    said = {v: np.roll(x, 1, axis=1) for v, x in study.read_predictions().items()}
    study.write_predictions(said)
    before = contents(study)
    assert run(study.path, "--data-dir", mnist) == 2
    assert f"the test images of {mnist} do not fit {study.path}" in capsys.readouterr().err
    assert contents(study) == before


def test_another_number_of_test_images_is_refused(study, mnist, capsys):
    config = study.read_config()
    config["data"]["sizes"]["test"] = 9_000
    study.write_config(config)
    assert run(study.path, "--data-dir", mnist) == 2
    assert (
        f"expected the study's 9000 test images, but {mnist} has 10000" in capsys.readouterr().err
    )


def test_a_sweep_is_not_kept_where_the_images_are_missing(study, tmp_path, capsys):
    own = {"data": {"test": IMAGES}, "source": {"files": study.read_config()["data"]["files"]}}
    swept = write_sweep(tmp_path / "s", LEARNING_RATES, lambda point: 0.9, seeds=1, **own)
    assert run(study.path, "--sweep", swept) == 2
    assert "no test_set.npz" in capsys.readouterr().err
    assert not (study.path / "sweeps").exists()


def test_a_study_of_the_sample_gets_them_from_the_package(tmp_path):
    data = load("mnist_sample")
    folder = write(tmp_path / "r", Truth(seeds=1, images=1_000, repeats=0))
    config = folder.read_config()
    config["data"] |= {"name": "mnist_sample", "kind": "sample", "files": data.source.files}
    folder.write_config(config)
    said = data.test_labels.astype(np.uint8)[None]
    rows = [row._replace(test_accuracy=1.0) for row in folder.read_results()]
    folder.write_results(rows)
    for name in ("predictions.npz", "first_predictions.npz"):
        folder.write_predictions({row.variant: said for row in rows}, name)
    (folder.path / "test_set.npz").unlink()
    assert run(folder.path) == 0
    np.testing.assert_array_equal(folder.read_test_set().labels, data.test_labels)
    parts = json.loads((folder.path / "summary.json").read_text())["verdicts"][1]["parts"]
    assert all(part["by_image"] for part in parts)


def test_images_that_all_have_wrong_labels_are_refused(monkeypatch):
    monkeypatch.setattr(label_errors, "find", lambda images: np.ones(len(images), bool))
    with pytest.raises(UserError, match="expected a test image whose label is not known to be"):
        labelled(load("mnist_sample"))


def test_a_folder_that_has_them_reads_no_data(study, mnist, tmp_path):
    images = load("mnist", mnist)
    study.write_test_set(LabelledImages(*labelled(images)))
    assert run(study.path, "--data-dir", tmp_path / "nothing") == 0

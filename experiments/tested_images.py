"""The test images that a results folder keeps, and how a folder without them gets them again.

test_set.npz is pixels that anyone can have from MNIST, so a folder that is published may lack it.
The verdicts need its labels: without them nobody knows which images a run has right.
"""

from pathlib import Path
from typing import Any

import numpy as np

from experiments import label_errors, study_config
from experiments.cli import UserError
from experiments.evidence import gather
from experiments.results import (
    CONFIG,
    FIRST_PREDICTIONS,
    PREDICTIONS,
    TEST_SET,
    LabelledImages,
    ResultsFolder,
)
from jax_lenet.data import Dataset, load

SAMPLE = "mnist_sample"  # part of the package: it needs no folder


def labelled(data: Dataset) -> LabelledImages:
    """Return the test set as the results folder keeps it.

    Raises:
        UserError: if all its labels are known to be wrong; the verdicts are made again without.
    """
    wrong = label_errors.find(data.test_images)
    if wrong.all():
        raise UserError(
            f"expected a test image whose label is not known to be wrong, found {len(wrong)} that"
            " are"
        )
    return LabelledImages(data.test_images, data.test_labels.astype(np.uint8), wrong)


def restore(folder: ResultsFolder, data_dir: Path | None) -> None:
    """Make test_set.npz from the data, where it is missing.

    Args:
        folder: of a study. One with neither the test images nor predictions, as PyTorch's program
            leaves it, stays as it is unless a folder is given.
        data_dir: as `jax_lenet.data.load` takes it; None where the user named none.

    Raises:
        UserError: if predictions are there and no data to judge them by, or the data are not the
            study's; nothing is written then.
    """
    predicted = [name for name in (PREDICTIONS, FIRST_PREDICTIONS) if folder.has(name)]
    if folder.has(TEST_SET) or (data_dir is None and not predicted):
        return
    config = folder.read_config()
    study_config.check(config, folder.path / CONFIG)
    study, settings = config["data"], config["settings"]
    if data_dir is None and study["name"] != SAMPLE:
        raise UserError(
            f"{folder.path} has {predicted[0]} but no {TEST_SET}, and without that its answers"
            " would be lost; give --data-dir, the folder that holds the study's MNIST, to make it"
        )
    data = load(study["name"], data_dir)
    _check(data, study, data_dir)
    test_set = labelled(data)
    try:
        gather(folder, settings["epochs"], settings["learning_rate"], test_set)
    except UserError as error:
        raise UserError(
            f"the test images of {_named(data_dir)} do not fit {folder.path}: {error}"
        ) from None
    folder.write_test_set(test_set)


def _check(data: Dataset, study: dict[str, Any], data_dir: Path | None) -> None:
    """Raise UserError unless data are a study's, as far as its config.json tells.

    Files of other names, as those of the other of MNIST's two forms, have other contents: there the
    labels' order tells (`gather`).
    """
    files, known = data.source.files, study["files"]
    other = [n for n in files if n in known and files[n]["sha256"] != known[n]["sha256"]]
    if other:
        raise UserError(
            f"--data-dir: expected the study's data, but in {_named(data_dir)} {other[0]} has other"
            " contents (SHA-256 in config.json)"
        )
    found, asked = len(data.test_labels), study["sizes"]["test"]
    if found != asked:
        raise UserError(
            f"--data-dir: expected the study's {asked} test images, but {_named(data_dir)} has"
            f" {found}"
        )


def _named(data_dir: Path | None) -> str:
    return "the package" if data_dir is None else str(data_dir)

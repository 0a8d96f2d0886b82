"""Results folders of studies whose truth is known, written as the programs write them."""

from dataclasses import dataclass, field

import numpy as np

from experiments import ablate
from experiments.evidence import gather
from experiments.results import LabelledImages, ResultsFolder, Row, TimingRow
from experiments.sweep_results import Candidates, SweepFolder, SweepRow
from jax_lenet import VARIANTS

CONFIG = {
    "title": "a simulated study",
    "program": "experiments.ablate",
    "settings": ablate.Settings(epochs=3).as_json(),
    "data": {
        "name": "mnist",
        "kind": "idx",
        "path": "mnist",
        "files": {},
        "notice": None,
        "sizes": {"train": 50_000, "validation": 10_000, "test": 2_000},
    },
}


@dataclass(frozen=True)
class Truth:
    """What a simulated study is drawn from; every mapping is by variant, and what it lacks is 0.

    Attributes:
        first: added to the first epoch's test accuracy.
        last: added to the last epoch's test accuracy.
        train: added to the last epoch's training accuracy.
        time: by how much the logarithm of an epoch's time is longer.
        scatter: standard deviation between seeds, the part of one variant alone; as large again is
            what variants of one seed share.
        seeds: how many.
        images: how many test images there are.
        repeats: of the timing.
        diverged: variant, seed and epoch of runs that do.
        variants: that are in the study.
    """

    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    train: dict[str, float] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)
    scatter: float = 0.001
    seeds: int = 12
    images: int = 2_000
    repeats: int = 12
    diverged: tuple[tuple[str, int, int], ...] = ()
    variants: tuple[str, ...] = tuple(VARIANTS)


def write(folder, truth, number=0):
    """Write a study: config.json, results.csv, predictions.npz, test_set.npz, timing.csv."""
    draws = np.random.default_rng(number)
    results = ResultsFolder.create(folder, overwrite=False)
    settings = CONFIG["settings"] | {"seeds": truth.seeds}
    sizes = CONFIG["data"]["sizes"] | {"test": truth.images}
    data = CONFIG["data"] | {"sizes": sizes}
    results.write_config(CONFIG | {"settings": settings, "data": data})
    labels = draws.integers(0, 10, truth.images).astype(np.uint8)
    pixels = draws.integers(0, 256, (truth.images, 28, 28)).astype(np.uint8)
    results.write_test_set(LabelledImages(pixels, labels, np.arange(truth.images) < 15))
    accuracies = accuracies_of(truth, draws)
    rows, predictions = [], {}
    for variant in truth.variants:
        right = right_of(accuracies[variant], truth, draws)
        predictions[variant] = np.where(right, labels, (labels + 1) % 10).astype(np.uint8)
        rows += rows_of(variant, accuracies[variant], right.mean(1), truth)
    results.write_results(rows)
    results.write_predictions(predictions)
    if truth.repeats:
        results.write_timing(timing_of(truth, draws))
    return results


def evidence_of(folder):
    """What is in a simulated folder."""
    settings = folder.read_config()["settings"]
    return gather(folder, settings["epochs"], settings["learning_rate"])


def accuracies_of(truth, draws):
    """Each variant's accuracies of first, last and training, as they would be on endless images."""
    shared = draws.normal(0, truth.scatter, (truth.seeds, 3))
    accuracies = {}
    for variant in truth.variants:
        own = draws.normal(0, truth.scatter, (truth.seeds, 3))
        effects = [of.get(variant, 0.0) for of in (truth.first, truth.last, truth.train)]
        accuracies[variant] = np.array([0.8, 0.97, 0.9]) + effects + shared + own
    return accuracies


def right_of(accuracies, truth, draws):
    """Whether each image is right after the last epoch, ``[seeds, images]``; some are hard."""
    difficulty = np.random.default_rng(99).beta(0.05, 1.6, truth.images)  # of every variant
    odds = (1 - accuracies[:, 1, None]) / difficulty.mean()
    return draws.random((truth.seeds, truth.images)) >= np.clip(difficulty * odds, 0, 1)


def rows_of(variant, accuracies, last, truth):
    """The rows of one variant's runs, of three epochs."""
    failing = {(v, s): e for v, s, e in truth.diverged}
    rows = []
    for seed, (first, _, train) in enumerate(accuracies):
        course = ((1, 0.8, first), (2, 0.9, (first + last[seed]) / 2), (3, train, last[seed]))
        for epoch, trained, tested in course:
            loss = float("nan") if epoch >= failing.get((variant, seed), 9) else 0.25
            rows.append(Row(variant, seed, epoch, loss, trained, loss, tested, 1.5))
    return rows


def timing_of(truth, draws):
    """Rows of timing.csv: slow moments hit all variants of a repeat."""
    rows = []
    for repeat in range(1, truth.repeats + 1):
        slow = draws.normal(0, 0.05)
        for variant in truth.variants:
            noise = draws.normal(0, 0.005)
            factor = np.exp(truth.time.get(variant, 0.0) + slow + noise)
            rows.append(TimingRow(variant, repeat, 0.9 * factor, 0.1 * factor))
    return rows


def write_sweep(folder, candidates, accuracy, seeds=8, data=(), **settings):
    """Write a sweep.

    Args:
        folder: to write to.
        candidates: what is tried.
        accuracy: from a `Point` to the validation and test accuracy.
        seeds: how many.
        data: numbers of images that differ from the study's.
        **settings: that differ from the study's.
    """
    draws = np.random.default_rng(0)
    files = SweepFolder.create(folder, overwrite=False)
    entries = [vars(c) | {"rates": list(c.rates)} for c in candidates]
    own = CONFIG["settings"] | {"first_seed": 0, "seeds": seeds} | settings
    sizes = CONFIG["data"]["sizes"] | dict(data)
    files.write_config(
        {
            "title": "a simulated sweep",
            "program": "experiments.sweep",
            "settings": own,
            "candidates": entries,
            "data": CONFIG["data"] | {"sizes": sizes},
        }
    )
    points = dict.fromkeys(c.point(rate) for c in candidates for rate in c.rates)
    rows = []
    for seed in range(seeds):
        for point in points:
            found = np.clip(accuracy(point) + draws.normal(0, 0.0005), 0, 1)
            rows.append(SweepRow(*point, seed, 0.2, found, found, found, 0, 1.0))
    files.write_sweep_rows(rows)
    return folder


LEARNING_RATES = tuple(
    Candidates(variant, None, (0.003, 0.01, 0.1), 0.01)
    for variant in ("LeNet", "LeNet_BN_noDropout")
)
DROPOUT_RATES = tuple(
    Candidates("LeNet", layers, (0.0, 0.2, 0.5), 0.01) for layers in ("drop6", "both")
)

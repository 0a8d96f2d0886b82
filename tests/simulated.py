"""Studies whose truth is known: as results folders, as the programs write them, or as evidence."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments import ablate
from experiments.evidence import Evidence, gather, runs_of
from experiments.results import LabelledImages, ResultsFolder, Row, TimingRow
from experiments.sweep_files import Outcome, SweepFolder
from experiments.sweep_results import Candidates, SweepRow
from experiments.verdicts import summarize
from jax_lenet import VARIANTS
from jax_lenet.decisions import Rules

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
WRONG_LABELS = 15
# The loss of variants without and with drop7: what it ends with there lies above its floor, 0.832.
LOSSES = (0.25, 1.25)
# How images differ in difficulty for all variants alike, in standard deviations of a run's own
# noise: most are always right.
COMMON = 2.0


@dataclass(frozen=True)
class Truth:
    """What a simulated study is drawn from; every mapping is by variant, and what it lacks is 0.

    Attributes:
        first: added to the first epoch's test accuracy.
        last: added to the last epoch's test accuracy.
        train: added to the last epoch's training accuracy.
        time: by how much the logarithm of an epoch's training time is longer, and twice that of its
            testing time.
        scatter: standard deviation between seeds, the part of one variant alone; as large again is
            what variants of one seed share.
        start_scatter: the same of the first epoch's test accuracy.
        own: how images differ in difficulty for one variant alone, as `COMMON`.
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
    start_scatter: float = 0.001
    own: float = 0.5
    seeds: int = 12
    images: int = 2_000
    repeats: int = 12
    diverged: tuple[tuple[str, int, int], ...] = ()
    variants: tuple[str, ...] = tuple(VARIANTS)


class Drawn(NamedTuple):
    """One variant's runs.

    Attributes:
        first: whether an image is right after the first epoch, bool ``[seeds, images]``.
        last: the same after the last.
        train: last-epoch training accuracy, ``[seeds]``.
    """

    first: np.ndarray
    last: np.ndarray
    train: np.ndarray


def drawn(truth, draws):
    """Draw every variant's runs."""
    scatter = truth.start_scatter, truth.scatter, truth.scatter
    shared = draws.normal(0, scatter, (truth.seeds, 3))
    common = draws.normal(0, COMMON, truth.images)
    found = {}
    for variant in truth.variants:
        effects = [of.get(variant, 0.0) for of in (truth.first, truth.last, truth.train)]
        seeds = shared + draws.normal(0, scatter, (truth.seeds, 3))
        first, last, train = (np.array([0.8, 0.97, 0.9]) + effects + seeds).T
        ease = common + draws.normal(0, truth.own, truth.images)
        found[variant] = Drawn(*(right_of(a, ease, truth, draws) for a in (first, last)), train)
    return found


def right_of(accuracies, ease, truth, draws):
    """Whether each run has each image right, so that on endless images it has these accuracies."""
    level = stats.norm.ppf(np.clip(accuracies, 0.01, 0.999)) * np.sqrt(COMMON**2 + truth.own**2 + 1)
    noise = draws.standard_normal((len(level), ease.shape[-1]), np.float32)
    return level[:, None] + ease + noise > 0


def write(folder, truth, number=0):
    """Write a study: config.json, results.csv, both predictions, test_set.npz, timing.csv."""
    draws = np.random.default_rng(number)
    results = ResultsFolder.create(folder, overwrite=False)
    settings = CONFIG["settings"] | {"seeds": truth.seeds}
    sizes = CONFIG["data"]["sizes"] | {"test": truth.images}
    data = CONFIG["data"] | {"sizes": sizes}
    results.write_config(CONFIG | {"settings": settings, "data": data})
    labels = labels_of(truth.images)
    pixels = draws.integers(0, 256, (truth.images, 28, 28)).astype(np.uint8)
    wrong = draws.permutation(truth.images) < WRONG_LABELS  # scattered among the others
    results.write_test_set(LabelledImages(pixels, labels, wrong))
    runs = drawn(truth, draws)
    results.write_results([row for variant in runs for row in rows_of(variant, runs, truth)])
    for name, place in (("first_predictions.npz", 0), ("predictions.npz", 1)):
        said = {v: np.where(own[place], labels, (labels + 1) % 10) for v, own in runs.items()}
        results.write_predictions({v: x.astype(np.uint8) for v, x in said.items()}, name)
    if truth.repeats:
        results.write_timing(timing_of(truth, draws))
    return results


def labels_of(images):
    """The labels of every simulated test set of so many images."""
    return (np.arange(images) * 7 % 10).astype(np.uint8)


def evidence_of(folder):
    """What is in a simulated folder."""
    settings = folder.read_config()["settings"]
    return gather(folder, settings["epochs"], settings["learning_rate"])


def drawn_evidence(truth, number):
    """The evidence of a study that has no folder, a hundred times as fast."""
    draws = np.random.default_rng(number)
    runs, timing = {}, {}
    for variant, own in (found := drawn(truth, draws)).items():
        rows = list(rows_of(variant, found, truth))
        by_run = [rows[start : start + 3] for start in range(0, len(rows), 3)]
        runs[variant] = replace(
            runs_of(by_run),
            right=own.last.astype(np.float64),
            right_first=own.first.astype(np.float64),
        )
    for row in timing_of(truth, draws):
        seconds = np.array([row.train_seconds, row.test_seconds])
        timing.setdefault(row.variant, {})[row.repeat] = seconds
    return Evidence(epochs=3, learning_rate=0.01, runs=runs, timing=timing)


def rows_of(variant, runs, truth):
    """The rows of one variant's runs, of three epochs."""
    failing = {(v, s): e for v, s, e in truth.diverged}
    usual = LOSSES[VARIANTS[variant].dropout[1] > 0]
    first, last = (right.mean(1) for right in runs[variant][:2])
    for seed, train in enumerate(runs[variant].train):
        middle = (first[seed] + last[seed]) / 2
        for epoch, trained, tested in (
            (1, 0.8, first[seed]),
            (2, 0.85, middle),
            (3, train, last[seed]),
        ):
            loss = float("nan") if epoch >= failing.get((variant, seed), 9) else usual
            yield Row(variant, seed, epoch, loss, trained, loss, tested, 1.5)


def timing_of(truth, draws):
    """Rows of timing.csv: slow moments hit all variants of a repeat."""
    rows = []
    for repeat in range(1, truth.repeats + 1):
        slow = draws.normal(0, 0.05)
        for variant in truth.variants:
            added = truth.time.get(variant, 0.0)
            train = 0.8 * np.exp(added + slow + draws.normal(0, 0.005))
            test = 0.2 * np.exp(2 * added + slow + draws.normal(0, 0.005))
            rows.append(TimingRow(variant, repeat, train, test))
    return rows


def write_sweep(
    folder, candidates, accuracy, seeds=8, *, tested=None, data=(), source=(), **settings
):
    """Write a sweep.

    Args:
        folder: to write to.
        candidates: what is tried.
        accuracy: from a `Point` to the validation accuracy.
        seeds: how many.
        tested: from a `Point` to the test accuracy; None where that is the same.
        data: numbers of images that differ from the study's.
        source: what else differs from the study's data.
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
            "data": CONFIG["data"] | {"sizes": sizes} | dict(source),
        }
    )
    points = dict.fromkeys(c.point(rate) for c in candidates for rate in c.rates)
    outcomes = []
    for seed in range(seeds):
        for point in points:
            of_sets = accuracy(point), (tested or accuracy)(point)
            validated, test = np.clip(of_sets + draws.normal(0, 0.0005, 2), 0, 1)
            outcomes.append(outcome_of(point, seed, validated, test, sizes["test"]))
    files.write_outcomes(outcomes, labels_of(sizes["test"]))
    return folder


def outcome_of(point, seed, validated, test, images):
    """What a run leaves that has about these accuracies; images are all as hard for one as another.

    No run is as good on the images that it is trained on as on any other.
    """
    labels = labels_of(images)
    right = np.arange(images) * 2654435761 % images < round(test * images)
    said = np.where(right, labels, (labels + 1) % 10).astype(np.uint8)
    row = SweepRow(*point, seed, 0.2, (1 + test) / 2, validated, right.mean(), 0, 1.0)
    return Outcome(row, said)


LEARNING_RATES = tuple(
    Candidates(variant, None, (0.003, 0.01, 0.1), 0.01)
    for variant in ("LeNet", "LeNet_BN_noDropout")
)
DROPOUT_RATES = tuple(
    Candidates("LeNet", layers, (0.0, 0.2, 0.5), 0.01) for layers in ("drop6", "both")
)

PLAIN, NORM = "LeNet", "LeNet_BN_noDropout"
DROP, BOTH = "LeNet_noBN_Dropout", "LeNet_BN_Dropout"
DROP6 = "LeNet_BN_drop6"
# Everything that the report claims, by amounts that 12 seeds and 2,000 images can tell.
AS_CLAIMED = Truth(
    first={NORM: 0.1, DROP: -0.05, BOTH: 0.05, DROP6: 0.1},
    last={NORM: 0.014, DROP: 0.01, BOTH: 0.024, DROP6: 0.024},
    train={DROP: -0.02, BOTH: -0.02, DROP6: -0.01},
    time={NORM: 0.1, DROP: 0.05, BOTH: 0.15},
)
QUICK = Rules(resamples=999)
# The simulated test set is a fifth of MNIST's: its intervals are wider.
WIDE = replace(QUICK, accuracy_margin=0.02)


def summary_of(folder, rules=QUICK):
    """The answers of a simulated folder."""
    return summarize(evidence_of(folder), rules)


def parts_of(summary):
    """All parts of all conclusions."""
    return [part for entry in summary["verdicts"] for part in entry["parts"]]


def part_of(summary, number, name):
    """One part of a conclusion, by its name."""
    (part,) = (p for p in summary["verdicts"][number - 1]["parts"] if p["name"] == name)
    return part

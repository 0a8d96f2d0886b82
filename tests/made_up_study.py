"""A study that nobody ran: a results folder with a verdict of every kind, for the report page."""

from pathlib import Path

import numpy as np

from experiments import figures
from experiments.page import LOOKS
from experiments.results import LabelledImages, ResultsFolder, Row
from experiments.summary import curves_of, summarize
from jax_lenet import VARIANTS
from jax_lenet.sources import sample

# First and last accuracy by variant, and the runs' standard deviations there.
COURSES = {
    "LeNet": (0.77, 0.06, 0.976, 0.002),
    "LeNet_BN_noDropout": (0.932, 0.006, 0.986, 0.0007),
    "LeNet_noBN_Dropout": (0.73, 0.06, 0.971, 0.002),
    "LeNet_BN_Dropout": (0.923, 0.007, 0.984, 0.0006),
    "LeNet_noBN_drop6": (0.76, 0.06, 0.974, 0.002),
    "LeNet_BN_drop6": (0.929, 0.006, 0.9857, 0.0007),
}
SUPPORTED, CONTRADICTED, SAME, UNDECIDED = LOOKS
REASONS = {
    SUPPORTED: "the interval lies on the claimed side of zero, and the corrected test agrees",
    CONTRADICTED: "the interval lies on the other side of zero, and the corrected test agrees",
    SAME: "the interval lies within the margin",
    UNDECIDED: "the interval holds zero and reaches beyond the margin",
}
RULES = {"level": 0.95, "alpha": 0.05, "accuracy_margin": 0.001, "time_margin": 0.02}
RULES |= {"least_seeds": 8, "power": 0.8, "most_seeds": 1000, "resamples": 9999, "family": 14}
PLAIN, NORM, DROP, BOTH, DROP6, BOTH6 = VARIANTS


def rows_of(seeds, epochs):
    """Runs whose error falls as a power of the epoch."""
    rows = []
    power = np.log10(np.arange(1, epochs + 1))
    for number, (variant, (first, wide, last, narrow)) in enumerate(COURSES.items()):
        draws = np.random.default_rng(number)
        for seed in range(seeds):
            start = 1 - np.clip(first + wide * draws.normal(), 0.4, 0.97)
            end = 1 - last + narrow * draws.normal()
            course = 1 - start * (end / start) ** power
            rows += [
                Row(variant, seed, epoch, 0.1, right, 0.1, right, 1 + 0.05 * draws.random())
                for epoch, right in enumerate(course.tolist(), 1)
            ]
    return rows


def part(name, question, compared, verdict, values, **other):
    """One entry of a verdict's parts."""
    sure = verdict in (SUPPORTED, CONTRADICTED)
    return {
        "name": name,
        "question": question,
        "compared": compared,
        "measure": "last-epoch test accuracy",
        "unit": "points",
        "verdict": verdict,
        "reason": REASONS[verdict],
        **dict(zip(("estimate", "low", "high"), values, strict=True)),
        "level": 0.95,
        "method": "t over seeds and images",
        "n": 10,
        "n_of": "seeds",
        "p": 0.00195 if sure else 0.31,
        "p_adjusted": 0.0273 if sure else 1.0,
        "p_margin": 0.00195 if verdict == SAME else 0.62,
        "family": 14,
        "margin": 0.1,
        "direction": "greater",
        "seeds_needed": 34 if verdict == UNDECIDED else None,
        "at_least": False,
        "role": "claimed",
    } | other


def conclusion(number, claim, verdict, sentence, parts, title, text):
    """One of the five verdicts."""
    mechanism = {"title": title, "text": text, "numbers": {}}
    return {
        "number": number,
        "claim": claim,
        "verdict": verdict,
        "answer": sentence,
        "beside": "",
        "sentence": sentence,
        "parts": parts,
        "mechanism": mechanism,
    }


TIME = {"measure": "epoch time", "unit": "ratio", "margin": 0.02, "n_of": "repeats", "method": "t"}
FIRST = {"measure": "first-epoch test accuracy"}
TRAIN = {"measure": "last-epoch training accuracy", "direction": "less"}
GAP = {"measure": "gap between training and test accuracy", "direction": "less"}
GAIN = {"measure": "gain from first to last epoch"}


def five():
    """Five verdicts of every kind; the numbers are made up."""
    return [
        conclusion(
            1,
            "Batch normalization and dropout increase total execution time.",
            UNDECIDED,
            "Batch norm makes an epoch 6.1% longer (3.9% to 8.4%); dropout does not matter (+0.4%,"
            " -1.1% to 1.6%), and for both together ten repeats cannot tell.",
            [
                part(
                    "batch norm",
                    "Does batch norm make an epoch take longer?",
                    [NORM, PLAIN],
                    SUPPORTED,
                    (1.061, 1.039, 1.084),
                    **TIME,
                ),
                part(
                    "dropout",
                    "Does dropout make an epoch take longer?",
                    [DROP, PLAIN],
                    SAME,
                    (1.004, 0.989, 1.016),
                    **TIME,
                ),
                part(
                    "both",
                    "Do both together make an epoch take longer?",
                    [BOTH, PLAIN],
                    UNDECIDED,
                    (1.021, 0.981, 1.063),
                    **TIME,
                ),
            ],
            "Where the time goes",
            "Batch norm adds 2.1% of an epoch's operations, dropout 0.1%.",
        ),
        conclusion(
            2,
            "Batch normalization increases accuracy a lot, most of all in the first epoch.",
            SUPPORTED,
            "Batch norm adds 0.96 points (0.80 to 1.12) after the last epoch and 15.5 points (11.2"
            " to 19.8) after the first.",
            [
                part(
                    "without dropout, at the end",
                    "Is batch norm better after the last epoch?",
                    [NORM, PLAIN],
                    SUPPORTED,
                    (0.96, 0.8, 1.12),
                ),
                part(
                    "with dropout, at the end",
                    "Is it so beside dropout as well?",
                    [BOTH, DROP],
                    SUPPORTED,
                    (1.23, 1.06, 1.4),
                ),
                part(
                    "without dropout, at the start",
                    "Is batch norm better after the first epoch?",
                    [NORM, PLAIN],
                    SUPPORTED,
                    (15.5, 11.2, 19.8),
                    **FIRST,
                ),
                part(
                    "most of all at the start",
                    "Is the gain larger in the first epoch than in the last?",
                    [NORM, PLAIN],
                    SUPPORTED,
                    (14.6, 10.3, 18.8),
                    measure="gain in the first epoch less gain in the last",
                ),
                part(
                    "each at its best rate",
                    "Does the gain remain when each model has its best learning rate?",
                    [NORM, PLAIN],
                    SAME,
                    (0.04, -0.03, 0.09),
                    role="further",
                ),
            ],
            "It depends on the learning rate",
            "At rate 0.01 the gain is 0.96 points, at each model's best rate 0.04.",
        ),
        conclusion(
            3,
            "Too much dropout decreases training accuracy; a right rate has to be found.",
            SUPPORTED,
            "Two dropout layers cost 0.55 points (0.40 to 0.71) of training accuracy.",
            [
                part(
                    "two layers against none",
                    "Is training accuracy lower?",
                    [DROP, PLAIN],
                    SUPPORTED,
                    (-0.55, -0.71, -0.4),
                    **TRAIN,
                ),
            ],
            "A floor under the loss",
            "With drop7 the loss cannot fall below 0.36; it ended at 0.61.",
        ),
        conclusion(
            4,
            "Dropout keeps the model from training too well, which makes test accuracy better.",
            CONTRADICTED,
            "The gap shrinks by 0.11 points, but test accuracy falls.",
            [
                part(
                    "smaller gap",
                    "Do training and test accuracy lie closer together?",
                    [BOTH6, NORM],
                    SUPPORTED,
                    (-0.21, -0.27, -0.15),
                    **GAP,
                ),
                part(
                    "better test accuracy",
                    "Is test accuracy higher?",
                    [BOTH6, NORM],
                    CONTRADICTED,
                    (-0.13, -0.21, -0.04),
                ),
            ],
            "Where batch norm stands",
            "Every batch norm stands before every dropout, so none sees a shifted variance.",
        ),
        conclusion(
            5,
            "Dropout gives a very bad first epoch, but then learns faster than the others.",
            UNDECIDED,
            "Ten seeds cannot tell whether the first epoch is worse (-4.9 points, -12.1 to 2.4).",
            [
                part(
                    "bad start",
                    "Is accuracy lower after the first epoch?",
                    [DROP, PLAIN],
                    UNDECIDED,
                    (-4.9, -12.1, 2.4),
                    **(FIRST | {"direction": "less"}),
                ),
                part(
                    "learns faster",
                    "Is the gain from first to last epoch larger?",
                    [DROP, PLAIN],
                    UNDECIDED,
                    (4.4, -2.9, 11.6),
                    **(GAIN | {"seeds_needed": None}),
                ),
            ],
            "Catching up",
            "After ten epochs dropout is 0.49 points behind.",
        ),
    ]


def study_folder(path: Path, seeds=10, epochs=10, drawn=True, **config):
    """A finished study of the embedded sample; returns the folder, its config and its summary."""
    folder = ResultsFolder.create(path, overwrite=False)
    rows = rows_of(seeds, epochs)
    folder.write_results(rows)
    curves = curves_of(rows, epochs)
    for name in figures.FIGURES if drawn else ():
        figures.draw(curves, path / name, title="LeNet-5", subtitle="made up")
    settings = {"dataset": "mnist", "data_dir": None, "epochs": epochs, "seeds": seeds}
    settings |= {"learning_rate": 0.01, "variants": list(VARIANTS), "out": str(path)}
    content = {
        "title": "LeNet-5 on MNIST: batch norm and dropout",
        "program": "experiments.ablate",
        "settings": settings | {"overwrite": False, "compilation_cache": "auto"},
        "seeds_at_once": 1,
        "data": {
            "name": "mnist",
            "kind": "idx",
            "path": "data/mnist",
            "files": {"t10k-images-idx3-ubyte.gz": {"sha256": "8d42" * 16, "bytes": 1648877}},
            "notice": None,
            "sizes": {"train": 50000, "validation": 10000, "test": 1000},
        },
        "device": {"platform": "cpu", "kind": "cpu", "count": 2},
        "machine": {"processor": "AMD EPYC", "cores": 2, "system": "Linux"},
        "versions": {"python": "3.11.7", "jax": "0.10.2"},
    } | config
    folder.write_config(content)
    add_predictions(folder, seeds)
    pair = {"pair": [NORM, PLAIN]}
    summary = summarize(curves) | {
        "rules": RULES,
        "verdicts": five(),
        "pairing": [
            pair | {"epoch": "first", "correlation": 0.31, "variance_ratio": 0.94},
            pair | {"epoch": "last", "correlation": None, "variance_ratio": 0.99},
        ],
        "mcnemar": [pair | {"seed": 0, "only_first": 143, "only_second": 51, "p": 2.3e-11}],
        "wrong_labels": {
            "found": 15,
            "changed": [],
            "recomputed": 9,
            "text": "The largest change is 0.02 points.",
        },
    }
    return folder, content, summary


def add_predictions(folder, seeds):
    """Runs that miss a hundredth of the sample's test digits, and three of them nearly always."""
    digits = sample()[0]
    images, labels = digits.test_images, digits.test_labels.astype(np.uint8)
    draws = np.random.default_rng(0)
    said = np.broadcast_to(labels, (len(VARIANTS), seeds, len(labels))).copy()
    said[draws.random(said.shape) < 0.01] = 7
    for place, often in ((5, 1.0), (17, 0.9), (400, 0.7)):
        wrong = draws.random(said.shape[:2]) < often
        said[..., place][wrong] = (labels[place] + 1) % 10
    folder.write_predictions(dict(zip(VARIANTS, said, strict=True)))
    folder.write_test_set(LabelledImages(images, labels, wrong=np.arange(len(labels)) == 17))

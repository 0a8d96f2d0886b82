"""What must agree and what may grow between two starts, in words; and what is then left to do."""

import numpy as np
import pytest

from experiments import cli, going_on, run_store, study
from experiments.going_on import Identity
from experiments.progress import Display


def test_differences_have_the_names_and_both_values():
    old = {"--batch-size": 128, "--variants": ["a", "b"], "--devices": None, "same": 1}
    new = {"--batch-size": 64, "--variants": ["a"], "--devices": 2, "same": 1, "jax": "1"}
    assert going_on.differences(old, new) == [
        "--batch-size: the folder has 128, not 64",
        "--variants: the folder has a b, not a",
        "--devices: the folder has none, not 2",
        "jax: the folder has none, not 1",
    ]


@pytest.mark.parametrize(
    ("old", "new", "flags"),
    [
        ((0, 10), (0, 10), []),
        ((0, 10), (0, 20), []),
        ((5, 5), (0, 10), []),
        ((0, 10), (0, 9), ["--seeds"]),
        ((0, 10), (1, 9), ["--first-seed"]),
        ((0, 10), (1, 5), ["--first-seed", "--seeds"]),
        ((0, 10), (20, 10), ["--first-seed"]),
    ],
)
def test_seeds_may_be_added_at_both_ends_and_never_taken_away(old, new, flags):
    settings = [
        {"first_seed": f, "seeds": n, "epochs": 1, "variants": ["a"]} for f, n in (old, new)
    ]
    found = going_on.shrunk(*settings, ("variants",))
    assert [text.split(":")[0] for text in found] == flags


CONFIG = {
    "program": "experiments.ablate",
    "settings": {"batch_size": 128, "seeds_at_once": None},
    "seeds_at_once": 1,
    "data": {"name": "mnist", "sizes": {"train": 7}, "files": {"a.gz": {"sha256": "0f"}}},
    "device": {"platform": "cpu", "kind": "cpu", "count": 2},
    "machine": {"processor": "EPYC"},
    "versions": {"python": "3.11", "jax": "0.10.2"},
}


def test_the_identity_has_what_the_program_made_of_the_settings():
    assert going_on.identity_of(CONFIG, ("batch_size", "seeds_at_once")) == Identity(
        {
            "program": "experiments.ablate",
            "--dataset": "mnist",
            "--train-size": 7,
            "--batch-size": 128,
            "--seeds-at-once": 1,
            "SHA-256 of a.gz": "0f",
            "--devices": 2,
        },
        {"device": "cpu", "kind of device": "cpu", "processor": "EPYC", "jax": "0.10.2"},
    )


def test_on_a_gpu_neither_the_processor_nor_the_number_of_devices_decides():
    device = {"platform": "gpu", "kind": "H100", "count": 8}
    identity = going_on.identity_of(CONFIG | {"device": device}, ())
    assert "--devices" not in identity.settings
    assert identity.environment == {"device": "gpu", "kind of device": "H100", "jax": "0.10.2"}


def test_the_display_goes_on_from_what_is_there():
    done = [study_row("LeNet", 0, 1, 0.5), study_row("LeNet", 0, 2, 0.7)]
    display = Display(cli.console(), ("LeNet", "LeNet_BN_Dropout"), 2, 2, done)
    with display:
        display.add([study_row("LeNet", 1, 1, 0.6)])
    cells = [list(column.cells) for column in display._picture().renderables[0].columns]
    assert cells[1] == ["1", "0"]
    assert cells[6] == ["70.00%", ""]
    assert display._bar.tasks[0].completed == 3
    assert display._bar.tasks[0].total == 8


def study_row(variant, seed, epoch, accuracy):
    return run_store.Row(variant, seed, epoch, 0.1, accuracy, 0.1, accuracy, 1.0)


def test_plans_train_the_first_seed_alone_and_the_missing_ones_beside_it():
    record = run_store.Record([], 2, *np.zeros((2, 1, 1), np.uint8))
    begun = run_store.Record([], 1, *np.zeros((2, 2, 1), np.uint8))
    records = {
        study.Group("LeNet", (0,)): record,
        study.Group("LeNet", (3, 4)): begun,
        study.Group("LeNet_BN_Dropout", (1, 2)): record,
    }
    plan = study.plan(records, ("LeNet", "LeNet_BN_Dropout"), range(7), epochs=2, width=2)
    assert [(group.variant, group.seeds) for group in plan] == [
        ("LeNet_BN_Dropout", (0,)),
        ("LeNet", (1, 2)),
        ("LeNet", (3, 4)),
        ("LeNet_BN_Dropout", (3, 4)),
        ("LeNet", (5, 6)),
        ("LeNet_BN_Dropout", (5, 6)),
    ]

"""How many runs train together: what the user says, by device, and no more than memory has room."""

import jax
import pytest

from experiments import together
from experiments.ablate_settings import Settings
from experiments.together import Together, affordable, asked_for
from jax_lenet import VARIANTS, load
from jax_lenet.memory import bytes_needed, example_shapes

MODELS = {name: VARIANTS[name] for name in ("LeNet", "LeNet_BN_Dropout")}


def devices(monkeypatch, platform, count):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(jax, "local_device_count", lambda: count)


@pytest.mark.parametrize(
    ("platform", "count", "runs", "expected"),
    [
        ("cpu", 2, None, Together(1, 1)),
        ("cpu", 2, 6, Together(6, 6)),
        ("cpu", 2, 100, Together(100, 12)),  # there are no more, and places are trained, too
        ("gpu", 1, None, Together(32, 32)),
        ("gpu", 8, None, Together(32, 256)),
        ("gpu", 8, 100, Together(100, 800)),  # each GPU as many, whatever their number: same bits
    ],
)
def test_on_a_gpu_it_is_said_for_each_and_on_a_cpu_for_all(
    monkeypatch, platform, count, runs, expected
):
    devices(monkeypatch, platform, count)
    assert asked_for(runs, on_cpu=1, most=12) == expected


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 1), (3, 3), (16, 16)])
def test_a_study_uses_all_of_a_cpus_devices(monkeypatch, data, count, expected):
    """A run alone is split over two; with more of them, each trains a run."""
    devices(monkeypatch, "cpu", count)
    monkeypatch.setattr(together, "bytes_available", lambda: None)
    assert Settings(seeds=20).together(data, print) == Together(expected, expected)


def test_where_a_run_alone_cannot_be_split_each_of_two_devices_trains_one(monkeypatch, data):
    devices(monkeypatch, "cpu", 2)
    monkeypatch.setattr(together, "bytes_available", lambda: None)
    settings = Settings(seeds=20, batch_size=125)  # odd, and so is what is left of 640
    assert settings.together(data, print) == Together(2, 2)


def test_one_run_of_several_at_once_has_the_bits_of_several(monkeypatch):
    devices(monkeypatch, "cpu", 2)
    assert asked_for(4, on_cpu=1, most=1).runs == 2


@pytest.fixture(scope="module")
def data():
    return load("mnist_sample", train_size=640)


def room_for(data, runs):
    """The bytes that so many runs of the larger model need on a device."""
    train, test = example_shapes(640, moments=True), example_shapes(1000, moments=False)
    return bytes_needed(MODELS["LeNet_BN_Dropout"], train, test, runs, 128, "cpu").total


def test_where_memory_is_short_fewer_train_together_and_a_line_says_so(data, monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    free = room_for(data, 8)
    monkeypatch.setattr(together, "bytes_available", lambda: free)
    said = []
    found = affordable(Together(32, 32), MODELS, data, (1000,), 128, said.append)
    assert found == Together(32, 8)
    assert len(said) == 2
    assert said[1].startswith("32 runs of LeNet_BN_Dropout need about")
    assert said[1].endswith("8 at once instead")
    monkeypatch.setattr(together, "bytes_available", lambda: None)
    assert affordable(Together(32, 32), MODELS, data, (1000,), 128, said.append).runs == 32
    assert len(said) == 2


def test_a_run_a_device_is_not_forbidden_whatever_the_estimate(data, monkeypatch):
    monkeypatch.setattr(together, "bytes_available", lambda: 1)
    asked = Together(1, jax.local_device_count())
    assert affordable(asked, MODELS, data, (1000,), 128, print) == asked


def test_on_a_cpu_not_one_run_trains_alone_where_several_were_asked_for(data, monkeypatch):
    said = []
    devices(monkeypatch, "cpu", 1)
    monkeypatch.setattr(together, "bytes_available", lambda: 1)
    asked = Together(4, 4)
    # One run alone is another program, with other bits; the folder knows only what was asked for.
    assert affordable(asked, MODELS, data, (1000,), 128, said.append) == Together(4, 2)
    assert said[0].endswith("2 at once instead")

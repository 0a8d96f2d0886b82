"""The report's program in PyTorch: its models, its batches, its rows."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import cli, torch_baseline
from experiments.results import Row
from experiments.torch_baseline import Examples, Settings
from experiments.torch_model import Shuffled
from jax_lenet import VARIANTS
from tests.torch_reference import noise, sample, to_labels, to_nchw

SMALL = ("--dataset", "mnist_sample", "--train-size", 300, "--epochs", 2, "--batch-size", 32)


def program(out, *arguments):
    """Run the program in this process and return its exit code."""
    line = [*map(str, (*SMALL, "--learning-rate", 0.1, *arguments)), "--out", str(out)]
    return cli.run(torch_baseline.main, Settings, "torch_baseline", line)


def rows_of(out):
    with (Path(out) / "results.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("torch") / "results"
    assert program(out, "--seeds", 2) == 0
    return out


def settings_of(loader, batch_size=128):
    return Settings(loader=loader, batch_size=batch_size)


def examples(count):
    data = noise(count)
    return Examples(to_nchw(data.images), to_labels(data.labels))


# The models


def test_layers_have_the_reports_names_in_the_reports_order():
    model = torch_baseline.build("LeNet_BN_Dropout")
    assert [name for name, _ in model.convnet.named_children()] == (
        ["c1", "bn1", "relu1", "s2", "c3", "bn3", "relu3", "s4", "c5", "bn5", "relu5"]
    )
    assert [name for name, _ in model.fc.named_children()] == (
        ["f6", "drop6", "relu6", "f7", "drop7", "sig7"]
    )
    assert (model.fc.drop6.p, model.fc.drop7.p) == (0.5, 0.5)
    plain = torch_baseline.build("LeNet")
    assert [name for name, _ in plain.convnet.named_children()] == (
        ["c1", "relu1", "s2", "c3", "relu3", "s4", "c5", "relu5"]
    )
    assert [name for name, _ in plain.fc.named_children()] == ["f6", "relu6", "f7", "sig7"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_models_have_the_reports_number_of_parameters(variant):
    parameters = sum(p.numel() for p in torch_baseline.build(variant).parameters())
    assert parameters == (61_990 if VARIANTS[variant].batch_norm else 61_706)


def test_all_variants_of_a_seed_start_from_the_same_weights():
    torch.manual_seed(3)
    plain = torch_baseline.build("LeNet").state_dict()
    for variant in VARIANTS:
        torch.manual_seed(3)
        state_dict = torch_baseline.build(variant).state_dict()
        assert all(torch.equal(state_dict[key], value) for key, value in plain.items())


# The batches


@pytest.mark.parametrize("loader", ["memory", "dataloader"])
def test_every_image_comes_once_an_epoch_and_the_last_batch_is_what_is_left(loader):
    data = Examples(torch.arange(300.0).reshape(-1, 1, 1, 1), torch.arange(300))
    batches = torch_baseline.batches_of(settings_of(loader), data, 0, torch.device("cpu"))
    orders = []
    for _ in range(2):
        images, labels = zip(*batches, strict=True)
        assert [len(batch) for batch in labels] == [128, 128, 44]
        assert torch.equal(torch.cat(images).flatten(), torch.cat(labels).float())
        orders.append(torch.cat(labels))
        assert torch.equal(orders[-1].sort().values, data.labels)
    assert not torch.equal(*orders)


def test_both_loaders_give_the_same_batches_whatever_else_draws_random_numbers():
    data = examples(300)
    loaders = [
        torch_baseline.batches_of(settings_of(loader), data, 5, torch.device("cpu"))
        for loader in ("memory", "dataloader")
    ]
    for _ in range(3):
        for (images, labels), (other_images, other_labels) in zip(*loaders, strict=True):
            torch.rand(3)
            assert torch.equal(images, other_images)
            assert torch.equal(labels, other_labels)


def test_another_seed_gives_another_order():
    assert not torch.equal(Shuffled(100, 0).order(), Shuffled(100, 1).order())


# Training and evaluation


def test_the_epochs_loss_is_the_mean_over_images_of_the_loss_before_each_step():
    data = examples(20)
    model, other = torch.nn.Flatten(), torch.nn.Flatten()
    for flat in (model, other):
        flat.weight = torch.nn.Parameter(torch.full((784, 10), 0.01))
        flat.forward = lambda x, flat=flat: torch.log_softmax(x.flatten(1) @ flat.weight, -1)
    batches = [tuple(x[:16] for x in data), tuple(x[16:] for x in data)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mean = torch_baseline.train_epoch(model, batches, optimizer)
    # By hand: the gradient of the mean negative log-likelihood of a linear model.
    weight, total = np.full((784, 10), 0.01), 0.0
    for images, labels in batches:
        x, y = images.flatten(1).double().numpy(), np.eye(10)[labels]
        p = np.exp(x @ weight) / np.exp(x @ weight).sum(-1, keepdims=True)
        total -= (np.log(p) * y).sum()
        weight -= 0.1 * x.T @ (p - y) / len(x)
    assert mean.item() == pytest.approx(total / 20, rel=1e-5)
    np.testing.assert_allclose(model.weight.detach(), weight, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 25, 1000])
def test_evaluation_counts_every_image_once_in_evaluation_mode(batch_size):
    torch.manual_seed(0)
    model = torch_baseline.build("LeNet_BN_Dropout")
    data = examples(25)
    loss, right = torch_baseline.evaluate(model, data, batch_size)
    log_probs = model.eval()(data.images).detach().double().numpy()
    labels = data.labels.numpy()
    assert right == (log_probs.argmax(-1) == labels).sum()
    assert loss.item() == pytest.approx(-log_probs[range(25), labels].mean(), rel=1e-5)


# The program


def test_results_have_ablates_columns_and_a_row_per_variant_seed_and_epoch(finished):
    rows = rows_of(finished)
    assert tuple(rows[0]) == Row._fields
    found = [(row["variant"], int(row["seed"]), int(row["epoch"])) for row in rows]
    assert found == [(v, s, e) for v in VARIANTS for s in (0, 1) for e in (1, 2)]
    for row in rows:
        for name, images in (("train_accuracy", 300), ("test_accuracy", 1000)):
            count = float(row[name]) * images
            assert count == pytest.approx(round(count), abs=1e-9)
            assert 0 <= count <= images
        assert 0 < float(row["train_loss"]) < 4
        assert 0 < float(row["test_loss"]) < 4
        assert float(row["seconds"]) > 0


def test_training_learns(finished):
    # Twenty steps on 300 digits; chance is 0.1.
    last = [row for row in rows_of(finished) if row["epoch"] == "2" and "BN_no" in row["variant"]]
    assert all(float(row["test_accuracy"]) > 0.3 for row in last)


def test_config_names_settings_data_device_and_versions(finished):
    config = json.loads((finished / "config.json").read_text())
    assert config["program"] == "experiments.torch_baseline"
    assert config["settings"]["train_size"] == 300
    assert config["settings"]["loader"] == "memory"
    assert config["data"]["sizes"]["train"] == 300
    assert config["data"]["sizes"]["test"] == len(sample().test_labels)
    assert config["device"]["platform"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert config["versions"]["torch"] == torch.__version__


def test_a_run_is_the_same_alone_and_from_a_dataloader(finished, tmp_path):
    variant = "LeNet_BN_Dropout"
    chosen = ("--variants", variant, "--first-seed", 1, "--seeds", 1)
    assert program(tmp_path / "alone", *chosen) == 0
    assert program(tmp_path / "loader", *chosen, "--loader", "dataloader") == 0
    expected = [
        row for row in rows_of(finished) if row["variant"] == variant and row["seed"] == "1"
    ]
    for name in ("alone", "loader"):
        assert without_seconds(rows_of(tmp_path / name)) == without_seconds(expected)


def test_a_run_that_diverges_is_recorded_and_told(tmp_path, capsys):
    code = program(tmp_path, "--variants", "LeNet", "--seeds", 1, "--learning-rate", 1e6)
    assert code == 0
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    assert not math.isfinite(float(rows[-1]["train_loss"]))
    assert "LeNet seed 0 diverged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--variants", "LeNet_BN_droput6"), "did you mean LeNet_BN_drop6?"),
        (("--device", "tpu"), "--device"),
        (("--loader", "disk"), "--loader"),
        (("--epochs", "0"), "--epochs"),
    ],
)
def test_a_bad_argument_ends_in_one_line_and_exit_code_2(tmp_path, capsys, arguments, message):
    assert program(tmp_path, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("torch_baseline: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where PyTorch sees no GPU")
def test_asking_for_a_gpu_where_there_is_none_ends_in_one_line_and_exit_code_2(tmp_path, capsys):
    assert program(tmp_path, "--device", "cuda") == 2
    error = capsys.readouterr().err
    assert error == (
        "torch_baseline: --device: expected cpu or auto, not cuda: PyTorch sees no GPU\n"
    )


def test_it_runs_as_a_module_and_prints_the_table(tmp_path):
    command = [sys.executable, "-m", "experiments.torch_baseline", *map(str, SMALL)]
    done = subprocess.run(
        [*command, "--variants", "LeNet", "--seeds", "1", "--out", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "last epoch" in done.stdout
    assert f"Results: {tmp_path.resolve()}" in done.stdout
    assert done.stderr == ""

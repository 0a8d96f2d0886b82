"""A user's mistakes: each one line that says what was expected, exit code 2, no traceback."""

from dataclasses import replace
from pathlib import Path

import pytest

from experiments import ablate, cli

MISTAKES = [
    (["--epochs", "x"], "--epochs: expected a whole number, not 'x'"),
    (["--epochs", "1.5"], "--epochs: expected a whole number, not '1.5'"),
    (["--epochs", "0"], "--epochs: expected at least 1, not 0"),
    (["--seeds", "0"], "--seeds: expected at least 1, not 0"),
    (["--seeds", "-3"], "--seeds: expected at least 1, not -3"),
    (["--first-seed", "-1"], "--first-seed: expected at least 0"),
    (["--first-seed", "4294967295", "--seeds", "2"], "--first-seed: expected at least 0"),
    (["--batch-size", "0"], "--batch-size: expected at least 1, not 0"),
    (["--batch-size", "4001"], "number of training images, 4000, not 4001"),
    (["--batch-size", "1"], "batch norm needs at least two images"),
    (["--train-size", "0"], "--train-size: expected at least 1, not 0"),
    (["--train-size", "129"], "leaves one of 129 alone"),
    (["--train-size", "4001"], "4001"),
    (["--learning-rate", "nan"], "--learning-rate: expected a positive number, not nan"),
    (["--learning-rate", "inf"], "--learning-rate: expected a positive number, not inf"),
    (["--learning-rate", "0"], "--learning-rate: expected a positive number, not 0.0"),
    (["--learning-rate", "1e-50"], "--learning-rate: expected a positive number, not 1e-50"),
    (["--learning-rate", "1e40"], "--learning-rate: expected a positive number, not 1e+40"),
    (["--learning-rate", "x"], "--learning-rate: expected a number, not 'x'"),
    (["--variants"], "--variants: expected at least one name"),
    (["--variants", "LeNet_BN_Droput"], "did you mean LeNet_BN_Dropout?"),
    (["--variants", "LeNet", "LeNet"], "--variants: expected each name once"),
    (["--dataset", "minst"], "did you mean 'mnist'?"),
    (["--precision", "hi"], "Expected one of ('highest', 'high', 'default')"),
    (["--seeds-at-once", "0"], "--seeds-at-once: expected at least 1, not 0"),
    (["--devices", "0"], "--devices: expected at least 1, not 0"),
    (["--compilation-cache", "/dev/null"], "--compilation-cache: expected a folder that this user"),
    (["--timing-repeats", "-1"], "--timing-repeats: expected at least 0, not -1"),
    (["--accuracy-margin", "0"], "--accuracy-margin: expected above 0, not 0.0"),
    (["--time-margin", "nan"], "--time-margin: expected above 0, not nan"),
    (["--time-margin", "inf"], "--time-margin: expected above 0, not inf"),
    (["--sweep", "/nonexistent"], "cannot read /nonexistent/config.json"),
    (["--epoch", "3"], "Perhaps you meant: --epochs"),
    (["surplus"], "Unrecognized options: surplus"),
    (["--data-dir", "/nonexistent", "--dataset", "mnist"], "/nonexistent"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_gets_one_line_and_exit_code_2(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    common = [] if "--dataset" in arguments else ["--dataset", "mnist_sample"]
    code = cli.run(ablate.main, ablate.Settings, "ablate", [*arguments, *common, "--out", str(out)])
    screen = capsys.readouterr()
    assert code == 2
    assert screen.err.count("\n") == 1
    assert screen.err.startswith("ablate: ")
    assert message in screen.err
    assert "Traceback" not in screen.err + screen.out
    assert not out.exists()


def test_every_setting_reaches_the_program_and_the_config():
    line = (
        "--dataset mnist_sample --data-dir d --train-size 640 --epochs 3 --seeds 4 --first-seed 5"
        " --batch-size 64 --learning-rate 0.1 --variants LeNet LeNet_BN_drop6 --out o --overwrite"
        " --precision high --seeds-at-once 2 --timing-repeats 1 --accuracy-margin 0.2"
        " --time-margin 5 --sweep s t"
    )
    settings = cli.parse(ablate.Settings, "ablate", line.split())
    assert settings == ablate.Settings(
        dataset="mnist_sample",
        data_dir=Path("d"),
        train_size=640,
        epochs=3,
        seeds=4,
        first_seed=5,
        batch_size=64,
        learning_rate=0.1,
        variants=("LeNet", "LeNet_BN_drop6"),
        out=Path("o"),
        overwrite=True,
        precision="high",
        seeds_at_once=2,
        timing_repeats=1,
        accuracy_margin=0.2,
        time_margin=5.0,
        sweep=(Path("s"), Path("t")),
    )
    assert settings.as_json()["sweep"] == ["s", "t"]
    assert settings.as_json()["out"] == "o"
    assert set(settings.as_json()) == set(vars(replace(settings)))


def test_ctrl_c_ends_with_130_and_one_line(capsys):
    def interrupted(settings):
        raise KeyboardInterrupt

    assert cli.run(interrupted, ablate.Settings, "ablate", []) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ablate: interrupted; the epochs that were finished are in the results")


def test_an_error_of_our_own_is_not_taken_for_the_users():
    def broken(settings):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        cli.run(broken, ablate.Settings, "ablate", [])

"""How programs end: the exit code, one line that says why and how to go on, no traceback."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from experiments import ablate, cli, durable
from experiments.signals import Stopped, deferred

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
    (["--precision", "hi"], "--precision: expected one of highest, high, default, not hi; did you"),
    (["--seeds-at-once", "0"], "--seeds-at-once: expected at least 1, not 0"),
    (["--devices", "0"], "--devices: expected 1 to 1024, not 0"),
    (["--devices", "1025"], "--devices: expected 1 to 1024, not 1025"),
    (["--compilation-cache", "/dev/null"], "--compilation-cache: expected a folder that this user"),
    (["--timing-repeats", "-1"], "--timing-repeats: expected at least 0, not -1"),
    (["--accuracy-margin", "0"], "--accuracy-margin: expected a number from 1e-6 to 100, not 0.0"),
    (["--time-margin", "nan"], "--time-margin: expected a number from 1e-6 to 100, not nan"),
    (["--time-margin", "inf"], "--time-margin: expected a number from 1e-6 to 100, not inf"),
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
    who = {"coordinator", "processes", "process_id"}  # changes no number
    assert set(settings.as_json()) == set(vars(replace(settings))) - who


@dataclass(frozen=True)
class Toy:
    """Settings of a program that does nothing else."""

    out: Path = Path("results")
    overwrite: bool = False


def ends_with(error):
    def program(settings):
        raise error

    return program


def last_line(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_program_that_is_done_ends_with_0_and_says_nothing(capsys):
    assert cli.run(lambda settings: None, Toy, "toy", []) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "code", "by"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_with_its_code_and_the_command_to_go_on(number, code, by, capsys):
    def program(settings):
        with deferred():
            os.kill(os.getpid(), number)

    assert cli.run(program, Toy, "toy", ["--out", "my results"]) == code
    line = last_line(capsys)
    assert line == (f"toy: stopped by {by}; to go on: python -m experiments.toy --out 'my results'")
    command = shlex.split(line.split("to go on: ")[1])
    assert cli.parse(Toy, "toy", command[3:]) == Toy(Path("my results"))


def test_the_command_to_go_on_overwrites_only_what_is_not_gone_yet(capsys):
    def program(settings):
        cli.never_overwrite_again()
        raise Stopped(signal.SIGINT)

    assert cli.run(program, Toy, "toy", ["--overwrite"]) == 130
    assert last_line(capsys).endswith("to go on: python -m experiments.toy")
    assert cli.run(ends_with(Stopped(signal.SIGINT)), Toy, "toy", ["--overwrite"]) == 130
    assert last_line(capsys).endswith("to go on: python -m experiments.toy --overwrite")


def test_a_program_that_cannot_go_on_says_so(capsys):
    program = ends_with(Stopped(signal.SIGINT))
    assert cli.run(program, Toy, "toy", ["--out", "x"], goes_on=False) == 130
    assert last_line(capsys) == "toy: stopped by Ctrl-C; --overwrite starts anew"


def test_without_arguments_the_command_to_go_on_is_the_process_s_own(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments/toy.py", "--out", "x"])
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)  # which such a process ends with
    assert cli.run(ends_with(Stopped(signal.SIGINT)), Toy, "toy") == 130
    assert last_line(capsys).endswith("to go on: python -m experiments.toy --out x")
    assert codes == [130]


def test_ctrl_c_ends_with_130_outside_the_main_thread_too(capsys):
    codes = []
    arguments = ends_with(KeyboardInterrupt()), Toy, "toy", []
    thread = threading.Thread(target=lambda: codes.append(cli.run(*arguments)))
    thread.start()
    thread.join()
    assert codes == [130]
    assert last_line(capsys) == "toy: stopped by Ctrl-C; to go on: python -m experiments.toy"


def test_a_file_that_cannot_be_written_ends_with_1_and_the_command_to_go_on(tmp_path, capsys):
    error = cli.StorageError(tmp_path / "results.csv", "No space left on device")
    assert cli.run(ends_with(error), Toy, "toy", []) == 1
    assert last_line(capsys) == (
        f"toy: cannot write {tmp_path}/results.csv: No space left on device; everything finished"
        f" so far is kept in {tmp_path}; to go on: python -m experiments.toy"
    )


def test_a_folder_that_has_vanished_is_named(tmp_path, capsys):
    def program(settings):
        durable.write(tmp_path / "gone" / "results.csv", b"")

    assert cli.run(program, Toy, "toy", []) == 1
    assert last_line(capsys) == (
        f"toy: cannot write {tmp_path}/gone/results.csv: No such file or directory; the folder"
        f" {tmp_path}/gone is gone; to go on: python -m experiments.toy"
    )


def test_a_message_of_several_lines_becomes_one(capsys):
    assert cli.run(ends_with(cli.UserError("one\n  two")), Toy, "toy", []) == 2
    assert last_line(capsys) == "toy: one two"


def test_a_screen_that_cannot_be_printed_on_ends_with_1(capsys):
    full = OSError(errno.ENOSPC, "No space left on device")
    assert cli.run(ends_with(full), Toy, "toy", []) == 1
    assert last_line(capsys).startswith("toy: cannot write: No space left on device; to go on:")


PRINTS = """
import sys
from dataclasses import dataclass
from experiments import cli

@dataclass(frozen=True)
class Toy:
    lines: int

def program(settings):
    for _ in range(settings.lines):
        print("an epoch")

sys.exit(cli.run(program, Toy, "toy"))
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is full")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_log_on_a_full_disk_ends_with_1_and_no_traceback(lines):
    # One line stays in Python's buffer until the end, 100,000 do not.
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS, "--lines", str(lines)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("toy: cannot write: No space left on device; to go on:")


@pytest.mark.skipif(os.name == "nt", reason="Windows sends a process no signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_end_says_nothing_of_where_it_came(number):
    late = f"import atexit, os\natexit.register(lambda: os.kill(os.getpid(), {number:d}))\n"
    done = subprocess.run(
        [sys.executable, "-c", late + PRINTS, "--lines", "1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-number, "an epoch\n", "")


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "a bug"), RuntimeError("a bug")]
)
def test_an_error_of_our_own_is_not_taken_for_the_users(error):
    with pytest.raises(type(error), match="a bug"):
        cli.run(ends_with(error), Toy, "toy", [])

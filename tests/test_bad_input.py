"""Bad input to every program: exit code 2, one line that says what was expected, nothing touched.

Each case runs twice: where no results are, of which none may come to be, and with ``--overwrite``
where results are, of which none may be lost.
"""

import itertools
from pathlib import Path

import jax
import pytest
import torch

from experiments import ablate, benchmark, cli, sweep, torch_baseline
from tests.mnist_files import BROKEN, break_file, linked, write_plain

PROGRAMS = {
    "ablate": ablate,
    "sweep": sweep,
    "torch_baseline": torch_baseline,
    "benchmark": benchmark,
}
LONG = "x" * 5_000
#: More digits than a line should have, and what it has of them.
GOOGOLS, SHORTENED = "1" + "0" * 400, "100000000000000000...0000000000000000000"
HERE = str(Path(__file__).parent)

# What all four have in common: the data, the model, plain SGD, the folder.
EXPERIMENT = [
    (["--epochs", "x"], "--epochs: expected a whole number, not 'x'"),
    (["--epochs", "1.5"], "--epochs: expected a whole number, not '1.5'"),
    (["--epochs", ""], "--epochs: expected a whole number, not ''"),
    (["--epochs", "9" * 5_000], "--epochs: "),
    (["--epochs", "1000001"], "--epochs: expected at most 1,000,000, not 1000001"),
    (["--epochs", GOOGOLS], f"--epochs: expected at most 1,000,000, not {SHORTENED}"),
    (["--epochs", "0"], "--epochs: expected at least 1, not 0"),
    (["--epochs", "-1"], "--epochs: expected at least 1, not -1"),
    (["--epochs"], "--epochs"),
    (["--epoch", "3"], "Perhaps you meant: --epochs"),
    (["--batch-size", "0"], "--batch-size: expected at least 1, not 0"),
    (["--batch-size", "-128"], "--batch-size: expected at least 1, not -128"),
    (["--batch-size", GOOGOLS], f"--batch-size: expected at most 1,000,000, not {SHORTENED}"),
    (["--batch-size", "4001"], "number of training images, 4000, not 4001"),
    (["--batch-size", "1"], "batch norm needs at least two images"),
    (["--train-size", "x"], "--train-size: expected a whole number, not 'x'"),
    (["--train-size", "0"], "--train-size: expected at least 1, not 0"),
    (["--train-size", "129"], "leaves one of 129 alone"),
    (["--train-size", "4001"], "expected a train size from 1 to 4000, found 4001"),
    (["--train-size", "1000000"], "expected a train size from 1 to 4000, found 1000000"),
    (["--train-size", GOOGOLS], f"--train-size: expected at most 1,000,000, not {SHORTENED}"),
    (["--learning-rate", "nan"], "--learning-rate: expected a positive number, not nan"),
    (["--learning-rate", "inf"], "--learning-rate: expected a positive number, not inf"),
    (["--learning-rate", "-0.01"], "--learning-rate: expected a positive number, not -0.01"),
    (["--learning-rate", "0"], "--learning-rate: expected a positive number, not 0.0"),
    # Training takes it as float32, in which these are zero and infinite.
    (["--learning-rate", "1e-50"], "--learning-rate: expected a positive number, not 1e-50"),
    (["--learning-rate", "1e-45"], "--learning-rate: expected a positive number, not 1e-45"),
    (["--learning-rate", "1e40"], "--learning-rate: expected a positive number, not 1e+40"),
    (["--learning-rate", "x"], "--learning-rate: expected a number, not 'x'"),
    (["--variants"], "--variants: expected at least one name"),
    (["--variants", "LeNet_BN_noDropuot"], "did you mean LeNet_BN_noDropout?"),
    (["--variants", "lenet"], "did you mean LeNet?"),
    (["--variants", "LeNet", "LeNet"], "--variants: expected each name once"),
    (["--variants", "x\ny"], "--variants: expected names of LeNet, "),
    (["--dataset", "minst"], "did you mean 'mnist'?"),
    (["--dataset", "MNIST"], "did you mean 'mnist'?"),
    (["--dataset", "imagenet"], "expected a data set of mnist, mnist_sample, found 'imagenet'"),
    (["--data-dir", HERE], "mnist_sample is part of the package and reads no folder"),
    (["--data-dir", "/nonexistent", "--dataset", "mnist"], "/nonexistent: expected a folder"),
    (["--data-dir", __file__, "--dataset", "mnist"], "holds MNIST, found a file"),
    (["--data-dir", HERE, "--dataset", "mnist"], "expected a tensorflow_datasets directory"),
    (["--data-dir", LONG, "--dataset", "mnist"], "File name too long"),
    (["--out", ""], "--out: expected a path, not ''"),
    (["--data-dir", ""], "--data-dir: expected a path, not ''"),
    (["--out", "/dev/null"], "--out: cannot write to "),
    (["--out", "/dev/null/results"], "--out: cannot write to "),
    (["--out", LONG], "--out: cannot write to "),
    (["--out"], "--out"),
    (["surplus"], "Unrecognized options: surplus"),
]
LAST = "with the last seed below 2**32"
SEEDS = [
    (["--seeds", "0"], "--seeds: expected at least 1, not 0"),
    (["--seeds", "-3"], "--seeds: expected at least 1, not -3"),
    (["--first-seed", "-1"], "--first-seed: expected at least 0"),
    (["--first-seed", "4294967295", "--seeds", "2"], "the last seed below 2**32, not 4294967295"),
    (["--first-seed", GOOGOLS], f"--first-seed: expected at least 0, {LAST}, not {SHORTENED}"),
    (["--seeds", str(2**32 + 1)], "--seeds: expected at most 1,000,000, not 4294967297"),
    (["--seeds", GOOGOLS], f"--seeds: expected at most 1,000,000, not {SHORTENED}"),
]
JAX = [
    (["--precision", "hi"], "--precision: expected one of highest, high, default, not hi; did you"),
    (["--devices", "0"], "--devices: expected 1 to 1024, not 0"),
    (["--devices", "1025"], "--devices: expected 1 to 1024, not 1025"),
    (["--devices", "3"], "--devices: expected 2, what JAX runs on already, not 3"),
    (["--compilation-cache", ""], "--compilation-cache: expected auto, off or a folder, not ''"),
    (["--compilation-cache", "/dev/null"], "--compilation-cache: expected a folder that this user"),
]
MARGIN = "expected a number from 1e-6 to 100"
ABLATE = [
    (["--seeds-at-once", "0"], "--seeds-at-once: expected at least 1, not 0"),
    (["--seeds-at-once", GOOGOLS], "--seeds-at-once: expected at most 1,000,000, not 1"),
    (["--timing-repeats", "-1"], "--timing-repeats: expected at least 0, not -1"),
    (["--timing-repeats", GOOGOLS], "--timing-repeats: expected at most 1,000,000, not 1"),
    (["--accuracy-margin", "0"], f"--accuracy-margin: {MARGIN}, not 0.0"),
    (["--accuracy-margin", "nan"], f"--accuracy-margin: {MARGIN}, not nan"),
    (["--accuracy-margin", "5e-324"], f"--accuracy-margin: {MARGIN}, not 5e-324"),
    (["--time-margin", "-1"], f"--time-margin: {MARGIN}, not -1.0"),
    (["--time-margin", "inf"], f"--time-margin: {MARGIN}, not inf"),
    (["--time-margin", "1e305"], f"--time-margin: {MARGIN}, not 1e+305"),
    (["--sweep", "/nonexistent"], "cannot read /nonexistent/config.json"),
    (["--sweep", __file__], "cannot read "),
]
SWEEP = [
    (["--dropout-rates", "0.5", "1.0"], "--dropout-rates: expected rates in [0, 1), not 1"),
    # As float32 it is 1.
    (["--dropout-rates", "0.99999999"], "--dropout-rates: expected rates in [0, 1), not 1"),
    (["--dropout-rates", "-0.1"], "--dropout-rates: expected rates in [0, 1), not -0.1"),
    (["--dropout-rates", "nan"], "--dropout-rates: expected rates in [0, 1), not nan"),
    (["--dropout-rates", "x"], "--dropout-rates: expected numbers, not 'x'"),
    (["--dropout-rates"], "--dropout-rates: expected at least one rate, not none"),
    (["--dropout-rates", "0.5", "0.5"], "--dropout-rates: expected each rate once, not 0.5 0.5"),
    (["--layers", "drop8"], "expected one of drop6, drop7, both, not drop8; did you mean drop"),
    (["--layers"], "--layers: expected one or more of drop6, drop7, both"),
    (["--layers", "both", "both"], "--layers: expected one or more of drop6, drop7, both, each"),
    (["--learning-rates", "0"], "--learning-rates: expected rates that are positive, not 0"),
    (["--learning-rates", "nan"], "--learning-rates: expected rates that are positive, not nan"),
    (["--learning-rates", "0.1", "inf"], "--learning-rates: expected rates that are positive"),
    (["--learning-rates", "0.1", "0.1"], "--learning-rates: expected each rate once"),
    (["--learning-rates", "0.1", "--dropout-rates", "0.1"], "one sweep varies one rate"),
    (["--learning-rates", "0.1", "--layers", "both"], "one sweep varies one rate"),
    (["--variants", "LeNet_BN_drop6"], "expected models without dropout"),
    (["--runs-at-once", "0"], "--runs-at-once: expected at least 1, not 0"),
    (["--runs-at-once", GOOGOLS], "--runs-at-once: expected at most 1,000,000, not 1"),
    (["--seeds", "20001"], "--seeds: expected at most 1,000,000 runs in all, of each seed 50, not"),
    (["--train-size", "4000"], "left for validation"),
]
TORCH_BASELINE = [
    (["--device", "tpu"], "--device: expected one of auto, cpu, cuda, not tpu; did you mean cpu?"),
    (["--loader", "disk"], "--loader: expected one of memory, dataloader, not disk"),
]
if not torch.cuda.is_available():
    TORCH_BASELINE += [(["--device", "cuda"], "expected cpu or auto, not cuda: PyTorch sees no")]
BENCHMARK = [
    (["--repeats", "0"], "--repeats: expected at least 1, not 0"),
    (["--repeats", GOOGOLS], f"--repeats: expected at most 1,000,000, not {SHORTENED}"),
    (["--starts", "0"], "--starts: expected at least 1, not 0"),
    (["--starts", "1000001"], "--starts: expected at most 1,000,000, not 1000001"),
    (["--seeds-at-once", "1", "x"], "--seeds-at-once: expected numbers, not '1', 'x'"),
    (["--seeds-at-once", "4", "0"], "--seeds-at-once: expected at least 1, not 0"),
    (["--seeds-at-once", "4", GOOGOLS], "--seeds-at-once: expected at most 1,000,000, not 1"),
    (["--seeds-at-once", "1", "8", "1"], "--seeds-at-once: expected each number once, not 1 8 1"),
    (["--seeds-at-once"], "--seeds-at-once: expected at least one number, not none"),
    (["--threads", "0"], "--threads: expected at least 1, not 0"),
    (["--threads", "100000"], "--threads: expected at most "),
    (["--contenders"], "--contenders: expected at least one name, not none"),
    (["--contenders", "Torch_Dataloder"], "did you mean torch_dataloader?"),
    (["--contenders", "flax", "flax"], "--contenders: expected each name once"),
]
CASES = [
    *(("ablate", case) for case in EXPERIMENT + SEEDS + JAX + ABLATE),
    *(("sweep", case) for case in EXPERIMENT + SEEDS + JAX + SWEEP),
    *(("torch_baseline", case) for case in EXPERIMENT + SEEDS + TORCH_BASELINE),
    *(("benchmark", case) for case in EXPERIMENT + BENCHMARK),
]
#: What an earlier study, sweep or benchmark may have left, and a file of the user's own.
EARLIER = (
    *("config.json", "results.csv", "timing.csv", "predictions.npz", "test_set.npz"),
    *("summary.json", "figure1.png", "figure2.png", "report.html", "runs/LeNet.seeds-0.npz"),
    *("sweep.csv", "sweep.json", "sweep.png", "sweeps/1/config.json", "sweeps/1/sweep.csv"),
    "sweeps/1/predictions.npz",
    *("benchmark.json", "benchmark.png", "notes.txt"),
)


def refusal(name, arguments, capsys):
    """Run a program that is to refuse its input; return its one line."""
    program = PROGRAMS[name]
    assert cli.run(program.main, program.Settings, name, arguments) == 2
    screen = capsys.readouterr()
    (line,) = screen.err.splitlines()
    assert line.startswith(f"{name}: ")
    assert "Traceback" not in line + screen.out
    return line


def with_defaults(name, arguments, out):
    """The arguments with what keeps a case from the network and from this user's caches."""
    given = {"--dataset": "mnist_sample", "--out": str(out)}
    if name == "sweep" and "--batch-size" not in arguments:
        given["--train-size"] = "3000"  # leaves some for validation
    if name in ("ablate", "sweep"):
        given["--compilation-cache"] = "off"
    lacking = [(flag, value) for flag, value in given.items() if flag not in arguments]
    return [*itertools.chain(*lacking), *arguments]  # which may end in a flag without its value


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def jax_runs_already():
    """As where a program is called from a notebook: else `--devices 3` would be a good argument."""
    assert jax.device_count() == 2


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    for name in EARLIER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"an earlier {name}")
    return folder


@pytest.mark.parametrize(
    ("name", "case"), CASES, ids=[f"{name} {' '.join(case[0])[:40]!r}" for name, case in CASES]
)
def test_bad_arguments_are_one_line_and_touch_nothing(name, case, tmp_path, earlier, capsys):
    arguments, message = case
    new, before = tmp_path / "new", content(earlier)
    assert message in refusal(name, with_defaults(name, arguments, new), capsys)
    assert not new.exists()
    line = with_defaults(name, arguments, earlier)
    assert message in refusal(name, ["--overwrite", *line], capsys)
    assert content(earlier) == before


# Data


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return write_plain(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("name", PROGRAMS)
def test_broken_data_are_one_line_and_touch_nothing(
    name, case, plain_folder, tmp_path, earlier, capsys
):
    folder = linked(plain_folder, tmp_path)
    path, message = break_file(folder, case)
    arguments = ["--overwrite", "--dataset", "mnist", "--data-dir", str(folder)]
    before = content(earlier)
    line = refusal(name, with_defaults(name, arguments, earlier), capsys)
    assert message in line
    assert str(folder if case == "label 10" else path) in line
    assert content(earlier) == before

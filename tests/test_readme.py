"""The README's commands and code are what a reader will try first."""

import json
import re
from pathlib import Path

import numpy as np

from jax_lenet import VARIANTS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_first_two_shell_blocks_are_one_command_each():
    run, test = blocks("sh")[:2]
    assert run.count("\n") == test.count("\n") == 1
    assert run.rstrip().endswith("python -m experiments.ablate")
    assert test.rstrip().endswith("python -m pytest")
    assert "[test]" in test


def test_the_python_example_runs_as_printed(capsys):
    (code,) = blocks("python")
    names = {}
    exec(code, names)
    result = names["result"]
    printed = np.fromstring(capsys.readouterr().out.strip("[]\n"), sep=" ")
    np.testing.assert_allclose(printed, result.test_accuracy[:, -1])
    # Three epochs on the sample: far above the one in ten of a guess.
    assert (printed > 0.5).all()
    np.testing.assert_allclose(np.exp(names["log_probs"]).sum(1), 1, rtol=1e-5)


def speed_rows(benchmark):
    """The README's lines of speed, from benchmark.json."""
    rows = {(row["variant"], row["contender"], row["seeds_at_once"]): row for row in benchmark}

    def ratio(ratios, part):
        found = ratios[part]
        return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"

    for variant in dict.fromkeys(row["variant"] for row in benchmark):
        ours, flax = rows[variant, "jax_lenet", 1], rows[variant, "flax", 1]
        ratios = ours["ratio_to_torch"]
        cells = (
            f"`{variant}`",
            f"{ours['train_seconds']:.2f} s",
            ratio(ratios, "train"),
            f"{flax['train_seconds'] / ours['train_seconds']:.1f}",
            f"{ours['test_seconds']:.3f} s",
            ratio(ratios, "test"),
        )
        yield f"| {' | '.join(cells)} |"


def test_the_table_of_speed_is_that_of_the_kept_benchmark():
    kept = json.loads((ROOT / "docs" / "benchmark.json").read_text(encoding="utf-8"))
    assert kept["finished"]
    assert kept["data"]["sizes"]["train"] == 50_000
    for line in speed_rows(kept["rows"]):
        assert line in README.splitlines()


def cell(interval, by, unit):
    """Mean ± half of its interval, which is symmetric about it."""
    half = (interval["high"] - interval["low"]) / 2
    return f"{by * interval['estimate']:.2f} ± {by * half:.2f}{unit}"


def test_the_results_are_those_of_the_kept_study():
    kept = ROOT / "docs" / "results"
    config = json.loads((kept / "config.json").read_text(encoding="utf-8"))
    assert config["data"]["sizes"] == {"train": 50_000, "validation": 10_000, "test": 10_000}
    assert config["settings"]["seeds"] >= 10
    assert config["settings"]["epochs"] == 10
    found = json.loads((kept / "summary.json").read_text(encoding="utf-8"))["variants"]
    assert list(found) == list(VARIANTS)
    for variant, numbers in found.items():
        cells = (
            cell(numbers["total_seconds"], 1, " s"),
            cell(numbers["first_epoch_accuracy"], 100, "%"),
            cell(numbers["last_accuracy"], 100, "%"),
        )
        rows = [text for text in README.splitlines() if text.startswith(f"| `{variant}` | ")]
        assert any(row.endswith(f" | {' | '.join(cells)} |") for row in rows), cells


def test_the_answers_are_those_of_the_kept_study():
    summary = (ROOT / "docs" / "results" / "summary.json").read_text(encoding="utf-8")
    text = " ".join(README.split())
    for verdict in json.loads(summary)["verdicts"]:
        assert f"{verdict['number']}. *{verdict['claim']}* {verdict['sentence']}" in text


def test_every_file_and_variant_that_it_names_exists():
    layout = README[README.index("## Where to find what") : README.index("## Differences")]
    folder = None
    for name in re.findall(r"`([\w./]+\.py)`", layout):
        folder = Path(name).parent if "/" in name else folder
        assert (ROOT / folder / Path(name).name).is_file(), name
    for name in re.findall(r"`(LeNet\w*)`", README):
        assert name in VARIANTS

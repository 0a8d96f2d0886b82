"""The README's commands and code are what a reader will try first."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.results import ResultsFolder
from experiments.sentences import difference, signed
from experiments.summary import curves_of
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


def test_the_python_example_runs_as_printed(capsys, as_for_users):
    (code,) = blocks("python")
    names = {}
    exec(code, names)
    result = names["result"]
    printed = np.fromstring(capsys.readouterr().out.strip("[]\n"), sep=" ")
    np.testing.assert_allclose(printed, result.test_accuracy[:, -1])
    # Three epochs on the sample: far above the one in ten of a guess.
    assert (printed > 0.5).all()
    np.testing.assert_allclose(np.exp(names["log_probs"]).sum(1), 1, rtol=1e-5)


BENCHMARK = json.loads((ROOT / "docs" / "benchmark.json").read_text(encoding="utf-8"))


def ratio(found):
    """A ratio with its interval."""
    return f"{found['estimate']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def speed_rows(benchmark):
    """The README's lines of speed, from benchmark.json."""
    for ours in (row for row in benchmark["rows"] if row["contender"] == "jax_lenet"):
        torch, flax = ours["ratio_to_torch"], ours["ratio_to_flax"]
        cells = (
            f"`{ours['variant']}`",
            f"{ours['train_seconds']:.2f} s",
            ratio(torch["train"]),
            f"{torch['train']['fastest']:.2f}",
            ratio(flax["train"]),
            f"{ours['test_seconds']:.3f} s",
            ratio(torch["test"]),
        )
        yield f"| {' | '.join(cells)} |"


def start_rows(benchmark):
    """The README's lines of what it takes to begin."""
    for ours in (row for row in benchmark["rows"] if row["contender"] == "jax_lenet"):
        first = ours["first_result_seconds"]
        seconds = ours["prepare_seconds"], ours["compile_seconds"], first["cold"], first["warm"]
        peak = f"{ours['peak_rss_bytes'] / 1e9:.2f} GB"
        cells = (f"`{ours['variant']}`", *(f"{each:.1f} s" for each in seconds), peak)
        yield f"| {' | '.join(cells)} |"


def scaling_rows(benchmark):
    """The README's lines of many runs: each library's best way for the fewest and for the most."""
    for variant in dict.fromkeys(row["variant"] for row in benchmark["scaling"]):
        own = [row for row in benchmark["scaling"] if row["variant"] == variant]
        several = {row["runs"] for row in own} - {1}
        for runs in (min(several), max(several)):
            ways = [row for row in own if row["runs"] == runs and row["reason"] is None]
            torch, ours = (
                min(
                    (row for row in ways if row["contender"].startswith("torch") == is_torch),
                    key=lambda row: row["seconds"],
                )
                for is_torch in (True, False)
            )
            cells = (
                f"`{variant}`",
                str(runs),
                f"{ours['runs_per_minute']:.2f} ({ours['way'].removeprefix('jax_lenet, ')})",
                f"{torch['runs_per_minute']:.2f} ({torch['way']})",
                ratio(ours["ratio_to_torch"]),
            )
            yield f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("rows_of", [speed_rows, start_rows, scaling_rows])
def test_the_tables_of_speed_are_those_of_the_kept_benchmark(rows_of):
    assert BENCHMARK["finished"]
    assert BENCHMARK["data"]["sizes"]["train"] == 50_000
    lines = list(rows_of(BENCHMARK))
    assert len(lines) >= 3
    for line in lines:
        assert line in README.splitlines()


def test_what_it_says_of_speed_is_the_kept_benchmarks():
    text = " ".join(README.split())
    ours, torch = (row for row in BENCHMARK["rows"][:2])
    products = [profile["product"] for profile in BENCHMARK["profiles"]]
    many = BENCHMARK["scaling"][0]
    study = BENCHMARK["study"]
    first = study["first_result_seconds"]
    for said in (
        f"each turn in a process of its own, {ours['ratio_to_torch']['train']['n']} rounds",
        f"commit {BENCHMARK['commit'][:7]})",
        f"took {min(torch['train_turns']):.1f} s to {max(torch['train_turns']):.1f} s",
        f"In {min(products):.0%} to {max(products):.0%} of our epochs' time",
        f"{many['train_images']:,} images, {many['ratio_to_torch']['n']} rounds",
        f"first epoch after {first['cold']:.1f} s, or {first['warm']:.1f} s",
        f"takes {study['peak_rss_bytes'] / 1e9:.2f} GB",
    ):
        assert said in text
    assert BENCHMARK["commit"] == BENCHMARK["commit_at_the_end"]


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


def test_what_it_says_of_wrong_labels_and_learning_rates_is_the_kept_studys():
    summary = json.loads((ROOT / "docs" / "results" / "summary.json").read_text(encoding="utf-8"))
    assert summary["wrong_labels"]["found"] == 15
    assert summary["wrong_labels"]["changed"] == []
    assert "No verdict changes without the 15 test images" in " ".join(README.split())
    best = summary["verdicts"][1]["mechanism"]["numbers"]["best_rate"]
    without, treated = best["without batch norm"], best["with batch norm"]
    chosen = f"The validation images choose {without:g} without and {treated:g} with batch norm"
    assert chosen in " ".join(README.split())


def test_what_it_says_of_the_learning_rates_share_of_the_gain_is_the_kept_studys():
    summary = json.loads((ROOT / "docs" / "results" / "summary.json").read_text(encoding="utf-8"))
    numbers = summary["verdicts"][1]["mechanism"]["numbers"]
    lost = difference({"unit": "points", **numbers["report_rates_less_best_rates"]})
    exactly = signed(numbers["gain_at_chosen_rates"], "points")
    rates = [float(rate) for rate in numbers["gain_by_rate"]]
    text = " ".join(README.split())
    assert f"with each seed at the rates that the others find best, is {lost}." in text
    assert f"At exactly these two the gain is {exactly} points" in text
    assert len(rates) == 9
    assert (
        f"of nine from {min(rates):g} to {max(rates):g}, up to which the grid was widened" in text
    )


def test_what_it_says_of_the_slowest_run_is_the_kept_studys():
    folder = ResultsFolder(ROOT / "docs" / "results")
    curves = {c.variant: c for c in curves_of(folder.read_results(), 10)}
    plain, dropout = curves["LeNet"], curves["LeNet_noBN_Dropout"]
    *_, next_slowest, slowest = np.argsort(plain.total_seconds)
    first, second = (plain.total_seconds[run] for run in (slowest, next_slowest))
    medians = [np.median(c.total_seconds) for c in (dropout, plain)]
    others = np.delete(plain.total_seconds, slowest)
    assert plain.total_seconds.mean() > dropout.total_seconds.mean() > others.mean()
    assert (
        f"One run of `LeNet`, seed {plain.seeds[slowest]}, took {first:.1f} s, the next slowest"
        f" {second:.1f} s: without it `LeNet` would not look slower than `LeNet_noBN_Dropout`,"
        f" whose median is {medians[0]:.1f} s to its {medians[1]:.1f} s."
    ) in " ".join(README.split())


def test_every_file_and_variant_that_it_names_exists():
    layout = README[README.index("## Where to find what") : README.index("## Differences")]
    folder = None
    for name in re.findall(r"`([\w./]+\.py)`", layout):
        folder = Path(name).parent if "/" in name else folder
        assert (ROOT / folder / Path(name).name).is_file(), name
    for name in re.findall(r"`(LeNet\w*)`", README):
        assert name in VARIANTS

"""The benchmark as a whole program, in earnest but small: its file, its table and its chart."""

import json
import math
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

from experiments.benchmark_numbers import Row
from experiments.benchmark_process import cores_of

ROOT = Path(__file__).parents[1]
SMALL = ("--dataset", "mnist_sample", "--train-size", "640")
#: What the program shows of a machine, and of PyTorch's process, that has one core to itself.
ONE_CORE = list(cores_of(1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """This library and PyTorch on part of the sample; one thread, as tests share the machine."""
    pytest.importorskip("torch", reason="PyTorch comes with the test extra")
    out = tmp_path_factory.mktemp("benchmark") / "results"
    what = ("--variants", "LeNet", "--contenders", "jax_lenet", "torch", "--seeds-at-once", "1")
    how = ("--repeats", "1", "--epochs", "2", "--starts", "1", "--threads", "1", "--out", str(out))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmark", *SMALL, *what, *how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((out / "benchmark.json").read_text()), out, done.stdout


def test_a_benchmark_says_what_it_measured_on_what(finished):
    content, _, _ = finished
    assert content["finished"]
    assert content["threads"] == 1
    assert content["settings"]["train_size"] == content["data"]["sizes"]["train"] == 640
    assert content["device"] == {"platform": "cpu", "kind": "cpu", "count": 1}
    assert content["versions"]["torch"] != "not installed"
    assert content["cores"] == ONE_CORE
    assert datetime.fromisoformat(content["date"]).utcoffset() == timedelta(0)
    # One of one core was asked for, whatever the tests themselves run with.
    assert content["environment"]["JAX_NUM_CPU_DEVICES"] == "1"
    assert "OMP_NUM_THREADS" not in content["environment"]
    assert 1e8 < content["matmul_rate"] < 1e14  # one slow core; no machine of today
    assert [row["contender"] for row in content["rows"]] == ["jax_lenet", "torch"]


def test_every_row_has_every_field(finished):
    for row in finished[0]["rows"]:
        assert list(row) == list(Row.__dataclass_fields__)
        assert (row["variant"], row["seeds_at_once"], row["train_images"]) == ("LeNet", 1, 640)
        assert row["reason"] is None
        assert row["cores"] == ONE_CORE


def test_measured_numbers_agree_with_each_other(finished):
    ours, torch = finished[0]["rows"]
    for row in (ours, torch):
        for part in ("train", "test"):
            assert len(row[f"{part}_turns"]) == 1
            assert row[f"{part}_seconds"] == row[f"{part}_turns"][0]
            assert 0 < row[f"{part}_seconds"] < 60
        assert 0 < row["first_result_seconds"]["cold"] < 280
        assert 100e6 < row["peak_rss_bytes"] < 8e9  # importing either takes more than the least
        assert row["first_loss"] == pytest.approx(math.log(10), abs=0.1)  # five steps: chance
        assert 0 <= row["first_accuracy"] <= 0.5
    for part, ratio in ours["ratio_to_torch"].items():
        expected = torch[f"{part}_seconds"] / ours[f"{part}_seconds"]
        assert ratio["estimate"] == pytest.approx(expected)
        assert ratio["rival"] == "torch"
        assert (ratio["low"], ratio["high"], ratio["n"]) == (None, None, 1)
    assert ours["compile_seconds"] > 0
    for row in (ours, torch):
        assert 0 < row["prepare_seconds"] < 60
        assert row["first_result_seconds"]["reason"] is row["ratio_to_flax"] is None
    assert 0 < ours["first_result_seconds"]["warm"] < 280
    # 3.66 MFLOP an image: `test_profile` has them by hand.
    assert ours["flop_rate"] == pytest.approx(640 * 3.66e6 / ours["train_seconds"], rel=0.01)
    share = ours["flop_rate"] / finished[0]["matmul_rate"]
    assert ours["flop_rate_share"] == pytest.approx(share)
    assert torch["ratio_to_torch"] is torch["compile_seconds"] is torch["flop_rate"] is None


def test_a_profile_divides_the_epoch(finished):
    (profile,) = finished[0]["profiles"]
    assert (profile["variant"], profile["train_images"]) == ("LeNet", 640)
    parts = [profile[name] for name in ("product", "other", "collective", "idle")]
    assert sum(parts) == pytest.approx(1)
    assert all(part >= 0 for part in parts)
    # Products take at least as long as at the machine's own rate, but for what tracing adds to all
    # else. Compiled as here, without optimization, all else is slow: they are a fifth of the time.
    least = 640 * 3.66e6 / finished[0]["matmul_rate"]
    assert 0.5 * least < profile["product"] * profile["untraced_seconds"]
    assert profile["product"] < 1
    assert profile["collective"] == 0  # of one device
    assert 0 < profile["untraced_seconds"] < 60
    shares = [operation["share"] for operation in profile["operations"]]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= profile["other"] + 1e-9
    assert any(":" in operation["source"] for operation in profile["operations"])


def test_table_and_chart_are_there(finished):
    _, out, screen = finished
    assert sorted(path.name for path in out.iterdir()) == ["benchmark.json", "benchmark.png"]
    with Image.open(out / "benchmark.png") as chart:
        assert chart.width == 1800
        assert len(chart.convert("RGB").getcolors(1 << 20) or []) > 50
    for text in ("round 1/1", "jax_lenet", "PyTorch's", "GFLOP/s", "products", "prepare"):
        assert text in screen
    assert f"Results: {out}" in screen
    # What does not fit is cut off with an ellipsis.
    assert "…" not in screen

"""`python -m experiments.report` on a kept sweep's config.json with anything in it.

Exit code 2 and one line that names the file, before anything is written; or a page.
"""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import cli, figures, report
from tests.simulated import DROPOUT_RATES, LEARNING_RATES, Truth, write, write_sweep

STUDY = Truth(seeds=2, images=200, repeats=2)
CONFIG = "sweeps/1/config.json"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
LACKING = object()
#: Every place that is read, whole objects and single values, and names that are not there.
PLACES = [("title",), ("program",), ("settings",), ("data",), ("device",), ("candidates",)]
PLACES += [("versions",), ("runs_at_once",), ("data", "name"), ("data", "sizes"), ("data", "files")]
PLACES += [("settings", name) for name in ("seeds", "first_seed", "dataset", "devices", "more")]
PLACES += [("candidates", 0), ("candidates", 2)]
PLACES += [
    ("candidates", number, name)
    for number in (0, 2)
    for name in ("variant", "layers", "rates", "learning_rate", "more")
]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A study that keeps a sweep of learning rates and of dropout rates."""
    folder = write(tmp_path_factory.mktemp("intact") / "r", STUDY).path
    candidates = (*LEARNING_RATES, *DROPOUT_RATES)
    write_sweep(folder / "sweeps/1", candidates, lambda point: 0.9, seeds=2, data={"test": 200})
    return folder


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "r")


@pytest.fixture
def quick(monkeypatch):
    """Draw nothing, and resample less."""
    monkeypatch.setattr(figures, "draw", lambda *_, **__: None)
    rules = report.rules_of
    monkeypatch.setattr(report, "rules_of", lambda given: replace(rules(given), resamples=99))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(folder, intact, place, to):
    """Write the intact config.json with something else in a place."""
    config = json.loads((intact / CONFIG).read_text())
    *parents, last = place
    inner = config
    for name in parents:
        inner = inner[name]
    if to is LACKING:
        with contextlib.suppress(KeyError):
            del inner[last]
    else:
        inner[last] = to
    (folder / CONFIG).write_text(json.dumps(config))


def made_or_refused(folder, capsys):
    """Whether the page was made; if not, one line has said why, and nothing has changed."""
    before = content(folder)
    code = cli.run(report.main, report.Settings, "report", [str(folder)])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) in ((0, 0), (2, 1))
    assert code == 0 or (str(folder / "sweeps" / "1") in lines[0] and content(folder) == before)
    return code == 0


@pytest.mark.parametrize(
    ("place", "to"),
    [
        (("data",), LACKING),
        (("data", "name"), LACKING),
        (("data", "name"), 3),
        (("data", "sizes"), LACKING),
        (("data", "sizes"), []),
        (("data", "kind"), ["idx"]),
        (("title",), LACKING),
        (("settings", "epochs"), "3"),
        (("data", "sizes", "test"), "x"),
        (("settings",), []),
        (("settings", "seeds"), "2"),
        (("settings", "seeds"), True),
        (("settings", "first_seed"), 0.5),
        (("candidates",), {}),
        (("candidates", 0), "LeNet"),
        (("candidates", 2, "learning_rate"), [0.01]),
        (("candidates", 2, "learning_rate"), {}),
        (("candidates", 2, "learning_rate"), "0.01"),
        (("candidates", 2, "rates"), [0.0, 0.5, 0.2]),
        (("candidates", 2, "rates"), [0.0, 0.2, 0.2]),
        (("candidates", 2, "layers"), ["drop6"]),
        (("candidates", 2, "layers"), "both"),
        (("candidates", 2, "variant"), ["LeNet"]),
        (("candidates", 2, "more"), 1),
    ],
)
def test_what_no_sweep_has_is_refused_before_anything_is_written(
    intact, folder, quick, capsys, place, to
):
    change(folder, intact, place, to)
    assert not made_or_refused(folder, capsys)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), to=JSON | st.just(LACKING))
def test_anything_else_makes_a_page_or_is_refused_in_one_line(
    intact, folder, quick, capsys, place, to
):
    change(folder, intact, place, to)
    made_or_refused(folder, capsys)

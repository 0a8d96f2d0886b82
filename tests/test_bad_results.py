"""`python -m experiments.report` on folders that are damaged, or that no program wrote.

Exit code 2 and one line that names the file; what the folder holds stays as it was.
"""

import io
import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments import cli, figures, report
from tests.simulated import LEARNING_RATES, Truth, write, write_sweep

STUDY = Truth(seeds=2, images=200, repeats=2)
HEADER = b"variant,seed,epoch,train_loss,train_accuracy,test_loss,test_accuracy,seconds\n"
SWEEP = "sweeps/1/"


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """A study of two seeds that keeps a sweep, as the programs leave it."""
    folder = write(tmp_path_factory.mktemp("intact") / "r", STUDY).path
    write_sweep(folder / SWEEP, LEARNING_RATES, lambda point: 0.9, seeds=2, data={"test": 200})
    return folder


def run(*arguments):
    return cli.run(report.main, report.Settings, "report", [str(each) for each in arguments])


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys, *arguments):
    """Run the program, which is to refuse what it gets; return its one line."""
    assert run(*arguments) == 2
    screen = capsys.readouterr()
    (line,) = screen.err.splitlines()
    assert line.startswith("report: ")
    assert "Traceback" not in line + screen.out
    return line


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "folder"),
        (["/nonexistent"], "/nonexistent"),
        (["/dev/null"], "/dev/null"),
        ([""], "expected a path, not ''"),
        (["x" * 5_000], "File name too long"),
        (["INTACT", "surplus"], "Unrecognized options: surplus"),
        (["INTACT", "--swep", "x"], "Perhaps you meant: --sweep"),
        (["INTACT", "--sweep", "/nonexistent"], "cannot read /nonexistent/config.json"),
        (["INTACT", "--sweep", "/dev/null"], "cannot read /dev/null/config.json"),
        (["INTACT", "--sweep", "INTACT"], "expected the config.json of experiments.sweep"),
    ],
)
def test_bad_arguments_are_one_line_and_touch_nothing(intact, capsys, arguments, message):
    before = content(intact)
    given_arguments = [intact if each == "INTACT" else each for each in arguments]
    assert message in refusal(capsys, *given_arguments)
    assert content(intact) == before


# Damaged files


def changed(*place, to):
    """An edit of a JSON file."""

    def edit(text):
        whole = [json.loads(text)]
        inner, last = whole, 0
        for name in place:
            inner, last = inner[last], name
        inner[last] = to
        return json.dumps(whole[0]).encode()

    return edit


def without(*place):
    """An edit that leaves something out of a JSON file."""

    def edit(text):
        whole = json.loads(text)
        *parents, last = place
        inner = whole
        for name in parents:
            inner = inner[name]
        del inner[last]
        return json.dumps(whole).encode()

    return edit


def line_2(**columns):
    """An edit of results.csv's first run and epoch."""

    def edit(text):
        head, first, *rest = text.decode().splitlines()
        row = dict(zip(head.split(","), first.split(","), strict=True)) | columns
        return "\n".join([head, ",".join(row.values()), *rest, ""]).encode()

    return edit


def arrays(**changes):
    """An edit of an .npz file; None leaves an array out."""

    def edit(archive):
        with np.load(io.BytesIO(archive), allow_pickle=False) as stored:
            new = {k: v for k, v in (dict(stored) | changes).items() if v is not None}
        file = io.BytesIO()
        np.savez(file, **new)
        return file.getvalue()

    return edit


def always(text):
    return lambda old: text


class Trap:
    """What a pickle may do when it is read."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was read",))


TRAPS = np.array([Trap()] * 200)
STUDYS, SWEEPS_OWN = "expected the config.json of a study", "of experiments.sweep"
#: Among them what Python cannot read: too deep, too large a number, and what is no JSON.
NO_OBJECTS = (
    b"",
    b"{",
    b"null",
    b"[]",
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5_000 + b"}",
    b'{"a": NaN}',
)
CONFIG = [
    (None, "cannot read"),
    *((always(text), "expected JSON, an object") for text in NO_OBJECTS),
    (always(b"\xff\xfe"), "not text"),
    (always(b"{}"), STUDYS),
    *((without(name), STUDYS) for name in ("title", "program", "settings", "data")),
    *((changed(name, to=3), STUDYS) for name in ("title", "program", "settings", "data")),
    *((changed(name, to=3), f"{name} is an object") for name in ("machine", "versions")),
    *((changed("title", to=x), "title is a line of text") for x in ("\ud800", "\0", "a\nb", None)),
    *((without("data", name), STUDYS) for name in ("name", "kind", "path", "files", "sizes")),
    (changed("data", "kind", to="stolen"), STUDYS),
    (changed("data", "sizes", to={"train": "many", "test": 1}), STUDYS),
    (changed("data", "files", to=["train"]), STUDYS),
    (changed("data", "files", to={"train": {}}), STUDYS),
    *((without("settings", name), STUDYS) for name in ("epochs", "learning_rate")),
    *((changed("settings", "epochs", to=x), STUDYS) for x in ("3", 0, -1, 2.5, None, [3])),
    (changed("settings", "epochs", to=10**9), "expected finished runs, found none"),
    *((changed("settings", "learning_rate", to=x), STUDYS) for x in ("x", 0, -1, None)),
    *((changed("settings", "time_margin", to=x), STUDYS) for x in ("x", 0, -1, 10**400)),
    # Divided by 100 the one is 0; the logarithm of the other is none.
    (changed("settings", "accuracy_margin", to=5e-324), "accuracy_margin is a number from 1e-6 to"),
    (changed("settings", "time_margin", to=1e-323), "time_margin is a number from 1e-6 to 100"),
    (changed("settings", "time_margin", to=1e305), "time_margin is a number from 1e-6 to 100"),
]
ROWS = [
    (None, "cannot read"),
    (always(b""), "expected the columns variant,seed"),
    (always(b"a,b\n"), "expected the columns variant,seed"),
    (always(HEADER), "expected finished runs, found none"),
    (always(HEADER + b"LeNet,1\n"), "line 2 is not variant,seed"),
    (always(HEADER + b"\xff"), "not text"),
    (always(HEADER + b"\0" * 10), "line 2"),
    (always(HEADER + b"x" * 200_000), "expected the columns"),
    (always(HEADER + b'"'), "line 2"),
    (lambda old: old[:-8], "line 37"),
    (lambda old: old + old.splitlines(keepends=True)[1], "expected each epoch of LeNet seed 0"),
    (line_2(variant="<b>LeNet</b>"), "expected each epoch of LeNet seed 0 once"),
    *((line_2(seed=x), "line 2") for x in ("x", "-1", "0.5", "")),
    *((line_2(epoch=x), "line 2") for x in ("x", "0", "-1")),
    (line_2(epoch="4"), "expected each epoch of LeNet seed 0 once"),
    *((line_2(test_accuracy=x), "line 2") for x in ("x", "1.5", "-0.1", "nan")),
    *((line_2(train_accuracy=x), "line 2") for x in ("inf", "2")),
    *((line_2(seconds=x), "line 2") for x in ("nan", "-1", "inf")),
]
ARCHIVE = [
    (always(b""), ""),
    (always(b"no archive"), ""),
    (always(b"\x80\x04N."), ""),
    (lambda old: old[: len(old) // 2], ""),
    (lambda old: old[:100] + bytes([old[100] ^ 1]) + old[101:], ""),
]
PREDICTIONS = [
    (arrays(LeNet=TRAPS), ""),
    (arrays(LeNet=np.zeros([2, 200])), "expected uint8 [seeds, images] by variant"),
    (arrays(LeNet=np.zeros(200, np.uint8)), "expected uint8 [seeds, images] by variant"),
    (arrays(LeNet=np.zeros([2, 199], np.uint8)), "expected the predictions of the runs"),
    (arrays(LeNet=np.zeros([3, 200], np.uint8)), "expected the predictions of the runs"),
    (arrays(LeNet=np.full([2, 200], 10, np.uint8)), "expected uint8 [seeds, images] by variant"),
]
TEST_SET = [
    (arrays(labels=TRAPS), ""),
    (arrays(labels=None), "expected images [N, 28, 28]"),
    (arrays(more=np.zeros(3)), "expected images [N, 28, 28]"),
    (arrays(labels=np.zeros(199, np.uint8)), "expected images [N, 28, 28]"),
    (arrays(labels=np.full(200, 10, np.uint8)), "expected"),
    (arrays(labels=np.zeros(200)), "expected"),
    (arrays(images=np.zeros([200, 28, 28])), "expected"),
    (arrays(wrong=np.zeros(200)), "expected"),
    (arrays(wrong=np.ones(200, bool)), "expected an image that is not wrong"),
]
TIMES = "variant,repeat,train_seconds,test_seconds\n"
TIMING = [
    (always(b""), "expected the columns variant,repeat"),
    (always(TIMES.encode() + b"LeNet,1,x,1\n"), "line 2 is not variant,repeat"),
    *(
        (always(f"{TIMES}{line}\n".encode()), "expected")
        for line in (
            *("LeNet,1,nan,1", "LeNet,1,1,-1", "LeNet,1,0,1", "LeNet,1,inf,1", "x,1,1,1"),
            *("LeNet,0,1,1", f"LeNet,{10**400},1,1"),
        )
    ),
]
KEPT = [
    (always(b"{"), "expected JSON"),
    (always(b"[" * 100_000), "expected JSON"),
    (changed("program", to="experiments.ablate"), SWEEPS_OWN),
    (changed("candidates", to=[]), SWEEPS_OWN),
    (changed("candidates", 0, "rates", to=["x"]), SWEEPS_OWN),
    (changed("candidates", 0, "variant", to="LeNet6"), SWEEPS_OWN),
    (changed("settings", "seeds", to=-1), SWEEPS_OWN),
    (changed("settings", "seeds", to=10**12), "finished runs"),
    (changed("candidates", 0, "rates", to=[0.01, [1]]), SWEEPS_OWN),
    (changed("candidates", 0, "layers", to="drop8"), SWEEPS_OWN),
]
KEPT_ROWS = [
    (always(b""), "expected the columns batch_norm"),
    (lambda old: old[:-100], "sweep.csv"),
    (lambda old: b"".join(old.splitlines(keepends=True)[:-1]), "1 are missing"),
    (lambda old: old + old.splitlines(keepends=True)[1], "an earlier line has"),
    (
        lambda old: old.replace(b",0.2,", b",0.2,7", 1),
        "line 2: expected train_accuracy from 0 to 1",
    ),
]
SWEEP_PREDICTIONS = [
    (None, "expected the predictions of the sweep's runs; its command, given again, trains"),
    (arrays(labels=TRAPS), ""),
    *((arrays(**{name: None}), "runs [R, 5]") for name in ("labels", "runs", "predictions")),
    (arrays(more=np.zeros(3)), "runs [R, 5]"),
    (arrays(runs=np.zeros([12, 4])), "runs [R, 5]"),
    (arrays(runs=np.zeros(5)), "runs [R, 5]"),
    (arrays(runs=np.array(5.0)), "runs [R, 5]"),
    (arrays(runs=np.full([12, 5], np.nan)), "runs [R, 5]"),
    (arrays(runs=np.arange(12)[:, None] * [0, 1, 1, 1, 1]), "runs [R, 5]"),  # whole numbers
    (arrays(runs=np.arange(12.0)[:, None] * [0, 1, 1, 1, 1]), "the predictions of all runs"),
    (arrays(runs=np.arange(12.0)[:, None] * [0, 1, 1, 1, 0.3]), "runs [R, 5]"),
    (arrays(runs=np.arange(12.0)[:, None] * [1, 1, 1, 1, 1]), "runs [R, 5]"),
    (arrays(runs=np.zeros([12, 5])), "runs [R, 5]"),
    (arrays(labels=np.zeros(199, np.uint8)), "runs [R, 5]"),
    (
        arrays(labels=np.zeros(0, np.uint8), predictions=np.zeros([12, 0], np.uint8)),
        "runs [R, 5]",
    ),
    (arrays(labels=np.full(200, 10, np.uint8)), "runs [R, 5]"),
    (arrays(labels=np.zeros(200, np.uint8)), "expected the predictions of the runs"),
    (arrays(predictions=np.zeros([12, 200], np.uint8)), "expected the predictions of the runs"),
    (arrays(predictions=np.zeros([12, 200])), "runs [R, 5]"),
    (arrays(predictions=np.zeros(12, np.uint8)), "runs [R, 5]"),
]
DAMAGE = [
    *(("config.json", *case) for case in CONFIG),
    *(("results.csv", *case) for case in ROWS),
    *(("predictions.npz", *case) for case in ARCHIVE + PREDICTIONS),
    *(("first_predictions.npz", *case) for case in ARCHIVE + PREDICTIONS),
    *(("test_set.npz", *case) for case in ARCHIVE + TEST_SET),
    *(("timing.csv", *case) for case in TIMING),
    *((f"{SWEEP}config.json", *case) for case in KEPT),
    *((f"{SWEEP}sweep.csv", *case) for case in KEPT_ROWS),
    *((f"{SWEEP}predictions.npz", *case) for case in ARCHIVE + SWEEP_PREDICTIONS),
]


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "r")


@pytest.mark.parametrize(("name", "edit", "message"), DAMAGE)
def test_a_damaged_file_is_named_and_nothing_is_touched(folder, capsys, name, edit, message):
    path = folder / name
    if edit is None:
        path.unlink()
    else:
        path.write_bytes(edit(path.read_bytes()))
    before = content(folder)
    line = refusal(capsys, folder)
    assert message in line
    assert message.startswith("expected finished") or str(path.parent) in line
    assert content(folder) == before


# Any file


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
#: Every place in a study's config.json, and names that are not there.
PLACES = [("title",), ("program",), ("settings",), ("data",), ("machine",), ("device",)]
PLACES += [("versions",), ("seeds_at_once",), ("compilation_cache",)]
PLACES += [("data", name) for name in ("name", "kind", "path", "files", "notice", "sizes")]
PLACES += [("data", "sizes", name) for name in ("train", "test", "more")]
PLACES += [("settings", name) for name in ("epochs", "learning_rate", "seeds", "first_seed")]
PLACES += [("settings", name) for name in ("variants", "data_dir", "accuracy_margin", "more")]


def made_or_refused(folder, capsys):
    """Whether the page was made; if not, one line has said why."""
    code = run(folder)
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) in ((0, 0), (2, 1))
    return code == 0


@pytest.fixture(scope="module")
def decided(intact):
    """What the verdicts say; their tests take seconds and have the rows, not config.json."""
    config = report.ResultsFolder(intact).read_config()
    rules = report.rules_of(config["settings"])
    return report.verdicts.summarize(report.gather(report.ResultsFolder(intact), 3, 0.01), rules)


@pytest.fixture
def drawn_quickly(monkeypatch, decided):
    monkeypatch.setattr(figures, "draw", lambda *_, **__: None)
    monkeypatch.setattr(report.verdicts, "summarize", lambda *_: decided)


ANY = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(place=st.sampled_from(PLACES), other=JSON)
def test_any_other_setting_makes_a_page_or_is_refused_in_one_line(
    intact, folder, drawn_quickly, capsys, place, other
):
    edit = changed(*place, to=other)
    (folder / "config.json").write_bytes(edit((intact / "config.json").read_bytes()))
    made_or_refused(folder, capsys)


@pytest.mark.parametrize("title", ["$x_$", r"$\frac{$", "\ud800", "\0", "x\ny", ""])
def test_a_title_that_cannot_be_drawn_ends_in_one_line_at_worst(folder, capsys, title):
    path = folder / "config.json"
    path.write_bytes(changed("title", to=title)(path.read_bytes()))
    made_or_refused(folder, capsys)


@ANY
@given(text=st.text() | st.binary())
def test_any_other_row_makes_a_page_or_is_refused_in_one_line(
    intact, folder, drawn_quickly, capsys, text
):
    more = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    (folder / "results.csv").write_bytes((intact / "results.csv").read_bytes() + more)
    made_or_refused(folder, capsys)


HOSTILE = "<script>alert('&\")</script>"


@pytest.mark.parametrize(
    "place",
    [
        ("title",),
        ("program",),
        ("data", "name"),
        ("data", "path"),
        ("data", "files", HOSTILE),
        ("settings", "data_dir"),
        ("settings", HOSTILE),
        ("machine",),
        ("versions",),
    ],
)
def test_text_from_files_is_escaped_on_the_page(folder, drawn_quickly, place):
    path = folder / "config.json"
    to = HOSTILE
    if place == ("data", "files", HOSTILE):
        to = {"bytes": 1, "sha256": HOSTILE}
    elif place in (("machine",), ("versions",)):
        to = {HOSTILE: HOSTILE}
    path.write_bytes(changed(*place, to=to)(path.read_bytes()))
    assert run(folder) == 0
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "&amp;&#34;)&lt;/script&gt;" in page


@pytest.mark.parametrize("name", [HOSTILE.replace("/", ""), os.fsdecode(b"\xff"), "a\nb"])
def test_any_name_of_a_folder_can_be_written_on_the_page(folder, drawn_quickly, name):
    hostile = folder.rename(folder.with_name(name))
    assert run(hostile) == 0
    assert "<script" not in (hostile / "report.html").read_text()

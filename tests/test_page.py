"""The report page, of folders whole, short and hostile; in a real browser where there is one."""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import browser
import numpy as np
import pytest
from made_up_study import PLAIN, UNDECIDED, rows_of, study_folder

from experiments import ablate, page, provenance
from experiments.cli import UserError, parse
from experiments.figures import FIGURES
from experiments.page_figures import DARK_COLOURS
from experiments.summary import curves_of, summarize
from jax_lenet import VARIANTS

HOSTILE = (
    '"><script src=//evil.example/x.js></script><img src=x onerror=alert(1)>{{ 1 }}' + "/x" * 99
)


class Reader(HTMLParser):
    """What a browser would see: elements with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        if self.elements and self.elements[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study with everything in it, its config, its summary and its page."""
    folder, config, summary = study_folder(tmp_path_factory.mktemp("study") / "results")
    page.write(folder, config, summary)
    return folder, config, summary


@pytest.fixture
def small(tmp_path):
    """The same to change: two seeds, two epochs, no figures."""
    return study_folder(tmp_path / "results", seeds=2, epochs=2, drawn=False)


def read(folder, config, summary):
    return Reader(page.render(folder, config, summary))


# What the page says


def test_the_page_is_written_whole_and_nothing_else_is_left(study):
    folder, config, summary = study
    text = (folder.path / "report.html").read_text()
    assert text == page.render(folder, config, summary)
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>")
    assert not list(folder.path.glob(".*"))


def test_question_answer_and_evidence_come_in_this_order(study):
    text = page.render(*study)
    titles = [
        title.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        for title in re.findall(r"<h2>(.*?)</h2>", text)
    ]
    assert titles == [
        "The question",
        "The answer",
        "The models, side by side",
        "The report's two figures",
        "The evidence, conclusion by conclusion",
        "Learning curves",
        "The digits that most runs get wrong",
        "Wrong labels",
        "How much pairing helps",
        "Check it yourself",
        "What it was made with",
    ]


def test_every_conclusion_has_its_claim_verdict_sentence_parts_and_mechanism(study):
    folder, config, summary = study
    text = page.render(folder, config, summary)
    answers = re.findall(r"<li class=\"\w+\">\s*<p class=\"claim\">.*?</li>", text, re.DOTALL)
    evidence = re.findall(r"<article.*?</article>", text, re.DOTALL)
    for verdict, answer, article in zip(summary["verdicts"], answers, evidence, strict=True):
        for said in (Reader("<p>" + answer).text, Reader("<p>" + article).text):
            assert verdict["claim"] in said
            assert f"{page.LOOKS[verdict['verdict']][1]} {verdict['verdict']}" in said
        told = Reader("<p>" + answer).text
        assert verdict["answer"] in told
        assert verdict["beside"] in told
        for one in verdict["parts"]:
            assert one["question"] in said
            assert " ".join(page.in_words(one)) in said
        assert verdict["mechanism"]["text"] in said


def test_undecided_parts_say_how_many_seeds_would_decide_or_that_none_will(study):
    text = read(*study).text
    assert "A new run of about 34 repeats would decide it." in text
    assert "More than 1,000 seeds would be needed" in text


def test_seeds_needed_claim_no_more_digits_than_they_have(small):
    folder, config, summary = small
    summary["verdicts"][1]["parts"][0] |= {"verdict": UNDECIDED, "seeds_needed": 276}
    assert "A new run of about 280 seeds would decide it." in read(folder, config, summary).text


def test_a_verdict_whose_parts_differ_says_so_beside_the_badge(study):
    answers = page.render(*study).split('class="answers"')[1].split("</ol>")[0]
    fourth = Reader("<p>" + answers.split("<li")[4]).text
    assert "contradicted as a whole: 1 of 2 parts contradicted, 1 supported" in fourth
    fifth = Reader("<p>" + answers.split("<li")[5]).text  # all of whose parts are undecided
    assert "as a whole" not in fifth


def test_evidence_that_does_not_count_is_set_apart(study):
    article = page.render(*study).split('id="conclusion-2"')[1].split("</article>")[0]
    before, after = article.split("Further evidence")
    assert "best learning rate?" not in before
    assert "best learning rate?" in after


def test_the_table_has_every_variants_means_and_intervals(study):
    folder, config, summary = study
    text = read(folder, config, summary).text
    for name, found in summary["variants"].items():
        last = found["last_accuracy"]
        mean, low, high = (100 * last[key] for key in ("estimate", "low", "high"))
        line = text[text.index(f"{name} {page.parts_of(name)}") :]
        assert f"{mean:.2f}% {low:.2f} to {high:.2f}" in line[:200]


def test_rules_settings_versions_and_checksums_are_there(study):
    folder, config, summary = study
    text = read(folder, config, summary).text
    for said in ("accuracy_margin 0.001", "learning_rate 0.01", "jax 0.10.2", "AMD EPYC"):
        assert said in text
    assert "SHA-256 " + "8d42" * 16 in text
    assert "14 questions" in text


def test_the_command_repeats_the_studys_settings(study):
    _, config, _ = study
    words = shlex.split(" ".join(provenance.command(config)))
    assert words[:3] == ["python", "-m", "experiments.ablate"]
    again = parse(ablate.Settings, "ablate", words[3:])
    assert (again.dataset, again.seeds, again.epochs) == ("mnist", 10, 10)
    assert again.variants == tuple(VARIANTS)
    assert again.out != Path(config["settings"]["out"])


def test_the_command_names_what_the_program_made_of_settings_that_decide_the_numbers(study):
    config = study[1] | {"seeds_at_once": 4, "device": {"platform": "cpu", "count": 3}}
    config["settings"] = config["settings"] | {"seeds_at_once": None, "devices": None}
    assert {"--seeds-at-once 4", "--devices 3"} <= set(provenance.command(config))
    config["settings"] |= {"seeds_at_once": 2, "devices": 1}
    assert {"--seeds-at-once 2", "--devices 1"} <= set(provenance.command(config))
    config |= {"device": {"platform": "gpu", "count": 8}}
    config["settings"] |= {"devices": None}
    assert not any("--devices" in word for word in provenance.command(config))


@pytest.mark.parametrize(
    "name", ["x; touch /tmp/P #", "$(x)", "x\ny", "X", "", "1", "_x", "\u0430"]
)
@pytest.mark.parametrize("value", [True, False, 3, ["a"]])
def test_the_command_leaves_out_what_cannot_be_a_flag(study, name, value):
    config = study[1] | {"settings": study[1]["settings"] | {name: value}}
    assert provenance.command(config) == provenance.command(study[1])


def test_the_command_names_the_data_that_took_the_place_of_those_asked_for(study):
    config = study[1] | {"data": study[1]["data"] | {"name": "mnist_sample"}}
    config["settings"] = config["settings"] | {"data_dir": "a b"}
    assert "--data-dir" not in " ".join(provenance.command(config))
    assert "--dataset mnist_sample" in provenance.command(config)


def test_a_notice_about_the_data_stands_before_everything_else(small):
    folder, config, summary = small
    data = config["data"] | {"kind": "sample", "notice": "MNIST itself is not at hand"}
    text = read(folder, config | {"data": data}, summary).text
    assert text.index("This is not the full experiment.") < text.index("MNIST itself is not")
    assert text.index("MNIST itself is not at hand") < text.index("The question")
    assert "not the full experiment" not in read(folder, config, summary).text


# Folders that lack something


def test_without_predictions_timing_figures_and_verdicts_the_page_says_what_is_missing(small):
    folder, config, summary = small
    (folder.path / "predictions.npz").unlink()
    text = read(folder, config, {"variants": summary["variants"]}).text
    assert "This folder holds no verdicts" in text
    assert "no test_set.npz or no predictions.npz" in text
    assert "figure1.png is not in the folder" in text
    assert "The evidence, conclusion by conclusion" not in text


def test_one_seed_has_no_interval_and_no_band(tmp_path):
    folder, config, summary = study_folder(tmp_path / "results", seeds=1, drawn=False)
    alone = {"estimate": 0.7, "low": None, "high": None, "n": 1, "seeds_needed": None}
    for verdict in summary["verdicts"]:
        verdict["parts"] = [one | alone | {"verdict": UNDECIDED} for one in verdict["parts"]]
    text = page.render(folder, config, summary)
    assert "one run has no interval" in text
    assert "nobody can say yet how many" in text
    assert "<polygon" not in text
    assert 'class="interval"' not in text


def test_a_conclusion_without_data_says_so(small):
    folder, config, summary = small
    summary["verdicts"][0]["parts"] = []
    assert "nothing in this folder to decide it with" in read(folder, config, summary).text


@pytest.mark.parametrize("seeds", [1, 3])
def test_diverged_runs_are_named_and_left_out(tmp_path, seeds):
    folder, config, summary = study_folder(tmp_path / "results", seeds, epochs=2, drawn=False)
    rows = [
        row._replace(train_loss=np.nan) if (row.variant, row.seed) == (PLAIN, 0) else row
        for row in rows_of(seeds, 2)
    ]
    folder.write_results(rows)
    summary |= summarize(curves_of(rows, 2))
    text = read(folder, config, summary).text
    assert "LeNet seed 0 diverged: its loss was NaN or infinite in epoch 1." in text
    assert f"of all {6 * seeds - 1} runs" in text
    assert ("no run without a divergence" in text) == (seeds == 1)


def test_predictions_of_another_test_set_are_refused(small):
    folder, config, summary = small
    folder.write_predictions({v: np.zeros((2, 7), np.uint8) for v in VARIANTS})
    with pytest.raises(UserError, match=r"expected the predictions of the runs in results\.csv"):
        page.render(folder, config, summary)


# Nothing foreign


def test_the_page_loads_nothing_and_runs_nothing(study):
    found = read(*study)
    assert "script" not in found.elements
    assert all(link.startswith(("data:", "#")) for link in found.links)
    style = page.render(*study).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def hostile(small):
    """The study with markup in every text that a file or a flag can hold."""
    folder, config, summary = small

    def spoilt(value):
        if isinstance(value, dict):
            return {key: spoilt(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [spoilt(inner) for inner in value]
        return value + HOSTILE if isinstance(value, str) else value

    kept = {"verdict", "unit", "direction"}  # words that the program itself chooses
    verdicts = spoilt(summary["verdicts"])
    for mine, theirs in zip(verdicts, summary["verdicts"], strict=True):
        mine["verdict"] = theirs["verdict"]
        for one, other in zip(mine["parts"], theirs["parts"], strict=True):
            one |= {key: other[key] for key in kept}
    rest = {key: spoilt(summary[key]) for key in ("pairing", "mcnemar", "wrong_labels")}
    files = {HOSTILE: {"sha256": HOSTILE, "bytes": 1}}
    config = spoilt(config) | {"data": spoilt(config["data"]) | {"files": files}}
    return folder, config, summary | {"verdicts": verdicts} | rest


def test_text_from_files_and_flags_is_only_ever_text(small):
    clean, spoilt = read(*small), read(*hostile(small))
    assert HOSTILE in spoilt.text
    # The notice, which the clean study does not have, is the only difference in elements.
    assert set(spoilt.elements) - set(clean.elements) == set()
    assert spoilt.elements.count("img") == clean.elements.count("img")


def test_the_page_shows_the_digits_that_most_runs_miss_and_marks_wrong_labels(study):
    text = page.render(*study)
    assert text.count("label found wrong") == 1
    assert "3 of the 1,000 test images are missed by more than half of all 60 runs" in text
    shown = re.findall(r"alt=\"Test image (\d+), labelled", text)
    assert shown == ["5", "17", "400"]  # as the study was made up


# In a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium on PATH")
    # Short-lived and not pytest's own: what the browser leaves half written must not matter.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        browser.started(program, Path(profile)) as started,
    ):
        yield started


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_in_a_browser_nothing_fails_leaves_the_page_or_scrolls_sideways(
    study, chromium, width, scheme
):
    path = study[0].path / "report.html"
    chromium.open(path, width, scheme)
    asked = {sent["request"]["url"] for sent in chromium.of("Network.requestWillBeSent")}
    assert {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
    assert chromium.of("Log.entryAdded") == []
    assert chromium.of("Runtime.exceptionThrown") == []
    assert chromium.of("Runtime.consoleAPICalled") == []
    assert chromium.value("document.scrollingElement.scrollWidth") <= width
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    assert chromium.value(broken) == 0
    assert chromium.value("document.images.length") == len(FIGURES) + 3


def test_in_a_browser_hostile_and_endless_texts_stay_text_and_wrap(small, chromium):
    folder, config, summary = hostile(small)
    page.write(folder, config, summary)
    chromium.open(folder.path / "report.html", 390)
    assert chromium.value("document.scripts.length") == 0
    assert chromium.value("document.querySelector('h1').textContent") == config["title"]
    assert chromium.value("document.scrollingElement.scrollWidth") <= 390
    asked = {sent["request"]["url"] for sent in chromium.of("Network.requestWillBeSent")}
    assert not any("evil" in url for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_drawings_stand_out_from_the_page_in_both_schemes(study, chromium, scheme):
    chromium.open(study[0].path / "report.html", 1200, scheme)
    names = ["ink", "quiet", "accent", "page", "card", "sunk", "warn", *page.LOOKS, *DARK_COLOURS]
    names = [page.LOOKS.get(name, (name,))[0] for name in [*names, "on-verdict"]]
    style = "getComputedStyle(document.documentElement).getPropertyValue"
    seen = {n: chromium.value(f"{style}('--{n}').trim()") for n in names}
    for ground in ("page", "card", "sunk", "warn"):
        for words in ("ink", "quiet"):  # WCAG: text 4.5 to 1, graphics 3 to 1
            assert contrast(seen[words], seen[ground]) >= 4.5, (words, ground)
    for ground in ("page", "card"):
        assert contrast(seen["accent"], seen[ground]) >= 4.5
        for drawing in DARK_COLOURS:
            assert contrast(seen[drawing], seen[ground]) >= 2.9, (drawing, ground)
    for look, _ in page.LOOKS.values():
        ground = "card" if look == "undecided" else "on-verdict"
        assert contrast(seen[look], seen[ground]) >= 4.5, look


def contrast(one, other):
    """WCAG's ratio of relative luminances."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


# What it comes with


def test_the_templates_are_part_of_the_package():
    names = {entry.name for entry in resources.files("experiments").joinpath("templates").iterdir()}
    assert names >= {"report.html.jinja", "drawings.html.jinja", "report.css"}


def test_the_page_needs_neither_torch_nor_tensorflow():
    code = (
        "import sys, experiments.page;"
        "print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

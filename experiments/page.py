"""The report page: report.html, everything that a results folder says, in plain words on one page.

`write` puts the answers, their evidence and the settings into ``templates/report.html.jinja``. The
page holds its pictures and its style, loads nothing and runs no script. Every text that comes from
a file or a flag is escaped on its way in.

A folder may lack timing, predictions, the test images or the verdicts, as one of
`experiments.torch_baseline` does: the page then says what is missing.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments import provenance, sentences
from experiments.chart import LABELS
from experiments.cli import UserError
from experiments.figures import FIGURES
from experiments.page_figures import (
    DARK_COLOURS,
    LIGHT_COLOURS,
    MOST_DIGITS,
    Forest,
    Mark,
    Missed,
    data_uri,
    forest,
    learning_curves,
    missed_digits,
)
from experiments.results import PREDICTIONS, RESULTS, TEST_SET, ResultsFolder
from experiments.summary import Curve, curves_of
from jax_lenet.models import VARIANTS

# How a verdict looks: the name of its style, and a sign beside the colour.
LOOKS = {
    "supported": ("supported", "✓"),
    "contradicted": ("contradicted", "✗"),
    "no practical difference": ("same", "≈"),
    "undecided": ("undecided", "?"),
}
# What each of `jax_lenet.decisions.Rules` is, in plain words.
RULES = {
    "level": "confidence of every interval",
    "alpha": "how often, at most, tests of effects that do not exist give a false “supported” or"
    " “contradicted”",
    "accuracy_margin": "margin of accuracy, as a fraction: a smaller difference has no practical"
    " meaning",
    "time_margin": "margin of time, as a fraction",
    "least_seeds": "seeds below which nothing is decided",
    "most_left_out": "share of seeds left out for divergence above which nothing is decided",
    "power": "chance of a verdict that the number of seeds needed asks for",
    "most_seeds": "seeds beyond which no number is named",
    "resamples": "random draws of a bootstrap or a test",
    "family": "tests whose p-values are corrected together",
}


def write(folder: ResultsFolder, config: dict, summary: dict) -> None:
    """Write report.html.

    Args:
        folder: read for its rows, figures and, where they are there, predictions and test images.
        config: the content of config.json.
        summary: the content of summary.json.

    Raises:
        UserError: if a file is damaged, or does not fit the others.
    """
    folder.write_report(render(folder, config, summary))


def render(folder: ResultsFolder, config: dict, summary: dict) -> str:
    """Return the page; the arguments are those of `write`."""
    curves = curves_of(folder.read_results(), config["settings"]["epochs"])
    verdicts = summary.get("verdicts") or []
    context = {
        "title": config["title"],
        "data": config["data"],
        "settings": config["settings"],
        "rules": summary.get("rules"),
        "seeds": sorted({seed for curve in curves for seed in curve.seeds}),
        "verdicts": [Conclusion(v) for v in verdicts],
        "tally": Counter(sorted((v["verdict"] for v in verdicts), key=list(LOOKS).index)),
        "variants": variant_lines(summary["variants"]),
        "diverged": [run for curve in curves for run in curve.diverged],
        "figures": figures_of(folder),
        "curves": learning_curves(curves),
        "digits": hard_digits(folder, curves),
        "pairing": summary.get("pairing") or [],
        "mcnemar": summary.get("mcnemar") or [],
        "wrong_labels": summary.get("wrong_labels"),
        "commands": provenance.commands(config),
        "sweeps": provenance.sweep_commands(folder),
        "folder": shlex.quote(str(folder.path)),
        "facts": provenance.facts(config),
    }
    return _environment().get_template("report.html.jinja").render(context)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("experiments"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "look": lambda verdict: LOOKS[verdict][0],
        "sign": lambda verdict: LOOKS[verdict][1],
        "p": p_value,
        "asked_for": asked_for,
        "about": sentences.about,
        "count": lambda number: f"{number:,}",
        "decimal": lambda number: "none" if number is None else f"{number:.2f}",
        "upper_first": lambda text: text[:1].upper() + text[1:],
        "singular": lambda plural: plural.removesuffix("s"),
    }
    environment.globals |= {
        "LABELS": LABELS,
        "RULES": RULES,
        "LIGHT": LIGHT_COLOURS,
        "DARK": DARK_COLOURS,
        "MOST_DIGITS": MOST_DIGITS,
    }
    return environment


# The conclusions


@dataclass(frozen=True)
class Plot:
    """Parts of one conclusion that share an axis.

    Attributes:
        measure: what is compared.
        unit: "ratio" or "points".
        margin: half the width of the band, in words.
        lines: each part with its place on the axis, and its numbers in words.
        forest: the axis.
    """

    measure: str
    unit: str
    margin: str
    lines: tuple[tuple[dict, Mark, tuple[str, str]], ...]
    forest: Forest


@dataclass(frozen=True)
class Conclusion:
    """One of summary.json's verdicts, with its plots."""

    content: dict

    @property
    def plots(self) -> list[Plot]:
        """The parts that make the verdict."""
        return self._plots_of("claimed")

    @property
    def tally(self) -> str:
        """How many parts have which verdict; empty where all have the same."""
        return sentences.tally(self.content)

    @property
    def beside(self) -> list[Plot]:
        """What was asked with them and is not claimed."""
        return self._plots_of("beside")

    @property
    def further(self) -> list[Plot]:
        """Evidence from sweeps."""
        return self._plots_of("further")

    def _plots_of(self, role: str) -> list[Plot]:
        return _plots([part for part in self.content["parts"] if part["role"] == role])


def _plots(parts: Sequence[dict]) -> list[Plot]:
    """Put parts of the same measure on one axis: other measures may be a hundred times as large."""
    alike: dict[tuple[str, str], list[dict]] = {}
    for part in parts:
        alike.setdefault((part["measure"], part["unit"]), []).append(part)
    plots = []
    for (measure, unit), group in alike.items():
        drawn = forest(group)
        lines = tuple((p, m, in_words(p)) for p, m in zip(group, drawn.marks, strict=True))
        margin = group[0]["margin"]
        margin_words = f"{100 * margin:g}%" if unit == "ratio" else f"{margin:g}"
        plots.append(Plot(measure, unit, margin_words, lines, drawn))
    return plots


def in_words(part: Mapping[str, Any]) -> tuple[str, str]:
    """Return a difference and its interval; the interval is empty where there is none.

    >>> in_words({"unit": "points", "estimate": 0.96, "low": 0.852, "high": 1.068})
    ('+0.96 points', '[+0.85, +1.07]')
    """
    if part["estimate"] is None:
        return "no result", ""
    estimate, bracket, interval = sentences.difference(dict(part)).partition(" [")
    return estimate, f"[{interval}" if bracket else ""


def asked_for(part: Mapping[str, Any]) -> str:
    """Return which sign a question asks of a difference.

    >>> asked_for({"direction": "greater", "at_least": True})
    'less by no more than the margin'
    """
    more, less = ("more", "less") if part["direction"] == "greater" else ("less", "more")
    return f"{less} by no more than the margin" if part["at_least"] else more


def p_value(p: float) -> str:
    """Return a p-value as it is read.

    >>> [p_value(p) for p in (0.0312, 0.00004, 1.0, 0.0504)]
    ['0.031', 'below 0.0001', '1', '0.0504']
    """
    if p < 1e-4:
        return "below 0.0001"
    return next(text for digits in (2, 3, 4, 17) if _same_side(text := f"{p:.{digits}g}", p))


def _same_side(text: str, p: float) -> bool:
    """Tell whether a rounded p is on the same side of the usual levels as p."""
    return all((float(text) <= level) == (p <= level) for level in (0.01, 0.05))


# The variants


@dataclass(frozen=True)
class VariantLine:
    """One line of the table of variants; the texts are empty where every run diverged.

    Attributes:
        name: the model's.
        parts: what is in it, in plain words.
        cells: heading, mean and interval of the first and last accuracy and of the total time.
        runs: how many runs the last accuracy is the mean of.
    """

    name: str
    parts: str
    cells: tuple[tuple[str, str, str], ...]
    runs: int


def variant_lines(variants: Mapping[str, dict]) -> list[VariantLine]:
    """Return the table of variants from summary.json's."""
    columns = (
        ("First epoch", "first_epoch_accuracy", 100, "%"),
        ("Last epoch", "last_accuracy", 100, "%"),
        ("Total time", "total_seconds", 1, " s"),
    )
    return [
        VariantLine(
            name,
            parts_of(name),
            tuple((title, *_cell(found[key], by, unit)) for title, key, by, unit in columns),
            (found["last_accuracy"] or {"n": 0})["n"],
        )
        for name, found in variants.items()
    ]


def _cell(interval: dict | None, by: int, unit: str) -> tuple[str, str]:
    """Return the mean and its interval as texts."""
    if interval is None:
        return "diverged", ""
    mean = f"{by * interval['estimate']:.2f}{unit}"
    if interval["low"] is None:
        return mean, ""
    return mean, f"{by * interval['low']:.2f} to {by * interval['high']:.2f}"


def parts_of(variant: str) -> str:
    """Return what is in a model, in plain words.

    >>> parts_of("LeNet_BN_drop6")
    'batch norm; dropout 0.5 at drop6'
    """
    model = VARIANTS[variant]
    layers = {"drop6": model.dropout[0], "drop7": model.dropout[1]}
    norm = ["batch norm"] if model.batch_norm else []
    drop = [f"{rate:g} at {name}" for name, rate in layers.items() if rate]
    return (
        "; ".join(norm + (["dropout " + ", ".join(drop)] if drop else []))
        or "neither batch norm nor dropout"
    )


def figures_of(folder: ResultsFolder) -> dict[str, str | None]:
    """Return the report's figures as data URIs; None where a file is missing."""
    found = {}
    for name in FIGURES:
        path = folder.path / name
        found[name] = data_uri(path.read_bytes()) if path.is_file() else None
    return found


# The digits


@dataclass(frozen=True)
class HardDigits:
    """The test images that most runs get wrong.

    Attributes:
        missed: the most missed first.
        by_all: how many of them every run gets wrong.
        runs: how many runs were asked, those that diverged left out.
        images: how many test images there are.
    """

    missed: list[Missed]
    by_all: int
    runs: int
    images: int


def hard_digits(folder: ResultsFolder, curves: Sequence[Curve]) -> HardDigits | None:
    """Return the digits that most runs get wrong; None where a file is missing.

    Raises:
        UserError: if the files are damaged or do not fit.
    """
    if not (folder.has(PREDICTIONS) and folder.has(TEST_SET)):
        return None
    predictions, test = folder.read_predictions(), folder.read_test_set()
    try:
        runs = np.concatenate(
            # A study that was cut short may have a run's rows and not yet its predictions.
            [predictions[c.variant][c.whole[: len(predictions[c.variant])]] for c in curves]
        )
        missed = missed_digits(test, runs)
    except (KeyError, IndexError, ValueError):
        raise UserError(
            f"{folder.path / PREDICTIONS}: expected the predictions of the runs in {RESULTS} for"
            f" the images in {TEST_SET}"
        ) from None
    by_all = sum(digit.missed == len(runs) for digit in missed)
    return HardDigits(missed, by_all, len(runs), len(test.labels))

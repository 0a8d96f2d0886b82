"""Draw everything again from a results folder's files.

    python -m experiments.report results

reads config.json, results.csv and, where they are there, timing.csv, the predictions, test_set.npz
and the sweeps that are kept with them, and writes summary.json with the five verdicts, figure1.png,
figure2.png and report.html. With ``--sweep results-sweep`` it first keeps that sweep in the folder.
A folder that has predictions.npz and lacks test_set.npz, as docs/results, gets it from the study's
data: ``--data-dir mnist``.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments import cli, kept_sweeps, study_config, tested_images, verdicts
from experiments.evidence import gather
from experiments.lock import one_writer
from experiments.results import CONFIG, FIGURES, REPORT, SUMMARY, ResultsFolder
from experiments.settings import NamedPath
from experiments.study_config import SOURCES
from experiments.summary import Curve, curves_of, summarize
from jax_lenet.decisions import Rules

MARGINS = ("accuracy_margin", "time_margin")  # in points and percent, of which rules take fractions


@dataclass(frozen=True)
class Settings:
    """Draw a results folder's figures and summary again."""

    folder: Annotated[NamedPath, tyro.conf.Positional]
    """The folder that a program wrote."""
    sweep: tuple[Path, ...] = ()
    """Folders of experiments.sweep, for conclusions 2 and 3. Each is kept, and takes the place
    of one of before if it answers all that that one does; others of before stay."""
    data_dir: NamedPath | None = None
    """The study's MNIST, a tensorflow_datasets directory or a folder of the four IDX files: from it
    test_set.npz is made where the folder lacks it."""


class Remade(NamedTuple):
    """What a folder shows.

    Attributes:
        curves: by variant.
        summary: the content of summary.json.
    """

    curves: list[Curve]
    summary: dict


def remake(folder: ResultsFolder) -> Remade:
    """Write summary.json, the figures and the page from the other files; return what they show.

    Raises:
        UserError: if a file is missing that must be there, or one is damaged.
    """
    from experiments import figures, page  # matplotlib takes a second to import

    config = folder.read_config()
    study_config.check(config, folder.path / CONFIG)
    settings, title, subtitle = config["settings"], config["title"], _subtitle(config)
    epochs, rate, rules = settings["epochs"], settings["learning_rate"], rules_of(settings)
    curves = curves_of(folder.read_results(), epochs)
    if not curves:
        raise cli.UserError(f"{folder.path}: expected finished runs, found none")
    summary = summarize(curves) | verdicts.summarize(gather(folder, epochs, rate), rules)
    folder.write_summary(summary)
    for name in FIGURES:
        figures.draw(
            curves,
            folder.path / name,
            title=title,
            subtitle=f"{subtitle} · {_seeds(curves)}",
        )
    page.write(folder, config, summary)
    return Remade(curves, summary)


def rules_of(settings: Mapping) -> Rules:
    """Return the rules of the verdicts, with the margins that a study was run with, if any.

    >>> rules_of({"accuracy_margin": 0.25}).accuracy_margin  # of a point
    0.0025
    """
    given = {name: settings[name] / 100 for name in MARGINS if name in settings}
    return Rules(**given)


def _subtitle(config: dict) -> str:
    data, sizes = config["data"], config["data"]["sizes"]
    return (
        f"MNIST, {SOURCES[data['kind']]}: {sizes['train']:,} training and {sizes['test']:,} test"
        f" images · {config['settings']['epochs']} epochs"
    )


def _seeds(curves: list[Curve]) -> str:
    seeds = sorted({seed for c in curves for seed in c.seeds})
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}-{seeds[-1]}"


def main(settings: Settings) -> None:
    """Run the program."""
    folder = ResultsFolder(settings.folder)
    with one_writer(folder.path, "FOLDER"):
        config = folder.read_config()
        sweeps = kept_sweeps.load(settings.sweep, config, kept_sweeps.read_all(folder))
        tested_images.restore(folder, settings.data_dir)
        if sweeps:
            kept_sweeps.keep(folder, sweeps, print)
        remake(folder)
    print(f"made {', '.join((*FIGURES, SUMMARY, REPORT))} in {folder.path}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "report"))

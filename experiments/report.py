"""Draw everything again from a results folder's files.

    python -m experiments.report results

reads config.json and results.csv and writes summary.json, figure1.png and figure2.png.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments import cli
from experiments.results import CONFIG, FIGURES, ResultsFolder
from experiments.summary import Curve, curves_of, summarize

SOURCES = {
    "tensorflow_datasets": "from tensorflow_datasets",
    "idx": "from its IDX files",
    "cache": "from its IDX files",
    "download": "from its IDX files",
    "sample": "the package's embedded sample",
}


@dataclass(frozen=True)
class Settings:
    """Draw a results folder's figures and summary again."""

    folder: Annotated[Path, tyro.conf.Positional]
    """The folder that a program wrote."""


def remake(folder: ResultsFolder) -> list[Curve]:
    """Write summary.json and the figures from the other files; return what was drawn."""
    from experiments import figures  # matplotlib takes a second to import

    config = folder.read_config()
    try:
        epochs, title, subtitle = config["settings"]["epochs"], config["title"], _subtitle(config)
    except (KeyError, TypeError):
        raise cli.UserError(
            f"{folder.path / CONFIG}: expected the config.json of a study"
        ) from None
    curves = curves_of(folder.read_results(), epochs)
    if not curves:
        raise cli.UserError(f"{folder.path}: expected finished runs, found none")
    folder.write_summary(summarize(curves))
    for name in FIGURES:
        figures.draw(
            curves,
            folder.path / name,
            title=title,
            subtitle=f"{subtitle} · {_seeds(curves)}",
        )
    return curves


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
    remake(folder)
    print(f"drew {', '.join(FIGURES)} and summary.json in {folder.path}")


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "report"))

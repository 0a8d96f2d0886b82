"""Sweeps that a study's conclusions also draw on: checked, and read to be kept in its folder.

Kept, so that the folder alone makes every verdict again, wherever the sweep's own folder goes.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments import durable
from experiments.cli import UserError
from experiments.results import KEPT
from experiments.sweep_files import read

SAME_SETTINGS = ("epochs", "batch_size", "learning_rate")


def load(sweeps: Sequence[Path], config: dict) -> list[dict[str, bytes]]:
    """Return the files of sweeps as `ResultsFolder.write_sweeps` takes them.

    Args:
        sweeps: folders of `experiments.sweep`.
        config: of the study, as in config.json.

    Raises:
        UserError: unless each is a finished sweep on the study's data with its settings, and no two
            answer the same question.
    """
    asked: dict[tuple[str, str | None], Path] = {}
    for path in sweeps:
        sweep = read(path)
        _check(path, sweep.config, config)
        for curve in sweep.curves:
            variant, layers = curve.candidates.variant, curve.candidates.layers
            if (other := asked.get((variant, layers))) is not None:
                rates = "learning rates" if layers is None else f"dropout rates ({layers})"
                raise UserError(
                    f"--sweep: expected one sweep with {rates} of {variant}, but both {other} and"
                    f" {path} have them"
                )
            asked[variant, layers] = path
    return [files_of(path) for path in sweeps]


def files_of(path: Path) -> dict[str, bytes]:
    """Return what is kept of a sweep, by file name."""
    return {name: durable.read(path / name) for name in KEPT}


def _check(path: Path, sweep: dict, study: dict) -> None:
    """Raise UserError unless a sweep ran as the study did, by the config.json of each."""
    try:
        own, its = _comparable(study), _comparable(sweep)
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"--sweep: expected {path} and the study to say how they ran") from None
    for name in own:
        if own[name] == its[name]:
            continue
        if name == "files":  # a dozen digests would say no more
            raise UserError(
                f"--sweep: expected a sweep of the study's data, but the files of {path} have other"
                " contents (SHA-256 in config.json)"
            )
        raise UserError(
            f"--sweep: expected a sweep with the study's {name}, {own[name]}, but"
            f" {path} has {its[name]}"
        )


def _comparable(config: dict) -> dict:
    """Return what a study and a sweep must have in common, by its name in words."""
    settings, data = config["settings"], config["data"]
    same = {name.replace("_", " "): settings[name] for name in SAME_SETTINGS}
    # PyTorch's study has no such setting: it trains in full float32.
    same["precision"] = settings.get("precision", "highest")
    sizes = {f"{part} images": data["sizes"][part] for part in ("train", "test")}
    files = {name: file["sha256"] for name, file in sorted(data["files"].items())}
    return {"data set": data["name"], "kind of data": data["kind"], **sizes, "files": files, **same}

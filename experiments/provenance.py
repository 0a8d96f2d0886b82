"""How a results folder was made: the commands that make it again, and its settings and versions."""

import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.results import CONFIG, SWEEPS, ResultsFolder

# Settings that change what is written where, not the numbers; and sweeps, which are told apart.
NOT_REPEATED = ("out", "overwrite", "compilation_cache", "sweep")


def command(config: Mapping[str, Any], out: str = "again") -> list[str]:
    """Return the command that repeats a study, a flag with its values an item, quoted for a shell.

    Where the data were asked for but not at hand, it names the data that took their place.
    """
    settings = dict(config["settings"])
    if settings.get("dataset") != config["data"]["name"]:
        settings |= {"dataset": config["data"]["name"], "data_dir": None}
    return [
        f"python -m {shlex.quote(config['program'])}",
        *(
            _flag(k, v)
            for k, v in settings.items()
            if k not in NOT_REPEATED and v not in (None, [])
        ),
        f"--out {out}",
    ]


def sweep_commands(folder: ResultsFolder) -> list[list[str]]:
    """Return the commands that repeat the sweeps that a folder keeps, each as `command` does."""
    kept = sorted((folder.path / SWEEPS).glob(f"[0-9]*/{CONFIG}"))
    return [
        command(ResultsFolder(path.parent).read_config(), f"sweep-{path.parent.name}")
        for path in kept
    ]


def _flag(name: str, value: object) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    values = value if isinstance(value, list | tuple) else [value]
    return shlex.join([f"--{flag}", *map(str, values)])


def facts(config: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return config.json's settings, versions and machine as lines to print, by heading."""
    parts = {
        "Settings": {**config["settings"], "seeds_at_once": config.get("seeds_at_once")},
        "Versions": config.get("versions") or {},
        "Machine": {**(config.get("machine") or {}), "device": config.get("device")},
    }
    return {heading: list(_lines(content)) for heading, content in parts.items()}


def _lines(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            yield before + name, ", ".join(map(str, value))
        elif value is not None:
            number = isinstance(value, float) and math.isfinite(value)
            yield before + name, f"{value:g}" if number else str(value)

"""How a results folder was made: the commands that make it again, and its settings and versions."""

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments import kept_sweeps
from experiments.results import ResultsFolder

# Settings that change what is written where, not the numbers; and sweeps, which are told apart.
NOT_REPEATED = ("out", "overwrite", "compilation_cache", "sweep")
# What else config.json has among the settings is no flag of ours, and a shell might run it.
FLAG = re.compile("[a-z][a-z0-9_]*")


def command(config: Mapping[str, Any], out: str = "again") -> list[str]:
    """Return the command that repeats a study, a flag with its values an item, quoted for a shell.

    Where the data were asked for but not at hand, it names the data that took their place; where a
    setting was left to the program and decides the numbers, what the program made of it.
    """
    settings = dict(config["settings"])
    device = config.get("device")
    device = device if isinstance(device, Mapping) else {}
    made = {name: config.get(name) for name in ("seeds_at_once", "runs_at_once")}
    made["devices"] = device.get("count") if device.get("platform") == "cpu" else None
    settings |= {name: made[name] for name in made if settings.get(name, "") is None}
    if settings.get("dataset") != config["data"]["name"]:
        settings |= {"dataset": config["data"]["name"], "data_dir": None}
    return [
        f"python -m {shlex.quote(config['program'])}",
        *(
            _flag(k, v)
            for k, v in settings.items()
            if k not in NOT_REPEATED and v not in (None, []) and FLAG.fullmatch(k)
        ),
        f"--out {out}",
    ]


def commands(config: Mapping[str, Any]) -> list[list[str]]:
    """Return the commands that repeat a study, or the studies that one was joined of."""
    parts = config.get("parts")
    if not parts:
        return [command(config)]
    names = [f"part-{number}" for number in range(1, len(parts) + 1)]
    join = [f"python -m {shlex.quote(config['program'])} {' '.join(names)}", "--out again"]
    return [*(command(part, name) for part, name in zip(parts, names, strict=True)), join]


def sweep_commands(folder: ResultsFolder) -> list[list[str]]:
    """Return the commands that repeat the sweeps that a folder keeps, each as `command` does."""
    return [
        command(ResultsFolder(path).read_config(), f"sweep-{path.name}")
        for path in kept_sweeps.folders(folder)
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
    if config.get("parts"):
        parts |= {"Joined from": _joined_from(config["parts"])}
    return {heading: list(_lines(content)) for heading, content in parts.items()}


def _joined_from(parts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what tells the folders apart that a study was joined of."""
    lines = {}
    for number, part in enumerate(parts, 1):
        settings, machine = part["settings"], part.get("machine") or {}
        seeds = f"{settings.get('seeds')} seeds from {settings.get('first_seed')}"
        jax = (part.get("versions") or {}).get("jax")
        lines[f"part-{number}"] = f"{seeds}; {machine.get('processor')}, jax {jax}"
    return lines


def _lines(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _lines(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            yield before + name, ", ".join(map(str, value))
        elif value is not None:
            number = isinstance(value, float) and math.isfinite(value)
            yield before + name, f"{value:g}" if number else str(value)

"""What the numbers were made with, for config.json: versions, device, machine, data."""

import os
import platform
from importlib import metadata
from pathlib import Path

import jax

from jax_lenet.data import Dataset

PACKAGES = ("jax-lenet", "jax", "jaxlib", "flax", "optax", "numpy")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Return Python's version and those of the installed packages."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def jax_device() -> dict[str, str | int]:
    """Return which devices JAX runs on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": jax.device_count(),
    }


def machine() -> dict[str, str | int | None]:
    """Return the processor's name and the number of cores."""
    return {"processor": _processor(), "cores": os.cpu_count(), "system": platform.system()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def data_facts(data: Dataset) -> dict:
    """Return where the data came from, its files' sizes and SHA-256, and the number of images."""
    source = data.source
    return {
        "name": data.name,
        "kind": source.kind,
        "path": source.path,
        "files": source.files,
        "notice": source.notice,
        "sizes": {
            "train": len(data.train_labels),
            "validation": len(data.validation_labels),
            "test": len(data.test_labels),
        },
    }

"""The settings that the programs share: the experiment, and where it is read and written."""

import reprlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.constructors import PrimitiveConstructorSpec

from experiments import startup
from experiments.cli import UserError, nearest
from experiments.startup import CompilationCache
from jax_lenet.data import Dataset, load
from jax_lenet.fitting import check_batch_size
from jax_lenet.models import VARIANTS

#: JAX makes as many CPU devices as it is told to, each with threads of its own, until nothing is
#: left of the machine. No machine has so many cores.
MOST_DEVICES = 1024
#: Of whatever is counted. All that is planned for so many runs fits in memory, and `results` reads
#: so many epochs back.
MOST = 1_000_000


def _path(words: Sequence[str]) -> Path:
    """Return a path that is named: as a path, an empty name is the folder where one stands."""
    (name,) = words
    if not name:
        raise ValueError("expected a path, not ''")
    return Path(name)


#: A path on the command line.
NamedPath = Annotated[
    Path,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_path,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    ),
]


@dataclass(frozen=True)
class StudySettings:
    """A study: every variant from every seed. The defaults are the report's, but for the seeds."""

    dataset: str = "mnist"
    """mnist, or mnist_sample: the 5,000 digits that ship with the package."""
    data_dir: NamedPath | None = None
    """A tensorflow_datasets directory or a folder of the four IDX files; without it the cache, a
    download or, where there is no network, the embedded sample."""
    train_size: int | None = None
    """Train on the first so many images; None is 50,000 (of the sample, 4,000)."""
    epochs: int = 10
    """Epochs of each run."""
    seeds: int = 10
    """Runs of each variant; with fewer than 10 no difference is sure enough among the 19 that the
    verdicts ask for."""
    first_seed: int = 0
    """The first run's seed; the others follow it."""
    batch_size: int = 128
    """Images in a step."""
    learning_rate: float = 0.01
    """Of plain SGD."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which models to train, by the report's names; all six unless told otherwise."""
    out: NamedPath = Path("results")
    """The folder that gets the results."""
    overwrite: bool = False
    """Start anew, in place of the results that the folder holds. Without it, the same command goes
    on where it was stopped."""

    def check(self) -> None:
        """Raise UserError, before anything is read or written, if a value is out of its range."""
        for name in ("epochs", "seeds", "batch_size", "train_size"):
            check_count(name, getattr(self, name))
        last_seed = self.first_seed + self.seeds - 1
        _expect(
            self.first_seed >= 0 and last_seed < 2**32,
            "first_seed",
            "at least 0, with the last seed below 2**32",
            self.first_seed,
        )
        possible = is_learning_rate(self.learning_rate)
        _expect(possible, "learning_rate", "a positive number", self.learning_rate)
        check_variants(self.variants)

    @property
    def all_seeds(self) -> range:
        """The seeds of the study, in order."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def load(self) -> Dataset:
        """Read the data, and check that it can be cut into batches as the settings say."""
        data = load(self.dataset, self.data_dir, self.train_size)
        for name in self.variants:
            try:
                check_batch_size(VARIANTS[name], len(data.train_labels), self.batch_size)
            except ValueError as error:
                raise UserError(f"--batch-size: {error}") from None
        return data

    def as_json(self) -> dict:
        """Return the settings in JSON's types."""
        return {name: _as_json(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class JaxSettings(StudySettings):
    """A study that JAX computes."""

    precision: Literal["highest", "high", "default"] = "highest"
    """Of products and convolutions: highest is float32 throughout; default lets a GPU use TF32."""
    devices: int | None = None
    """CPU devices that JAX makes, to share the work; None is one a core. No effect on a GPU."""
    compilation_cache: str = startup.AUTO
    """Where compiled programs are kept, to start faster the next time: auto (this user's cache
    folder), off, or a folder that nobody else can write to, since what is in it is executed."""

    def check(self) -> None:
        """Raise UserError if a value is out of its range."""
        super().check()
        possible = self.devices is None or 1 <= self.devices <= MOST_DEVICES
        _expect(bool(self.compilation_cache), "compilation_cache", "auto, off or a folder", "''")
        _expect(possible, "devices", f"1 to {MOST_DEVICES}", self.devices)

    def start_jax(self) -> CompilationCache:
        """Do what must come before JAX's first computation; return the compilation cache."""
        cache = startup.use_compilation_cache(self.compilation_cache)
        startup.use_cpu_devices(self.devices)
        return cache


def check_count(setting: str, count: int | None, least: int = 1, most: int = MOST) -> None:
    """Raise UserError if a count is out of its range; None is left to the program."""
    if count is not None:
        _expect(count >= least, setting, f"at least {least}", count)
        _expect(count <= most, setting, f"at most {most:,}", count)


def is_learning_rate(rate: float) -> bool:
    """Tell whether training can take a learning rate, which it does as float32."""
    return 1e-38 < rate < 1e38


def check_variants(names: tuple[str, ...]) -> None:
    """Raise UserError unless the names are different variants; suggest the nearest."""
    _expect(len(names) > 0, "variants", "at least one name", "none")
    for name in names:
        if name not in VARIANTS:
            expected = f"expected names of {', '.join(VARIANTS)}"
            raise UserError(f"--variants: {expected}, not {name}{nearest(name, list(VARIANTS))}")
    _expect(len(set(names)) == len(names), "variants", "each name once", " ".join(names))


def _as_json(value: object) -> object:
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _expect(condition: bool, setting: str, expected: str, found: object) -> None:
    if not condition:
        # Hundreds of digits would say no more.
        shown = reprlib.repr(found) if isinstance(found, int) else found
        raise UserError(f"--{setting.replace('_', '-')}: expected {expected}, not {shown}")

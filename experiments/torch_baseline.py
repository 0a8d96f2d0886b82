"""The report's program in PyTorch: the same models, data, loop and results, without JAX.

    python -m experiments.torch_baseline

trains the six variants on MNIST and leaves config.json and results.csv in ``results-torch``, in the
form that `experiments.ablate` writes; ``python -m experiments.report results-torch`` draws them.
Stopped at whatever moment, the same command goes on from the last finished epoch. An epoch takes 3
to 4 seconds on two CPU cores. On all of MNIST expect a test accuracy of 65% to 80%
after the first epoch without batch norm, of 91% to 94% with it, and of 97% to 99% after the tenth.

What the report's program put together stays apart here: `torch_model.LeNet5` ends in a log-softmax
and the loss is the negative log-likelihood (cross entropy on top of a log-softmax is the same
number).
"""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from experiments import cli, durable, environment, signals, torch_folder
from experiments.kept_state import RUN_BYTES
from experiments.lock import one_writer
from experiments.progress import Display, say, say_results, say_source
from experiments.results import ResultsFolder, Row
from experiments.settings import NamedPath, StudySettings
from experiments.summary import curves_of
from experiments.torch_folder import BEGUN, BaselineFolder, Begun, Found
from jax_lenet import VARIANTS, Dataset, normalize
from jax_lenet.ensemble import TRAIN_ACCURACY_IMAGES

try:
    import torch
    from torch import Tensor

    from experiments import torch_model
    from experiments.torch_model import (
        Examples,
        LeNet5,
        evaluate,
        train_epoch,
        use_full_precision,
    )
except ModuleNotFoundError as error:
    if __name__ != "__main__":
        raise
    print(
        f"torch_baseline: {error}; PyTorch comes with the test extra, pip install '.[test]'",
        file=sys.stderr,
    )
    sys.exit(2)


#: Bytes that a line of results.csv takes on disk; rounded up.
ROW_BYTES = 150


@dataclass(frozen=True)
class Settings(StudySettings):
    """Train LeNet-5's variants on MNIST in PyTorch, as the report did."""

    epochs: int = 10
    """Epochs of each run. More of them take another folder: none are added to a study later."""
    out: NamedPath = Path("results-torch")
    """The folder that gets the results."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto is a GPU if PyTorch sees one."""
    loader: Literal["memory", "dataloader"] = "memory"
    """Where batches come from: tensors on the device, or a DataLoader on the CPU. The batches are
    the same."""

    def torch_device(self) -> torch.device:
        """Return the device.

        Raises:
            UserError: if it is a GPU and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise cli.UserError("--device: expected cpu or auto, not cuda: PyTorch sees no GPU")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


def build(variant: str) -> LeNet5:
    """Return a variant by the report's name, with fresh weights from PyTorch's global generator."""
    model = VARIANTS[variant]
    drop6, drop7 = model.dropout
    return LeNet5(model.batch_norm, (float(drop6), float(drop7)))


def tensors(data: Dataset) -> tuple[Examples, Examples]:
    """Return the training and the test set as tensors in host memory."""

    def examples(images, labels) -> Examples:
        # One channel: [N, 28, 28, 1] and [N, 1, 28, 28] hold the same numbers in the same order.
        pixels = torch.from_numpy(normalize(images)).reshape(-1, 1, 28, 28)
        return Examples(pixels, torch.from_numpy(labels).long())

    return (
        examples(data.train_images, data.train_labels),
        examples(data.test_images, data.test_labels),
    )


def batches_of(
    settings: Settings, train: Examples, seed: int, device: torch.device
) -> Iterable[Iterable[Tensor]]:
    """Return the training batches of one run: each iteration is an epoch in a new order."""
    return torch_model.batches_of(train, settings.batch_size, seed, device, settings.loader)


def state_of(model: LeNet5) -> dict[str, np.ndarray]:
    """Return all from which a run goes on: the model, and the generator that draws its masks.

    Plain SGD keeps nothing, and the orders of the images follow from the seed.
    """
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    masks = torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()
    arrays = {f"model/{name}": x.cpu().numpy() for name, x in model.state_dict().items()}
    return arrays | {"masks": masks.numpy()}


def put_back(model: LeNet5, state: Mapping[str, np.ndarray]) -> None:
    """Make a model and the generator of its masks as they were at `state_of`."""
    device = next(model.parameters()).device
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    model.load_state_dict({name: tensors[f"model/{name}"] for name in model.state_dict()})
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["masks"], device)
    else:
        torch.set_rng_state(tensors["masks"])


def is_state(device: torch.device, variant: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Tell whether arrays, which come from a file, can be `state_of` a variant on a device."""
    own = state_of(build(variant).to(device))
    kinds, found = ({n: (a.dtype, a.shape) for n, a in some.items()} for some in (own, arrays))
    if found != kinds:
        return False
    try:
        torch.Generator(device).set_state(torch.from_numpy(arrays["masks"]))
    except RuntimeError:  # not all bytes are a generator's
        return False
    return True


def run_of(
    variant: str,
    seed: int,
    settings: Settings,
    train: Examples,
    test: Examples,
    start: Begun | None = None,
) -> Iterator[tuple[Row, dict[str, np.ndarray]]]:
    """Train one variant from one seed, or from where its run stands; yield each epoch's row.

    With it comes the state after the epoch, in arrays that the next one overwrites.

    ``seconds`` is training plus testing. All variants of a seed start from the same convolution and
    linear weights, which are the first that the seed's generator draws, and see the same batches. A
    loss that becomes NaN or infinite is a row like any other.
    """
    device = settings.torch_device()
    batches = batches_of(settings, train, seed, device)
    check = Examples(*(x[:TRAIN_ACCURACY_IMAGES] for x in train)).to(device)
    test = test.to(device)
    torch.manual_seed(seed)
    model = build(variant).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    done = 0
    if start is not None:
        done = len(start.rows)
        put_back(model, start.state)
        for _ in range(done):
            next(iter(batches))  # draws an epoch's order
    for epoch in range(done + 1, settings.epochs + 1):
        began = _clock(device)
        train_loss = train_epoch(model, batches, optimizer)
        test_loss, test_right = evaluate(model, test)
        seconds = _clock(device) - began
        _, check_right = evaluate(model, check)
        yield (
            Row(
                variant=variant,
                seed=seed,
                epoch=epoch,
                train_loss=train_loss.item(),
                train_accuracy=check_right.item() / len(check.labels),
                test_loss=test_loss.item(),
                test_accuracy=test_right.item() / len(test.labels),
                seconds=round(seconds, 6),
            ),
            state_of(model),
        )


def _clock(device: torch.device) -> float:
    """Return the time in seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def warm_up(variant: str, settings: Settings, train: Examples, test: Examples) -> None:
    """Train and test a model that is thrown away: first calls are slower than those that follow."""
    device = settings.torch_device()
    model = build(variant).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    batches = batches_of(settings, train, seed=0, device=device)
    train_epoch(model, itertools.islice(batches, 10), optimizer)
    evaluate(model, test.to(device))


def device_facts(device: torch.device) -> dict[str, str | int]:
    """Return which device PyTorch runs on, for config.json."""
    if device.type == "cuda":
        kind, count = torch.cuda.get_device_name(device), torch.cuda.device_count()
    else:
        kind, count = "cpu", 1
    return {
        "platform": device.type,
        "kind": kind,
        "count": count,
        "threads": torch.get_num_threads(),
    }


def train_all(
    folder: ResultsFolder, settings: Settings, data: Dataset, found: Found, console: Console
) -> list[Row]:
    """Train the runs that are left; return all rows, by variant, seed and epoch."""
    train, test = tensors(data)
    order = {variant: place for place, variant in enumerate(settings.variants)}
    begun = found.begun
    done = [*found.rows, *(begun.rows if begun else ())]
    rows = {(order[row.variant], row.seed, row.epoch): row for row in done}
    warm: set[str] = set()
    with Display(console, settings.variants, settings.seeds, settings.epochs, done) as display:
        # The first seed of every variant comes first: the report's own experiment. But what is in
        # training comes before: the file that holds it holds one run alone.
        in_turn = itertools.product(settings.all_seeds, settings.variants)
        for seed, variant in [*([(begun.seed, begun.variant)] if begun else []), *in_turn]:
            if (order[variant], seed, settings.epochs) in rows:
                continue
            if variant not in warm:
                display.now(f"{variant}: warming up")
                warm_up(variant, settings, train, test)
                warm.add(variant)
            display.now(f"{variant} seed {seed}")
            with signals.deferred():
                own = begun.rows if begun else ()
                for row, state in run_of(variant, seed, settings, train, test, begun):
                    rows[order[variant], seed, row.epoch] = row
                    own = (*own, row)
                    if row.epoch < settings.epochs:
                        now = Begun(variant, seed, found.identity, own, state)
                        durable.write(folder.path / BEGUN, torch_folder.encode(now))
                    folder.write_results(rows[key] for key in sorted(rows))
                    if row.epoch == settings.epochs:
                        durable.remove(folder.path / BEGUN)
                    display.add([row])
                    signals.check()
            begun = None
    return [rows[key] for key in sorted(rows)]


def main(settings: Settings) -> None:
    """Run the study, or what is left of it."""
    settings.check()
    device = settings.torch_device()
    use_full_precision()
    console = cli.console()
    with one_writer(settings.out):
        folder = BaselineFolder(settings.out)
        rows = None
        if not settings.overwrite:
            rows = torch_folder.all_rows(
                folder, settings, partial(is_state, device), partial(say, console)
            )
        if rows is None:
            rows = work(folder, settings, device, console)
        say_results(console, curves_of(rows, settings.epochs), folder)


def work(
    folder: ResultsFolder, settings: Settings, device: torch.device, console: Console
) -> list[Row]:
    """Train what is left, once the folder and the settings agree; return all rows."""
    data = settings.load()
    config = {
        "title": "LeNet-5 on MNIST in PyTorch: batch norm and dropout",
        "program": torch_folder.PROGRAM,
        "settings": settings.as_json(),
        "data": environment.data_facts(data),
        "device": device_facts(device),
        "machine": environment.machine(),
        "versions": environment.versions(("jax-lenet", "torch", "numpy")),
    }
    BaselineFolder.open(folder.path, settings.overwrite)
    rows = settings.seeds * len(settings.variants) * settings.epochs
    # A file that is replaced takes its room twice for a moment.
    needed = 2 * (RUN_BYTES + rows * ROW_BYTES)
    durable.room_for(folder.path, needed - (folder.size() if settings.overwrite else 0))
    if settings.overwrite:
        folder.clear()
    fits, out = partial(is_state, device), partial(say, console)
    found = torch_folder.go_on(folder, settings, config, fits, out)
    say_source(console, data)
    return train_all(folder, settings, data, found, console)


if __name__ == "__main__":
    sys.exit(cli.run(main, Settings, "torch_baseline"))

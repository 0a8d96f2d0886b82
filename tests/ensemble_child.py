"""Trains the same seeds on one, two and four CPU devices; prints JSON: model -> devices -> bits.

Run by test_ensemble.py as a process of its own, since a process has one number of devices; what
compiles and trains is used by that file, too.
"""

import hashlib
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jax_lenet import VARIANTS, Hyperparameters, examples, init, load, prepare_examples, split
from jax_lenet.ensemble import init_runs, train_runs
from jax_lenet.timing import compile_together

MODEL, BATCH_SIZE, EPOCHS = VARIANTS["LeNet"], 64, 2  # the model that compiles fastest
#: Those that a process of its own trains: with nothing, and with all that may draw or share.
NAMES = ("LeNet", "LeNet_BN_Dropout")
#: Seeds that train together: in order, in another order and other company, and in a short group,
#: whose places the last run fills.
COMPANIES = {"in order": (0, 1, 2, 3), "among others": (9, 2, 8, 0), "short": (7, 0, 0, 0)}


def digits(moments=False):
    """Return four batches of training examples."""
    data = load("mnist_sample", train_size=4 * BATCH_SIZE)
    return prepare_examples(examples(data.train_images, data.train_labels), moments)


def arguments(seeds, mesh, model):
    """Return what an epoch takes beside the examples, placed."""
    states = [jax.tree.map(np.asarray, init(model, seed)) for seed in seeds]
    state = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *states)
    rates = Hyperparameters(jnp.full(len(seeds), 0.1, jnp.float32))
    return split.place_runs((rates, state, jnp.asarray(seeds, jnp.uint32)), mesh)


def compiled(train, cases, model=MODEL):
    """Return the epochs of R runs on D devices, for each such pair, all compiled together."""

    def lowered(runs, devices):
        mesh = split.mesh_of(devices, split.RUNS)
        each = partial(split.shapes, mesh=mesh, spec=split.spec_of_runs(mesh))
        seeds = jnp.zeros(runs, jnp.uint32)
        state = each(jax.eval_shape(partial(init_runs, model), seeds))
        rates = each(Hyperparameters(jnp.zeros(runs, jnp.float32)))
        data = split.shapes(train, mesh, PartitionSpec())
        return train_runs.lower(model, rates, state, data, each(seeds), BATCH_SIZE, mesh)

    return compile_together(*(lowered(*case) for case in cases))


def trained(program, mesh, train, seeds, model=MODEL):
    """Return each seed's variables and losses, NumPy's; ``train`` is placed."""
    rates, state, keys = arguments(seeds, mesh, model)
    losses = []
    for _ in range(EPOCHS):
        state, loss = program(rates, state, train, keys)
        losses.append(np.asarray(loss))
    variables, losses = jax.tree.map(np.asarray, state.variables), np.stack(losses, 1)
    return {
        seed: (jax.tree.map(lambda leaf, i=i: leaf[i], variables), losses[i])
        for i, seed in enumerate(seeds)
    }


def digest(run):
    """Return what stands for every bit of a run."""
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in jax.tree.leaves(run))).hexdigest()


def addresses(x):
    """Return where the copies of an array begin in memory, by device."""
    return {shard.device: shard.data.unsafe_buffer_pointer() for shard in x.addressable_shards}


def main():
    """Train all, and print."""
    jax.config.update("jax_num_cpu_devices", 4)
    print(json.dumps({name: bits(VARIANTS[name]) for name in NAMES}))


def bits(model):
    """Return what stands for every run's bits, by number of devices, company and seed."""
    # Where all programs find them.
    train, _ = split.spread(digits(model.batch_norm), digits(), 4)
    before = addresses(train.images.strips)
    found, numbers = {}, (1, 2, 4)
    programs = compiled(train, [(4, d) for d in numbers], model)
    for devices, program in zip(numbers, programs, strict=True):
        mesh = split.mesh_of(devices, split.RUNS)
        placed = split.shared(train, mesh)
        now = addresses(placed.images.strips)
        assert len(now) == devices
        assert now == {device: before[device] for device in now}  # nothing was copied
        found[devices] = {
            company: {
                seed: digest(run)
                for seed, run in trained(program, mesh, placed, seeds, model).items()
            }
            for company, seeds in COMPANIES.items()
        }
    return found


if __name__ == "__main__":
    main()

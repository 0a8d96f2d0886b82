"""LeNet-5 with batch norm and dropout as a small, exact, pure-functional testbed in JAX.

>>> import jax_lenet
>>> sorted(jax_lenet.VARIANTS)  # doctest: +NORMALIZE_WHITESPACE
['LeNet', 'LeNet_BN_Dropout', 'LeNet_BN_drop6', 'LeNet_BN_noDropout', 'LeNet_noBN_Dropout',
 'LeNet_noBN_drop6']
"""

from jax_lenet.blocked import Prepared, prepare
from jax_lenet.data import DataError, Dataset, load, normalize
from jax_lenet.ensemble import Programs, compile_programs, devices_for
from jax_lenet.fitting import EpochResult, Fit, fit
from jax_lenet.models import VARIANTS, LeNet5, lenet5
from jax_lenet.training import (
    Evaluation,
    Examples,
    Hyperparameters,
    TrainState,
    epoch,
    evaluate,
    examples,
    init,
    prepare_examples,
    step,
)

__all__ = [
    "VARIANTS",
    "DataError",
    "Dataset",
    "EpochResult",
    "Evaluation",
    "Examples",
    "Fit",
    "Hyperparameters",
    "LeNet5",
    "Prepared",
    "Programs",
    "TrainState",
    "compile_programs",
    "devices_for",
    "epoch",
    "evaluate",
    "examples",
    "fit",
    "init",
    "lenet5",
    "load",
    "normalize",
    "prepare",
    "prepare_examples",
    "step",
]

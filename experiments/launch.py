"""Which process of several this one is: as the user says, or a launcher that JAX detects.

    python -m experiments.ablate --coordinator 10.0.0.1:1234 --processes 2 --process-id 0

The three flags are the first three arguments of `jax.distributed.initialize`, and without them a
launcher is asked with JAX's own code. That function itself is not called; `hosts` says why.
"""

import os
import reprlib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax

from experiments.cli import UserError, one_line
from experiments.settings import check_count

if TYPE_CHECKING:
    from jax._src.clusters import ClusterEnv

#: Launchers by name: JAX's class for each, and what tells the processes of one program from all
#: else that runs under it. Slurm's interactive shell and every pod of Kubernetes have whatever else
#: JAX looks at, and would wait for processes that never come.
LAUNCHERS: Mapping[str, tuple[str, Callable[[Mapping[str, str]], bool]]] = {
    "Open MPI": (
        "OmpiCluster",
        lambda names: names.get("OMPI_COMM_WORLD_SIZE", "1") != "1",
    ),
    "Slurm": (
        "SlurmCluster",
        lambda names: names.get("SLURM_STEP_NUM_TASKS", "1") == names.get("SLURM_NTASKS") != "1",
    ),
    "Kubernetes": ("K8sCluster", lambda names: "JOB_COMPLETION_INDEX" in names),
}
#: Why JAX may not see one that has started this process.
NOT_SEEN = {"Kubernetes": "JAX asks it with the package kubernetes, which is not installed"}
#: Where a launcher knows the first process only by name, how long that may be unknown, in seconds.
NAME_PATIENCE = 60


class Place(NamedTuple):
    """One process of several.

    Attributes:
        host: of process 0.
        port: on which it listens.
        processes: how many there are.
        process_id: of this one, counted from 0.
        local_id: among those that the launcher started on this machine; None if that is unknown.
    """

    host: str
    port: int
    processes: int
    process_id: int
    local_id: int | None = None

    @property
    def address(self) -> str:
        """Of process 0, as the user writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def use_own_devices(self) -> None:
        """Leave each process of a machine its own GPU, as `jax.distributed.initialize` does.

        Which one is known of a launcher's processes; of others ``JAX_LOCAL_DEVICE_IDS`` says it.
        """
        visible = os.environ.get("JAX_LOCAL_DEVICE_IDS", self.local_id)
        if visible is None:
            return
        for vendor in ("cuda", "rocm"):
            jax.config.update(f"jax_{vendor}_visible_devices", str(visible))


def place(coordinator: str | None, processes: int | None, process_id: int | None) -> Place | None:
    """Return which process this is; None if it is the only one.

    Args:
        coordinator: host and port of process 0; None, as the others then are, asks the launcher.
        processes: how many there are; 1 alone asks no launcher.
        process_id: of this one.

    Raises:
        UserError: if the three don't make sense together, or a launcher does not answer.

    >>> place("[::1]:1234", 4, 3)
    Place(host='::1', port=1234, processes=4, process_id=3, local_id=None)
    """
    check_count("processes", processes)
    if processes == 1 and process_id in (None, 0):
        return None
    if coordinator is None and processes is None and process_id is None:
        return _detected()
    if coordinator is None or processes is None or process_id is None:
        raise UserError("--coordinator, --processes and --process-id: expected all three, or none")
    if not 0 <= process_id < processes:
        raise UserError(
            f"--process-id: expected one of 0 to {processes - 1}, as --processes says, not"
            f" {reprlib.repr(process_id)}"
        )
    return Place(*_split("--coordinator", coordinator), processes, process_id)


def _detected() -> Place | None:
    """Return what a launcher says; None where there is none, or only one process."""
    for name, (class_name, is_ours) in LAUNCHERS.items():
        if not is_ours(os.environ):
            continue
        try:
            # What jax.distributed.initialize asks; nothing public does, so only where it must.
            from jax._src import clusters

            cluster = getattr(clusters, class_name)
            with warnings.catch_warnings(action="ignore"):  # what JAX says is in the line below
                present = cluster.is_env_present()
            if not present:
                raise LookupError(NOT_SEEN.get(name, "JAX does not see it"))
            return _ask(name, cluster) if cluster.get_process_count() > 1 else None
        # Whatever its variables or, of Kubernetes, its service and its client's code lead to.
        except Exception as error:
            raise UserError(
                f"cannot tell from {name} which process this is ({one_line(str(error))});"
                " --coordinator, --processes and --process-id say it, and --processes 1 that it is"
                " the only one"
            ) from None
    return None


def _ask(name: str, cluster: type["ClusterEnv"]) -> Place:
    address = cluster.get_coordinator_address(
        timeout_secs=NAME_PATIENCE,
        override_coordinator_port=os.environ.get("JAX_COORDINATOR_PORT"),
    )
    return Place(
        *_split(name, address),
        cluster.get_process_count(),
        cluster.get_process_id(),
        cluster.get_local_process_id(),
    )


def _split(name: str, address: str) -> tuple[str, int]:
    """Return the host and port of an address."""
    host, _, port = address.rpartition(":")
    # Python reads no number of thousands of digits.
    possible = port.isdecimal() and len(port) <= len("65535") and 0 < int(port) < 1 << 16
    if not host or not possible:
        raise UserError(f"{name}: expected HOST:PORT, with a port from 1 to 65535, not {address}")
    try:
        host.encode("idna")  # as sockets do with a name
    except UnicodeError:
        raise UserError(f"{name}: expected the name of a host, not {host}") from None
    return host.strip("[]"), int(port)

"""Which process of several this is: as the user says, or a launcher."""

import os
import sys

import pytest

from experiments import launch
from experiments.ablate_settings import Settings
from experiments.cli import UserError
from experiments.launch import Place, place

LAUNCHERS = (
    "SLURM_",
    "OMPI_",
    "KUBERNETES_",
    "JOB_COMPLETION_INDEX",
    "JAX_COORDINATOR",
    "JAX_LOCAL",
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    """The tests may themselves have been started by one."""
    for name in list(os.environ):
        if name.startswith(LAUNCHERS):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("a:1", 2, None), "--coordinator, --processes and --process-id: expected all three"),
        ((None, 2, None), "expected all three"),
        ((None, None, 0), "expected all three"),
        (("a:1", 2, 2), "--process-id: expected one of 0 to 1, as --processes says, not 2"),
        (("a:1", 2, -1), "expected one of 0 to 1, as --processes says, not -1"),
        (("a:1", 0, 0), "--processes: expected at least 1, not 0"),
        (("a:1", 10**400, 0), "--processes: expected at most 1,000,000, not 1"),
        (("a:1", 2, 10**400), "--processes says, not 100000000000000000...0000000000000000000"),
        ((f"a:{'9' * 5_000}", 2, 0), "with a port from 1 to 65535, not a:9999"),
        (("a", 2, 0), "--coordinator: expected HOST:PORT, with a port from 1 to 65535, not a"),
        (("a:0", 2, 0), "not a:0"),
        (("a:65536", 2, 0), "not a:65536"),
        ((":1", 2, 0), "not :1"),
        (("a..b:1", 2, 0), "--coordinator: expected the name of a host, not a..b"),
        (("127..1:1", 2, 0), "not 127..1"),
        ((f"{'a' * 64}:1", 2, 0), "not aaa"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(flags, expected):
    with pytest.raises(UserError, match=expected):
        place(*flags)


def test_flags_and_no_launcher_say_which_process_this_is():
    assert place("node7:1234", 3, 2) == Place("node7", 1234, 3, 2)
    assert place(None, None, None) is None
    assert place(None, 1, None) is None
    assert place("node7:1234", 1, 0) is None


SLURM = {
    "SLURM_JOB_ID": "8192",
    "SLURM_STEP_NODELIST": "node[03-04]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SLURM, Place("node03", 61440, 4, 3, 1)),  # the job's of JAX's 4,096 ports
        (OPEN_MPI, Place("10.96.0.1", 62624, 2, 1, 0)),
        (SLURM | OPEN_MPI | {"SLURM_STEP_NUM_TASKS": "1"}, Place("10.96.0.1", 62624, 2, 1, 0)),
        (SLURM | {"JAX_COORDINATOR_PORT": "77"}, Place("node03", 77, 4, 3, 1)),
        # The shell that salloc gives: one task, in a job that may start four.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        # A pod of Kubernetes that no indexed job has started.
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_launchers_are_asked_where_they_have_started_several_processes(
    environment, expected, monkeypatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert place(None, None, None) == expected
    assert place(None, 1, None) is None
    assert place("a:1", 2, 0) == Place("a", 1, 2, 0)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        # Every pod of an indexed job would otherwise train the whole study.
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
            "Kubernetes .*the package kubernetes, which is not installed",
        ),
        ({"JOB_COMPLETION_INDEX": "1"}, "cannot tell from Kubernetes"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "cannot tell from Open MPI"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, "cannot tell from Slurm"),
    ],
)
def test_a_launcher_that_jax_does_not_see_is_not_taken_for_none(environment, reason, monkeypatch):
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # as where it is not installed
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=reason):
        place(None, None, None)
    assert place(None, 1, None) is None
    assert place("a:1", 2, 0) == Place("a", 1, 2, 0)


@pytest.mark.parametrize(
    ("variable", "local_id", "expected"),
    [(None, None, []), (None, 3, ["3"] * 2), ("1,2", None, ["1,2"] * 2), ("1", 3, ["1"] * 2)],
)
def test_each_process_of_a_machine_has_its_own_gpus(variable, local_id, expected, monkeypatch):
    updates = []
    monkeypatch.setattr(launch.jax.config, "update", lambda name, value: updates.append(value))
    if variable is not None:
        monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", variable)
    Place("a", 1, 4, 3, local_id).use_own_devices()
    assert updates == expected


def test_what_a_launcher_says_wrong_is_the_users_to_mend(monkeypatch):
    for name, value in (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "?"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"cannot tell from Open MPI .*--processes 1"):
        place(None, None, None)


def test_no_number_depends_on_who_computes_it():
    several = Settings(coordinator="a:1", processes=2, process_id=1)
    assert several.as_json() == Settings().as_json()

"""Several processes as one run: how they meet, agree, and are told apart."""

import glob
import importlib.util
import json
import os
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hpm_jax.config import ConfigError
from hpm_jax.errors import UserError

# Seconds until a process that died is missed: the others then end too, for the launcher to restart.
HEARTBEAT = 60
# What launchers tell the processes of a job, where it has more than one.
# (SLURM_NTASKS is also there in a shell that has been given machines, where one process starts.)
COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class ProcessError(UserError, RuntimeError):
    """Processes that do not find each other, or do not fit together."""


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return jax.process_index() == 0


def join_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the processes of this run, before anything else touches a device.

    Without arguments it does so where a launcher says that there are several (Slurm, Open MPI, or
    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`) and on TPU machines.

    Args:
        coordinator: `host:port` of process 0.
        processes: how many there are.
        process: which one this is, from 0.
        timeout: seconds to wait for the others.

    Raises:
        ProcessError: where the coordinator is not reached in that time.
    """
    if coordinator is None and "JAX_COORDINATOR_ADDRESS" in os.environ:
        coordinator = os.environ["JAX_COORDINATOR_ADDRESS"]
        processes = processes or int(os.environ["JAX_NUM_PROCESSES"])
        process = int(os.environ["JAX_PROCESS_ID"]) if process is None else process
    told = any(int(os.environ.get(name, 1)) > 1 for name in COUNTS)
    if coordinator is None and not told and not _on_tpu():
        return
    if coordinator is not None and process:
        _wait_for(coordinator, f"process {process} of {processes}", timeout)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (RuntimeError, ValueError) as error:
        raise ProcessError(f"the processes of this run do not find each other: {error}") from None


def _wait_for(coordinator: str, who: str, timeout: int) -> None:
    """Until the coordinator listens; JAX itself would abort with a stack trace if it never does."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except (OSError, ValueError) as error:
            if time.monotonic() > until or isinstance(error, ValueError):
                raise ProcessError(
                    f"{who} did not reach the coordinator at {coordinator} within {timeout} s "
                    f"({error}): start process 0, check the address, and see that its port is open "
                    "between the hosts (--coordinator, --join_timeout)."
                ) from None
        time.sleep(0.5)


def _on_tpu() -> bool:
    """Whether this is a machine with TPU chips, which know of each other."""
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def check_agreement(facts: dict[str, Any]) -> None:
    """Compares what every process is about to run.

    Args:
        facts: names to values that JSON can hold, such as options and versions.

    Raises:
        ConfigError: names the process that differs, and what differs.
    """
    if jax.process_count() == 1:
        return
    text = np.frombuffer(json.dumps(facts, sort_keys=True, default=str).encode(), np.uint8)
    longest = int(multihost_utils.process_allgather(np.array(len(text))).max())
    texts = multihost_utils.process_allgather(np.pad(text, (0, longest - len(text))))
    all_facts = [json.loads(bytes(row).rstrip(b"\0")) for row in texts]
    for process, others in enumerate(all_facts):
        differing = [
            name for name in others | all_facts[0] if others.get(name) != all_facts[0].get(name)
        ]
        if differing:
            listed = "\n  ".join(
                f"{name}: {all_facts[0].get(name)!r} in process 0, {others.get(name)!r} there"
                for name in differing
            )
            raise ConfigError(f"process {process} differs from process 0:\n  {listed}")


def wait_for_all(name: str) -> None:
    """Until every process has come here; `name` is shown where one does not."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def preempted(step: int) -> bool:
    """Whether some process has had SIGTERM, and this is the step at which all of them stop.

    Every process calls it after every step; without several processes it is never so.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)

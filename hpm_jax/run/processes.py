"""Several processes as one run: they connect, compare their options, and elect a main process."""

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

# Seconds until a dead process is detected: the others then exit, so that the launcher can restart.
HEARTBEAT = 60
# Environment variables that launchers set for jobs of several processes.
# (SLURM_NTASKS is also set in the shell of an allocation, where one process starts.)
COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


class ProcessError(UserError, RuntimeError):
    """Processes cannot connect, or do not fit together."""


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def is_alone() -> bool:
    """Whether no other process waits for this one at its end; does not query devices."""
    return not jax.distributed.is_initialized()


def join_processes(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    timeout: int = 300,
) -> None:
    """Joins the processes of this run, before anything else touches a device.

    Without arguments it joins processes started by a launcher (Slurm, Open MPI, or
    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`) and on TPU machines.

    Args:
        coordinator: `host:port` of process 0.
        processes: number of processes.
        process: index of this process, from 0.
        timeout: seconds to wait for other processes.

    Raises:
        ProcessError: if the coordinator is not reached in that time.
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
    """Waits until the coordinator listens; JAX itself would abort with a stack trace."""
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
    """Whether this machine has TPU chips, which find each other without a launcher."""
    chips = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    return bool(chips) and importlib.util.find_spec("libtpu") is not None


def check_agreement(facts: dict[str, Any]) -> None:
    """Checks that all processes are about to run the same.

    Args:
        facts: names to values that JSON can hold, such as options and versions.

    Raises:
        ConfigError: if a process differs; the message names it and the difference.
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
    """Waits for all processes; the error for a missing one contains `name`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def preempted(step: int) -> bool:
    """Whether a process has received SIGTERM, and all of them stop at this step.

    Every process calls it after every step; a single process always gets False.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)

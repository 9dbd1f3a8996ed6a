"""A session: the connection to a Ray cluster. The address of the cluster is always explicit."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline import storage, submission
from pipeline.distributed.answer import provide_token, require_answer
from pipeline.errors import RequestError
from pipeline.runs.capacity import Capacity, largest
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.device import Device

#: The job itself reports its progress. The last two warn of what is as it should be: that Ray Data shows no progress
#: bars, and that a new cluster asks for a token, which this process and its workers have.
_LOG_LEVELS = {
    "ray.data": logging.WARNING,
    "ray.train": logging.WARNING,
    "ray.data._internal.progress": logging.ERROR,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}
_HOOK = "worker_process_setup_hook"  # of a runtime environment; Ray keeps the function where only workers read it


@contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Connect for the time of a ``with`` block. An open connection is used instead, and stays open."""
    if ray.is_initialized():
        yield
        return
    address, own = config.target, config.is_own
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if own:
        provide_token()
    else:
        require_answer(address)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=address,
            num_cpus=config.cpus if own else None,
            num_gpus=config.gpus if own else None,
            # The processes of a new cluster inherit the environment.
            runtime_env=None if own else _runtime_environment(),
            include_dashboard=False if own else None,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    except ConnectionError as reason:
        raise RequestError(f"no Ray cluster at {address!r}") from reason
    except RuntimeError as reason:
        if not str(reason).startswith("Version mismatch"):
            raise
        raise RequestError(
            f"the Ray cluster at {address!r} has another Python or Ray than this command, which {sys.executable} runs "
            f"with Ray {ray.__version__}; in a submitted job, the PATH of the nodes decides which `python` that is"
        ) from reason
    _restore(handlers)
    try:
        yield
    finally:
        ray.shutdown()


def _runtime_environment() -> dict[str, Any] | None:
    """What the workers of a run need on a cluster that was there before: the storage settings, and the credentials of
    this process, if it has them as environment variables.

    Each worker sets them before its first task. They are no ``env_vars``, because Ray shows these in its dashboard, in
    its logs and in its errors, and refuses a variable that was submitted with the job, too.
    """
    variables = {**storage.configured(), **storage.credentials()}
    if not variables:
        return None
    if hook := submission.runtime_environment().get(_HOOK):
        raise RequestError(
            f"runtime environment of the job: {_HOOK} {hook!r} cannot be used together with --storage settings or "
            "credentials in variables, which reach the workers by the same way"
        )
    return {_HOOK: _setting(variables)}


def _setting(variables: dict[str, str]) -> Callable[[], None]:
    """A function that sets environment variables. A local one, since Ray pickles it with the values that it holds."""

    def set_storage_variables() -> None:
        import os

        os.environ.update(variables)

    return set_storage_variables


def capacity(config: ClusterConfig) -> Capacity:
    """The most that the cluster of the open session can have."""
    return largest(
        ray.get_runtime_context().gcs_address,
        cluster_size("CPU"),
        cluster_size("GPU"),
        max_cpus=config.max_cpus,
        max_gpus=config.max_gpus,
        is_own=config.is_own,
    )


def require_gpu(config: ClusterConfig, setting: str) -> None:
    """`RequestError` that names a setting which needs a GPU if the cluster has none and can get none. Needs an open
    session."""
    found = capacity(config)
    if found.gpus == 0:
        raise RequestError(
            f"{setting} needs a GPU, and the cluster has none and can get none ({found.source}); "
            "--cluster.max_gpus says so where it can"
        )


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Restore the job's handler of SIGTERM, in Python and in C, which Ray has replaced."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def release_actors() -> None:
    """End the actors that nobody uses any more. Call it before something that waits for CPUs.

    Ray ends an actor when its last handle is gone. After an execution that has failed, as with a node that died, Ray
    Data's handles are in reference cycles. An actor that Ray has started again meanwhile, on another node, then holds
    its CPU until Python happens to collect the cycles, and what comes next in this process waits for that CPU.
    """
    gc.collect()


def cluster_state() -> dict[str, float]:
    """What the cluster has at this moment, for machines."""
    return {
        "nodes": sum(node["Alive"] for node in ray.nodes()),
        "cpus": cluster_size("CPU"),
        "gpus": cluster_size("GPU"),
    }


def described_cluster() -> str:
    """What the cluster has at this moment, for people."""
    nodes, free = sum(node["Alive"] for node in ray.nodes()), ray.available_resources()
    has = [f"{cluster_size(name):g} {name}s ({free.get(name, 0.0):g} free)" for name in ("CPU", "GPU")]
    return f"the cluster has {' and '.join(has)} on {nodes} nodes"


def waiting(device: Device) -> str:
    """What a stream that yields nothing may be waiting for, for people."""
    if device == "gpu" and not cluster_size("GPU"):
        what = "a GPU"
    else:
        what = "the first results or a slow input" if cluster_size("CPU") else "a CPU"
    return f"waiting for {what}: {described_cluster()}"


def cluster_size(resource: str) -> float:
    """The number of ``CPU`` or ``GPU`` that the cluster has at this moment."""
    return float(ray.cluster_resources().get(resource, 0.0))

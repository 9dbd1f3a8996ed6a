"""A session: the connection to a Ray cluster. The address of the cluster is always explicit."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.runs.capacity import Capacity, largest
from pipeline.runs.cluster import ClusterConfig
from pipeline.runs.device import Device

_ANSWER_S = 10.0
#: The job itself reports its progress. The last two warn of what is as it should be: that Ray Data shows no progress
#: bars, and that a new cluster asks for a token, which this process and its workers have.
_LOG_LEVELS = {
    "ray.data": logging.WARNING,
    "ray.train": logging.WARNING,
    "ray.data._internal.progress": logging.ERROR,
    "ray._private.authentication.authentication_token_setup": logging.ERROR,
}
_SETTINGS = b"\x04"  # the type of the frame
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)


@contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Connect for the time of a ``with`` block. An open connection is used instead, and stays open."""
    if ray.is_initialized():
        yield
        return
    address, own = config.target, config.is_own
    if not own:
        _require_answer(address)
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=address,
            num_cpus=config.cpus if own else None,
            num_gpus=config.gpus if own else None,
            # The processes of a new cluster inherit the environment.
            runtime_env=None if own or not storage.configured() else {"env_vars": storage.configured()},
            include_dashboard=False if own else None,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
    except ConnectionError as reason:
        raise RequestError(f"no Ray cluster at {address!r}") from reason
    _restore(handlers)
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """`RequestError` if no Ray cluster answers at ``HOST:PORT``. Ray itself would wait for minutes, deaf to signals."""
    if address.startswith("ray://"):
        raise RequestError(
            f"no Ray cluster at {address!r}: Ray Client is not supported. Run the job on a machine of the cluster, "
            "with the address HOST:6379 or auto, or submit it by `ray job submit`"
        )
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto", say
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            # Ray's control process speaks gRPC: it answers the preface of HTTP/2 with a frame of settings.
            connection.sendall(_PREFACE)
            answers = connection.recv(9)[3:4] == _SETTINGS
    except (OSError, OverflowError) as reason:
        raise RequestError(f"no Ray cluster at {address!r}") from reason
    if not answers:
        raise RequestError(f"no Ray cluster at {address!r}: something else answers there")


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

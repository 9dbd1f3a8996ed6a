"""A session: the connection to a Ray cluster. The address of the cluster is always explicit."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from pipeline import storage
from pipeline.config import check
from pipeline.errors import RequestError

_ANSWER_S = 10.0


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    address: str | None = None
    """Address of a Ray cluster; null: RAY_ADDRESS in a submitted job, otherwise a new cluster on this machine."""
    cpus: int | None = None
    """Number of CPUs of a new cluster; null: all of this machine."""
    gpus: int | None = None
    """Number of GPUs of a new cluster; null: all of this machine."""

    def __post_init__(self) -> None:
        check(self, "cpus", self.cpus is None or self.cpus >= 1, "be at least 1, or null")
        check(self, "gpus", self.gpus is None or self.gpus >= 0, "not be negative")


@contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Connect for the time of a ``with`` block. An open connection is used instead, and stays open."""
    if ray.is_initialized():
        yield
        return
    address, own = _address(config), is_own(config)
    if not own:
        _require_answer(address)
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
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)  # the job itself reports its progress
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """`RequestError` if nothing listens at ``[ray://]HOST:PORT``. Ray itself would wait for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return  # "auto", say
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as reason:
        raise RequestError(f"no Ray cluster at {address!r}") from reason


def is_own(config: ClusterConfig) -> bool:
    """Whether the settings ask for a new cluster on this machine, which never grows."""
    return _address(config) == "local"


def _address(config: ClusterConfig) -> str:
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


def require_gpu(config: ClusterConfig, setting: str) -> None:
    """`RequestError` that names a setting which needs a GPU if the new cluster on this machine has none.

    A cluster that was there before may get machines with GPUs later, so it is not asked. Needs an open session.
    """
    if is_own(config) and cluster_size("GPU") == 0:
        raise RequestError(f"{setting} needs a GPU, and the cluster on this machine has none")


def _restore(handlers: dict[signal.Signals, Any]) -> None:
    """Restore the job's handler of SIGTERM, in Python and in C, which Ray has replaced."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)


def cluster_size(resource: str) -> float:
    """The number of ``CPU`` or ``GPU`` that the cluster has at this moment."""
    return float(ray.cluster_resources().get(resource, 0.0))

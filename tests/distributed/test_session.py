"""Clusters that are not there are found out at once."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import ray

from pipeline.distributed import session as sessions
from pipeline.errors import RequestError
from pipeline.runs import capacity
from pipeline.runs.cluster import ClusterConfig


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:99999"])
def test_no_cluster_at_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    started = time.monotonic()
    with (
        pytest.raises(RequestError, match="no Ray cluster at"),
        sessions.session(ClusterConfig(address=address.format(port))),
    ):
        pass
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", None])
def test_what_answers_is_no_cluster(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_ANSWER_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                if answer is None:
                    time.sleep(1)  # listens, and never answers
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RequestError, match="no Ray cluster at"):
            sessions._require_answer(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.ray
def test_a_cluster_answers(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    sessions._require_answer(ray.get_runtime_context().gcs_address)
    found = sessions.capacity(ClusterConfig())
    assert (found.cpus, found.gpus, found.source) == (2, 0, "this machine")
    assert sessions.described_cluster().startswith("the cluster has 2 CPUs (")


@pytest.mark.ray
def test_a_gpu_is_missing_only_where_none_can_come(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(capacity, "_commands", list)
    for config in (ClusterConfig(), ClusterConfig(address="10.0.0.1:6379", max_gpus=0)):
        with pytest.raises(RequestError, match=r"stream.device 'gpu' needs a GPU"):
            sessions.require_gpu(config, "stream.device 'gpu'")
    sessions.require_gpu(ClusterConfig(address="10.0.0.1:6379"), "stream.device 'gpu'")  # nothing is known of it
    sessions.require_gpu(ClusterConfig(address="10.0.0.1:6379", max_gpus=2), "stream.device 'gpu'")

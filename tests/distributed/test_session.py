"""Clusters that are not there are found out at once."""

from __future__ import annotations

import socket
import time

import pytest

from pipeline.distributed import session as sessions
from pipeline.distributed.session import ClusterConfig
from pipeline.errors import RequestError


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:99999"])
def test_no_cluster_at_an_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions.ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        sessions._require_answer(f"127.0.0.1:{port}")
    started = time.monotonic()
    with (
        pytest.raises(RequestError, match="no Ray cluster at"),
        sessions.session(ClusterConfig(address=address.format(port))),
    ):
        pass
    assert time.monotonic() - started < 5


def test_a_gpu_is_missing_only_where_none_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(sessions, "cluster_size", lambda _: 0.0)
    with pytest.raises(RequestError, match=r"stream.device 'gpu' needs a GPU"):
        sessions.require_gpu(ClusterConfig(), "stream.device 'gpu'")
    sessions.require_gpu(ClusterConfig(address="10.0.0.1:6379"), "stream.device 'gpu'")

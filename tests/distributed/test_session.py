"""Clusters that are not there are found out at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import ray
from ray.cloudpickle import cloudpickle

from pipeline import storage
from pipeline.distributed import answer as answers
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
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", None])
def test_what_answers_is_no_cluster(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_ANSWER_S", 0.5)
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
            answers.require_answer(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_a_cluster_that_refuses_the_token() -> None:
    """A server of gRPC that answers as Ray's does where a token is missing or wrong."""

    class Refusing(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
                return b""

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    started = time.monotonic()
    with pytest.raises(
        RequestError, match=r"the Ray cluster at '127.*' (refuses|wants a) .*set RAY_AUTH_MODE=token, and"
    ):
        answers.require_answer(f"127.0.0.1:{port}")
    assert time.monotonic() - started < 30
    server.stop(None)


def test_variables_reach_workers_by_no_runtime_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(storage, "_CONFIGURED", {})
    assert sessions._runtime_environment() is None
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACANARY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-a-secret")
    environment = sessions._runtime_environment()
    assert environment is not None
    assert "canary" not in repr(environment).lower()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    cloudpickle.loads(cloudpickle.dumps(environment["worker_process_setup_hook"]))()
    assert storage.credentials() == {"AWS_ACCESS_KEY_ID": "AKIACANARY", "AWS_SECRET_ACCESS_KEY": "canary-of-a-secret"}
    submitted = {"runtime_env": {"worker_process_setup_hook": "module.hook"}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(submitted))
    with pytest.raises(RequestError, match=r"worker_process_setup_hook 'module.hook' cannot be used together"):
        sessions._runtime_environment()


@pytest.mark.ray
def test_a_cluster_answers(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    answers.require_answer(ray.get_runtime_context().gcs_address)
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

"""Whether a Ray cluster answers at an address and takes this process's token. Ray itself would wait for minutes."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from typing import Any, cast

import grpc
from ray._private import services
from ray._private.authentication import authentication_token_setup as tokens
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

from pipeline.errors import RequestError

_ANSWER_S = 10.0
_SETTINGS = b"\x04"  # the type of the frame
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)

# Ray makes these names while it runs, so a type checker does not know them.
_TOKENS: Any = cast("Any", tokens).AuthenticationTokenLoader
_MESSAGES: Any = gcs_service_pb2
_NODES: Any = gcs_service_pb2_grpc.NodeInfoGcsServiceStub


def require_answer(address: str) -> None:
    """`RequestError` if no Ray cluster answers at ``HOST:PORT`` or ``auto``, or if it wants another token.

    Ray itself would wait for minutes, deaf to signals.
    """
    if address.startswith("ray://"):
        raise RequestError(
            f"no Ray cluster at {address!r}: Ray Client is not supported. Run the job on a machine of the cluster, "
            "with the address HOST:6379 or auto, or submit it by `ray job submit`"
        )
    place = _running_here() if address == "auto" else address
    host, separator, port = place.rpartition(":")
    if not separator or not port.isdigit():
        return  # Ray refuses it itself
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
    _require_token(address, place)


def _running_here() -> str:
    """The address of the Ray cluster that runs on this machine. Its token is used where one is there, as by Ray."""
    try:
        found = services.canonicalize_bootstrap_address("auto")
    except ConnectionError as reason:
        raise RequestError("no Ray cluster at 'auto': none runs on this machine") from reason
    with contextlib.suppress(AuthenticationError):
        tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return str(found)


def _require_token(address: str, place: str) -> None:
    """`RequestError` if this process has no token for the cluster, or a wrong one."""
    how = "; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of the cluster"
    try:
        loader = _TOKENS.instance()
        headers = loader.get_token_for_http_header() if loader.has_token() else {}
    except AuthenticationError as reason:
        raise RequestError(
            f"no token for the Ray cluster at {address!r}, and RAY_AUTH_MODE asks for one{how}"
        ) from reason
    with grpc.insecure_channel(place, (("grpc.enable_http_proxy", 0),)) as channel:
        try:
            request = _MESSAGES.CheckAliveRequest()
            _NODES(channel).CheckAlive(request, timeout=_ANSWER_S, metadata=tuple(headers.items()))
        except grpc.RpcError as reason:
            if cast("grpc.Call", reason).code() == grpc.StatusCode.UNAUTHENTICATED:
                sent = "refuses the token of this process" if headers else "wants a token, and this process sent none"
                raise RequestError(f"the Ray cluster at {address!r} {sent}{how}") from reason


def provide_token() -> None:
    """Give a new cluster on this machine a token of its own where this process has none that Ray could use.

    Otherwise Ray would write one to the home directory, or fail where it cannot. A cluster that somebody starts later
    would then use that one, and refuse whoever does not know of it.
    """
    if os.environ.get(tokens.AUTH_MODE_ENV_VAR, "token").lower() != "token":
        return
    loader = _TOKENS.instance()
    try:
        if loader.has_token(ignore_auth_mode=True):
            return
    except AuthenticationError:
        pass  # the file that RAY_AUTH_TOKEN_PATH names is not there, say
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    loader.reset_cache()

"""What an ONNX file says before anything runs it: its operators, its external data, and its metadata.

The file comes from anywhere. It is parsed in a process of its own (`pipeline.exchange.trial`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import RequestError

#: The key of the entry that exported segmenters have in their metadata.
METADATA = "parquetry"

_STANDARD = ("", "ai.onnx")
_KNOWN = (*_STANDARD, "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_MOST_METADATA = 1 << 22


@dataclass(frozen=True, kw_only=True)
class OnnxSummary:
    """What is known of an ONNX file without running it."""

    external: tuple[tuple[str, str], ...]
    """Where its external data are: the name of each file as the ONNX file has it, with a tensor in it."""
    metadata: str | None
    """The text below `METADATA`."""


def summary_of(data: bytes) -> OnnxSummary:
    """Parse an ONNX file. `RequestError` if it is none, or has an operator that nobody knows here."""
    model = _parsed(data)
    if not model.graph.node:
        raise RequestError("it is no ONNX model: it has no graph with operators")
    _check_operators(model)
    external = {_location(tensor): _text(tensor.name) for tensor in _tensors(model) if _is_external(tensor)}
    metadata = next((_text(item.value) for item in model.metadata_props if item.key == METADATA), None)
    if metadata is not None and len(metadata) > _MOST_METADATA:
        raise RequestError(f"its metadata {METADATA!r} has {len(metadata)} characters, more than {_MOST_METADATA}")
    return OnnxSummary(external=tuple(sorted(external.items())), metadata=metadata)


def _parsed(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise RequestError("it has no bytes")
    if data.startswith(_ZIP):
        raise RequestError("it is a zip archive, perhaps of a PyTorch model, and no ONNX file; export it to ONNX first")
    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, RecursionError) as reason:
        kind = "a pickle" if data.startswith(_PICKLE) else "other bytes, or an ONNX file that is cut short or damaged"
        raise RequestError(f"it is no ONNX file but {kind}") from reason
    return model


def _check_operators(model: Any) -> None:
    """`RequestError` that names the first operator that is neither standard, nor ONNX Runtime's, nor in the file."""
    import onnx

    own = {(function.domain, function.name) for function in model.functions}
    version = next((item.version for item in model.opset_import if item.domain in _STANDARD), None)
    newest = onnx.defs.onnx_opset_version()
    if version is not None and version > newest:
        raise RequestError(f"it needs opset {version} of ONNX, and {newest} is the newest that is known here")
    for node in _nodes(model):
        domain, operator = _text(node.domain), _text(node.op_type)
        name = f"{domain}.{operator}" if domain else operator
        is_known = domain in _KNOWN and (domain not in _STANDARD or onnx.defs.has(operator))
        if not is_known and (domain, operator) not in own:
            raise RequestError(
                f"it has the custom operator {_shown(name)}, which ONNX Runtime does not have; export it with standard "
                "operators only"
            )


def _nodes(model: Any) -> Iterator[Any]:
    """All nodes: of the graph, of graphs in it, and of functions."""
    waiting = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _tensors(model: Any) -> Iterator[Any]:
    """All tensors that are stored in the file: weights and constants."""
    graphs = [model.graph]
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (
                attribute.t,
                *attribute.tensors,
                attribute.sparse_tensor.values,
                attribute.sparse_tensor.indices,
            )
            graphs += [attribute.g, *attribute.graphs]
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)


def _is_external(tensor: Any) -> bool:
    return tensor.data_location == 1 or bool(tensor.external_data)


def _location(tensor: Any) -> str:
    """The name of the file with a tensor's data."""
    return next((_text(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _text(value: str | bytes) -> str:
    """A string of the file. Protocol Buffers gives bytes where they are no UTF-8."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _shown(name: str) -> str:
    """A name of the file in a message: short and on one line."""
    return repr(name if len(name) <= 80 else name[:77] + "...")

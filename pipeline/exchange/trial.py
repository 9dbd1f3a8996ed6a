"""Examines an ONNX file in processes of its own, so that nothing in it can take the job down."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config, storage
from pipeline.errors import RequestError
from pipeline.exchange.onnx_file import OnnxSummary
from pipeline.exchange.probing import Probed, ProbeRequest
from pipeline.exchange.trial_process import ANSWER, REQUEST
from pipeline.models.segmenters.onnx import OnnxFile, is_plain_name, runtime

_MEMINFO = Path("/proc/meminfo")
_LEAST_MEMORY = 1 << 29
_OWN = "model.onnx"  # what the file is called in a package
_MOST_BYTES = (1 << 31) - 1  # of a message of Protocol Buffers
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class OnnxSource:
    """An ONNX file as it was read, and what it says."""

    uri: str
    content: dict[str, bytes]
    """The bytes of the file and of its external data by their names in a package, the file first."""
    summary: OnnxSummary

    @property
    def files(self) -> tuple[OnnxFile, ...]:
        """The files with their digests."""
        found = self.content.items()
        return tuple(OnnxFile(name=name, sha256=hashlib.sha256(data).hexdigest()) for name, data in found)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial has found out, and the seconds that an image takes on this machine."""

    probed: Probed
    seconds: float


def read_onnx(uri: str, timeout_s: float) -> OnnxSource:
    """Read an ONNX file and the files beside it that have its external data. `RequestError` if it is none, or names a
    file that is not there or not in the same folder."""
    _require_packages()
    uri = storage.canonical(uri)
    folder, _, name = uri.rpartition("/")
    if not is_plain_name(name):
        raise RequestError(f"onnx must be the URI of a file, got {uri!r}")
    data = _read(uri, f"onnx {uri!r}")
    if len(data) > _MOST_BYTES:
        raise RequestError(f"onnx {uri!r}: it has more than 2 GiB; save it with external data")
    found = _answer(uri, {"step": "summary", "files": [_OWN]}, {_OWN: data}, timeout_s)
    summary = config.from_dict(OnnxSummary, found)
    # The same name whatever the file is called, so that the same network makes the same package.
    own = _OWN
    while own in {other for other, _ in summary.external}:
        own = f"_{own}"
    content = {own: data}
    for other, tensor in summary.external:
        if other == name or not is_plain_name(other):
            raise RequestError(
                f"onnx {uri!r}: external data must lie in a file of their own beside the ONNX file, named without a "
                f"folder; tensor {tensor[:80]!r} has its data in {other[:80]!r}"
            )
        where = f"{folder}/{other}"
        _require_inside(where, uri)
        content[other] = _read(where, f"onnx {uri!r}: its external data {other!r}")
    return OnnxSource(uri=uri, content=content, summary=summary)


def try_onnx(source: OnnxSource, request: ProbeRequest, timeout_s: float) -> Trial:
    """Run a network on drawn images. `RequestError` if it does not fit the request, crashes, or takes too long."""
    asked = {"step": "probe", "files": list(source.content), "probe": config.to_dict(request)}
    found = _answer(source.uri, asked, source.content, timeout_s)
    seconds = found.pop("seconds")
    return Trial(probed=config.from_dict(Probed, found), seconds=seconds)


def _answer(uri: str, request: Mapping[str, Any], content: Mapping[str, bytes], timeout_s: float) -> dict[str, Any]:
    """What the process says. `RequestError` that names the file if it refuses it, crashes, or takes too long."""
    limits = {"memory_bytes": free_memory(), "threads": os.cpu_count() or 1}
    with tempfile.TemporaryDirectory(prefix="parquetry-onnx-") as name:
        folder = Path(name)
        for file, data in content.items():
            (folder / file).write_bytes(data)
        if {REQUEST, ANSWER} & set(content):
            raise RequestError(f"onnx {uri!r}: its files must not have the names {REQUEST} and {ANSWER}")
        (folder / REQUEST).write_text(json.dumps({**request, **limits}))
        code = _run(folder, timeout_s)
        answer = json.loads((folder / ANSWER).read_text()) if code == 0 else None
    if code is None:
        raise RequestError(f"onnx {uri!r}: the trial took longer than trial_timeout_s, {timeout_s:g} seconds")
    if answer is None:
        how = f"a crash (signal {-code})" if code < 0 else f"a failure of the trial (exit code {code})"
        raise RequestError(f"onnx {uri!r}: ONNX Runtime cannot run it: it ended with {how}")
    if "error" in answer:
        raise RequestError(f"onnx {uri!r}: {answer['error']}")
    return answer


def _run(folder: Path, timeout_s: float) -> int | None:
    """The exit code of the process; None if the time was over. A signal to this process ends it, too."""
    command = [sys.executable, "-m", "pipeline.exchange.trial_process", str(folder)]
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    ) as process:
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        finally:
            process.kill()


def free_memory() -> int:
    """Bytes of memory that this process may still use, by the machine and by its control group."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError, IndexError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        group = Path("/sys/fs/cgroup")
        free = min(free, int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):
        pass  # no control group, or one without a limit
    return max(_LEAST_MEMORY, free)


def _read(uri: str, what: str) -> bytes:
    try:
        return storage.read(uri)
    except (FileNotFoundError, NotADirectoryError) as reason:
        raise RequestError(f"{what}: there is no such file") from reason
    except IsADirectoryError as reason:
        raise RequestError(f"{what}: it is a folder") from reason
    except OSError as reason:
        raise RequestError(f"{what}: it cannot be read") from reason


def _require_inside(uri: str, model: str) -> None:
    """`RequestError` if a local file is a link that leads out of the folder of the ONNX file."""
    if not storage.is_local(uri) or not Path(uri).is_symlink():
        return
    if Path(uri).resolve().parent != Path(model).resolve().parent:
        raise RequestError(f"onnx {model!r}: its external data {Path(uri).name!r} is a link out of its folder")


def _require_packages() -> None:
    runtime()
    try:
        import onnx  # noqa: F401
    except ImportError as reason:
        raise RequestError("ONNX files need the package onnx: pip install 'parquetry[onnx]'") from reason

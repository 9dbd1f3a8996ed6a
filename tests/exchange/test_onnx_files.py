"""Files from anywhere: each that is no segmentation network for these classes gets one line that says what it is."""

from __future__ import annotations

import os
import pickle
import signal
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import RequestError
from pipeline.exchange import trial
from pipeline.exchange.onnx_file import summary_of
from pipeline.exchange.probing import ProbeRequest
from pipeline.exchange.trial import read_onnx, try_onnx
from testing.hostile.onnx_mutants import CRASHED, REFUSED, TAKEN, outcomes
from testing.onnx_networks import Network, with_external_data
from tests.exchange.test_probing import probed

NETWORK = Network(height=24, width=40)
GOOD = NETWORK.onnx()
PICTURE = [1, 3, 24, 40]
TIMEOUT_S = 60.0


def one_off(
    nodes: list[Any], taken: list[Any], given: list[Any], constants: tuple[Any, ...] = (), more: int = 0
) -> bytes:
    """A file with these operators, from ``picture`` (and ``more`` inputs) to ``result``."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, taken) for name in ("picture", "other")[: 1 + more]
    ]
    outputs = [helper.make_tensor_value_info("result", TensorProto.FLOAT, given)]
    graph = helper.make_graph(nodes, "one off", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def enormous(*sides: int) -> bytes:
    """A small file that adds the sum of an array of these sides to the picture."""
    make, shape = helper.make_node, numpy_helper.from_array(np.array(sides, np.int64), "sides")
    nodes = [make("ConstantOfShape", ["sides"], ["large"]), make("ReduceSum", ["large"], ["sum"], keepdims=0)]
    return one_off([*nodes, make("Add", ["picture", "sum"], ["result"])], PICTURE, PICTURE, (shape,))


def zipped(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps([1]))
    return (folder / "model.pt").read_bytes()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "has no bytes"),
        (np.random.default_rng(0).bytes(4000), "no ONNX file but other bytes, or an ONNX file that is cut short"),
        (GOOD[:-1], "cut short or damaged"),
        (pickle.dumps({"weights": np.zeros(50)}), "no ONNX file but a pickle"),
        (NETWORK.onnx(operator="Magic", domain="com.acme"), r"custom operator 'com\.acme\.Magic'"),
        (NETWORK.onnx(operator="Magic"), "custom operator 'Magic'"),
        (NETWORK.onnx(opset=999), r"needs opset 999 of ONNX, and \d+ is the newest"),
        (helper.make_model(helper.make_graph([], "none", [], [])).SerializeToString(), "no graph with operators"),
    ],
)
def test_what_is_no_onnx_file_is_named(data: bytes, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        summary_of(data)


def test_a_zip_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="zip archive, perhaps of a PyTorch model"):
        summary_of(zipped(tmp_path))


_POOL = [helper.make_node("GlobalAveragePool", ["picture"], ["p"]), helper.make_node("Flatten", ["p"], ["result"])]
_NAN = [helper.make_node("Log", ["picture"], ["a"]), helper.make_node("Sub", ["a", "a"], ["result"])]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (one_off(_POOL, PICTURE, [1, 3]), r"output 'result' has the shape \(1, 3\), as a network has that classifies"),
        (one_off(_NAN, PICTURE, PICTURE), "output 'result' has values that are not finite"),
        (
            one_off([helper.make_node("Relu", ["picture"], ["result"])], [1, 1, 24, 40], [1, 1, 24, 40]),
            r"input 'picture' has the shape \(1, 1, 24, 40\), and must have 3 channels",
        ),
        (
            one_off([helper.make_node("Add", ["picture", "other"], ["result"])], PICTURE, PICTURE, more=1),
            "must have one input, the images; it has 'picture', 'other'",
        ),
        (
            one_off([helper.make_node("Relu", ["picture"], ["result"])], [3, 24, 40], [3, 24, 40]),
            "input 'picture' has 3 axes, and must have 4",
        ),
        (
            one_off(
                [helper.make_node("Transpose", ["picture"], ["result"], perm=[0, 1, 3, 2])], PICTURE, [1, 3, 40, 24]
            ),
            "its rows and columns are not those of an image of 24 x 40",
        ),
    ],
)
def test_what_is_no_segmentation_network_is_named(data: bytes, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        probed(NETWORK, {"input_size": None}, data)


def test_external_data_travel_with_the_file(tmp_path: Path) -> None:
    data, weights = with_external_data(NETWORK.proto(), "weights.bin")
    (tmp_path / "any name.onnx").write_bytes(data)
    (tmp_path / "weights.bin").write_bytes(weights)
    source = read_onnx(str(tmp_path / "any name.onnx"), TIMEOUT_S)
    assert source.content == {"model.onnx": data, "weights.bin": weights}
    found = try_onnx(source, ProbeRequest(classes=3, files=source.files), TIMEOUT_S)
    assert [file.name for file in found.probed.config.files] == ["model.onnx", "weights.bin"]
    assert found.seconds > 0


@pytest.mark.parametrize(
    ("location", "line"),
    [
        ("weights.bin", "external data 'weights.bin': there is no such file"),
        ("../weights.bin", r"tensor '.*' has its data in '\.\./weights\.bin'"),
        ("/etc/passwd", "has its data in '/etc/passwd'"),
        ("folder/weights.bin", "named without a folder"),
        ("own.onnx", "in a file of their own"),
        ("link.bin", "'link.bin' is a link out of its folder"),
    ],
)
def test_external_data_come_from_the_same_folder_only(tmp_path: Path, location: str, line: str) -> None:
    folder = tmp_path / "network"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(b"")
    (folder / "link.bin").symlink_to("/etc/passwd")
    (folder / "own.onnx").write_bytes(with_external_data(NETWORK.proto(), location)[0])
    with pytest.raises(RequestError, match=line):
        read_onnx(str(folder / "own.onnx"), TIMEOUT_S)


def test_more_memory_than_there_is_gets_a_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(enormous(1 << 20, 1 << 20))
    source = read_onnx(str(tmp_path / "model.onnx"), TIMEOUT_S)
    with pytest.raises(RequestError, match=r"needs more than the \d+ MiB of memory that are free"):
        try_onnx(source, ProbeRequest(classes=3, files=source.files), TIMEOUT_S)


def test_a_crash_of_onnx_runtime_gets_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is known that crashes it, so another module of its name does."""
    (tmp_path / "model.onnx").write_bytes(GOOD)
    source = read_onnx(str(tmp_path / "model.onnx"), TIMEOUT_S)
    (tmp_path / "onnxruntime.py").write_text(f"import os\nos.kill(os.getpid(), {int(signal.SIGSEGV)})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"model\.onnx': ONNX Runtime cannot run it: .* a crash \(signal 11\)"):
        try_onnx(source, ProbeRequest(classes=3, files=source.files), TIMEOUT_S)


def test_a_trial_without_end_gets_a_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(GOOD)
    with pytest.raises(RequestError, match=r"took longer than trial_timeout_s, 0\.01 seconds"):
        read_onnx(str(tmp_path / "model.onnx"), 0.01)
    assert not [child for child in Path("/proc").glob("[0-9]*/cmdline") if _is_trial_of(child)]


def _is_trial_of(file: Path) -> bool:
    """Whether this process has started that one, and it is a trial."""
    try:
        parent = int(file.with_name("stat").read_text().rpartition(")")[2].split()[1])
        return parent == os.getpid() and b"trial_process" in file.read_bytes()
    except OSError:
        return False


def test_free_memory_is_no_more_than_the_machine_has() -> None:
    assert 0 < trial.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_changed_files_are_taken_or_refused() -> None:
    found = Counter(outcome.split(" ")[0] for _, outcome in outcomes(0, 60))
    assert set(found) <= {TAKEN, REFUSED, CRASHED}
    assert found[TAKEN] >= 5, "some changes are only of weights"
    assert found[REFUSED] >= 20

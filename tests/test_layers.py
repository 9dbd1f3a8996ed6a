"""Imports go down only. The rules stand here once, and a test shows that breaking one is found."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("pipeline", "jobs", "testing", "tests", "benchmarks")

#: For modules whose name starts so: what they must not import (prefixes of dotted names).
FORBIDDEN = {
    "pipeline": ["jobs", "testing", "tests", "benchmarks"],
    "jobs": ["testing", "tests", "benchmarks"],
    "testing": ["tests", "benchmarks"],
    "tests": ["benchmarks"],
    "benchmarks": ["tests"],
    "pipeline.config": ["torch", "pyarrow"],
    "pipeline.errors": ["torch", "pyarrow"],
    "pipeline.rows": ["torch"],
    "pipeline.storage": ["torch"],
    "pipeline.source": [
        "torch",
        "pipeline.table",
        "pipeline.task",
        "pipeline.runs",
        "pipeline.images",
        "pipeline.text",
    ],
    "pipeline.table": ["torch", "pipeline.task", "pipeline.runs", "pipeline.images", "pipeline.text"],
    "pipeline.task": ["pipeline.models", "pipeline.images", "pipeline.text"],
    "pipeline.training": ["pipeline.images", "pipeline.text", "pipeline.package"],
    # Of training, only checkpoints know where bytes lie.
    **{
        f"pipeline.training.{name}": ["pipeline.storage"]
        for name in ("companion", "losses", "optimiser", "samples", "trainer", "workers")
    },
    "pipeline.images": ["pipeline.text"],
    "pipeline.text": ["pipeline.images"],
    "pipeline.runs": ["pipeline.images", "pipeline.text", "pipeline.quality"],
    "pipeline.generation": ["pipeline.text", "pipeline.quality"],
    "pipeline.sinks": ["pipeline.distributed", "pipeline.quality"],
    "pipeline.exports": ["pipeline.distributed", "pipeline.quality"],
    "pipeline.exchange": ["pipeline.distributed", "pipeline.quality", "pipeline.text"],
    "pipeline.distributed": ["pipeline.images", "pipeline.text", "pipeline.quality"],
}
#: All that these may import, besides the standard library and themselves.
ALLOWED = {
    "pipeline.models": ("torch", "jaxtyping", "pipeline.config", "pipeline.errors", "pipeline.splitmix", "onnxruntime"),
    # Help and completion answer at once: these read options.json and import nothing that takes long.
    "jobs.commands": (),
    "jobs.options": ("jobs.commands",),
    "jobs.arguments": ("jobs.options", "pipeline.errors"),
    "jobs.help": ("jobs.commands", "jobs.options"),
    "jobs.completion": ("jobs.commands", "jobs.options"),
    "jobs.summary": ("jobs.console", "pipeline.errors", "pipeline.json_text", "pipeline.submission"),
    "jobs.console": ("jobs.display", "pipeline.errors", "pipeline.json_text", "pipeline.runs.events"),
}
#: Who alone may import these.
ONLY = {
    "ray": ("pipeline.distributed", "tests", "testing", "benchmarks"),
    "pipeline.distributed": ("pipeline.distributed", "jobs", "tests", "testing", "benchmarks"),
    "jsonargparse": ("jobs.cli",),
    "deltalake": ("pipeline.table", "tests", "testing", "benchmarks"),
    "onnx": ("pipeline.exchange.onnx_file", "pipeline.exchange.trial", "pipeline.exchange.export", "tests", "testing"),
    "onnxruntime": ("pipeline.models.segmenters.onnx", "tests", "testing"),
    "sklearn": (
        "pipeline.generation.fitting",
        "pipeline.images.pixel_baseline",
        "pipeline.text.vectors",
        "tests",
        "benchmarks",
    ),
}
#: Every module of these imports that.
MUST = {"pipeline.distributed": "ray"}
#: Jobs that a user can run where Ray is not installed.
WITHOUT_RAY = (
    "jobs.convert_labels",
    "jobs.import_segmenter",
    "jobs.export_model",
    "jobs.verify",
    "jobs.compact",
    "jobs.export",
    "jobs.label_queue",
    "jobs.merge_labels",
    "jobs.evaluate",
    "jobs.sample",
    "jobs.cli",
    "jobs.__main__",
)


def imports(tree: ast.Module) -> Iterator[str]:
    """Every dotted name that a module imports; ``from a import b`` counts as ``a`` and as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def broken(module: str, tree: ast.Module) -> list[str]:
    """The rules that a module breaks, as sentences."""
    found, names = [], set(imports(tree))
    for name in names:
        for owner, forbidden in FORBIDDEN.items():
            if below(module, owner) and any(below(name, item) for item in forbidden):
                found.append(f"{module} must not import {name}")
        for owner, allowed in ALLOWED.items():
            if name in FOLDERS or name.partition(".")[0] in sys.stdlib_module_names:
                continue
            if below(module, owner) and not any(below(name, item) for item in (*allowed, owner)):
                found.append(f"{module} may import {', '.join(allowed) or 'the standard library'} only, not {name}")
        for item, allowed in ONLY.items():
            if below(name, item) and not any(below(module, owner) for owner in allowed):
                found.append(f"only {', '.join(allowed)} may import {item}, not {module}")
        if module in WITHOUT_RAY and below(name, "pipeline.distributed"):
            found.append(f"{module} must work without Ray, so it must not import {name}")
    for owner, needed in MUST.items():
        if below(module, owner) and not any(below(name, needed) for name in names):
            found.append(f"{module} does not import {needed}, so it does not belong to {owner}")
    return found


def modules() -> list[tuple[str, Path]]:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    named = [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in files]
    return [(name, path) for name, path in named if name != "pipeline.distributed"]


def test_imports_go_down_only() -> None:
    found = [rule for module, path in modules() for rule in broken(module, ast.parse(path.read_text()))]
    assert found == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.images.task", "from pipeline.text import inputs"),
        ("pipeline.distributed.stream", "import ray\nimport pipeline.images.task"),
        ("pipeline.distributed.counts", "from dataclasses import dataclass"),
        ("pipeline.training.trainer", "import ray.train"),
        ("pipeline.training.trainer", "from pipeline import storage"),
        ("pipeline.quality.audit", "from pipeline.distributed.run import Run"),
        ("pipeline.models.segmenters.unet", "def later():\n    from pipeline import storage"),
        ("pipeline.models.layers", "import numpy as np"),
        ("pipeline.models.autoencoders.samplers", "from sklearn.mixture import GaussianMixture"),
        ("pipeline.generation.fitting", "from pipeline.text import inputs"),
        ("pipeline.config", "from torch import nn"),
        ("pipeline.source.fetch", "from pipeline.table.manifest import Manifest"),
        ("pipeline.table.delta", "from pipeline.images.outputs import decode_mask"),
        ("pipeline.table.parts", "import torch"),
        ("pipeline.models.segmenters.unet", "import onnxruntime"),
        ("pipeline.exchange.probing", "def later():\n    import onnx"),
        ("jobs.evaluate", "import jsonargparse"),
        ("jobs.help", "from jobs.cli import parse"),
        ("jobs.options", "import yaml"),
        ("jobs.completion", "def later():\n    from pipeline import storage"),
        ("jobs.verify", "from pipeline.distributed.session import session"),
        ("jobs.demo", "from testing.equality import table_rows"),
        ("testing.runs", "from tests.toy import Line"),
        ("tests.test_benchmarks", "from benchmarks import documents"),
        ("benchmarks.chaos", "from tests.equality import table_rows"),
    ],
)
def test_the_rules_can_be_broken(module: str, source: str) -> None:
    assert len(broken(module, ast.parse(source))) >= 1


@pytest.mark.parametrize("folder", ["source", "table"])
def test_no_column_of_images_or_text_is_named_below_the_tasks(folder: str) -> None:
    """A task says which columns are its own; what lists and keeps inputs works for any."""
    names = ("mask", "class_pixels", "paragraphs", "num_chars", "doc_id", "text")
    for path in sorted((ROOT / "pipeline" / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path.name}, line {node.lineno}: {node.value!r}"

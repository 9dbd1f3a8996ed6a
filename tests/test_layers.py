"""Imports go down only. The rules stand here once, and a test shows that breaking one is found."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STDLIB_AND = {"torch", "jaxtyping"}

#: Figures of tensors and arrays: no files, no tasks, no cluster.
MEASURES = (
    *("bootstrap", "classes", "duplicates", "features", "fidelity", "generative"),
    *("likelihood", "neighbours", "networks", "sharpness", "units"),
)

#: For modules whose name starts so: what they must not import (prefixes of dotted names).
FORBIDDEN = {
    "pipeline": ["jobs", "tests", "benchmarks"],
    "pipeline.models": ["pipeline.task", "pipeline.package", "pipeline.training", "pipeline.storage", "ray", "pyarrow"],
    "pipeline.images": ["pipeline.text"],
    "pipeline.text": ["pipeline.images"],
    "pipeline.distributed": ["pipeline.images", "pipeline.text", "pipeline.quality"],
    "pipeline.training": ["pipeline.images", "pipeline.text", "pipeline.package"],
    "pipeline.sampling": ["pipeline.images", "pipeline.text", "pipeline.quality", "pipeline.distributed"],
    "pipeline.task": ["pipeline.models", "pipeline.images", "pipeline.text"],
    "pipeline.config": ["torch"],
    "pipeline.storage": ["torch"],
    "pipeline.errors": ["torch"],
    **{
        f"pipeline.quality.{name}": [f"pipeline.{part}" for part in ("distributed", "storage", "images", "text")]
        for name in MEASURES
    },
}
#: Who alone may import these.
ONLY = {
    "ray": ("pipeline.distributed",),
    "jsonargparse": ("jobs.cli",),
    "deltalake": ("pipeline.distributed.table",),
    "sklearn": ("pipeline.sampling", "pipeline.quality", "pipeline.text.vectors"),
}


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
    found = []
    for name in set(imports(tree)):
        for owner, forbidden in FORBIDDEN.items():
            if below(module, owner) and any(below(name, item) for item in forbidden):
                found.append(f"{module} must not import {name}")
        for item, allowed in ONLY.items():
            if below(name, item) and not any(below(module, owner) for owner in allowed):
                found.append(f"only {', '.join(allowed)} may import {item}, not {module}")
    return found


def modules() -> list[tuple[str, Path]]:
    files = [path for folder in ("pipeline", "jobs") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path) for path in files]


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down_only(module: str, path: Path) -> None:
    assert broken(module, ast.parse(path.read_text())) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pipeline.images.task", "from pipeline.text import inputs"),
        ("pipeline.distributed.stream", "import pipeline.images.task"),
        ("pipeline.training", "import ray.train"),
        ("pipeline.models.segmenter", "def later():\n    from pipeline import storage"),
        ("pipeline.models.samplers", "from sklearn.mixture import GaussianMixture"),
        ("pipeline.sampling", "from pipeline.images import tiles"),
        ("pipeline.config", "from torch import nn"),
        ("jobs.evaluate", "import jsonargparse"),
        ("pipeline.quality.fidelity", "from pipeline import storage"),
    ],
)
def test_the_rules_can_be_broken(module: str, source: str) -> None:
    assert len(broken(module, ast.parse(source))) >= 1

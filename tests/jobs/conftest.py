"""One short demonstration, made once: tests of jobs look at what it leaves, and use its packages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jobs import demo
from testing.jobs import call_job

SCENES = {"train": 16, "val": 4, "test": 6}


@dataclass(frozen=True)
class Demonstration:
    """``out`` has ``scenes``, ``autoencoder``, ``segmenter`` (started from it, with novelty), ``tagger``, two sinks."""

    out: Path
    summary: dict[str, Any]
    said: str


@pytest.fixture(scope="session")
def demonstration(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Demonstration:
    """`jobs.demo` with a pass of training for each model, on few scenes."""
    out = tmp_path_factory.mktemp("demonstration") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        # The autoencoder learns enough to find noise novel.
        patch.setattr(demo, "EPOCHS", {"autoencoder": 10, "segmenter": 1, "tagger": 1})
        patch.setattr(demo, "SCENES", SCENES)
        code, summary, said = call_job("demo", "--out", str(out))
    assert code == 0, said[-3000:]
    return Demonstration(out, summary, said)

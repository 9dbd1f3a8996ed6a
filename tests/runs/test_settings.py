"""Digests of settings survive growth, and a run says why it redoes rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline import config
from pipeline.config import added
from pipeline.images.augment import AugmentConfig
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.runs.life import store_json
from pipeline.runs.settings import described_settings, differences, settings_digest, why_redone
from pipeline.task import Task
from pipeline.text.task import TextSegmentation
from testing.golden import GOLDEN
from testing.runs import TASK
from testing.toy import LineTask

#: Digests of tasks with their defaults, as the first version has them in its tables.
FIRST: dict[str, tuple[Task, str]] = {
    "image segmentation": (TASK, "b216bcf5405f2e383938cc615e92c718"),
    "image reconstruction": (ImageReconstruction(), "c76b52f8bc7f1c1483f502de83f78048"),
    "text segmentation": (TextSegmentation(), "cd2abe7f8e924546755581bf25fd1c2c"),
}


@dataclass(frozen=True, kw_only=True)
class GrownAugment(AugmentConfig):
    blur: float = added(0.0)
    """A setting of a later version, inside another."""


@dataclass(frozen=True, kw_only=True)
class GrownTask(LineTask):
    """The toy task of a later version: two settings more, one of them in a nested class."""

    order: int = added(1)
    augmentation: Any = added(None)


@dataclass(frozen=True, kw_only=True)
class OtherRules(LineTask):
    results: ClassVar[int] = 2


@pytest.mark.parametrize("name", FIRST)
def test_the_digests_of_the_first_version_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the rules that make rows are the first ones."""
    task, digest = FIRST[name]
    monkeypatch.setattr(type(task), "results", 1)
    assert settings_digest(task, 256 << 20) == digest


def test_the_golden_table_has_the_digest_of_its_package() -> None:
    """Whatever was added to the task since: the rows of the earlier version still count."""
    described = json.loads((GOLDEN / "whole" / "config.json").read_text())
    task = config.from_dict(ImageSegmentation, described["task"])
    (run,) = (GOLDEN / "sink-whole" / "runs").iterdir()
    assert settings_digest(task, 256 << 20) == json.loads((run / "config.json").read_text())["settings"]


def test_a_setting_that_was_added_counts_only_when_it_is_set() -> None:
    before = settings_digest(LineTask(), 1)
    assert settings_digest(GrownTask(), 1) == before
    assert settings_digest(GrownTask(order=2), 1) != before
    assert settings_digest(GrownTask(augmentation=GrownAugment()), 1) != before
    assert settings_digest(LineTask(noise=0.2), 1) != before
    assert settings_digest(LineTask(), 2) != before


def test_a_nested_setting_that_was_added_counts_only_when_it_is_set() -> None:
    assert config.identity(GrownAugment()) == config.identity(AugmentConfig())
    assert config.identity(GrownAugment(blur=0.5))["blur"] == 0.5
    assert config.to_dict(GrownAugment())["blur"] == 0.0

    @dataclass(frozen=True, kw_only=True)
    class Outer:
        inner: GrownAugment = field(default_factory=GrownAugment)

    assert config.identity(Outer()) == {"inner": config.identity(AugmentConfig())}


def test_other_rules_for_equal_settings_are_another_digest() -> None:
    assert settings_digest(OtherRules(), 1) != settings_digest(LineTask(), 1)


def test_a_run_says_why_rows_do_not_count(tmp_path: Path) -> None:
    def ran(name: str, task: Task, model: str, max_bytes: int = 9) -> str:
        settings = settings_digest(task, max_bytes)
        described = {"task": config.to_dict(task), "results": task.results, "digest": model, "settings": settings}
        described["stream"] = {"fetch": {"max_bytes": max_bytes}}
        store_json(str(tmp_path / "runs" / name / "config.json"), described)
        return settings

    old, larger = ran("1", LineTask(), "m" * 32), ran("2", LineTask(), "m" * 32, max_bytes=7)

    def why(settings: str, now: Task, model: str = "m" * 32) -> str:
        return why_redone(str(tmp_path), model, settings, described_settings(now, 9), "m" * 32)

    assert why(old, LineTask(noise=0.5)) == "task.noise was 0.1, now 0.5"
    assert why(old, OtherRules()) == "results was 1, now 2"
    assert why(larger, LineTask()) == "max_bytes was 7, now 9"
    assert why(old, LineTask(), model="n" * 32) == f"the model was {'n' * 12}, now {'m' * 12}"
    unknown = f"the settings had the digest {'f' * 12}; no earlier run of the sink has recorded them"
    assert why("f" * 32, LineTask()) == unknown
    (tmp_path / "runs" / "3").mkdir()
    (tmp_path / "runs" / "3" / "config.json").write_text("{broken")
    assert why(old, LineTask(noise=0.5)) == "task.noise was 0.1, now 0.5"


def test_differences_are_named_by_their_place() -> None:
    before = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": "x" * 100}
    now = {"a": 1, "b": {"c": [1, 3], "d": 2, "new": 5}, "e": "y"}
    assert differences(before, now) == [
        "b.c was [1, 2], now [1, 3]",
        "b.d was None, now 2",
        f"e was '{'x' * 56}..., now 'y'",
    ]

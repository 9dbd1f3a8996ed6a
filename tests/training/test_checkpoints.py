"""What a training writes on the way, and goes on from; that of an earlier version, too."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline import config, package
from pipeline.errors import RequestError
from pipeline.images.task import ImageSegmentation
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.samples import Samples
from pipeline.training.trainer import TrainConfig, Trainer
from tests.training.test_trainer import trainer

GOLDEN = Path(__file__).parent.parent / "golden" / "0.1.0"


def test_two_are_kept_and_the_newest_goes_on(tmp_path: Path) -> None:
    checkpoints, first = Checkpoints(str(tmp_path / "checkpoints"), "mine"), trainer()
    assert checkpoints.newest() is None
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes.txt").touch()
    for progress in itertools.islice(first.run(), 11):
        if progress.step >= 8:
            checkpoints.write(first, {"spent": f"{progress.step} s"})
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["notes.txt", "step-000000010.safetensors", "step-000000011.safetensors"]
    newest = checkpoints.newest()
    assert newest == str(tmp_path / "checkpoints" / names[-1])
    second = trainer()
    assert checkpoints.restore(second, newest)["spent"] == "11 s"
    assert second.step == 11
    mine, theirs = first.state(), second.state()
    assert mine[1] == theirs[1]
    assert mine[0].keys() == theirs[0].keys()
    assert all(torch.equal(mine[0][name], theirs[0][name]) for name in mine[0])
    with pytest.raises(RequestError, match=r"step-000000011\.safetensors is a checkpoint of another training"):
        Checkpoints(str(tmp_path / "checkpoints"), "other").restore(trainer(), newest)


@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "long"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints, first = Checkpoints(str(tmp_path), "mine"), trainer()
    for progress in itertools.islice(first.run(), 3):
        if progress.step >= 2:
            checkpoints.write(first)
    files = sorted(tmp_path.iterdir())
    for number, file in enumerate(reversed(files)):
        data = file.read_bytes()
        file.write_bytes({"empty": b"", "zeros": bytes(len(data)), "cut": data[:-5], "long": data + b"x"}[damage])
        assert checkpoints.newest() == (str(files[0]) if number == 0 else None)
        assert checkpoints.skipped == [str(file) for file in reversed(files)][: number + 1]
    second = trainer()
    next(iter(second.run()))
    checkpoints.write(second)
    assert [file.name for file in tmp_path.iterdir()] == ["step-000000001.safetensors"]


def test_a_training_of_an_earlier_version_goes_on() -> None:
    """From its checkpoint after step 3; the losses are those of the whole training of then."""
    stopped, whole = GOLDEN / "stopped", package.load(str(GOLDEN / "whole"))
    described = json.loads((stopped / "training.json").read_text())
    names = {field: described["card"]["training"][field] for field in config.to_dict(TrainConfig())}
    shards = [pa.ipc.open_file(path).read_all() for path in stopped.rglob("*.arrow")]
    validation, train = sorted(shards, key=len)
    task = config.from_dict(ImageSegmentation, whole.task)
    learner = Trainer(task, whole.model(), TrainConfig(**names), Samples([train]), Samples([validation]))
    checkpoints = Checkpoints(str(stopped / "checkpoints"), described["fingerprint"])
    newest = checkpoints.newest()
    assert newest is not None
    checkpoints.restore(learner, newest)
    assert learner.step == 3
    found = [{"step": step.step, **step.losses} for step in itertools.islice(learner.run(), 20)]
    expected = [json.loads(line) for line in (GOLDEN / "whole" / "history.jsonl").read_text().splitlines()][3:23]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4)

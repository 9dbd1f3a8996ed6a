"""Training on Ray: the number of workers changes nothing, and what is killed goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import torch

from pipeline import config, models, package, storage
from pipeline.distributed import preparation, train
from pipeline.distributed.places import PlaceNotShared
from pipeline.distributed.progress import FINISHED
from pipeline.errors import RequestError, Stopped
from pipeline.examples.prose import reference_documents, write_jsonl
from pipeline.examples.scenes import CLASSES, PALETTE, write_scenes
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.models.objectives.adversarial import AdversarialConfig
from pipeline.models.objectives.objective import ObjectiveConfig
from pipeline.models.segmenters.with_autoencoder import init_without_head
from pipeline.source.labelled import all_inputs, held_out, split_files
from pipeline.text.task import TextSegmentation
from pipeline.training.trainer import Trainer
from testing.processes import descendants
from testing.trainings import SLOW, plan, trained_in_own_cluster

pytestmark = pytest.mark.ray
SEGMENTER = ImageSegmentation(classes=CLASSES, palette=PALETTE, height_px=24, width_px=32)
AUTOENCODER = ImageReconstruction(height_px=24, width_px=32)
#: Everything that a worker cannot compute from its own share of a batch alone.
COMPANIONED = ImageReconstruction(
    height_px=24,
    width_px=32,
    objective=ObjectiveConfig(
        terms=("kl", "mmd", "contraction", "adversarial"),
        adversarial=AdversarialConfig(widths=(8, 16), start_step=4),
    ),
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), {"train": 24, "val": 6}, height=30, width=40)
    (folder / "images/train/0003.jpg").write_bytes(b"broken")
    return str(folder)


def history(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]


def alone(plan: train.Plan) -> tuple[list[dict[str, float]], dict[str, float], Any]:
    """The losses of each step, the best metrics and the best model of a training by plain torch, in this process."""
    torch.manual_seed(plan.config.seed)
    model, samples = models.build(plan.model_name, plan.model_config), plan.train.load()
    plan.task.start(model, samples.shuffled(plan.config.seed, plan.config.batch_rows))
    trainer = Trainer(plan.task, model, plan.config, samples, plan.validation.load())
    losses = [{"step": float(progress.step), **progress.losses} for progress in trainer.run()]
    return losses, trainer.best_metrics, trainer.best_model()


@pytest.mark.parametrize(
    "task",
    [SEGMENTER, COMPANIONED, pytest.param(AUTOENCODER, marks=pytest.mark.heavy)],
    ids=["segmenter", "companioned", "autoencoder"],
)
def test_two_workers_train_as_plain_torch_does_alone(cluster: None, scenes: str, tmp_path: Path, task: Any) -> None:
    made, said = plan(scenes, tmp_path, task, workers="1:2" if task is SEGMENTER else 2), list[str]()
    losses, metrics, _ = alone(made)
    summary = train.fit(made, said.append)
    assert [line for line in said if line.endswith(", with 2 workers")]
    found = history(tmp_path)
    assert len(found) == len(losses) == 8 * 23 // 8 >= 20
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    assert summary["failed_inputs"]["train"] == {"not_an_image": 1}
    assert summary["metrics"] == pytest.approx(metrics, rel=2e-2, abs=2e-2)
    assert (tmp_path / "tensorboard").is_dir()
    written = package.load(str(tmp_path), task.kind)
    assert written.digest == summary["digest"]
    written.model()


def test_copies_are_part_of_a_training_and_say_what_learns_how_fast(tmp_path: Path) -> None:
    settings = {"classes": len(CLASSES), "widths": [8, 16], "blocks": [0, 0]}
    source, new = models.build("unet", settings), models.build("unet", settings)
    found = package.save(str(tmp_path), model_name="unet", model=source, task=SEGMENTER, card={})
    plain = train.CopyWeights.of(found, init_without_head, into=new)
    assert repr(plain) == f"CopyWeights({found.digest}, init_without_head)", "as before there were rates"
    assert plain.names == ()
    slow = train.CopyWeights.of(found, init_without_head, into=new, rate=0.1)
    assert repr(slow) == f"CopyWeights({found.digest}, init_without_head, rate 0.1)"
    assert slow.names == tuple(name for name in new.state_dict() if not name.startswith("head."))
    target = models.build("unet", settings)
    slow(target)
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in slow.names)
    other = models.build("unet", settings | {"widths": [8, 24]})
    with pytest.raises(RequestError, match=r"UNetConfig.widths must be the package's \(8, 16\), got \(8, 24\)"):
        train.CopyWeights.of(found, init_without_head, into=other)


def test_word_vectors_do_not_depend_on_workers(cluster: None, tmp_path: Path) -> None:
    """Every worker makes them for itself, from the samples of all."""
    task = TextSegmentation(buckets=512, window_sentences=24, context_sentences=4)
    model = SentenceTaggerConfig(buckets=512, vector_size=8, width=8, hidden=8)
    documents = str(tmp_path / "documents.jsonl")
    write_jsonl(documents, reference_documents()[:12])
    learned, validation = held_out(all_inputs(documents, task.inputs), 0.2)
    made = train.Plan(
        task=task,
        model_name="sentence_tagger",
        model_config=config.to_dict(model),
        copies=(),
        train=preparation.prepare(learned, task, str(tmp_path)),
        validation=preparation.prepare(validation, task, str(tmp_path)),
        config=train.DistributedTrainConfig(epochs=4, batch_rows=8, workers=2, gpu=False, threads=1),
        out=str(tmp_path),
        card={},
    )
    losses, _, first = alone(made)
    train.fit(made, lambda _: None)
    found = history(tmp_path)
    assert len(found) == len(losses) >= 5
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
    second = package.load(str(tmp_path), task.kind).model()
    assert isinstance(first, SentenceTagger)
    assert isinstance(second, SentenceTagger)
    # What is made of the vectors before the first step is the same to the last bit; they themselves have learned since.
    assert torch.equal(first.weights, second.weights)
    assert torch.equal(first.lasting, second.lasting)
    torch.testing.assert_close(first.vectors, second.vectors, rtol=0, atol=0.05)
    assert 0 < len(first.weights.nonzero()) < 512  # random ones have a weight for every id


def test_a_killed_worker_costs_only_time(cluster: None, scenes: str, tmp_path: Path) -> None:
    """SIGKILL to the training worker after its first checkpoint; the losses are those of an undisturbed run."""
    out, killed = tmp_path / "100% [killed] #1", []  # Ray takes some names for URLs
    broken = plan(scenes, out, SEGMENTER, epochs=12, evaluate_every_epochs=2, checkpoint_s=0.0)
    losses, _, _ = alone(broken)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05) and not killed:
            if storage.names(str(out / "checkpoints")):
                workers = [p for p, name in descendants(os.getpid()).items() if "RayTrainWorker" in name]
                for pid in workers[:1]:
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        summary = train.fit(broken, lambda _: None)
    finally:
        over.set()
        killer.join()
    assert killed
    assert 0 < summary["resumed_from_step"] < summary["steps"]
    found = history(out)
    assert [line["step"] for line in found] == [line["step"] for line in losses], "each step once"
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.heavy
def test_a_training_waits_for_the_first_node(cluster: None, scenes: str, tmp_path: Path) -> None:
    plan(scenes, tmp_path, SLOW)
    found = trained_in_own_cluster("from none", scenes, tmp_path, epochs=1)
    assert found["summary"]["steps"] == 2
    waits = found["said"].index(next(line for line in found["said"] if line.startswith("training begins")))
    assert waits >= 1
    assert all("the training waits for 1 worker with 0.9 CPUs each" in line for line in found["said"][:waits])
    assert "the cluster has 0 CPUs (0 free) and 0 GPUs (0 free) on 1 nodes" in found["said"][0]


@pytest.mark.heavy
def test_a_training_goes_on_at_a_spare_node_although_the_box_of_its_progress_dies(
    cluster: None, scenes: str, tmp_path: Path
) -> None:
    made = plan(scenes, tmp_path, SLOW, epochs=150, evaluate_every_epochs=50)
    losses, _, _ = alone(dataclasses.replace(made, task=SEGMENTER))
    found = trained_in_own_cluster(
        "lost", scenes, tmp_path, epochs=150, evaluate_every_epochs=50, checkpoint_s=1.0, max_failures=1
    )
    assert "1 boxes killed" in found["said"]
    assert 0 < found["summary"]["resumed_from_step"] < found["summary"]["steps"]
    assert_same(history(tmp_path), losses)


@pytest.mark.heavy
def test_an_elastic_training_goes_on_with_the_nodes_that_are_there(cluster: None, scenes: str, tmp_path: Path) -> None:
    made = plan(scenes, tmp_path, SLOW, epochs=150, evaluate_every_epochs=50)
    losses, _, _ = alone(dataclasses.replace(made, task=SEGMENTER))
    found = trained_in_own_cluster(
        "elastic", scenes, tmp_path, epochs=150, evaluate_every_epochs=50, checkpoint_s=1.0, workers="1:2"
    )
    begun = [line.rpartition(", ")[2] for line in found["said"] if line.startswith(("training begins", "resuming"))]
    assert begun == ["with 2 workers", "with 1 worker", "with 2 workers"]
    assert_same(history(tmp_path), losses)


@pytest.mark.heavy
def test_a_checkpoint_is_written_when_a_node_is_announced_to_leave(cluster: None, scenes: str, tmp_path: Path) -> None:
    """There would be no other: the first would come after more than an hour."""
    settings = {"epochs": 150, "evaluate_every_epochs": 1000, "checkpoint_s": 4000.0, "max_failures": 0}
    losses, _, _ = alone(dataclasses.replace(plan(scenes, tmp_path, SLOW, **settings), task=SEGMENTER))
    found = trained_in_own_cluster("notice", scenes, tmp_path, **settings)
    noticed = next(line for line in found["said"] if line.startswith("a node will be taken away: checkpoint after"))
    step = int(re.findall(r"[0-9]+", noticed)[0])
    assert 0 < step <= found["summary"]["resumed_from_step"] < found["summary"]["steps"]
    assert_same(history(tmp_path), losses)


def assert_same(found: list[dict[str, float]], losses: list[dict[str, float]]) -> None:
    """Each step once, with the losses of another training, but for the order in which numbers were added."""
    assert [line["step"] for line in found] == [line["step"] for line in losses]
    for mine, theirs in zip(found, losses, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-2)


def test_the_number_of_workers() -> None:
    def of(workers: str | int) -> tuple[int, int]:
        return train.DistributedTrainConfig(workers=workers, batch_rows=8).worker_range()

    assert [of(2), of("2"), of("2:8"), of("8:8")] == [(2, 2), (2, 2), (2, 8), (8, 8)]
    for wrong in (0, 9, -1, True, "2:9", "3:2", "0:2", "2:", ":2", "2-8", "two", "1:2:3", "2.0", ""):
        with pytest.raises(RequestError, match=r"\.workers must be a number or MIN:MAX, .* at most batch_rows, got "):
            of(wrong)
    from_file = config.from_dict(train.DistributedTrainConfig, {"workers": "2:8"})
    assert from_file.worker_range() == (2, 8)
    assert config.from_dict(train.DistributedTrainConfig, {"workers": 3}).worker_range() == (3, 3)


def test_what_a_training_waits_for_is_said_while_no_worker_is_heard(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    watch = train._Watch("3 workers", said.append)
    watch.check()
    assert not said
    monkeypatch.setattr(train, "_SILENCE_S", 0.0)
    watch.check()
    assert "waits for 3 workers; the cluster has 2 CPUs" in said[0]
    watch.hear(FINISHED)
    watch.check()
    watch.hear("a line")
    assert said[1:] == ["a line"]
    watch.hear(PlaceNotShared("not seen"))
    with pytest.raises(PlaceNotShared, match="not seen"):
        watch.check()


def test_what_a_worker_asks_for_does_not_depend_on_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (0.0, 1.0, 64.0):
        monkeypatch.setattr(train, "cluster_size", lambda _, size=size: size)
        assert train._cpus(2, own_cluster=False) == 0.9
    monkeypatch.setattr(train, "cluster_size", lambda _: 1.0)
    assert [train._cpus(workers, own_cluster=True) for workers in (1, 2)] == [0.9, 0.45]
    monkeypatch.setattr(train, "cluster_size", lambda _: 8.0)
    assert train._cpus(2, own_cluster=True) == 0.9


@pytest.mark.parametrize(("workers", "threads"), [(1, 6), (2, 3), (4, 1), (8, 1)])
def test_threads_come_from_the_node_of_the_worker(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    nodes = [{"NodeID": "head", "Resources": {}}, {"NodeID": "here", "Resources": {"CPU": 6.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"NodeID": "there", "Resources": {"CPU": 96.0}}])
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_local_world_size=lambda: workers))
    assert train._share_of_node() == threads


def test_a_training_that_waits_can_be_stopped() -> None:
    """Whatever Ray waits for: ``check`` raises in the main thread, as a signal does."""

    class Waiting:
        def fit(self) -> None:
            threading.Event().wait(60)

    def check() -> None:
        raise Stopped(signal.SIGTERM)

    started = time.monotonic()
    with pytest.raises(Stopped):
        train._fit_apart(Waiting(), check)  # type: ignore[arg-type]
    assert time.monotonic() - started < 30


def test_the_same_training_again_is_found_done_and_another_is_refused(
    cluster: None, scenes: str, tmp_path: Path
) -> None:
    first = train.fit(plan(scenes, tmp_path, SEGMENTER, epochs=1), lambda _: None)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    again = train.fit(plan(scenes, tmp_path, SEGMENTER, epochs=1, workers=2), lambda _: None)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    assert again["digest"] == first["digest"]
    with pytest.raises(RequestError, match=r"holds another training; .*: train\.epochs was 1, now 2"):
        train.fit(plan(scenes, tmp_path, SEGMENTER, epochs=2), lambda _: None)


def test_prepared_samples_have_the_order_of_the_listing(cluster: None, scenes: str, tmp_path: Path) -> None:
    inputs = split_files(scenes, "train")
    one = preparation.prepare(inputs, SEGMENTER, str(tmp_path / "one"), block_rows=2).load()
    other = preparation.prepare(inputs, SEGMENTER, str(tmp_path / "other"), block_rows=100).load()
    assert len(one) == len(other) == 23
    assert one.take(range(23)).to_pylist() == other.take(range(23)).to_pylist()
    batch = SEGMENTER.collate(one.take([0, 22]))
    assert batch["image"].shape == (2, 3, 24, 32)
    assert batch["label"].dtype == torch.uint8


def test_held_out_inputs_are_fixed_and_apart(scenes: str) -> None:
    inputs = split_files(scenes, "train")
    rest, held = held_out(inputs, 0.25)
    assert (rest.num_rows, held.num_rows) == (18, 6)
    assert set(rest["uri"].to_pylist()) | set(held["uri"].to_pylist()) == set(inputs["uri"].to_pylist())
    assert held.equals(held_out(inputs, 0.25)[1])


def test_a_filter_of_records_is_the_same_in_every_process() -> None:
    assert repr(preparation.RecordSplit("train")) == "RecordSplit(name='train')"
    found = [preparation.RecordSplit("train")(data) for data in (b'{"split": "train"}', b'{"split": "x"}', b"{}", b"{")]
    assert found == [True, False, False, True]


def test_the_split_counts_in_parquet_as_in_lines_and_text_files_have_none(cluster: None, tmp_path: Path) -> None:
    records = [{"text": f"One {n}. Two. Three.\n\nFour.", "split": "train" if n < 3 else "test"} for n in range(5)]
    found = {}
    for name in ("lines", "table", "texts"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "lines":
            (folder / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        elif name == "table":
            columns = {key: [record[key] for record in records] for key in records[0]}
            pq.write_table(pa.table(columns), folder / "x.parquet")
        else:
            for number, record in enumerate(records):
                (folder / f"{number}.txt").write_text(record["text"])
        keep, inputs = preparation.RecordSplit("train"), all_inputs(str(folder), TextSegmentation.inputs)
        if name == "texts":
            with pytest.raises(RequestError, match="no training samples in 5 inputs; 5 are not of the wanted split"):
                preparation.prepare(inputs, TextSegmentation(), str(tmp_path / "out"), keep=keep)
            continue
        task = TextSegmentation(unpunctuated_fraction=0.0)
        made = preparation.prepare(inputs, task, str(tmp_path / "out" / name), keep=keep)
        found[name] = made.rows, made.left_out, made.truth
    assert found["lines"] == found["table"] == (3, 2, {"boundary": 3})


@pytest.mark.slow
@pytest.mark.heavy
@pytest.mark.parametrize("damage", [b"", bytes(300)], ids=["empty", "zeros"])
def test_a_training_that_a_power_cut_damaged_is_made_whole(
    cluster: None, scenes: str, tmp_path: Path, damage: bytes
) -> None:
    """Whatever file of it is damaged, the same command ends with the same package."""
    first = train.fit(plan(scenes, tmp_path, SEGMENTER, epochs=2, checkpoint_s=0.0), lambda _: None)
    targets = ["config.json", "model.safetensors", "training.json", "history.jsonl", "checkpoints/*"]
    for target in targets:
        said: list[str] = []
        newest = max((tmp_path / "checkpoints").iterdir())
        files = list(tmp_path.glob(target))
        assert files
        for file in files:
            file.write_bytes(damage)
        if target in ("history.jsonl", "checkpoints/*"):  # so that something is left to do
            (tmp_path / "training.json").write_bytes(damage)
        again = train.fit(plan(scenes, tmp_path, SEGMENTER, epochs=2, checkpoint_s=0.0), said.append)
        assert again["digest"] == first["digest"], target
        assert package.load(str(tmp_path)).digest == first["digest"]
        package.load(str(tmp_path)).weights()
        begins = f"checkpoint {newest} is damaged, so training begins anew"
        assert (begins in said) == (target == "checkpoints/*"), said
        assert again["resumed_from_step"] == (0 if target == "checkpoints/*" else first["steps"])


@pytest.mark.parametrize("damage", [b"", bytes(300)])
@pytest.mark.parametrize("which", ["index.json", "*.arrow"])
def test_samples_that_a_power_cut_took_are_prepared_again(
    cluster: None, scenes: str, tmp_path: Path, which: str, damage: bytes
) -> None:
    inputs = split_files(scenes, "val")
    first = preparation.prepare(inputs, SEGMENTER, str(tmp_path))
    for file in Path(first.uri).glob(which):
        file.write_bytes(damage)
    again = preparation.prepare(inputs, SEGMENTER, str(tmp_path))
    assert (again.rows, len(again.load())) == (first.rows, 6)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"split 'train' needs the file train.txt"):
        split_files(str(tmp_path), "train")
    (tmp_path / "train.txt").write_text("a.jpg a.png\nonly-one\n")
    with pytest.raises(RequestError, match=r"line 2: must be 'image label'; .*; got 'only-one'"):
        split_files(str(tmp_path), "train")

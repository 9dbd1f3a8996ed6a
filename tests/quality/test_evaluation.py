"""Evaluation says what the table says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import package
from pipeline.errors import RequestError
from pipeline.examples.scenes import CLASSES, PALETTE, scene, write_scenes
from pipeline.images.inputs import decode_label
from pipeline.images.labels import LabelRules
from pipeline.images.metrics import confusion_matrix, miou
from pipeline.images.outputs import decode_mask
from pipeline.images.task import ImageSegmentation
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.quality.evaluation import Evaluation, evaluate
from pipeline.quality.evaluation_page import evaluation_page
from pipeline.quality.scoring import DocumentScorer, ImageScorer
from pipeline.runs.plan import StreamConfig
from pipeline.source.labelled import all_inputs, split_files
from pipeline.text.outputs import MARKS_TEXT
from pipeline.text.task import TextSegmentation
from testing.equality import table_rows
from testing.runs import new_run


@pytest.mark.ray
def test_the_masks_in_the_table_give_the_metrics_of_evaluate(cluster: None, tmp_path: Path) -> None:
    folder, sink = tmp_path / "scenes", tmp_path / "sink"
    write_scenes(str(folder), {"test": 10}, height=50, width=70)
    (folder / "labels/test/0004.png").write_bytes(b"no label")
    task = ImageSegmentation(classes=CLASSES, palette=PALETTE, height_px=32, width_px=48)
    torch.manual_seed(3)
    written = package.save(
        str(tmp_path / "package"),
        model_name="unet",
        model=UNet(UNetConfig(classes=5, widths=(8, 16), blocks=(1, 1))),
        task=task,
        card={},
    )
    run = new_run([folder / "images"], written, sink, task=task, stream=StreamConfig(actors=1, batch_rows=3))
    assert run.live().exit_code == 0
    confusion = torch.zeros(5, 5, dtype=torch.float64)
    for row in table_rows(str(sink)):
        label = Path(row["uri"].replace("images", "labels").replace(".jpg", ".png"))
        if label.name != "0004.png":
            truth = decode_label(label.read_bytes(), row["height"], row["width"]).astype(np.int64)
            mask = decode_mask(row["mask"]["bytes"]).astype(np.int64)
            confusion += confusion_matrix(torch.from_numpy(truth), torch.from_numpy(mask), 5)
    scorer = ImageScorer(task=task, rules=task.label_rules)
    found = evaluate(scorer, written.model(), split_files(str(folder), "test"))
    assert found.metrics["miou"] == pytest.approx(miou(confusion), abs=1e-6)
    assert found.failed == {"bad_label": 1}
    assert [detail["pixels"] for detail in found.details] == confusion.sum(1).int().tolist()
    assert len(found.cards) == 12
    worst = found.scores.filter(found.scores["miou"].is_valid()).sort_by("miou")["uri"][0].as_py()
    assert found.cards[0].name == Path(worst).name
    assert [name for name, _ in found.cards[0].pictures] == ["truth", "prediction"]


def test_scenes_are_a_function_of_the_seed() -> None:
    one, again, other = scene(1, 40, 60), scene(1, 40, 60), scene(2, 40, 60)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert one[0].shape == (40, 60, 3)
    assert set(np.unique(one[1])) <= set(range(len(CLASSES)))


def evaluated(folder: Path, split: str, rules: LabelRules | None = None) -> Evaluation:
    task = ImageSegmentation(classes=CLASSES, palette=PALETTE, height_px=16, width_px=24)
    torch.manual_seed(3)
    model = UNet(UNetConfig(classes=5, widths=(8, 16), blocks=(1, 1)))
    return evaluate(ImageScorer(task=task, rules=rules or task.label_rules), model, split_files(str(folder), split))


def stored(label: Path) -> np.ndarray:
    with Image.open(label) as picture:
        return np.array(picture)


def test_nothing_that_can_be_evaluated_is_no_result(tmp_path: Path) -> None:
    write_scenes(str(tmp_path), {"test": 2}, height=20, width=30)
    for label in tmp_path.rglob("labels/test/*.png"):
        label.unlink()
    with pytest.raises(
        RequestError, match=r"no pixel with a class in 2 inputs .*failed: {'not_found': 2}; the first: "
    ):
        evaluated(tmp_path, "test")


def test_a_class_that_never_occurs_is_named_and_has_no_figure(tmp_path: Path) -> None:
    write_scenes(str(tmp_path), {"test": 1}, height=20, width=30)
    (label,) = tmp_path.rglob("labels/test/*.png")
    Image.fromarray(np.full_like(stored(label), 1)).save(label)
    found = evaluated(tmp_path, "test")
    assert found.missing_classes == [name for index, name in enumerate(CLASSES) if index != 1]
    figures = [detail["IoU"] for detail in found.details if detail["IoU"] is not None]
    assert found.metrics["miou"] == pytest.approx(sum(figures) / len(figures)), "of those in truth or prediction"
    Image.fromarray(np.full_like(stored(label), 77)).save(label)
    with pytest.raises(RequestError, match="the label has the value 77, which is no class"):
        evaluated(tmp_path, "test")


def test_labels_in_another_order_give_the_same_figures(tmp_path: Path) -> None:
    write_scenes(str(tmp_path), {"test": 2}, height=20, width=30)
    before = evaluated(tmp_path, "test").metrics
    order = [3, 0, 4, 1, 2]
    for path in tmp_path.rglob("labels/test/*.png"):
        ids = stored(path)
        Image.fromarray(np.argsort(order).astype(np.uint8)[ids]).save(path)
    rules = LabelRules(classes=tuple(CLASSES[i] for i in order), palette=tuple(PALETTE[i] for i in order))
    assert evaluated(tmp_path, "test", rules=rules.for_classes(CLASSES, "package")).metrics == before


def documents(folder: Path, *records: bytes) -> Evaluation:
    (folder / "records.jsonl").write_bytes(b"\n".join(records))
    task = TextSegmentation(buckets=64)
    model = SentenceTagger(SentenceTaggerConfig(buckets=64, vector_size=8, width=8, hidden=8))
    return evaluate(DocumentScorer(task=task, split="test"), model, all_inputs(str(folder), task.inputs))


def test_documents_without_a_boundary_are_no_perfect_result(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no paragraph boundary of split 'test' in 2 inputs"):
        documents(tmp_path, b'{"text": "One. Two. Three.", "split": "test"}', b'{"text": "A.", "split": "train"}')


def test_broken_records_fail_alone(tmp_path: Path) -> None:
    """A record whose split nobody can tell counts as failed, as in training."""
    good = b'{"text": "It rained. It poured.\\n\\nIt ended.", "split": "test"}'
    found = documents(tmp_path, good, b'{"text": "It', b"[1]")
    assert found.failed == {"bad_record": 2}
    assert found.metrics["documents"] == 1
    assert found.metrics["recall"] is not None


def test_the_page_explains_the_marks_and_shows_the_beginnings_of_long_documents(tmp_path: Path) -> None:
    text = "It rained. It poured. It ended in the evening of a day.\n\n" * 2000
    found = documents(tmp_path, json.dumps({"text": text, "split": "test", "doc_id": "long"}).encode())
    assert len(found.markup[0][1]) < 60_000 < len(text)
    page = evaluation_page("tagger on test", found, {}, {}).render()
    assert MARKS_TEXT in page
    assert page.index("F1 of documents") < page.index("Document long")


def test_the_split_and_the_group_of_a_parquet_file_count(tmp_path: Path) -> None:
    text = "It rained. It poured.\n\nIt ended."
    records = [{"text": text, "split": "test", "by": "a"}, {"text": "No. Yes.\n\nOh.", "split": "train", "by": "b"}]
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    table = tmp_path / "table"
    table.mkdir()
    columns = {name: [record[name] for record in records] for name in records[0]}
    columns["split"] = pa.array(columns["split"]).dictionary_encode()
    pq.write_table(pa.table(columns), table / "x.parquet")
    task = TextSegmentation(buckets=64)
    torch.manual_seed(0)
    model = SentenceTagger(SentenceTaggerConfig(buckets=64, vector_size=8, width=8, hidden=8))
    found = [
        evaluate(DocumentScorer(task=task, split="test", group="by"), model, all_inputs(str(folder), task.inputs))
        for folder in (lines, table)
    ]
    assert found[0].details == found[1].details
    assert [row["documents of"] for row in found[0].details] == ["all", "a"]


def test_documents_without_a_split_are_not_taken_for_it(tmp_path: Path) -> None:
    good = b'{"text": "It rained. It poured.\\n\\nIt ended.", "split": "test"}'
    (tmp_path / "plain.txt").write_text("It rained. It poured.\n\nIt ended.")
    found = documents(tmp_path, good, b'{"text": "One."}')
    assert (found.metrics["documents"], found.without_split) == (1, 2)
    with pytest.raises(RequestError, match="no document has a field 'split', so the split must be 'all'"):
        documents(tmp_path, b'{"text": "One."}')

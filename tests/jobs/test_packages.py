"""A package whose weights do not fit, such as one of an earlier version, is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs import segment_documents, train_text_segmenter
from jobs.segment_documents import SegmentDocuments
from jobs.train_text_segmenter import TrainTextSegmenter
from pipeline import package
from pipeline.errors import RequestError
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.text.task import TextSegmentation


@pytest.fixture
def misfit(tmp_path: Path) -> str:
    """A tagger's package whose settings say another size than its weights have."""
    model = SentenceTagger(SentenceTaggerConfig(buckets=64, vector_size=4, width=4, hidden=8))
    folder = tmp_path / "package"
    package.save(str(folder), model_name="sentence_tagger", model=model, task=TextSegmentation(buckets=64), card={})
    described = json.loads((folder / "config.json").read_text())
    described["model"]["config"]["hidden"] = 16
    (folder / "config.json").write_text(json.dumps(described))
    (tmp_path / "document.txt").write_text("One. Two.\n\nThree.")
    return str(folder)


def test_it_is_not_segmented_with(misfit: str, tmp_path: Path) -> None:
    settings = SegmentDocuments(source=str(tmp_path / "document.txt"), model=misfit, sink=str(tmp_path / "sink"))
    with pytest.raises(RequestError, match="weights do not fit the model"):
        segment_documents.work(settings)
    assert not (tmp_path / "sink").exists()


def test_no_training_starts_from_it(misfit: str, tmp_path: Path) -> None:
    settings = TrainTextSegmenter(documents=str(tmp_path / "document.txt"), init=misfit, out=str(tmp_path / "out"))
    with pytest.raises(RequestError, match="weights do not fit the model"):
        train_text_segmenter.work(settings)
    assert not (tmp_path / "out").exists()

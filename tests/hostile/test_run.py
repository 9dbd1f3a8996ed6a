"""The whole hostile corpus in one run: every input has its one expected row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline import package
from pipeline.models.documents.sentence_tagger import SentenceTagger, SentenceTaggerConfig
from pipeline.models.segmenters.unet import UNet, UNetConfig
from testing.equality import table_rows
from testing.hostile.corpus import Row, summary, write
from testing.jobs import call_job
from tests.hostile.test_corpus import TASKS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def write_package(folder: Path, kind: str) -> str:
    torch.manual_seed(0)
    task = TASKS[kind]
    if kind == "image":
        model: torch.nn.Module = UNet(UNetConfig(classes=2, widths=(8, 16), blocks=(1, 1)))
        return package.save(str(folder), model_name="unet", model=model, task=task, card={}).uri
    model = SentenceTagger(SentenceTaggerConfig(width=4, hidden=8, attention_members=0, recurrent_members=1))
    return package.save(str(folder), model_name="sentence_tagger", model=model, task=task, card={}).uri


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("heavy", [False, pytest.param(True, marks=pytest.mark.heavy)], ids=["small", "heavy"])
@pytest.mark.parametrize(("kind", "job"), [("image", "segment_images"), ("document", "segment_documents")])
def test_the_whole_corpus(cluster: None, tmp_path: Path, kind: str, job: str, heavy: bool) -> None:
    expected = write(tmp_path, kind, heavy=heavy)  # type: ignore[arg-type]
    given = ["--source", str(tmp_path / kind), "--model", write_package(tmp_path / "package", kind)]
    given += ["--sink", str(tmp_path / "sink"), "--max-error-rate", "1"]
    code, found, err = call_job(job, *given)
    assert code == 0, err[-3000:]
    wanted: dict[tuple[str, str | None], Row] = {
        (str(tmp_path / name), row.member): row for name, rows in expected.items() for row in rows
    }
    rows = table_rows(str(tmp_path / "sink"))
    assert {(row["uri"], row["member"]) for row in rows} == wanted.keys()
    assert len(rows) == len(wanted)
    for row in rows:
        want = wanted[row["uri"], row["member"]]
        assert (row["error"] and row["error"]["code"]) == want.error, row["uri"]
        if want.error is None and kind == "image":
            assert (row["height"], row["width"]) == want.size, row["uri"]
        elif want.error is None:
            assert row["num_chars"] == (want.num_chars or len(want.text or ""))
            assert want.digest in (None, row["text_sha256"])
    counts = summary(wanted.values())
    assert (found["done"], found["errors"]) == (counts.pop("done"), counts)
    assert call_job("verify", "--sink", str(tmp_path / "sink"))[0] == 0

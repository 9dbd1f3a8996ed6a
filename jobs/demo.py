"""Demonstration on one machine: train three models, segment two folders with broken files in them, show the results."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from jobs import segment_documents, segment_images, train_autoencoder, train_image_segmenter, train_text_segmenter
from jobs.cli import main
from jobs.console import say
from jobs.segment_documents import SegmentDocuments
from jobs.segment_images import SegmentImages
from jobs.train_autoencoder import TrainAutoencoder
from jobs.train_image_segmenter import TrainImageSegmenter
from jobs.train_text_segmenter import TrainTextSegmenter
from pipeline import config, package, storage
from pipeline.distributed.session import session
from pipeline.distributed.train import DistributedTrainConfig
from pipeline.examples.prose import reference_documents, write_jsonl
from pipeline.examples.scenes import write_scenes
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.models.documents.sentence_tagger import SentenceTaggerConfig
from pipeline.quality import demo_page
from pipeline.quality.evaluation import reconstruction_pairs
from pipeline.quality.pages import Page
from pipeline.runs.cluster import ClusterConfig
from pipeline.text.inputs import join_paragraphs
from pipeline.text.task import TextSegmentation

#: Passes of the three trainings, and scenes of each split: enough to show something within a few minutes.
EPOCHS = {"autoencoder": 8, "segmenter": 16, "tagger": 20}
SCENES = {"train": 96, "val": 16, "test": 24}

_BOX: dict[str, Any] = {"height_px": 90, "width_px": 120}
_ENCODER: dict[str, Any] = {"widths": (16, 32, 64), "blocks": (1, 1, 1)}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Demonstration on one machine: train three models, segment two folders with broken files, show the results."""

    out: str = "demo"
    """Folder for all results; the results of an earlier demonstration in it are deleted."""
    images: str | None = None
    """Labelled image folder of your own (images/, labels/, classes.json, train.txt); null: synthetic scenes."""
    documents: str | None = None
    """Documents of your own with paragraphs (a file or a folder); null: Python's language reference. They are segmented
    twice: at once by the tagger that comes with parquetry, and by one that is trained on them."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for name in ("images", "documents"):
            own = getattr(self, name)
            kept = own is None or not storage.is_within(own, self.out)
            config.check(self, name, kept, "be outside of out, which is deleted")


def work(settings: Demo) -> dict[str, Any]:
    out = storage.canonical(settings.out)
    if storage.exists(f"{out}/.parquetry-demo"):
        shutil.rmtree(out)
    storage.write(f"{out}/.parquetry-demo", b"")
    with session(settings.cluster):
        images, document = _images(settings.images, out), _documents(settings.documents, out)
    page = Page("Parquetry, the whole way")
    if settings.images is None:
        page.text("The pictures", "The scenes are synthetic: drawn by this program, with five textured classes.")
    truths = images.pop("truths")
    segmenter = config.from_dict(ImageSegmentation, package.load(f"{out}/segmenter").task)
    autoencoder = package.load(f"{out}/autoencoder")
    found = {name: demo_page.rows_of(f"{out}/{name}") for name in ("masks", "paragraphs")}
    demo_page.add_masks(page, segmenter, found["masks"], truths)
    task = config.from_dict(ImageReconstruction, autoencoder.task)
    good = [row["uri"] for row in found["masks"] if row["error"] is None][:4]
    page.pictures("Reconstructions by the autoencoder", reconstruction_pairs(task, autoencoder.model(), good))
    demo_page.add_documents(page, document.pop("source"), TextSegmentation.inputs, found["paragraphs"])
    failed = [row for rows in found.values() for row in rows if row["error"] is not None]
    page.table("Inputs set aside", [{"input": row["uri"], **row["error"]} for row in failed])
    report = page.write(f"{out}/report.html")
    for name, rows in found.items():
        say(f"table {out}/{name}/table")
        for row in [*rows[:4], *(row for row in rows if row["error"] is not None)]:
            say("   " + "  ".join(f"{key}: {value}" for key, value in demo_page.short(row).items()))
    say(f"pictures: {report}")
    tables = [f"{out}/{name}/table" for name in found]
    return {"status": "done", "tables": tables, "report": report, "images": images, "documents": document}


def _images(own: str | None, out: str) -> dict[str, Any]:
    folder = storage.canonical(own) if own else f"{out}/scenes"
    if own is None:
        say("drawing synthetic scenes")
        write_scenes(folder, SCENES)
    say("training the autoencoder")
    model = config.from_dict(
        train_autoencoder.ConvVAEConfig, {**_ENCODER, "decoder_blocks": (1, 1, 1), "latent_channels": 8}
    )
    settings = DistributedTrainConfig(epochs=EPOCHS["autoencoder"], batch_rows=8, learning_rate=2e-3, ema_decay=0.95)
    task = ImageReconstruction(**_BOX)
    train_autoencoder.work(
        TrainAutoencoder(images=folder, out=f"{out}/autoencoder", task=task, model=model, train=settings)
    )
    say("training the segmenter")
    settings = DistributedTrainConfig(epochs=EPOCHS["segmenter"], batch_rows=8, learning_rate=2e-3, ema_decay=0.95)
    trained = train_image_segmenter.work(
        TrainImageSegmenter(
            images=folder,
            out=f"{out}/segmenter",
            init=f"{out}/autoencoder",
            novelty=f"{out}/autoencoder",
            train=settings,
            recipe="none",
            baseline="none",
            **_BOX,
        )
    )
    say("segmenting images, some of them broken")
    held_out = "test" if storage.exists(f"{folder}/test.txt") else "train"
    listed = [line.split() for line in storage.read(f"{folder}/{held_out}.txt").decode().splitlines() if line][:200]
    truths = {}
    for number, (image, label) in enumerate(listed):
        name = f"{out}/inbox/images/{number:04d}{os.path.splitext(image)[1]}"
        storage.write(name, storage.read(f"{folder}/{image}"))
        truths[name] = f"{folder}/{label}"
    whole = storage.read(next(iter(truths)))
    for name, data in (("empty.jpg", b""), ("half.jpg", whole[: len(whole) // 2]), ("text.png", b"not a picture")):
        storage.write(f"{out}/inbox/images/{name}", data)
    table = segment_images.work(
        SegmentImages(source=f"{out}/inbox/images", model=f"{out}/segmenter", sink=f"{out}/masks")
    )
    return {"trained": trained["metrics"]["miou"], "done": table["done"], "failed": table["failed"], "truths": truths}


def _documents(own: str | None, out: str) -> dict[str, Any]:
    source, corpus = own, own
    if own is None:
        records = reference_documents()
        corpus, source = f"{out}/reference.jsonl", f"{out}/inbox/documents"
        write_jsonl(corpus, records[10:])
        for item in records[:10]:
            text, _ = join_paragraphs(item["text"], item["paragraphs"])
            storage.write(f"{source}/{item['doc_id']}.txt", text.encode())
        storage.write(f"{source}/empty.txt", b"")
        storage.write(f"{source}/latin-1.txt", "Not valid in UTF-8: é".encode("latin-1"))
    assert source is not None
    assert corpus is not None
    say("segmenting documents at once, with the tagger that comes with parquetry")
    at_once = segment_documents.work(SegmentDocuments(source=source, sink=f"{out}/paragraphs-at-once"))
    say("training a paragraph tagger on documents of their own kind")
    settings = DistributedTrainConfig(epochs=EPOCHS["tagger"], batch_rows=8, learning_rate=3e-3, ema_decay=0.95)
    trained = train_text_segmenter.work(
        TrainTextSegmenter(
            documents=corpus,
            out=f"{out}/tagger",
            task=TextSegmentation(consistency=0.0),
            model=SentenceTaggerConfig(recurrent_members=1, attention_members=1),
            train=settings,
            validation_fraction=0.2,
        )
    )
    say("segmenting documents, some of them broken")
    table = segment_documents.work(SegmentDocuments(source=source, model=f"{out}/tagger", sink=f"{out}/paragraphs"))
    counts = {"at_once": at_once["done"], "done": table["done"], "failed": table["failed"]}
    return {"trained": trained["metrics"]["f1"], **counts, "source": source}


if __name__ == "__main__":
    main(Demo, work)

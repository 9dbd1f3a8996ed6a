"""Draws docs/demo.png, the picture of the README, from what ``make demo`` left in a folder:

    make demo && .venv/bin/python docs/make_picture.py demo docs/demo.png

On the left are the first scenes of the folder of images: the input, the mask of the table over it, and the truth. On
the right is one document: its paragraphs as the table has them, each with its score, beside where they truly begin.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline import config, package
from pipeline.examples.prose import reference_documents
from pipeline.images.inputs import decode_image, decode_label
from pipeline.images.outputs import decode_mask, overlay
from pipeline.images.task import ImageSegmentation
from pipeline.quality.demo_page import rows_of
from pipeline.text.inputs import join_paragraphs

SCENES = ("0000", "0001", "0002")
DOCUMENT = "async"

WIDTH, MARGIN, CELL = 1240, 16, (196, 140)
TOP, LINE, TEXT_PX = 62, 19, 14
COLOURS = 224  # of the PNG's palette
INK, PALE = (36, 41, 47), (120, 128, 138)
RIGHT, MISSED, EXTRA = (26, 127, 55), (207, 34, 46), (191, 135, 0)


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def scenes(demo: Path) -> Iterator[list[np.ndarray]]:
    """Input, mask over it and truth over it of each of `SCENES`."""
    task = config.from_dict(ImageSegmentation, package.load(str(demo / "segmenter")).task)
    rows = {Path(row["uri"]).stem: row for row in rows_of(str(demo / "masks"))}
    for name in SCENES:
        image = decode_image(Path(rows[name]["uri"]).read_bytes(), task.max_pixels)
        mask = decode_mask(rows[name]["mask"]["bytes"])
        label = decode_label((demo / "scenes" / "labels" / "test" / f"{name}.png").read_bytes(), *image.shape[:2])
        yield [image, *(overlay(image, found, task.palette, 0.75) for found in (mask, label))]


def wrapped(text: str, width_px: float, size_px: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font(size_px).getlength(longer) <= width_px else [*lines, word]
    return lines


def draw_document(draw: ImageDraw.ImageDraw, demo: Path, left: int) -> None:
    """The paragraphs of `DOCUMENT`: a green bar where one truly begins, amber where none does, red what was missed."""
    row = next(row for row in rows_of(str(demo / "paragraphs")) if Path(row["uri"]).stem == DOCUMENT)
    record = next(record for record in reference_documents() if record["doc_id"] == DOCUMENT)
    text, spans = join_paragraphs(record["text"], record["paragraphs"])
    truth = {int(span[0]) for span in spans}
    y, indent = TOP, left + 52
    for paragraph in row["paragraphs"]:
        start, end = paragraph["start"], paragraph["end"]
        missed = sorted(place for place in truth if start < place < end)
        colour, top = RIGHT if start in truth else EXTRA, y
        draw.text((left, y), f"{paragraph['score']:.2f}", PALE, font(TEXT_PX))
        for first, last in itertools.pairwise([start, *missed, end]):
            if first in missed:
                draw.line([(indent, y + 1), (WIDTH - MARGIN, y + 1)], MISSED, 2)
                y += 5
            for line in wrapped(text[first:last], WIDTH - MARGIN - indent, TEXT_PX):
                draw.text((indent, y), line, INK, font(TEXT_PX))
                y += LINE
        draw.rectangle([(indent - 12, top + 2), (indent - 9, y - 2)], colour)
        y += 9


def draw_heading(draw: ImageDraw.ImageDraw, left: int, title: str, notes: list[tuple[int, str]]) -> None:
    draw.text((left, 10), title, INK, font(17))
    for x, note in notes:
        draw.text((x, 38), note, PALE, font(13))


def draw_legend(draw: ImageDraw.ImageDraw, demo: Path, y: int) -> None:
    task = config.from_dict(ImageSegmentation, package.load(str(demo / "segmenter")).task)
    x = MARGIN
    for name, colour in zip(task.classes, task.palette, strict=True):
        draw.rectangle([(x, y), (x + 12, y + 12)], tuple(colour))
        draw.text((x + 18, y - 2), name, PALE, font(13))
        x += 34 + int(font(13).getlength(name))


def picture(demo: Path) -> Image.Image:
    step = (CELL[0] + 8, CELL[1] + 8)
    height = TOP + step[1] * len(SCENES) + 28
    page = Image.new("RGB", (WIDTH, height), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    columns = [MARGIN + step[0] * column for column in range(3)]
    names = ["input", "mask in the table", "truth"]
    draw_heading(draw, MARGIN, "Images in, masks out", list(zip(columns, names, strict=True)))
    for number, shown in enumerate(scenes(demo)):
        for x, pixels in zip(columns, shown, strict=True):
            page.paste(Image.fromarray(pixels).resize(CELL, Image.Resampling.LANCZOS), (x, TOP + step[1] * number))
    draw_legend(draw, demo, height - 22)
    left = columns[-1] + step[0] + 24
    draw_heading(draw, left, "Documents in, paragraphs out", [(left, "score"), (left + 52, "paragraph in the table")])
    key = ((RIGHT, "right"), (EXTRA, "none begins here"), (MISSED, "missed"))
    x = left + 210
    for colour, name in key:
        draw.rectangle([(x, 40), (x + 12, 52)], colour)
        draw.text((x + 18, 38), name, PALE, font(13))
        x += 36 + int(font(13).getlength(name))
    draw_document(draw, demo, left)
    return page.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    demo, target = Path(sys.argv[1]), Path(sys.argv[2])
    picture(demo).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()

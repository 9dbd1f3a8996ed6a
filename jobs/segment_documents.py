"""Segment documents: write the paragraphs of all documents of a source to a Parquet table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.cli import main
from jobs.console import say
from jobs.segmenting import SegmentSettings, segment
from pipeline.package import BUILTIN
from pipeline.text.reconstruction import PARAGRAPHS
from pipeline.text.task import DECODING

DEFAULT_MODEL = f"{BUILTIN}paragraphs-en"


@dataclass(frozen=True, kw_only=True)
class SegmentDocuments(SegmentSettings):
    """Segment documents: write the paragraphs of all documents of a source to a Parquet table."""

    model: str = DEFAULT_MODEL
    """URI of the model package, of a tagger or of an autoencoder of sentences; builtin:paragraphs-en is a small tagger
    of English texts that comes with parquetry; builtin:texttiling and builtin:c99 compare words and have learned
    nothing."""
    max_chars: int | None = None
    """Largest number of characters of a document; longer ones become error rows. null: the package's limit."""
    threshold: float | None = None
    """Probability from which on a sentence begins a paragraph; null: the package's setting."""
    min_paragraph_chars: int | None = None
    """Smallest number of characters of a paragraph, as far as max_paragraph_chars allows; null: the package's setting,
    which is 0 unless it was trained with another."""
    max_paragraph_chars: int | None = None
    """Largest number of characters of a paragraph; a longer one is cut where the scores are best, and a single sentence
    that is longer stays whole. null: the package's setting, usually no limit."""
    granularity: float | None = None
    """How coarse paragraphs are, from 0 (every sentence is one) over 0.5 (as the scores say) to 1 (one for the whole
    document, as far as max_paragraph_chars allows). null: the package's setting, usually 0.5."""
    only_at_breaks: bool | None = None
    """Let paragraphs begin only at line ends of the text, or where a line, block or cue of a format begins. null: the
    package's setting, usually false."""
    pause_weight: float | None = None
    """Weight of pauses in transcripts: a sentence after a longer pause than usual rather begins a paragraph; 0: pauses
    do not count. null: the package's setting, usually 1."""
    layout_weight: float | None = None
    """Weight of what the lines of a PDF, or the blocks of HTML, Markdown, Word files and books, say about paragraphs;
    0: nothing. null: the package's setting, usually 1."""
    with_text: bool | None = None
    """Write the text, into which the offsets point, to a column text. null: the package's setting, usually false."""
    ocr: bool | None = None
    """Read pages of PDF files that are pictures, too, which takes seconds a page and needs the extra ocr. null: the
    package's setting, usually false."""


def work(settings: SegmentDocuments) -> dict[str, Any]:
    if settings.model == DEFAULT_MODEL:
        say(f"the model is {DEFAULT_MODEL}, which knows English books; --model takes another")
    return segment(settings, PARAGRAPHS, {name: getattr(settings, name) for name in DECODING})


if __name__ == "__main__":
    main(SegmentDocuments, work)

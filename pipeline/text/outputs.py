"""Paragraphs from the scores of sentences, and renderings of a document with its boundaries."""

from __future__ import annotations

import hashlib
import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

#: [start, end) in code points; ``score`` is the probability that a paragraph begins at ``start``, 1 for the first.
PARAGRAPH_TYPE = pa.struct([("start", pa.int64()), ("end", pa.int64()), ("score", pa.float32())])

#: The first and the last second of a paragraph of a transcript.
TIMES_TYPE = pa.struct([("first_s", pa.float64()), ("last_s", pa.float64())])

#: What the values mean, for the metadata of a table's files.
DESCRIPTION = {
    "result": "paragraphs",
    "unit": "code point",
    "how_to_read": "Paragraphs are half-open ranges [start, end) of Unicode code points in the decoded text, without a "
    "byte order mark; in Python text[start:end]. They tile the text. text_sha256 is the SHA-256 of the text in UTF-8.",
}


def paragraphs_from_begins(
    starts: np.ndarray, scores: np.ndarray, num_chars: int, begins: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The paragraphs (start, end, score), which tile [0, num_chars), of the sentences that begin one.

    ``starts`` (s,) are the starts of the sentences, beginning with 0; ``scores`` (s,) are the probabilities that a
    paragraph begins there; ``begins`` (s,) says which do, the first among them.
    """
    assert len(starts) == len(scores) == len(begins) > 0, (len(starts), len(scores), len(begins))
    assert starts[0] == 0, starts[0]
    assert begins[0]
    start = starts[begins]
    score = scores[begins].astype(np.float32)
    score[0] = 1.0
    return start, np.append(start[1:], num_chars), score


def certainty(scores: np.ndarray) -> tuple[float, float] | None:
    """(confidence, uncertainty) of a document from its scores (s,); None if it has only one sentence.

    Confidence is the mean probability of the likelier answer, uncertainty the mean entropy of the answer in nats. The
    means are over all sentences except the first, where a paragraph always begins.
    """
    inner = scores[1:].astype(np.float64)
    if not len(inner):
        return None
    clipped = np.clip(inner, 1e-12, 1 - 1e-12)
    entropy = -(clipped * np.log(clipped) + (1 - clipped) * np.log1p(-clipped))
    return float(np.maximum(inner, 1 - inner).mean()), float(entropy.mean())


#: What `render_html` shows, for those who look at it.
SCORES_TEXT = "The number before a paragraph is the probability that one begins there."
MARKS_TEXT = f"{SCORES_TEXT} A bar marks one that is none, ¶ one that was missed."


def beginning(paragraphs: Sequence[tuple[int, int, float]], most_chars: int) -> list[tuple[int, int, float]]:
    """The paragraphs that end within so many characters; at least the first, which is cut there."""
    whole = [span for span in paragraphs if span[1] <= most_chars]
    return whole or [(start, min(end, most_chars), score) for start, end, score in paragraphs[:1]]


def render_html(text: str, paragraphs: Sequence[tuple[int, int, float]], truth: Sequence[int] | None = None) -> str:
    """The document as an HTML fragment: a ``<p>`` for each paragraph, which begins with its score.

    With ``truth`` (true starts), wrong paragraphs have the class ``extra``, and true starts inside a paragraph are
    marked as ``missed``.
    """
    found = {start for start, _, _ in paragraphs}
    missed = sorted(set(truth or ()) - found)
    lines = []
    for start, end, score in paragraphs:
        extra = truth is not None and start not in truth and start > 0
        cuts = [start, *(place for place in missed if start < place < end), end]
        pieces = [html.escape(text[a:b].strip()) for a, b in itertools.pairwise(cuts)]
        body = ' <mark class="missed">¶</mark> '.join(pieces)
        name = ' class="extra"' if extra else ""
        lines.append(f"<p{name}><small>{score:.2f}</small> {body}</p>")
    return "\n".join(lines)


def paragraphs_problem(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the paragraphs of a table's row, or None. They must tile the text without gaps. Their times
    and pages, if there are any, are as many; the text, if it is there, is the one of the digest."""
    spans, position = row["paragraphs"], 0
    if len(spans) != row["num_paragraphs"]:
        return f"{len(spans)} paragraphs, num_paragraphs says {row['num_paragraphs']}"
    for span in spans:
        if not position == span["start"] < span["end"]:
            return f"a paragraph [{span['start']}, {span['end']}) follows one that ends at {position}"
        if not 0 <= span["score"] <= 1:
            return f"the score {span['score']} is no probability"
        position = span["end"]
    for name in ("times", "pages"):
        if row.get(name) is not None and len(row[name]) != len(spans):
            return f"{len(spans)} paragraphs have {len(row[name])} {name}"
    text = row.get("text")
    if text is not None and hashlib.sha256(text.encode()).hexdigest() != row["text_sha256"]:
        return "the text is not the one of text_sha256"
    return None if position == row["num_chars"] else f"paragraphs end at {position}, the text at {row['num_chars']}"

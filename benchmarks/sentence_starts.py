"""Makes the weights that say where a sentence may begin in text without stops (`pipeline.text.unpunctuated`).

They are learned from the books of split train, whose punctuation and mostly case are removed; a fifth of these books is
held out to measure. A sentence begins where the rules find one in the text as it was printed; a gap before a paragraph
counts three times. Recall is that of the beginnings of sentences and of paragraphs, at the threshold that is used.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.measures.document_sets import records
from benchmarks.record import data_folder, record
from pipeline.text import unpunctuated
from pipeline.text.characters import code_points
from pipeline.text.inputs import join_paragraphs, paragraph_starts
from pipeline.text.plain import keeps_case, without_marks
from pipeline.text.stops import item_starts, sentence_ends

_FILE = Path(unpunctuated.__file__).parent / unpunctuated.WEIGHTS
_BUCKETS = 1 << 18
_BATCH = 4096
_PARAGRAPH_WEIGHT = 3.0
_DROPOUT = 0.3  # of the features of a gap, or triples of words would learn the books by heart
_RATE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--install", action="store_true", help=f"write pipeline/text/{unpunctuated.WEIGHTS}")
    parser.add_argument("--small", action="store_true", help="a few books: shows that it runs, not how good it is")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    known = [item for item in records(data / "books" / "books.jsonl.gz") if item["split"] == "train"]
    if arguments.small:
        known = known[::20]
    titles = sorted({item["title"] for item in known})
    held = set(titles[::5])
    learned = [item for item in known if item["title"] not in held]
    weights = learn(_gaps(learned), arguments.epochs)
    rows = [
        _measured(weights, [item for item in known if item["title"] in held and item["kind"] == kind]) | {"books": kind}
        for kind in ("fiction", "nonfiction")
    ]
    if arguments.install:
        np.save(_FILE, weights, allow_pickle=False)
    headline = {"bytes": weights.nbytes, "recall_paragraphs_fiction": rows[0]["recall of paragraphs"]}
    record("sentence_starts", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


def learn(gaps: tuple[np.ndarray, np.ndarray, np.ndarray], epochs: int) -> np.ndarray:
    """The weights, int8 (buckets,), of the features (n, f) of gaps with labels and weights (n,)."""
    features, labels, importance = (torch.from_numpy(array) for array in gaps)
    chance = torch.Generator().manual_seed(0)
    table = torch.nn.EmbeddingBag(_BUCKETS, 1, mode="sum", sparse=True)
    torch.nn.init.zeros_(table.weight)
    optimiser = torch.optim.Adagrad(table.parameters(), lr=_RATE)
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=chance)
        total = 0.0
        for begin in range(0, len(order), _BATCH):
            chosen = order[begin : begin + _BATCH]
            ids = features[chosen].long()
            kept = (torch.rand(ids.shape, generator=chance) >= _DROPOUT).float() / (1 - _DROPOUT)
            intercept = torch.zeros_like(ids[:, :1])
            everything = torch.cat([ids, intercept], dim=1), torch.cat([kept, intercept + 1.0], dim=1)
            logits = table(everything[0], per_sample_weights=everything[1])[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, labels[chosen], importance[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}: {total / len(order):.4f}", file=sys.stderr)
    found = table.weight.detach()[:, 0].numpy()
    return np.clip(np.rint(found * unpunctuated.SCALE), -127, 127).astype(np.int8)


def _gaps(known: Iterable[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features, labels, importance = [], [], []
    for plain, spans, begins, paragraphs in map(_plain, known):
        features.append(unpunctuated.gap_features(code_points(plain), spans, _BUCKETS).astype(np.int32))
        labels.append(np.isin(spans[:, 0], begins).astype(np.float32))
        importance.append(np.where(np.isin(spans[:, 0], paragraphs), np.float32(_PARAGRAPH_WEIGHT), np.float32(1)))
    return np.concatenate(features), np.concatenate(labels), np.concatenate(importance)


def _plain(chapter: dict[str, Any]) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """A chapter without marks, its words (n, 2), and where its sentences and its paragraphs begin."""
    text, paragraphs = join_paragraphs(chapter["text"], chapter["paragraphs"])
    sentences = _ruled(text)
    first = set(paragraph_starts(text, paragraphs))
    pieces = [without_marks(text, [span], keep_case=keeps_case(text))[0] for span in sentences.tolist()]
    places = list(itertools.accumulate((len(piece) + bool(piece) for piece in pieces), initial=0))[:-1]
    plain = " ".join(piece for piece in pieces if piece)
    begins = [place for place, piece in zip(places, pieces, strict=True) if piece]
    of_paragraphs = [
        place for place, piece, (start, _) in zip(places, pieces, sentences.tolist(), strict=True) if start in first
    ]
    return plain, unpunctuated.word_spans(plain), np.array(begins), np.array(of_paragraphs)


def _ruled(text: str) -> np.ndarray:
    """The sentences (s, 2) by the rules alone, which need no weights."""
    places = [0, *(place for place in itertools.chain(sentence_ends(text), item_starts(text)) if place < len(text))]
    edges = np.append(np.unique(places), len(text))
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _measured(weights: np.ndarray, known: list[dict[str, Any]]) -> dict[str, Any]:
    found = hits = sentences = paragraph_hits = paragraphs = 0
    for plain, spans, begins, firsts in map(_plain, known):
        chosen = unpunctuated.chosen_gaps(unpunctuated.log_odds(plain, spans, weights), unpunctuated.THRESHOLD)
        places = spans[chosen, 0]
        found, hits = found + len(places), hits + int(np.isin(begins, places).sum())
        sentences, paragraphs = sentences + len(begins), paragraphs + len(firsts)
        paragraph_hits += int(np.isin(firsts, places).sum())
    return {
        "sentences": sentences,
        "found for a sentence": found / sentences,
        "recall of sentences": hits / sentences,
        "precision of sentences": hits / found,
        "recall of paragraphs": paragraph_hits / paragraphs,
    }


if __name__ == "__main__":
    main()

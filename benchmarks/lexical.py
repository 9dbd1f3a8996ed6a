"""Makes the packages ``builtin:texttiling`` and ``builtin:c99``, which have learned nothing, and checks them on Choi.

Both look at words only. Stop words are scikit-learn's list of 318 English words; they and punctuation are ignored.
There is no stemmer: with Porter's, Pk on Choi changes by at most 0.03 (benchmarks/LOG.md). The figures are Pk in per
cent on the documents of Choi (2000) with their own sentences, the number of segments unknown: with words as units, as
in Choi's table, and with sentences as units, as everywhere else in this project.
"""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import sys
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from benchmarks.measures.document_sets import CHOI, choi
from benchmarks.record import data_folder, record
from pipeline import models, package
from pipeline.models.documents.lexical import LexicalSegmenter
from pipeline.text.features import sentence_features
from pipeline.text.metrics import pk
from pipeline.text.task import TextSegmentation

NAMES = ("texttiling", "c99")
_FOLDER = Path(__file__).parent.parent / "pipeline" / "builtin"
_BUCKETS = 65_536
#: ASCII and Latin-1, general punctuation, and that of Chinese and Japanese.
_PUNCTUATION_BLOCKS = (range(0x20, 0x100), range(0x2010, 0x2060), range(0x3000, 0x3040), range(0xFF00, 0xFF66))
_TOKEN = re.compile(r"\w+(?:['’]\w+)*|\S")
#: Error in per cent that Choi (2000) gives, by subset, the number of segments unknown.
_PUBLISHED = {"c99": (13, 18, 10, 10), "texttiling": (46, 44, 43, 48)}
_SOURCES = {
    "texttiling": "Hearst 1997, TextTiling: sequences of 20 words, blocks of 10, one smoothing, conservative cutoff",
    "c99": "Choi 2000, Advances in domain independent linear text segmentation: ranks in 11 x 11, c = 1.2",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--install", action="store_true", help="put the packages into pipeline/builtin")
    parser.add_argument("--small", action="store_true", help="10 documents of each subset")
    arguments = parser.parse_args()
    if arguments.install:
        for name in NAMES:
            shutil.rmtree(_FOLDER / name, ignore_errors=True)
            write(name, str(_FOLDER / name))
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with choi in it")
    rows = [row for name in NAMES for row in checked(name, data, 10 if arguments.small else None)]
    headline = {f"pk_words_{row['method']}_{row['subset']}": row["pk of words"] for row in rows}
    record("lexical", rows, headline, f"No training. {__doc__}", small=arguments.small)


def write(name: str, out: str) -> package.Package:
    """Write the package of a method."""
    task = TextSegmentation(buckets=_BUCKETS, window_sentences=512, context_sentences=64, threshold=0.5)
    card = {
        "method": _SOURCES[name],
        "data": "none: nothing was trained. The stop words are scikit-learn's English list.",
        "command": "python -m benchmarks.lexical --install",
    }
    return package.save(out, model_name=name, model=segmenter(name), task=task, card=card)


def segmenter(name: str) -> LexicalSegmenter:
    """The method with its usual settings, which ignores stop words and punctuation."""
    model = models.build(name, {"buckets": _BUCKETS})
    assert isinstance(model, LexicalSegmenter), name
    # Only what stands in texts: each ignored character takes an id from words that share its hash.
    characters = [chr(code) for block in _PUNCTUATION_BLOCKS for code in block]
    punctuation = [character for character in characters if unicodedata.category(character)[0] in "PS"]
    model.ignore(torch.from_numpy(_ids([*sorted(ENGLISH_STOP_WORDS), *punctuation])))
    return model.eval()


def _ids(tokens: list[str]) -> np.ndarray:
    """The ids of tokens, each as a sentence of its own."""
    edges = np.cumsum([0, *(len(token) + 1 for token in tokens)])
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    return sentence_features("".join(f"{token} " for token in tokens), spans, _BUCKETS, see_breaks=False).content


def checked(name: str, data: Path, most: int | None) -> list[dict[str, Any]]:
    """A row for each subset of Choi."""
    model, rows = segmenter(name), []
    for subset, published in zip(CHOI, _PUBLISHED[name], strict=True):
        documents = choi(data, subset)[:most]
        found = np.array([_errors(model, document.text, document.units, document.starts) for document in documents])
        of_sentences, of_words, number = found.mean(0)
        row = {"method": name, "subset": subset, "documents": len(documents), "pk of words": 100 * of_words}
        rows.append(row | {"published": published, "pk of sentences": 100 * of_sentences, "segments": number})
    return rows


def _errors(model: LexicalSegmenter, text: str, units: list[int], starts: list[int]) -> tuple[float, float, float]:
    """Pk with sentences and with words as units, and the number of segments found."""
    edges = [*units, len(text)]
    sentences = [text[low:high] for low, high in itertools.pairwise(edges)]
    vocabulary: defaultdict[str, int] = defaultdict(lambda: len(vocabulary))
    words, ignored, sentence = [], [], []
    for number, content in enumerate(sentences):
        for token in _TOKEN.findall(content.lower()):
            words.append(vocabulary[token])
            ignored.append(token in ENGLISH_STOP_WORDS or not token[0].isalnum())
            sentence.append(number)
    with torch.inference_mode():
        logits = model.logits(torch.tensor(words), torch.tensor(sentence), torch.tensor(ignored), len(sentences))
    found = (logits[1:] >= 0).numpy()
    truth = np.isin(units[1:], starts)
    last_words = np.cumsum([len(content.split()) for content in sentences])
    of_words = [np.zeros(last_words[-1] - 1, bool) for _ in range(2)]
    for flags, boundaries in zip(of_words, (truth, found), strict=True):
        flags[last_words[:-1][boundaries] - 1] = True
    return pk(truth, found), pk(of_words[0], of_words[1]), float(found.sum()) + 1


if __name__ == "__main__":
    main()

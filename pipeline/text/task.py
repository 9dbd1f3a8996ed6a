"""The text segmentation task: documents to tensors, and paragraphs to rows of the table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import added, check
from pipeline.errors import InputError, RequestError
from pipeline.models.documents.sentence_tagger import SentenceTagger
from pipeline.noise import Noise
from pipeline.rows import InputKind, each_row
from pipeline.task import Task
from pipeline.text.columns import table_of
from pipeline.text.decoding import Limits, best_begins, shifted_scores
from pipeline.text.evidence import SENTENCE_FIELDS, sentence_columns, sentences_of
from pipeline.text.features import DENSE_FEATURES, SentenceFeatures, sentence_features
from pipeline.text.formats.detection import ENDINGS
from pipeline.text.formats.readers import missing_for_ocr
from pipeline.text.inputs import Spans, join_paragraphs, paragraph_starts, split_with_odds, with_less_space
from pipeline.text.language import language_name, language_of
from pipeline.text.learning import BINS, PRIME, curve, dropped, likeliest_offsets
from pipeline.text.novelty import FOLDS, NOVELTY_COLUMNS, DocumentReference
from pipeline.text.novelty_trial import tried, words_of
from pipeline.text.outputs import (
    DESCRIPTION,
    PARAGRAPH_TYPE,
    TIMES_TYPE,
    certainty,
    paragraphs_from_begins,
)
from pipeline.text.plain import keeps_case, share_of, without_marks
from pipeline.text.reading import ReadDocument, read_document
from pipeline.text.subword_windows import sentence_subwords, subwords_of
from pipeline.text.thresholds import document_threshold
from pipeline.text.vectors import MAX_TOKENS, lasting_directions, word_vectors
from pipeline.text.windows import (
    FEATURE_FIELDS,
    SUBWORD_FIELDS,
    cut,
    feature_columns,
    features_at,
    padded,
    values_at,
    word_ends,
)
from pipeline.training.losses import Batch, Loss, Statistics

#: Columns of features from a text, its sentences (s, 2), and their log-odds (s,) as in `split_with_odds`.
FeatureColumns = Callable[[str, np.ndarray, np.ndarray], dict[str, Any]]

#: Settings that can be changed where documents are segmented, whatever found the scores.
DECODING = (
    "max_chars",
    "threshold",
    "min_paragraph_chars",
    "max_paragraph_chars",
    "granularity",
    "only_at_breaks",
    "pause_weight",
    "layout_weight",
    "with_text",
    "ocr",
)

_DOCUMENT_FIELDS = {
    "doc_id": pa.string(),
    "num_chars": pa.int64(),
    "text_sha256": pa.string(),
    "encoding": pa.string(),
    "format": pa.string(),
    "language": pa.string(),
}
_TEXT_FIELD = {"text": pa.large_string()}
_KEPT_FIELDS = _DOCUMENT_FIELDS | _TEXT_FIELD | {"starts": pa.large_list(pa.int64())} | SENTENCE_FIELDS
_LABEL_FIELDS = {"labels": pa.large_list(pa.int8()), "missed": pa.int64()}
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")
_NOT_SCORED = -1
_HASHED_CHARS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TextSegmentation(Task):
    """Splits a document into paragraphs."""

    kind: ClassVar[str] = "text_segmenter"
    #: 2: a CR LF is one end of a line, and long sentences are cut between grapheme clusters.
    #: 3: sentences in scripts of their own, in lists, and in text without punctuation; the threshold of a document is
    #: for an unknown offset of its scores.
    #: 4: that offset is small in documents that are not novel.
    results: ClassVar[int] = 4
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("f1", "max")
    inputs: ClassVar[InputKind] = InputKind(
        suffixes=(*ENDINGS, ".jsonl", ".parquet", ".tar", ".tgz"),
        record=("text", "doc_id", "paragraphs"),
        formats=tuple(ENDINGS.items()),
    )
    result: ClassVar[str] = "paragraphs"
    truth_unit: ClassVar[str] = "paragraph boundary"

    buckets: int = 65536
    """Number of ids of hashed features; it must be the same as the model's setting of this name."""
    window_sentences: int = 256
    """Number of sentences that the model reads at once, including the context."""
    context_sentences: int = 32
    """Number of these sentences at each end that are read as context only, except at the ends of a document."""
    window_batch: int = 16
    """Number of windows in one call of the model when documents are segmented."""
    max_sentence_chars: int = 2000
    """Largest number of characters of a sentence; longer ones are cut, between characters as readers see them."""
    max_chars: int = 100_000_000
    """Largest number of characters of a document; longer ones become error rows."""
    threshold: float | None = None
    """Probability from which on a paragraph begins. null: the threshold with the best expected F1 of each document."""
    hide_breaks_in_training: bool = True
    """Train on paragraphs that are joined by one space, and ignore line breaks. Otherwise line breaks are features."""
    feature_dropout: float = 0.5
    """Fraction of the words and hashed features that are removed from a training window; a word is removed everywhere
    in the window."""
    offset_std: float = 0.5
    """Standard deviation of the prior of an offset that is fitted to each training window and added to its logits. So
    the model does not learn an author's frequency of paragraphs from the author's words. 0: no offset."""
    consistency: float = 1.0
    """Weight of the divergence between two answers of the model to the same training window with different dropout
    (R-Drop, Liang et al. 2021). 0: one answer and no divergence."""
    min_paragraph_chars: int = added(0)
    """Smallest number of characters of a paragraph, as far as max_paragraph_chars allows. A shorter one is joined with
    a neighbour, so that the paragraphs of the document have the best scores together."""
    max_paragraph_chars: int | None = added(None)
    """Largest number of characters of a paragraph, or null. A longer one is cut where the scores are best; a single
    sentence that is longer stays whole."""
    granularity: float = added(0.5)
    """How coarse paragraphs are, in [0, 1]. 0: every sentence is one; 0.5: as the scores say; 1: one for the document,
    as far as max_paragraph_chars allows."""
    only_at_breaks: bool = added(False)
    """Let paragraphs begin only at line ends of the text, or where a line, block or cue of a format begins."""
    pause_weight: float = added(1.0)
    """Weight of the pauses in transcripts: a sentence after a longer pause than usual rather begins a paragraph. 0:
    pauses do not count."""
    layout_weight: float = added(1.0)
    """Weight of what the lines of a PDF, or the blocks of HTML, Markdown, Word files and books, say about paragraphs.
    0: they do not count."""
    with_text: bool = added(False)
    """Write the text, into which the offsets point, to the column text."""
    ocr: bool = added(False)
    """Read pages of PDF files that are pictures, too, which takes seconds a page. It needs the extra ocr wherever
    documents are prepared."""
    unpunctuated_fraction: float = added(0.15)
    """Fraction of the documents that are learned a second time without punctuation, three of four also without case,
    for text as speech-to-text writes it. Which ones depends on their texts alone. None without
    hide_breaks_in_training."""
    languages: tuple[str, ...] = added(())
    """Languages that the model was trained on, as codes such as en. Documents in others are counted as unusual. []: it
    is not known, and none is."""
    novelty_reference: DocumentReference | None = added(None)
    """Statistics of the training documents, by which the novelty of a document is told; null: nothing tells it."""
    novelty_remark: str | None = added(None)
    """How well novelty tells strange documents from others, or why it is null."""
    vocabulary: tuple[str, ...] = added(())
    """Pieces of the subwords that a model with an encoder reads. Training takes them from the package that init
    names."""
    max_subwords: int = added(64)
    """Number of subwords of a sentence that such a model reads. Training takes it from the package that init names."""

    def __post_init__(self) -> None:
        check(self, "buckets", 2 <= self.buckets <= 1 << 24, "be in [2, 2 ** 24]")
        check(self, "context_sentences", self.context_sentences >= 0, "not be negative")
        rule = "be more than twice the context_sentences"
        check(self, "window_sentences", self.window_sentences > 2 * self.context_sentences, rule)
        check(self, "window_batch", self.window_batch >= 1, "be at least 1")
        check(self, "max_sentence_chars", 16 <= self.max_sentence_chars <= 1 << 17, "be in [16, 131072]")
        check(self, "max_chars", self.max_chars >= 1, "be at least 1")
        check(self, "threshold", self.threshold is None or 0 < self.threshold <= 1, "be in (0, 1], or null")
        check(self, "feature_dropout", 0 <= self.feature_dropout < 1, "be in [0, 1)")
        check(self, "offset_std", self.offset_std >= 0, "not be negative")
        check(self, "consistency", self.consistency >= 0, "not be negative")
        check(self, "min_paragraph_chars", self.min_paragraph_chars >= 0, "not be negative")
        most = self.max_paragraph_chars
        check(self, "max_paragraph_chars", most is None or most >= 1, "be at least 1, or null")
        rule = "not be less than the min_paragraph_chars"
        check(self, "max_paragraph_chars", most is None or most >= self.min_paragraph_chars, rule)
        check(self, "granularity", 0 <= self.granularity <= 1, "be in [0, 1]")
        rule = "be codes of languages, such as en or pt-BR"
        check(self, "languages", all(_LANGUAGE.fullmatch(code) for code in self.languages), rule)
        check(self, "unpunctuated_fraction", 0 <= self.unpunctuated_fraction <= 1, "be in [0, 1]")
        if self.vocabulary:
            subwords_of(self.vocabulary)
        check(self, "max_subwords", 2 <= self.max_subwords <= 1 << 12, "be in [2, 4096]")
        for name in ("pause_weight", "layout_weight"):
            check(self, name, 0 <= getattr(self, name) <= 100, "be in [0, 100]")

    @property
    def schema(self) -> pa.Schema:
        scores = {name: pa.float32() for name in ("confidence", "uncertainty", "novelty", "novelty_raw")}
        fields = {"paragraphs": pa.list_(PARAGRAPH_TYPE), "num_paragraphs": pa.int64()}
        places = {"times": pa.list_(TIMES_TYPE), "pages": pa.list_(pa.int32())}
        text = {"text": pa.string()} if self.with_text else {}
        return pa.schema(_DOCUMENT_FIELDS | fields | places | text | scores | {"embedding": pa.list_(pa.float32())})

    @property
    def description(self) -> dict[str, Any]:
        """How the offsets of paragraphs are read."""
        return DESCRIPTION

    def prepare(self, inputs: pa.Table) -> pa.Table:
        """Columns of the document, ``starts`` of its sentences, what its format says of them (`SENTENCE_FIELDS`), and
        their features as in `SentenceFeatures`."""
        return self.prepare_with(
            inputs,
            self._feature_fields,
            lambda text, sentences, odds: feature_columns(self._features(text, sentences, odds)),
        )

    def prepare_with(self, inputs: pa.Table, fields: dict[str, pa.DataType], features: FeatureColumns) -> pa.Table:
        """`prepare` with other features: columns of the given ``fields``."""
        rows, errors = each_row("prepare", read_inputs(inputs), lambda row: self._prepare_document(row, features))
        return table_of(_KEPT_FIELDS | fields, rows).append_column("error", errors)

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Replace the features by ``scores``: for each sentence, the probability that a paragraph begins there.

        Documents are cut into windows that overlap by twice the context, so the memory of the model is bounded.
        """
        documents = [features_at(prepared, row) for row in range(prepared.num_rows)]
        scores = self.scores(model, documents, device)
        kept = prepared.select([*_KEPT_FIELDS])
        kept = kept.append_column("scores", pa.array(scores, pa.large_list(pa.float32())))
        for name, values in self._novelty(model, documents).items():
            kept = kept.append_column(name, values)
        return kept

    def scores(self, model: nn.Module, documents: list[SentenceFeatures], device: torch.device) -> list[np.ndarray]:
        """For each document, the probability of each of its sentences that a paragraph begins there, float32 (s,)."""
        self._check_model(model)
        model = model.eval()
        scores = [np.empty(len(document.counts), np.float32) for document in documents]
        ends = [word_ends(document) for document in documents]
        windows = [
            (row, *window) for row, document in enumerate(documents) for window in self._windows(len(document.counts))
        ]
        for begin in range(0, len(windows), self.window_batch):
            chosen = windows[begin : begin + self.window_batch]
            batch = padded([cut(documents[row], ends[row], start, end) for row, start, end, _, _ in chosen])
            with torch.inference_mode():
                there = {name: tensor.to(device) for name, tensor in batch.items()}
                logits = _logits(model, _with_latents(model, there))
                probabilities = torch.sigmoid(logits.float().mean(0)).cpu().numpy()
            for found, (row, start, _, first, last) in zip(probabilities, chosen, strict=True):
                scores[row][first:last] = found[first - start : last - start]
        return scores

    def _novelty(self, model: nn.Module, documents: list[SentenceFeatures]) -> dict[str, pa.Array]:
        """The columns ``novelty`` and ``novelty_raw`` of documents; null without a reference."""
        reference, weights = self.novelty_reference, words_of(model)
        if reference is None or weights is None or not documents:
            return {name: pa.nulls(len(documents), pa.float32()) for name in NOVELTY_COLUMNS}
        statistics = reference.statistics(self.buckets, weights)
        raw = reference.raw(np.stack([statistics.of(document) for document in documents]))
        ranks = reference.percentile(raw, np.array([len(document.content) for document in documents]))
        return dict(zip(NOVELTY_COLUMNS, (pa.array(values, pa.float32()) for values in (ranks, raw)), strict=True))

    def encode(self, predicted: pa.Table) -> pa.Table:
        rows = [self._encode_document(predicted, row) for row in range(predicted.num_rows)]
        fields = list(PARAGRAPH_TYPE)
        paragraphs = [
            pa.StructArray.from_arrays([pa.array(part) for part in row["paragraphs"]], fields=fields) for row in rows
        ]
        offsets = np.append(0, np.cumsum([len(item) for item in paragraphs])).astype(np.int32)
        values = pa.concat_arrays([pa.array([], PARAGRAPH_TYPE), *paragraphs])
        columns: dict[str, Any] = {name: predicted[name] for name in _DOCUMENT_FIELDS}
        columns["paragraphs"] = pa.ListArray.from_arrays(offsets, values)
        columns["num_paragraphs"] = [len(item) for item in paragraphs]
        columns |= {name: [row[name] for row in rows] for name in ("times", "pages", "confidence", "uncertainty")}
        unknown = pa.nulls(predicted.num_rows)
        found = predicted.column_names
        columns |= {name: predicted[name] if name in found else unknown for name in NOVELTY_COLUMNS}
        columns["embedding"] = unknown
        # A chunk for each text: an array of strings holds at most 2 GiB.
        texts = [pa.array([text.as_py()], pa.string()) for text in predicted["text"]] if self.with_text else []
        columns["text"] = pa.chunked_array(texts, pa.string())
        return pa.table([_as(columns[field.name], field.type) for field in self.schema], schema=self.schema)

    def unusual(self, rows: pa.Table) -> list[str]:
        """``language CODE`` for each document in a language that is none of ``languages``."""
        if not self.languages:
            return []
        known = {code.partition("-")[0] for code in self.languages}
        return [f"language {code}" for code in rows["language"].drop_null().to_pylist() if code not in known]

    def unusual_text(self, name: str) -> str:
        known = ", ".join(map(language_name, self.languages))
        return f"are in {language_name(name.removeprefix('language '))}; the model was trained on {known}"

    def _encode_document(self, predicted: pa.Table, row: int) -> dict[str, Any]:
        """The paragraphs (start, end, score) of a document, their times and pages, and how sure they are."""
        starts, scores = values_at(predicted, "starts", row), values_at(predicted, "scores", row)
        given = {name: _values_or_none(predicted, name, row) for name in SENTENCE_FIELDS}
        if given["shifts"] is not None:
            scores = shifted_scores(scores, given["shifts"])
        allowed = np.arange(len(starts)) if given["at_breaks"] is None else np.flatnonzero(given["at_breaks"])
        begins = np.zeros(len(starts), bool)
        size = predicted["num_chars"][row].as_py()
        novelty = predicted["novelty"][row].as_py() if "novelty" in predicted.column_names else None
        begins[allowed] = self._begins(starts[allowed], scores[allowed], size, novelty)
        first = np.flatnonzero(begins)
        times = None
        if given["first_s"] is not None and given["last_s"] is not None:
            last_s = np.maximum.reduceat(given["last_s"], first).tolist()
            first_s = np.minimum.reduceat(given["first_s"], first).tolist()
            times = [{"first_s": one, "last_s": other} for one, other in zip(first_s, last_s, strict=True)]
        confidence, uncertainty = certainty(scores) or (None, None)
        return {
            "paragraphs": paragraphs_from_begins(starts, scores, size, begins),
            "times": times,
            "pages": None if given["page_numbers"] is None else given["page_numbers"][first].tolist(),
            "confidence": confidence,
            "uncertainty": uncertainty,
        }

    def _begins(
        self, starts: np.ndarray, scores: np.ndarray, num_chars: int, novelty: float | None = None
    ) -> np.ndarray:
        """Which of some sentences begin a paragraph, (s,) bool; the first always does."""
        threshold = document_threshold(scores, novelty) if self.threshold is None else self.threshold
        limits = Limits(
            min_chars=self.min_paragraph_chars, max_chars=self.max_paragraph_chars, granularity=self.granularity
        )
        return best_begins(starts, scores, num_chars, threshold, limits)

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """One sample for each window of each document.

        ``labels`` of the sentences are 1 where a paragraph begins, 0 elsewhere, and -1 if the sentence is not scored.
        ``missed`` is the number of paragraphs that begin inside a scored sentence; no answer can find them. In a
        document without ``paragraphs``, blank lines separate them. Documents of the ``unpunctuated_fraction`` give
        samples of a second text, too, which has no punctuation.
        """
        nested, errors = each_row("prepare", read_inputs(inputs), self._prepare_labelled)
        rows, row_errors = [], []
        for samples, error in zip(nested, errors.to_pylist(), strict=True):
            rows += samples or [None]
            row_errors += [error] * len(samples or [None])
        fields = self._feature_fields | _LABEL_FIELDS
        return table_of(fields, rows).append_column("error", pa.array(row_errors, errors.type))

    def truth(self, samples: pa.Table) -> dict[str, int]:
        """The paragraphs that begin inside the documents, which are the boundaries to be found."""
        found = sum(int((values_at(samples, "labels", row) == 1).sum()) for row in range(samples.num_rows))
        return {"boundary": found + sum(samples["missed"].to_pylist())}

    def collate(self, samples: pa.Table) -> Batch:
        """content (b, t), counts (b, s), frame (b, s, f), dense (b, s, v), lengths (b,); labels (b, s), missed (b,)."""
        rows = range(samples.num_rows)
        batch = padded([features_at(samples, row) for row in rows])
        labels = np.full(batch["counts"].shape, _NOT_SCORED, np.int8)
        for row in rows:
            values = values_at(samples, "labels", row)
            labels[row, : len(values)] = values
        missed = samples["missed"].to_numpy().astype(np.int64)
        return batch | {"labels": torch.from_numpy(labels), "missed": torch.from_numpy(missed)}

    def start(self, model: nn.Module, samples: Iterable[pa.Table]) -> None:
        """Compute word vectors from the training windows, or from enough of them if there are many."""
        self._check_model(model)
        assert isinstance(model, SentenceTagger), type(model)
        windows, tokens = [], 0
        for batch in samples:
            for row in range(batch.num_rows):
                windows.append((values_at(batch, "content", row), values_at(batch, "counts", row)))
                tokens += len(windows[-1][0])
            if tokens >= MAX_TOKENS:
                break
        words = word_vectors([content for content, _ in windows], self.buckets, model.config.vector_size)
        found = (words.vectors, words.weights, lasting_directions(windows, words))
        model.set_vectors(*(torch.from_numpy(array) for array in found))

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """Remove random words from each window, so that the model cannot memorise books by their names. The cohesion
        features still use the removed words."""
        if not self.feature_dropout:
            return batch
        seeds = (noise.uniform(1, device=batch["content"].device).double() * PRIME).long()
        kept = dropped(batch["content"], seeds, self.feature_dropout) > 0
        places = torch.arange(batch["frame"][0].numel(), device=seeds.device).view(batch["frame"].shape[1:])
        frame = dropped(batch["frame"], (seeds[..., None] + 1_000_003 * places) % PRIME, self.feature_dropout)
        return batch | {"kept": kept, "frame": frame}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """Binary cross entropy in nats, summed over scored sentences.

        It is the mean over the members of the ensemble, and over two answers with different dropout; the symmetric
        Kullback-Leibler divergence of the two is added. The logits of each window are shifted by their most likely
        offset. This is logistic regression with a random intercept (Breslow and Clayton 1993), with the mode of the
        intercept in place of the integral over it.
        """
        self._check_model(model)
        batch, answers = _with_latents(model, batch), []
        for _ in range(2 if self.consistency else 1):
            seeds = (noise.uniform(1, device=batch["counts"].device)[:, 0].double() * PRIME).long()
            answers.append(_logits(model, batch, seeds).float())
        logits = torch.stack(answers)
        scored = batch["labels"] != _NOT_SCORED
        truth = (batch["labels"] == 1).float().expand_as(logits)
        logits = logits + likeliest_offsets(logits.detach(), truth, scored, self.offset_std)
        total = F.binary_cross_entropy_with_logits(logits, truth, scored.float(), reduction="sum")
        if self.consistency:
            (first, second), (likely, as_likely) = logits, torch.sigmoid(logits)
            # This is the sum of both divergences. The mean over the two answers below makes it half of the sum.
            total = total + self.consistency * ((likely - as_likely) * (first - second) * scored).sum()
        return Loss(total=total / logits.shape[:2].numel(), units=scored.sum().float())

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """Histograms of the scores of true (``positive``) and other (``negative``) boundaries over equal bins of
        [0, 1], and the number of true boundaries that are inside a sentence (``missed``)."""
        scores = torch.sigmoid(_logits(model, _with_latents(model, batch)).float().mean(0))
        bins = (scores * BINS).long().clamp(max=BINS - 1)

        def count(mask: Tensor) -> Tensor:
            return torch.bincount(bins[mask], minlength=BINS).double()

        labels = batch["labels"]
        missed = batch["missed"].sum().double()
        return {"positive": count(labels == 1), "negative": count(labels == 0), "missed": missed}

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """f1, precision and recall of boundaries over all documents, at the threshold, or at the best if it is null."""
        hits, found, truth = curve(statistics)
        f1 = 2 * hits / (found + truth).clamp(min=1)
        chosen = int(f1.argmax()) if self.threshold is None else min(int(self.threshold * BINS), BINS - 1)
        return {
            "f1": float(f1[chosen]),
            "precision": float(hits[chosen] / found[chosen].clamp(min=1)),
            "recall": float(hits[chosen] / truth.clamp(min=1)),
            "threshold": self.threshold if self.threshold is not None else chosen / BINS,
        }

    def calibrated(
        self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()
    ) -> TextSegmentation:
        """With what novelty needs. Windows count as documents; none of the statistics goes by what was learned."""
        windows = [
            features_at(batch, row) for part in (learned, held_out) for batch in part for row in range(batch.num_rows)
        ]
        # Neighbours are often of one author, so a fold has a quarter of the windows in their order.
        return self.with_novelty(model, windows, [place * FOLDS // len(windows) for place in range(len(windows))])

    def with_novelty(
        self, model: nn.Module, documents: Sequence[SentenceFeatures], groups: Sequence[int]
    ) -> TextSegmentation:
        """The task with the novelty of training documents. ``groups`` as in `pipeline.text.novelty.reference`."""
        weights = words_of(model)
        if weights is None:
            return self

        def scores(document: SentenceFeatures) -> np.ndarray:
            return self.scores(model, [document], torch.device("cpu"))[0]

        reference, remark = tried(documents, groups, self.buckets, weights, scores)
        return replace(self, novelty_reference=reference, novelty_remark=remark)

    @property
    def block_rows(self) -> int | None:
        return 1 if self.ocr else None

    def missing(self) -> str | None:
        return missing_for_ocr() if self.ocr else None

    @property
    def remarks(self) -> dict[str, str]:
        return {"novelty": self.novelty_remark or "null: the package has no statistics of its training documents"}

    def _prepare_document(self, row: dict[str, Any], features: FeatureColumns) -> dict[str, Any]:
        read = self._read(row, ocr=self.ocr)
        document, text = read.document, read.text
        weights = {"pauses": self.pause_weight, "layout": self.layout_weight}
        sentences, odds = sentences_of(document, self.max_sentence_chars, weights)
        return {
            "doc_id": read.doc_id,
            "num_chars": len(text),
            "text_sha256": _sha256_of(text),
            "encoding": document.encoding,
            "format": document.format,
            "language": language_of(text),
            "text": text if self.with_text else None,
            "starts": sentences[:, 0],
            **sentence_columns(document, sentences, weights, with_breaks=self.only_at_breaks),
            **features(text, sentences, odds),
        }

    def _prepare_labelled(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        # A scan does not say where its paragraphs begin, so there is no need to read it.
        read = self._read(row, ocr=False)
        text, paragraphs = read.text, read.known_paragraphs()
        variants = [(text, paragraphs)]
        if self.hide_breaks_in_training:
            variants = [join_paragraphs(text, paragraphs)]
            if share_of(text, "unpunctuated") < self.unpunctuated_fraction:
                variants.append(without_marks(text, paragraphs, keep_case=keeps_case(text)))
        return [sample for found, spans in variants if found for sample in self._samples(found, spans)]

    def _samples(self, text: str, paragraphs: Spans) -> list[dict[str, Any]]:
        sentences, odds = split_with_odds(text, self.max_sentence_chars)
        features = self._features(text, sentences, odds)
        # The first paragraph always begins with the document, so it is not scored.
        begins = np.array(paragraph_starts(text, paragraphs[1:]), np.int64)
        labels = np.isin(sentences[:, 0], begins).astype(np.int8)
        labels[0] = _NOT_SCORED
        holders = np.searchsorted(sentences[:, 0], begins, side="right") - 1
        missed = np.bincount(holders[sentences[holders, 0] != begins], minlength=len(sentences))
        return [self._sample(features, labels, missed, window) for window in self._windows(len(sentences))]

    def read_text(self, row: dict[str, Any]) -> str:
        """The text of a row of `read_inputs`. Raises `InputError`."""
        return self._read(row, ocr=self.ocr).text

    def _read(self, row: dict[str, Any], *, ocr: bool) -> ReadDocument:
        # `pop`, so that the bytes are gone when there is a text.
        read = read_document(row.pop("data"), row["format"], ocr=ocr)
        if len(read.text) > self.max_chars:
            raise InputError("too_long", f"the document has {len(read.text)} characters, more than {self.max_chars}")
        return read

    def _features(self, text: str, sentences: np.ndarray, odds: np.ndarray) -> SentenceFeatures:
        text, sentences = with_less_space(text, sentences, self.max_sentence_chars)
        see_breaks = not self.hide_breaks_in_training
        found = sentence_features(text, sentences, self.buckets, see_breaks=see_breaks, odds=odds)
        if not self.vocabulary:
            return found
        read = sentence_subwords(text, sentences, subwords_of(self.vocabulary), self.max_subwords)
        return replace(found, subwords=read["ids"], subword_counts=read["lengths"])

    @property
    def _feature_fields(self) -> dict[str, pa.DataType]:
        return FEATURE_FIELDS | (SUBWORD_FIELDS if self.vocabulary else {})

    def _sample(
        self, features: SentenceFeatures, labels: np.ndarray, missed: np.ndarray, window: tuple[int, int, int, int]
    ) -> dict[str, Any]:
        start, end, first, last = window
        seen = np.full(end - start, _NOT_SCORED, np.int8)
        seen[first - start : last - start] = labels[first:last]
        columns = feature_columns(cut(features, word_ends(features), start, end))
        return columns | {"labels": seen, "missed": int(missed[first:last].sum())}

    def _windows(self, count: int) -> Iterator[tuple[int, int, int, int]]:
        """Windows (start, end, first, last): sentences [start, end) are read, and [first, last) of them are scored."""
        core = self.window_sentences - 2 * self.context_sentences
        first = 0
        while first < count:
            # At the ends of a document there is no context to leave out.
            last = min(count, first + core + (self.context_sentences if first == 0 else 0))
            last = count if count - last <= self.context_sentences else last
            yield max(0, first - self.context_sentences), min(count, last + self.context_sentences), first, last
            first = last

    def _check_model(self, model: nn.Module) -> None:
        config: Any = model.config
        if config.buckets != self.buckets or config.dense_features != DENSE_FEATURES:
            raise RequestError(
                f"the model is for {config.buckets} buckets and {config.dense_features} numbers a sentence, "
                f"the task for {self.buckets} and {DENSE_FEATURES}"
            )
        encoder = getattr(config, "encoder", None)
        needed = 0 if encoder is None else encoder.vocabulary
        given = subwords_of(self.vocabulary).size if self.vocabulary else 0
        if needed != given:
            raise RequestError(f"the model's encoder is for {needed} subwords, the task has {given} (0: it has none)")


def read_inputs(inputs: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows one by one, so that only one document is in Python's memory at a time."""
    for row in range(inputs.num_rows):
        yield {"data": inputs["data"][row].as_py(), "format": inputs["format"][row].as_py()}


def _sha256_of(text: str) -> str:
    """The SHA-256 of a text in UTF-8, without a copy of the whole text."""
    digest = hashlib.sha256()
    for start in range(0, len(text), _HASHED_CHARS):
        digest.update(text[start : start + _HASHED_CHARS].encode())
    return digest.hexdigest()


def _logits(model: nn.Module, batch: Batch, seeds: Tensor | None = None) -> Tensor:
    """The logits of every member of the model, (m, b, s)."""
    features = (batch[name] for name in ("content", "counts", "frame", "dense", "lengths"))
    more = {"latents": batch["latents"]} if "latents" in batch else {}
    return model(*features, kept=batch.get("kept"), seeds=seeds, **more)


def _with_latents(model: nn.Module, batch: Batch) -> Batch:
    """The batch with the ``latents`` of its sentences, if it has their subwords."""
    if "subwords" not in batch:
        return batch
    assert isinstance(model, SentenceTagger), type(model)
    return batch | {"latents": model.latents(batch["subwords"], batch["subword_counts"])}


def _values_or_none(table: pa.Table, name: str, row: int) -> np.ndarray | None:
    return values_at(table, name, row) if table[name][row].is_valid else None


def _as(values: Any, type_: pa.DataType) -> pa.Array | pa.ChunkedArray:
    return values.cast(type_) if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, type_)

"""The task of a sentence autoencoder: its training, and paragraphs that it finds without having learned from any."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from pipeline.config import added, check
from pipeline.errors import RequestError
from pipeline.models.autoencoders.latents import Gaussian, kl, standard_normal
from pipeline.models.documents.sentence_vae import SentenceVAE, alike_in_length
from pipeline.noise import Noise
from pipeline.rows import InputKind, each_row
from pipeline.task import Task
from pipeline.text.inputs import split_sentences
from pipeline.text.subword_windows import (
    TOKEN_FIELDS,
    cut_sentences,
    flat,
    joined_windows,
    padded_sentences,
    sentence_subwords,
    subwords_of,
)
from pipeline.text.subwords import BEGIN, Subwords
from pipeline.text.succession import Succession, fit_succession
from pipeline.text.task import DECODING, TextSegmentation, read_inputs
from pipeline.text.topic_depth import DepthConfig, depths, scores
from pipeline.text.topics import Topics, fit_topics
from pipeline.text.windows import values_at
from pipeline.training.losses import Batch, Loss, Statistics

_SAMPLE_FIELDS = TOKEN_FIELDS | {"begins_document": pa.bool_()}
_GROUP = 32  # sentences of similar lengths that the model reads together
_ACTIVE_VARIANCE = 0.01
_LIKELIHOOD_SENTENCES = 64  # of a document, evenly spread, whose likelihood is its novelty
_LEAST_DOCUMENTS = 100  # held-out documents, below which there are no percentiles
#: Settings that this task shares with `TextSegmentation`, which has their meaning.
_DECODING = ("max_sentence_chars", *DECODING)


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the documents that the model was trained with, for reading others."""

    succession: Succession
    """How latents follow each other from sentence to sentence."""
    depth: tuple[float, float] = (0.0, 1.0)
    """Mean and standard deviation of the depth scores of places."""
    topics: Topics | None = None
    """Which part of the latents lasts; None of a package of an earlier version."""
    novelty: tuple[float, ...] = ()
    """Quantiles of the nats a word of held-out documents, lowest first; empty if they are fewer than 100."""

    def __post_init__(self) -> None:
        check(self, "novelty", list(self.novelty) == sorted(self.novelty), "be sorted, lowest first")


@dataclass(frozen=True, kw_only=True)
class SentenceReconstruction(Task):
    """Reconstructs sentences with an autoencoder, and finds paragraphs by how their latents change."""

    kind: ClassVar[str] = "text_autoencoder"
    metric: ClassVar[tuple[str, Literal["max", "min"]]] = ("nll_word", "min")
    inputs: ClassVar[InputKind] = TextSegmentation.inputs
    result: ClassVar[str] = "paragraphs"
    #: Documents are read, and scores become paragraphs, by the rules of the tagger.
    results: ClassVar[int] = TextSegmentation.results

    vocabulary: tuple[str, ...] = ()
    """Pieces of subwords, in the order in which they are merged, with a character for each byte. Training learns them
    from its documents."""
    max_subwords: int = 64
    """Number of subwords of a sentence that the model reads; the rest of a longer sentence is left out."""
    window_sentences: int = 8
    """Number of consecutive sentences in a training sample."""
    pretraining: float = 0.25
    """Part of the training, from its start, in which the KL divergence has the weight 0. Then the decoder begins
    anew."""
    warmup: float = 0.25
    """Part of the training, after that, in which the weight of the KL divergence rises to 1."""
    free_nats: float = 0.25
    """KL divergence in nats of each latent of a sentence that costs nothing (free bits)."""
    word_dropout: float = 0.3
    """Fraction of the subwords that are hidden from the decoder in training, so that it uses the latents."""
    importance_samples: int = 5
    """Number of samples of the latents from which a sentence's likelihood is estimated in validation."""
    depth: DepthConfig = field(default_factory=DepthConfig)
    """How places between sentences are compared to find paragraphs."""
    max_sentence_chars: int = 2000
    """Largest number of characters of a sentence; longer ones are cut, between characters as readers see them."""
    max_chars: int = 100_000_000
    """Largest number of characters of a document; longer ones become error rows."""
    threshold: float | None = 0.5
    """Score from which on a paragraph begins. null: the threshold with the best expected F1 of each document, as if
    scores were probabilities."""
    min_paragraph_chars: int = 0
    """Smallest number of characters of a paragraph, as far as max_paragraph_chars allows."""
    max_paragraph_chars: int | None = None
    """Largest number of characters of a paragraph, or null."""
    granularity: float = 0.5
    """How coarse paragraphs are, in [0, 1]. 0: every sentence is one; 0.5: as the scores say; 1: one for the document,
    as far as max_paragraph_chars allows."""
    only_at_breaks: bool = False
    """Let paragraphs begin only at line ends of the text, or where a line, block or cue of a format begins."""
    pause_weight: float = 1.0
    """Weight of the pauses in transcripts; 0: pauses do not count."""
    layout_weight: float = 1.0
    """Weight of what the lines of a PDF, or the blocks of HTML, Markdown, Word files and books, say about paragraphs.
    0: they do not count."""
    with_text: bool = False
    """Write the text, into which the offsets point, to the column text."""
    ocr: bool = added(False)
    """Read pages of PDF files that are pictures, too, which takes seconds a page. It needs the extra ocr wherever
    documents are prepared."""
    known: Known | None = None
    """What is known of the training's documents. Training sets it."""

    def __post_init__(self) -> None:
        check(self, "max_subwords", 2 <= self.max_subwords <= 1 << 12, "be in [2, 4096]")
        check(self, "window_sentences", 1 <= self.window_sentences <= 1 << 12, "be in [1, 4096]")
        check(self, "pretraining", 0 <= self.pretraining < 1, "be in [0, 1)")
        check(self, "warmup", 0 <= self.warmup <= 1 - self.pretraining, "be in [0, 1 - pretraining]")
        check(self, "free_nats", self.free_nats >= 0, "not be negative")
        check(self, "word_dropout", 0 <= self.word_dropout < 1, "be in [0, 1)")
        check(self, "importance_samples", self.importance_samples >= 1, "be at least 1")
        self.paragraphs()

    def paragraphs(self) -> TextSegmentation:
        """The task that reads documents and turns scores into paragraphs, with the settings of this one."""
        try:
            return TextSegmentation(**{name: getattr(self, name) for name in _DECODING})
        except RequestError as reason:
            own = str(reason).replace(TextSegmentation.__name__, type(self).__name__)
            raise RequestError(own) from reason

    @property
    def block_rows(self) -> int | None:
        return self.paragraphs().block_rows

    def missing(self) -> str | None:
        return self.paragraphs().missing()

    def subwords(self) -> Subwords:
        return subwords_of(self.vocabulary)

    def check_model(self, config: Any) -> None:
        """`RequestError` if a model with this configuration cannot be trained for this task."""
        size = self.subwords().size
        if config.vocabulary != size:
            rule = f"{type(config).__name__}.vocabulary must be the {size} ids of the task's vocabulary"
            raise RequestError(f"{rule}, got {config.vocabulary}")

    @property
    def schema(self) -> pa.Schema:
        return self.paragraphs().schema

    @property
    def description(self) -> dict[str, Any]:
        return self.paragraphs().description

    @property
    def remarks(self) -> dict[str, str]:
        if self.known is None:
            return {}
        if not self.known.novelty:
            return {"novelty": f"null: its percentiles need {_LEAST_DOCUMENTS} held-out documents"}
        return {"novelty": "percentile of the nats a word among held-out documents"}

    def prepare(self, inputs: pa.Table) -> pa.Table:
        """The columns of `TextSegmentation.prepare`, with ``ids`` of the subwords of all sentences, their ``lengths``
        and the numbers of their ``words`` in place of its features."""
        return self.paragraphs().prepare_with(
            inputs, TOKEN_FIELDS, lambda text, sentences, _: self._tokens(text, sentences)
        )

    def predict(self, model: nn.Module, prepared: pa.Table, device: torch.device) -> pa.Table:
        """Replace the subwords by ``scores`` of the sentences, ``embedding`` (the mean of their latents), and
        ``novelty_raw`` (nats a word of some of them)."""
        network = self._network(model).eval()
        found: dict[str, list[Any]] = {"scores": [], "embedding": [], "novelty_raw": []}
        usual, topics = ((0.0, 1.0), None) if self.known is None else (self.known.depth, self.known.topics)
        for row in range(prepared.num_rows):
            ids, lengths, words = (values_at(prepared, name, row) for name in TOKEN_FIELDS)
            batch = {name: tensor.to(device) for name, tensor in padded_sentences([(ids, lengths, words)]).items()}
            with torch.inference_mode():
                posterior = self.encode_sentences(network, batch["ids"][0], batch["lengths"][0])
                nats = self._nats_a_word(network, {name: tensor[0] for name, tensor in batch.items()}, posterior)
            mean, variance = posterior.mean.cpu().numpy(), posterior.log_variance.exp().cpu().numpy()
            found["scores"].append(scores(depths(mean, variance, self.depth, topics), usual, self.depth))
            found["embedding"].append(mean.mean(0))
            found["novelty_raw"].append(nats)
        kept = prepared.drop_columns(list(TOKEN_FIELDS))
        for name, type_ in (("scores", pa.large_list(pa.float32())), ("embedding", pa.list_(pa.float32()))):
            kept = kept.append_column(name, pa.array(found[name], type_))
        return kept.append_column("novelty_raw", pa.array(found["novelty_raw"], pa.float32()))

    def encode(self, predicted: pa.Table) -> pa.Table:
        given = {name: predicted[name] for name in ("embedding", "novelty_raw")}
        kept = predicted.drop_columns(list(given))
        if self.known is not None and self.known.novelty:
            raw = predicted["novelty_raw"].to_numpy(zero_copy_only=False)
            steps = np.linspace(0, 100, len(self.known.novelty))
            given["novelty"] = pa.chunked_array([pa.array(np.interp(raw, self.known.novelty, steps), pa.float32())])
            kept = kept.append_column("novelty", given["novelty"]).append_column("novelty_raw", given["novelty_raw"])
        rows = self.paragraphs().encode(kept)
        for name, values in given.items():
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, rows.schema.field(place), values.cast(rows.schema.field(place).type))
        return rows

    def prepare_samples(self, inputs: pa.Table) -> pa.Table:
        """A sample for each `window_sentences` consecutive sentences of each document. Known paragraphs are not
        looked at. ``begins_document``: whether the window is the first of its document."""
        nested, errors = each_row("prepare", read_inputs(inputs), self._prepare_windows)
        rows, row_errors = [], []
        for samples, error in zip(nested, errors.to_pylist(), strict=True):
            rows += samples or [dict.fromkeys(_SAMPLE_FIELDS)]
            row_errors += [error] * len(samples or [None])
        columns = {name: pa.array([row[name] for row in rows], type_) for name, type_ in _SAMPLE_FIELDS.items()}
        return pa.table(columns).append_column("error", pa.array(row_errors, errors.type))

    def collate(self, samples: pa.Table) -> Batch:
        """ids (b, s, t), lengths (b, s) and words (b, s) of the sentences of each window. Padding is 0."""
        rows = range(samples.num_rows)
        return padded_sentences([tuple(values_at(samples, name, row) for name in TOKEN_FIELDS) for row in rows])

    def start(self, model: nn.Module, samples: Iterable[pa.Table]) -> None:
        """Begin with the frequencies of the subwords."""
        network = self._network(model)
        counts = torch.zeros(network.config.vocabulary, dtype=torch.long)
        for table in samples:
            for row in range(table.num_rows):
                ids = torch.from_numpy(values_at(table, "ids", row).astype(np.int64))
                counts += torch.bincount(ids, minlength=len(counts))
        network.set_frequencies(counts)

    def renew(self, model: nn.Module, step: int, steps: int, seed: int) -> list[str]:
        """Reset the decoder when the KL divergence begins to count, so that it learns with latents that already tell of
        the sentence (Li et al. 2019, A Surprisingly Effective Fix for Deep Latent Variable Modeling of Text)."""
        at = round(self.pretraining * steps)
        return self._network(model).reset_decoder(seed) if 0 < step == at else []

    def augment(self, batch: Batch, noise: Noise) -> Batch:
        """``hidden`` (b, s, t): the subwords that the decoder does not see before the next one."""
        if not self.word_dropout:
            return batch
        drawn = noise.uniform(self.window_sentences, self.max_subwords, device=batch["ids"].device)
        sentences, subwords = batch["ids"].shape[1:]
        return batch | {"hidden": drawn[:, :sentences, :subwords] < self.word_dropout}

    def loss(self, model: nn.Module, batch: Batch, noise: Noise) -> Loss:
        """The negative evidence lower bound in nats, with free bits of each latent (Kingma et al. 2016); units are
        subwords."""
        network = self._network(model)
        weight = self.kl_weight(noise.step, noise.steps)
        drawn = self._drawn(network, noise, batch)
        sentences = flat(batch)
        total = torch.zeros((), device=drawn.device)
        logs = {"reconstruction_subword": total.clone(), "kl_subword": total.clone()}
        for group in alike_in_length(sentences["lengths"], _GROUP):
            part = cut_sentences(sentences, group)
            posterior = network.encode(part["ids"], part["lengths"])
            latents = posterior.sample(drawn[group])
            likely = network.log_likelihood(latents, part["ids"], part["lengths"], BEGIN, part.get("hidden"))
            cost = kl(posterior, standard_normal(posterior.mean))
            total = total - likely.sum() + weight * cost.clamp(min=self.free_nats).sum()
            logs["reconstruction_subword"] -= likely.detach().sum()
            logs["kl_subword"] += cost.detach().sum()
        return Loss(total=total, units=sentences["lengths"].sum().float(), logs=logs)

    def kl_weight(self, step: int, steps: int) -> float:
        """The weight of the KL divergence at a step: 0 in the pretraining, then a linear rise to 1."""
        at = round(self.pretraining * steps)
        if step < at:
            return 0.0
        return min(1.0, (step - at + 1) / max(1.0, self.warmup * steps))

    def score(self, model: nn.Module, batch: Batch, noise: Noise) -> Statistics:
        """Sums over sentences: nats of the importance-weighted bound (Burda et al. 2016), of the reconstruction and of
        the KL divergence; numbers of subwords, words, and subwords that were the likeliest; moments of the latents."""
        network = self._network(model)
        drawn = self._drawn(network, noise, batch, self.importance_samples)
        sentences = flat(batch)
        sums: Statistics = {}
        for group in alike_in_length(sentences["lengths"], _GROUP):
            part = cut_sentences(sentences, group)
            posterior = network.encode(part["ids"], part["lengths"])
            prior = standard_normal(posterior.mean)
            ratios, likelihoods = [], []
            for sample in drawn[group].unbind(1):
                latents = posterior.sample(sample)
                likely = network.log_likelihood(latents, part["ids"], part["lengths"], BEGIN)
                ratios.append(likely + prior.log_density(latents) - posterior.log_density(latents))
                likelihoods.append(likely)
            bound = torch.stack(ratios).logsumexp(0) - math.log(len(ratios))
            found = {
                "nats": -bound.double().sum(),
                "reconstruction": -torch.stack(likelihoods).double().mean(0).sum(),
                "kl": kl(posterior, prior).double().sum(),
                "hits": network.likeliest(posterior.mean, part["ids"], part["lengths"], BEGIN).double(),
                "subwords": part["lengths"].double().sum(),
                "words": part["words"].double().sum(),
                "sentences": torch.tensor(float(len(group)), dtype=torch.float64, device=drawn.device),
                "mean": posterior.mean.double().sum(0),
                "square": posterior.mean.double().square().sum(0),
            }
            sums = {name: value + sums.get(name, 0) for name, value in found.items()}
        return sums

    def summarize(self, statistics: Statistics) -> dict[str, float]:
        """The metrics, in nats by the importance-weighted bound of `importance_samples` samples, with the ends of
        sentences: ``nll_word``, ``nll_subword`` and ``nll_sentence``.

        ``reconstruction`` and ``kl``: nats a sentence. ``accuracy``: fraction of the subwords that are the likeliest,
        given those before and the mean latents. ``active_units``: latents whose posterior mean has a variance over
        sentences of more than 0.01 (Burda et al. 2016).
        """
        nats, sentences = statistics["nats"], statistics["sentences"]
        variance = statistics["square"] / sentences - (statistics["mean"] / sentences).square()
        found = {
            "nll_word": nats / statistics["words"].clamp(min=1),
            "nll_subword": nats / statistics["subwords"],
            "nll_sentence": nats / sentences,
            "reconstruction": statistics["reconstruction"] / sentences,
            "kl": statistics["kl"] / sentences,
            "accuracy": statistics["hits"] / statistics["subwords"],
            "active_units": (variance > _ACTIVE_VARIANCE).sum(),
        }
        return {name: float(value) for name, value in found.items()}

    def calibrated(
        self, model: nn.Module, held_out: Iterable[pa.Table], learned: Iterable[pa.Table] = ()
    ) -> SentenceReconstruction:
        """A copy that knows how latents follow each other and how deep places usually are (from held-out documents and
        training windows), and how novel held-out documents are."""
        network = self._network(model).eval()
        runs, nats = [], []
        for windows, counts in ((held_out, True), (learned, False)):
            for document in self._documents(windows, joined=counts):
                with torch.inference_mode():
                    posterior = self.encode_sentences(network, document["ids"], document["lengths"])
                    nats += [self._nats_a_word(network, document, posterior)] if counts else []
                runs.append((posterior.mean.double().numpy(), posterior.log_variance.double().exp().numpy()))
        topics = fit_topics([mean for mean, _ in runs], network.config.latents)
        found = np.concatenate([depths(mean, variance, self.depth, topics) for mean, variance in runs])
        usual = (float(found.mean()), float(found.std())) if len(found) else (0.0, 1.0)
        quantiles = [float(f"{value:.6g}") for value in np.quantile(nats, np.linspace(0, 1, 101))] if nats else []
        known = Known(
            succession=fit_succession(runs, network.config.latents),
            depth=usual,
            topics=topics,
            novelty=tuple(quantiles) if len(nats) >= _LEAST_DOCUMENTS else (),
        )
        return dataclasses.replace(self, known=known)

    def posterior_of(self, model: nn.Module, text: str) -> Gaussian:
        """The posteriors (s, d) of the sentences of a text; of one without any, the prior."""
        network = self._network(model)
        found = self._tokens(text, split_sentences(text, self.max_sentence_chars))
        if not len(found["lengths"]):
            return standard_normal(torch.zeros(1, network.config.latents))
        batch = padded_sentences([(found["ids"], found["lengths"], found["words"])])
        with torch.inference_mode():
            return self.encode_sentences(network, batch["ids"][0], batch["lengths"][0])

    def encode_sentences(self, network: SentenceVAE, ids: Tensor, lengths: Tensor) -> Gaussian:
        """The posteriors (s, d) of the sentences of one document. Sentences without subwords have the prior."""
        found = torch.zeros(2, len(lengths), network.config.latents, device=ids.device)
        for group in alike_in_length(lengths, _GROUP):
            part = cut_sentences({"ids": ids, "lengths": lengths}, group)
            posterior = network.encode(part["ids"], part["lengths"])
            found[0, group], found[1, group] = posterior.mean, posterior.log_variance
        return Gaussian(found[0], found[1])

    def _nats_a_word(self, network: SentenceVAE, document: Batch, posterior: Gaussian) -> float:
        """The negative evidence lower bound at the posterior means, in nats a word, of evenly spread sentences."""
        count = len(document["lengths"])
        chosen = (
            torch.linspace(0, count - 1, min(count, _LIKELIHOOD_SENTENCES)).long().unique().to(posterior.mean.device)
        )
        nats, words = 0.0, 0
        costs = kl(posterior, standard_normal(posterior.mean)).sum(1)
        for group in alike_in_length(document["lengths"][chosen], _GROUP):
            places = chosen[group]
            part = cut_sentences(document, places)
            likely = network.log_likelihood(posterior.mean[places], part["ids"], part["lengths"], BEGIN)
            nats += float((costs[places] - likely).double().sum())
            words += int(part["words"].sum())
        return nats / max(1, words)

    def _documents(self, windows: Iterable[pa.Table], *, joined: bool) -> Iterator[Batch]:
        """The sentences of each document, from its windows in their order; or of each window alone."""
        parts: list[tuple[np.ndarray, ...]] = []
        for table in windows:
            for row in range(table.num_rows):
                if parts and (table["begins_document"][row].as_py() or not joined):
                    yield joined_windows(parts)
                    parts = []
                parts.append(tuple(values_at(table, name, row) for name in TOKEN_FIELDS))
        if parts:
            yield joined_windows(parts)

    def _prepare_windows(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        text = self.paragraphs().read_text(row)
        found = self._tokens(text, split_sentences(text, self.max_sentence_chars))
        ends = np.cumsum(found["lengths"])
        samples = []
        for start in range(0, len(ends), self.window_sentences):
            end = min(start + self.window_sentences, len(ends))
            first = 0 if start == 0 else int(ends[start - 1])
            samples.append(
                {
                    "ids": found["ids"][first : int(ends[end - 1])],
                    "lengths": found["lengths"][start:end],
                    "words": found["words"][start:end],
                    "begins_document": start == 0,
                }
            )
        return samples

    def _tokens(self, text: str, sentences: np.ndarray) -> dict[str, np.ndarray]:
        return sentence_subwords(text, sentences, self.subwords(), self.max_subwords)

    def _drawn(self, network: SentenceVAE, noise: Noise, batch: Batch, samples: int | None = None) -> Tensor:
        """Standard normal numbers for the latents of each sentence: (b * s, d), or (b * s, samples, d)."""
        shape = (() if samples is None else (samples,)) + (network.config.latents,)
        drawn = noise.normal(self.window_sentences, *shape, device=batch["ids"].device)
        return drawn[:, : batch["ids"].shape[1]].flatten(0, 1)

    def _network(self, model: nn.Module) -> SentenceVAE:
        assert isinstance(model, SentenceVAE), type(model)
        self.check_model(model.config)
        return model


#: The tasks whose packages find paragraphs in documents.
PARAGRAPHS = (TextSegmentation, SentenceReconstruction)

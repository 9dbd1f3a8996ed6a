"""An autoencoder of sentences, and paragraphs that it finds without labels: trained on the books of split train.

A fiftieth of the training chapters is held out to choose the weights by. The likelihood of split val is that of evenly
spread windows of 8 sentences, by the importance-weighted bound of ``IMPORTANCE_SAMPLES`` samples, with the ends of
sentences. How places are compared (`DepthConfig`) is chosen on split train: by the mean of the F1 of boundaries in its
chapters, and in documents made of pieces of them, whose topic changes at each boundary; val chooses nothing. F1, Pk and
WindowDiff are as in ``benchmarks.documents``, beside the guesses that every sentence begins a paragraph, and that none
does. Resumable, except for a training with ``--here``.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.sparse as sparse
import torch

from benchmarks.camvid import job
from benchmarks.document_training import FOLDS
from benchmarks.measures.boundary_probe import latents_of, probe_f1, words_of
from benchmarks.measures.document_sets import books, concatenations, records
from benchmarks.measures.training_here import train_here
from benchmarks.record import data_folder, record
from pipeline import config, package
from pipeline.models.documents.sentence_vae import SentenceVAE
from pipeline.rows import INPUT_SCHEMA
from pipeline.text.features import sentence_features
from pipeline.text.inputs import join_paragraphs, paragraph_starts, split_sentences
from pipeline.text.metrics import Score, score, summarize
from pipeline.text.reconstruction import SentenceReconstruction
from pipeline.text.topic_depth import DepthConfig, depths, scores
from pipeline.text.topics import Topics, fit_topics
from pipeline.training.samples import Samples
from pipeline.training.trainer import statistics

IMPORTANCE_SAMPLES = 10
_WINDOWS = 300  # of split val, of 8 sentences each
_EVERY = 16  # of the training chapters, which choose
_TRAINING = {
    "train.epochs": 4,
    "train.batch_rows": 8,
    "train.learning_rate": 4e-3,
    "train.precision": "bfloat16",
    "task.pretraining": 0.2,
    "task.warmup": 0.3,
    "model.embedding": 96,
    "model.encoder_hidden": 128,
    "model.decoder_hidden": 192,
}
_PROBE_BUCKETS = 1 << 16
_PROBE = "Logistic regression of paragraph boundaries on the training books, without every fourth, which are tested."
_SMALL = {"model.decoder_hidden": 64, "model.encoder_hidden": 32}
_BLOCKS = (1, 2, 3, 4, 6)
_SMOOTHING = (0, 1)
_CUTOFFS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
_COMPARISONS = ("topics", "divergence")
_MADE, _SEED = 50, 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--work", type=Path, default=Path(".bench/text_autoencoder"), help="where everything goes")
    parser.add_argument("--probe", action="store_true", help="only: do latents tell more of boundaries than words?")
    parser.add_argument("--every", type=int, default=1, help="train on every so many of the training chapters")
    parser.add_argument("--here", action="store_true", help="train in this process, without a cluster or checkpoints")
    parser.add_argument("--small", action="store_true", help="few documents, one epoch: shows that it runs")
    arguments = parser.parse_args()
    data = data_folder()
    if data is None:
        sys.exit("PARQUETRY_DATA names no folder with books in it")
    source, work = data / "books" / "books.jsonl.gz", arguments.work / "small" if arguments.small else arguments.work
    work.mkdir(parents=True, exist_ok=True)
    known = list(records(source))
    if arguments.small:
        known, source = _few(known, work / "books.jsonl")
    settings = _TRAINING | (_SMALL if arguments.small else {})
    training = [chapter for chapter in known if chapter["split"] == "train"]
    if arguments.every > 1 and not arguments.here:
        sys.exit("--every needs --here")
    if arguments.here:
        trained = train_here(
            [chapter["text"] for chapter in training[:: arguments.every]], work / "autoencoder", settings
        )
    else:
        given = [item for name, value in settings.items() for item in (f"--{name}", value)]
        told = ("--documents", source, "--split", "train", "--out", work / "autoencoder")
        trained = job(
            "train_text_autoencoder", *told, "--validation_fraction", 0.3 if arguments.small else 0.02, *given
        )
    if arguments.probe:
        found_by_probe = probe(str(work / "autoencoder"), training[:: arguments.every])
        record("boundary_probe", found_by_probe, {}, _PROBE, small=False, write=False)
        return
    made = package.load(str(work / "autoencoder"), SentenceReconstruction.kind).digest
    tried = _once(work / f"tried-{made}.json", lambda: tried_on(str(work / "autoencoder"), training, data))
    best = max(tried, key=lambda line: line["f1"] + line["f1 of made documents"])
    chosen = config.from_dict(DepthConfig, {key: best[key] for key in config.to_dict(DepthConfig())})
    found = with_depth(work / "autoencoder", work / "package", chosen, training[::_EVERY])
    val = [chapter for chapter in known if chapter["split"] == "val"]
    rows = _once(work / f"measured-{found.digest}.json", lambda: measured(found, val))
    likelihood = _once(work / f"likelihood-{found.digest}.json", lambda: likelihood_of(found, val))
    drawn = job(
        *("sample", "--model", work / "package", "--out", work / "samples", "--count", 10),
        *("--from-text", "He opened the door.", "--to-text", "The rocks of this district are very old."),
    )
    written = Path(drawn["text"]).read_text()
    rows += [{"documents of": "choice of the comparison of places", "tried": tried, "chosen": config.to_dict(chosen)}]
    rows += [{"documents of": "likelihood of val", "likelihood": likelihood, "training": trained}]
    rows += [{"documents of": "texts", "texts": written.splitlines()}]
    headline = {
        "nll_word_val": likelihood["nll_word"],
        "nll_subword_val": likelihood["nll_subword"],
        "kl_val": likelihood["kl"],
        "active_units": likelihood["active_units"],
        "f1_unsupervised_books": rows[0]["f1"],
        "f1_all": rows[0]["f1 of all"],
        "parameters": trained["parameters"],
    }
    print(written)
    record("text_autoencoder", rows, headline, f"seed 0, one run. {__doc__}", small=arguments.small)


def measured(found: package.Package, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for all documents and one for each kind: boundaries by the package, beside those of two guesses."""
    task, model = config.from_dict(SentenceReconstruction, found.task), found.model()
    kinds: dict[str, dict[str, list[Score]]] = {}
    seconds, characters = 0.0, 0
    for document in documents:
        text, spans = join_paragraphs(document["text"], document["paragraphs"])
        started = time.process_time()
        row = {"data": [json.dumps({"text": text}).encode()], "format": ["json"], "label": [None]}
        prepared = task.prepare(pa.table(row, schema=INPUT_SCHEMA)).drop_columns(["error"])
        rows = task.encode(task.predict(model, prepared, torch.device("cpu")))
        seconds, characters = seconds + time.process_time() - started, characters + len(text)
        places, truth = split_sentences(text)[:, 0].tolist(), paragraph_starts(text, spans)
        answers = {"own": [span["start"] for span in rows["paragraphs"][0].as_py()], "all": places, "none": [0]}
        for kind in ("all", document["kind"]):
            scored = kinds.setdefault(kind, {name: [] for name in answers})
            for name, answer in answers.items():
                scored[name].append(score(truth, answer, places))
    lines = [{"documents of": kind, **_line(scored)} for kind, scored in sorted(kinds.items())]
    lines[0]["characters a CPU second"] = characters / seconds
    return lines


def _line(scored: dict[str, list[Score]]) -> dict[str, Any]:
    own = summarize(scored["own"])
    line = {"documents": own.documents, "f1": own.counts.f1, "precision": own.counts.precision}
    line |= {"recall": own.counts.recall, "f1 of all": own.trivial.f1, "macro f1": own.macro_f1}
    for name, results in scored.items():
        total, end = summarize(results), "" if name == "own" else f" of {name}"
        line |= {f"pk{end}": total.pk, f"window_diff{end}": total.window_diff}
    return line


def likelihood_of(found: package.Package, documents: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The metrics of the autoencoder on evenly spread windows of some documents."""
    task = config.from_dict(SentenceReconstruction, found.task)
    task = dataclasses.replace(task, importance_samples=IMPORTANCE_SAMPLES)
    data = [json.dumps({"text": item["text"]}).encode() for item in documents]
    columns = {"data": data, "format": ["json"] * len(data), "label": [None] * len(data)}
    prepared = task.prepare_samples(pa.table(columns, schema=INPUT_SCHEMA)).drop_columns(["error"])
    places = np.linspace(0, prepared.num_rows - 1, min(_WINDOWS, prepared.num_rows)).astype(np.int64)
    samples = Samples([prepared])
    total = statistics(task, found.model(), samples, places, 16, 0, torch.device("cpu"))
    return task.summarize(total) | {"sentences": float(total["sentences"])}


def posteriors(
    uri: str, documents: Iterable[dict[str, Any]]
) -> tuple[SentenceReconstruction, list[tuple[np.ndarray, np.ndarray]]]:
    """The task of a package, and mean and variance of the latents (s, d) of the sentences of each document, whose
    paragraphs are joined by one space."""
    found = package.load(uri, SentenceReconstruction.kind)
    task, model = config.from_dict(SentenceReconstruction, found.task), found.model()
    assert isinstance(model, SentenceVAE)
    moments = []
    for document in documents:
        text, _ = join_paragraphs(document["text"], document["paragraphs"])
        with torch.inference_mode():
            posterior = task.posterior_of(model, text)
        moments.append((posterior.mean.double().numpy(), posterior.log_variance.double().exp().numpy()))
    return task, moments


def tried_on(uri: str, training: Sequence[dict[str, Any]], data: Path) -> list[dict[str, Any]]:
    """Of each way to compare places: F1 and Pk on training chapters, and on documents made of pieces of them."""
    made = concatenations(books(data, "train"), _MADE, _SEED)
    chapters, pieces = (ways(uri, documents, training[::_EVERY]) for documents in (training[::_EVERY], made))
    more = ("f1", "pk", "f1 of all")
    return [
        one | {f"{name} of made documents": other[name] for name in more}
        for one, other in zip(chapters, pieces, strict=True)
    ]


def ways(uri: str, documents: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """F1 and Pk on some documents of each way to compare places, with the topics of the ``known`` documents."""
    _, moments = posteriors(uri, documents)
    topics = _topics(uri, known)
    truths = [join_paragraphs(document["text"], document["paragraphs"]) for document in documents]
    sentences = [split_sentences(text)[:, 0] for text, _ in truths]
    starts = [paragraph_starts(text, spans) for text, spans in truths]
    tried: list[dict[str, Any]] = []
    for compare, block, smoothing in itertools.product(_COMPARISONS, _BLOCKS, _SMOOTHING):
        how = DepthConfig(compare=compare, block_sentences=block, smoothing_sentences=smoothing)
        found = [depths(mean, variance, how, topics) for mean, variance in moments]
        usual = _usual(found)
        for cutoff in _CUTOFFS:
            one = dataclasses.replace(how, cutoff=cutoff)
            results = [
                score(truth, places[scores(depth, usual, one) >= 0.5].tolist(), places.tolist())
                for truth, places, depth in zip(starts, sentences, found, strict=True)
            ]
            total = summarize(results)
            line = {"f1": total.counts.f1, "f1 of all": total.trivial.f1, "pk": total.pk}
            tried.append({**config.to_dict(one), **line, "macro f1": total.macro_f1})
    return tried


def probe(uri: str, documents: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """F1 of a linear probe on every fourth book of split train, with and without latents of the sentences."""
    task, moments = posteriors(uri, documents)
    held = sorted({document["title"] for document in documents})
    inputs: dict[str, list[tuple[sparse.csr_matrix, np.ndarray]]] = {"words": [], "words and latents": []}
    for document, (mean, _) in zip(documents, moments, strict=True):
        text, spans = join_paragraphs(document["text"], document["paragraphs"])
        sentences = split_sentences(text, task.max_sentence_chars)
        labels = np.isin(sentences[:, 0], paragraph_starts(text, spans))
        words = words_of(sentence_features(text, sentences, _PROBE_BUCKETS, see_breaks=False), _PROBE_BUCKETS)
        inputs["words"].append((words, labels))
        both = sparse.csr_matrix(sparse.hstack([words, sparse.csr_matrix(latents_of(mean).astype(np.float32))]))
        inputs["words and latents"].append((both, labels))
    rows = []
    for fold in range(FOLDS):
        is_out = [document["title"] in held[fold::FOLDS] for document in documents]
        found = {}
        for name, every in inputs.items():
            apart = [[item for item, out in zip(every, is_out, strict=True) if out == part] for part in (False, True)]
            found[f"f1 of {name}"] = probe_f1(*apart)
        rows.append({"held-out books": fold, **found})
    return rows


def with_depth(source: Path, out: Path, depth: DepthConfig, documents: list[dict[str, Any]]) -> package.Package:
    """The package with another comparison of places, and how deep places of some documents usually are."""
    task, moments = posteriors(str(source), documents)
    assert task.known is not None
    topics = _topics(str(source), documents)
    usual = _usual([depths(*moment, depth, topics) for moment in moments])
    known = dataclasses.replace(task.known, topics=topics, depth=usual)
    found = package.load(str(source))
    card = {"made of": f"{source.name}, by python -m benchmarks.text_autoencoder", "depth": config.to_dict(depth)}
    return package.save(
        str(out),
        model_name=found.model_name,
        model=found.model(),
        task=dataclasses.replace(task, depth=depth, known=known),
        card=card,
    )


def _topics(uri: str, documents: Sequence[dict[str, Any]]) -> Topics:
    """What lasts of the latents in some documents, paragraph or not."""
    _, moments = posteriors(uri, documents)
    return fit_topics([mean for mean, _ in moments], moments[0][0].shape[1])


def _usual(found: list[np.ndarray]) -> tuple[float, float]:
    every = np.concatenate(found)
    return float(every.mean()), float(every.std())


def _once(file: Path, work: Callable[[], Any]) -> Any:
    """What a function returns, which is written to a file, and read from there the next time."""
    if not file.exists():
        file.write_text(json.dumps(work()))
    return json.loads(file.read_text())


def _few(known: list[dict[str, Any]], out: Path) -> tuple[list[dict[str, Any]], Path]:
    """Every eightieth chapter of each split, as a file of its own."""
    few = [item for split in ("train", "val") for item in [one for one in known if one["split"] == split][::80]]
    content = "".join(json.dumps(item) + "\n" for item in few)
    if not out.exists() or out.read_text() != content:
        out.write_text(content)
    return few, out


if __name__ == "__main__":
    main()

"""The linear probe finds what is there, and a training in this process leaves a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sparse

from benchmarks.measures.boundary_probe import latents_of, probe_f1
from benchmarks.measures.training_here import train_here
from pipeline import package


def test_latents_are_set_beside_their_neighbours() -> None:
    found = latents_of(np.array([[1.0], [3.0], [2.0]]))
    assert found.tolist() == [[1, 0, 3, 1], [3, 1, 2, 2], [2, 3, 0, 1]]


def test_features_that_tell_the_truth_have_a_higher_f1() -> None:
    rng = np.random.default_rng(0)

    def documents(told: bool) -> list[tuple[sparse.csr_matrix, np.ndarray]]:
        found = []
        for _ in range(8):
            labels = rng.random(60) < 0.3
            features = rng.random((60, 3)) < 0.5
            features[:, 0] = labels if told else features[:, 0]
            found.append((sparse.csr_matrix(features.astype(np.float32)), labels))
        return found

    told, untold = documents(True), documents(False)
    assert probe_f1(told[:5], told[5:]) == 1
    assert probe_f1(untold[:5], untold[5:]) < 0.65


def test_a_training_here_leaves_a_package(tmp_path: Path) -> None:
    texts = [f"The {word} was there. It was {word}, and the {word} went." for word in ("one", "two", "three", "four")]
    settings = {"model.vocabulary": 280, "model.embedding": 4, "model.encoder_hidden": 4, "model.decoder_hidden": 4}
    found = train_here(texts * 2, tmp_path, settings | {"train.epochs": 2, "train.batch_rows": 2}, lambda _: None)
    assert found["parameters"] > 0
    assert package.load(str(tmp_path), "text_autoencoder").model_config["vocabulary"] <= 280
    assert train_here(texts, tmp_path, {}) == found  # it is not trained again

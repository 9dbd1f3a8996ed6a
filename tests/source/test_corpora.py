"""Several sources as one training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RequestError
from pipeline.source.corpora import corpus
from pipeline.text.task import TextSegmentation
from pipeline.training.samples import Samples

KIND = TextSegmentation.inputs


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for name, number in (("a", 5), ("b", 20)):
        (tmp_path / name).mkdir()
        for index in range(number):
            (tmp_path / name / f"{index:02}.txt").write_text(f"One.\n\nTwo {index}.")
    (tmp_path / "b" / "more.jsonl").write_text('{"text": "x. y.", "paragraphs": [[0, 2], [3, 5]]}\n' * 3)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_inputs_of_sources_follow_each_other(folders: list[str]) -> None:
    found = corpus(folders, [1, 2.5], KIND)
    assert found.inputs.num_rows == 28
    assert found.inputs["ordinal"].to_pylist() == list(range(28))
    assert np.bincount(found.sources.of_inputs).tolist() == [5, 23]
    assert found.sources.weights == (1.0, 2.5)
    assert corpus(folders, (), KIND).sources.weights == (1.0, 1.0)
    assert corpus(folders, [0.1, 0.4], KIND).sources.weights == pytest.approx((1.0, 4.0))


def test_what_is_held_out_keeps_its_source(folders: list[str]) -> None:
    learned, held = corpus(folders, (), KIND).held_out(0.3)
    assert (learned.inputs.num_rows, held.inputs.num_rows) == (20, 8)
    for part in (learned, held):
        names = [folders[number] for number in part.sources.of_inputs.tolist()]
        for uri, name in zip(part.inputs["uri"].to_pylist(), names, strict=True):
            assert str(uri).removeprefix("file://").startswith(name)


def test_an_input_of_two_sources_belongs_to_the_first(folders: list[str]) -> None:
    found = corpus([f"{folders[0]}/00.txt", folders[0]], (), KIND)
    assert found.sources.of_inputs.tolist() == [0, 1, 1, 1, 1]
    with pytest.raises(RequestError, match="all of its inputs are in the sources before it"):
        corpus([folders[0], folders[0]], (), KIND)
    with pytest.raises(RequestError, match="no such file or folder"):
        corpus([folders[0], f"{folders[0]}/nothing"], (), KIND)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from([1.0, 1.5, 2.0, 2.9, 7.0])), min_size=1, max_size=5),
)
def test_samples_are_drawn_as_often_as_weights_say(repeats: list[tuple[int, float]]) -> None:
    total = sum(rows for rows, _ in repeats)
    shards = [pa.table({"x": list(range(total))})]
    samples = Samples(shards, repeats)
    assert len(samples) == sum(round(rows * weight) for rows, weight in repeats)
    counts = np.bincount(samples.places(np.arange(len(samples))), minlength=total)
    position = 0
    for rows, weight in repeats:
        mine = counts[position : position + rows]
        assert all(int(weight) <= count <= int(weight) + 1 for count in mine)
        assert mine.sum() == round(rows * weight)
        position += rows
    if len(samples):
        assert samples.take([len(samples) - 1])["x"].to_pylist() == [int(samples.places([len(samples) - 1])[0])]


def test_without_weights_an_index_is_a_sample() -> None:
    samples = Samples([pa.table({"x": [0, 1]}), pa.table({"x": [2]})])
    assert samples.take([2, 0, 1])["x"].to_pylist() == [2, 0, 1]
    assert len(samples) == 3
    assert len(Samples([])) == 0

"""Class ids at the image's size: as if every pixel were interpolated, from any bands and blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pipeline.images import upsampling
from pipeline.images.upsampling import class_strips, in_bands


def ids(logits: Tensor, wanted: tuple[int, int]) -> np.ndarray:
    size = (logits.shape[1], logits.shape[2])
    return np.concatenate(list(class_strips(in_bands(logits, *wanted), size, wanted)))


def cut(logits: Tensor, heights: list[int], widths: list[int]) -> Iterator[Iterator[Tensor]]:
    for band in logits.split(heights, 1):
        yield iter(band.split(widths, 2))


def smooth(classes: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Logits with areas in which one class is the best."""
    coarse = torch.randn(1, classes, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (height, width), mode="bicubic")[0]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.integers(0, 99),
)
def test_it_is_torch_s_interpolation(classes: int, size: tuple[int, int], wanted: tuple[int, int], seed: int) -> None:
    """Where torch's two best logits are nearly equal, rounding decides, and either class is right."""
    logits = smooth(classes, *size, seed)
    dense = F.interpolate(logits[None], wanted, mode="bilinear", align_corners=False)[0]
    found = torch.from_numpy(ids(logits, wanted).astype(np.int64))
    assert found.shape == wanted
    chosen = dense.gather(0, found[None])[0]
    assert (dense.amax(0) - chosen).max() < 1e-4


@pytest.mark.parametrize("wanted", [(40, 64), (90, 33), (17, 128), (1, 1), (200, 200)])
def test_bands_and_blocks_change_nothing(wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    logits = smooth(4, 40, 64)
    once = ids(logits, wanted)
    for heights in ([40], [1] * 40, [7, 1, 20, 12]):
        for widths in ([64], [1] * 64, [5, 1, 58]):
            strips = class_strips(cut(logits, heights, widths), (40, 64), wanted)
            assert np.array_equal(np.concatenate(list(strips)), once)
    monkeypatch.setattr(upsampling, "_BAND_PX", 1)
    monkeypatch.setattr(upsampling, "_AT_ONCE", 7)
    assert np.array_equal(ids(logits, wanted), once)


def test_of_equal_logits_the_first_is_taken() -> None:
    assert not ids(torch.zeros(3, 4, 5), (9, 11)).any()
    logits = torch.zeros(3, 2, 2)
    logits[1:, 0, 0] = 1
    assert set(ids(logits, (8, 8)).ravel()) == {0, 1}


def test_a_class_that_is_the_best_at_no_corner_can_be_the_best_between_them() -> None:
    logits = torch.tensor([[[4.0, 0.0]], [[0.0, 4.0]], [[3.0, 3.0]]])
    assert 2 in ids(logits, (1, 16))

"""The values that random numbers, dropout and hashes are made of never change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.models.documents.sentence_tagger import _dropped
from pipeline.noise import Noise, ReservedStep
from pipeline.splitmix import GAMMA, mix, mix_24, mix_array, signed

#: The first two numbers of SplitMix64 with seed 0 are those of GAMMA and of twice GAMMA.
MIXED = {
    0: 0,
    1: 6238072747940578789,
    GAMMA: 0xE220A8397B1DCDAF,
    2 * GAMMA % 2**64: 0x6E789E6AA1B965F4,
    2**64 - 1: 13029008266876403067,
}


def test_a_number_and_an_array_are_mixed_alike() -> None:
    assert [mix(value) for value in MIXED] == list(MIXED.values())
    assert mix_array(np.array([*MIXED], np.uint64)).tolist() == list(MIXED.values())


def test_tensors_give_24_bits() -> None:
    found = mix_24(torch.tensor([0, 1, 2, -1, signed(GAMMA)]))
    assert found.tolist() == [0, 4463867, 10776877, 0, 1354906]
    assert [signed(value) for value in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [0, 2**63 - 1, -(2**63), -1]


def test_dropout_of_a_seed_stays() -> None:
    found = _dropped(torch.ones(2, 2, 12), torch.tensor([0, 5]), 0.3, 1998)
    assert (found > 0).int()[1].tolist() == [[1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 0], [0, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0]]
    assert found.max() == pytest.approx(1 / 0.7)


def test_noise_of_a_sample_stays() -> None:
    found = [Noise(seed, step, [sample]).uniform(2) for seed, step, sample in ((0, 0, 0), (1, 5, 7), (3, -2, 0))]
    expected = torch.tensor([[0.0973578095, 0.5808939338], [0.7717962861, 0.2723441720], [0.6026196480, 0.7733453512]])
    torch.testing.assert_close(torch.cat(found), expected, atol=1e-7, rtol=0)


def test_reserved_steps_stay() -> None:
    found = {step.name: int(step) for step in ReservedStep}
    known = {"VALIDATION": -1, "PREDICTION": -2, "DRAWING": -3, "FITTING": -4, "PICTURES": -5, "VIEWS": -6}
    assert found == known | {"PARAGRAPHS": -7}

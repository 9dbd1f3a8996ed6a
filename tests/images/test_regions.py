"""The task of regions: their order, masks of any size, and the schedule of the objective."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipeline.errors import RequestError
from pipeline.examples.sprites import sprite_scene
from pipeline.images.outputs import decode_mask, mask_problem
from pipeline.images.regions import ImageRegions, joined, ordered, region_palette
from pipeline.models.regions.slot_vae import SlotVAE, SlotVAEConfig
from pipeline.noise import Noise
from pipeline.rows import INPUT_SCHEMA

CONFIG = SlotVAEConfig(slots=4, width=8, slot_width=16, latent_channels=4, iterations=2)


def task(**settings: object) -> ImageRegions:
    return ImageRegions.of(4, height_px=16, width_px=20, **settings)


def network() -> SlotVAE:
    torch.manual_seed(0)
    return SlotVAE(CONFIG).eval()


def inputs(*sizes: tuple[int, int]) -> pa.Table:
    data = []
    for index, size in enumerate(sizes):
        Image.fromarray(sprite_scene(index)[0]).resize(size[::-1]).save(file := BytesIO(), "PNG")
        data.append(file.getvalue())
    count = len(data)
    return pa.table({"data": data, "format": ["object"] * count, "label": [None] * count}, schema=INPUT_SCHEMA)


def test_regions_are_the_largest_and_then_from_left_to_right() -> None:
    winner = torch.tensor([[2, 2, 2, 2, 2], [3, 3, 2, 0, 2], [2, 2, 2, 2, 2]])
    scores = torch.nn.functional.one_hot(winner, 4).permute(2, 0, 1).float()
    assert ordered(scores).argmax(0).tolist() == [[0, 0, 0, 0, 0], [1, 1, 0, 2, 0], [0, 0, 0, 0, 0]]
    order = torch.tensor([3, 1, 0, 2])
    assert torch.equal(ordered(scores[order]).argmax(0), ordered(scores).argmax(0)), "whatever the order of slots"


def test_layers_that_share_a_thing_are_one_region() -> None:
    """Layers 1 and 3 have half of a thing each; layer 2 has another."""
    probability = torch.full((4, 2, 6), 1e-6)
    probability[0, :, :2] = 1.0
    probability[1, :, 2:4], probability[3, :, 2:4] = 0.45, 0.55
    probability[2, :, 4:] = 1.0
    found = joined(probability.log())
    assert found.argmax(0)[0].tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(found.exp().sum(0), torch.ones(2, 6), atol=1e-4, rtol=0)
    apart = torch.eye(4)[:, None, :].expand(4, 2, 4) * 20  # no two layers share a pixel
    assert joined(apart).argmax(0)[0].tolist() == [0, 1, 2, 3]


def test_masks_have_the_size_of_their_images() -> None:
    trained = task().calibrated(network(), [task().prepare_samples(inputs((16, 20), (33, 41)))])
    assert trained.reference is not None
    prepared = trained.prepare(inputs((40, 31), (7, 60), (16, 20))).drop_columns(["error"])
    rows = trained.encode(trained.predict(network(), prepared, torch.device("cpu")))
    assert rows.schema == trained.schema
    for row, size in zip(rows.to_pylist(), ((40, 31), (7, 60), (16, 20)), strict=True):
        assert mask_problem(row) is None
        assert decode_mask(row["mask"]["bytes"]).shape == size
        assert 0.25 <= row["confidence"] <= 1
        assert row["novelty"] is None, "no percentile is told among two held-out images"
        assert row["novelty_raw"] is not None
        assert len(row["embedding"]) == 4
        assert row["class_pixels"][0] == max(row["class_pixels"])


def test_the_objective_begins_with_transparent_layers_and_without_kl() -> None:
    """At step 0 of 100 the total is the blended cost alone; at the end the mixture's with the KL."""
    model, noise = network(), [Noise(0, step, [0, 1], 100) for step in (0, 99)]
    batch = task().collate(task().prepare_samples(inputs((16, 20), (16, 20))))
    first, last = (task(beta=1.0).loss(model, batch, item) for item in noise)
    assert first.total.item() == pytest.approx(first.logs["reconstruction"].item(), rel=1e-6)
    assert last.total.item() == pytest.approx((last.logs["reconstruction"] + last.logs["kl"]).item(), rel=1e-6)
    assert first.units.item() == 2 * 3 * 16 * 20
    plain = task(beta=1.0, blended=0.0, warmup=0.0)  # the mixture and the whole KL from the start
    same, early = (plain.loss(model, batch, Noise(0, step, [0, 1], 100)) for step in (99, 0))
    assert same.total.item() == pytest.approx(last.total.item(), rel=1e-6)
    assert abs(early.logs["reconstruction"] - first.logs["reconstruction"]).item() > 1


def test_scenes_depend_on_the_seed_alone_and_have_two_to_four_shapes() -> None:
    found = [sprite_scene((5, index)) for index in range(30)]
    assert {ids.max() for _, ids in found} == {2, 3, 4}
    assert all(np.array_equal(a, b) for a, b in zip(found[3], sprite_scene((5, 3)), strict=True))
    assert not np.array_equal(found[3][0], found[4][0])


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"beta": -1.0}, {"blended": 1.5}, {"resize": "tile"}, {"tta": "flip"}):
        with pytest.raises(RequestError, match=f"ImageRegions.{next(iter(wrong))} must"):
            task(**wrong)
    assert len(set(region_palette(12))) == 12

"""What a recipe chooses: from drawn data sets whose facts are known, and from the time and the speed."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pipeline.images.fingerprint import Fingerprint, combined, look
from pipeline.images.inputs import NO_CLASS
from pipeline.images.recipe import Given, Size, choose

CLASSES = ("rest", "bar")
SIZES = (Size(width=16, pixels_per_s=2e6), Size(width=32, pixels_per_s=7e5))


def bars(height: int, width: int, thick: int, sky: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image with upright bars, and its label. ``sky``: brightness added to the upper half."""
    label = np.zeros((height, width), np.uint8)
    for left in range(thick, width - thick, 8 * thick):
        label[:, left : left + thick] = 1
    image = np.repeat((label * 100 + 50)[..., None], 3, 2).astype(np.uint8)
    image[: height // 2] += np.uint8(sky)
    return image, label


def facts(*sizes: tuple[int, int, int], sky: int = 0) -> Fingerprint:
    return combined([look(*bars(*size, sky=sky), 2) for size in sizes])


def test_a_look_by_hand() -> None:
    found = look(*bars(40, 64, 4), 2)
    assert (found.height, found.width, found.pixels.tolist()) == (40, 64, [40 * 56, 40 * 8])
    assert found.thickness[1] == pytest.approx(4), "a strip has its width"
    label = np.zeros((10, 10), np.uint8)
    label[:5] = NO_CLASS
    found = look(np.zeros((10, 10, 3), np.uint8), label, 2)
    assert found.pixels.tolist() == [50, 0]
    assert found.thickness[0] == 10
    assert np.isnan(found.thickness[1])


def test_fingerprints() -> None:
    same = facts((64, 96, 4), (64, 96, 4))
    assert (same.height, same.width, same.size_spread, same.has_up) == (64, 96, 1.0, False)
    assert same.thinnest() == (1, pytest.approx(4))
    assert facts((64, 96, 4), sky=80).has_up
    assert facts((64, 64, 4), (256, 256, 4)).size_in_pixels
    assert not facts((64, 64, 4), (256, 256, 16)).size_in_pixels


def test_large_images_of_different_sizes_with_small_objects_are_tiled() -> None:
    data = facts((512, 512, 6), (1024, 1024, 6), (700, 300, 6))
    chosen = choose(data, CLASSES, 50, 20, SIZES)
    assert (chosen.resize, chosen.height_px, chosen.width_px, chosen.tile_scale) == ("tile", 256, 256, 1.0)
    assert chosen.vertical_flip
    alike = facts((512, 512, 6), (512, 512, 6))
    assert choose(alike, CLASSES, 50, 20, SIZES).resize == "fit"
    assert choose(facts((64, 64, 4), (128, 128, 4)), CLASSES, 50, 20, SIZES).resize == "fit", "they are small"


def test_large_images_with_small_objects_are_tiled_even_if_all_have_one_size() -> None:
    chosen = choose(facts((1024, 1024, 6)), CLASSES, 50, 20, SIZES)
    assert (chosen.resize, chosen.tile_scale) == ("tile", 1.0)
    assert choose(facts((1024, 1024, 60)), CLASSES, 50, 20, SIZES).resize == "fit"
    assert choose(facts((1024, 1024, 6), sky=80), CLASSES, 50, 20, SIZES).resize == "fit", "a scene is seen whole"


def test_what_is_given_is_kept_and_counted_in_the_time() -> None:
    data = facts((360, 480, 4))
    free = choose(data, CLASSES, 300, 30, SIZES[:1])
    small = choose(data, CLASSES, 300, 30, SIZES[:1], Given(height_px=180, width_px=240))
    assert (small.height_px, small.width_px) == (180, 240)
    assert small.epochs == pytest.approx(4 * free.epochs, rel=0.05)
    tiled = choose(data, CLASSES, 300, 30, SIZES[:1], Given(resize="tile", tile_scale=0.5, height_px=96))
    assert (tiled.resize, tiled.tile_scale, tiled.height_px, tiled.width_px) == ("tile", 0.5, 96, 256)
    mixed = facts((512, 512, 6), (1024, 1024, 6), (700, 300, 6))
    assert choose(mixed, CLASSES, 300, 30, SIZES, Given(resize="fit")).resize == "fit"


def test_thick_objects_need_no_large_input() -> None:
    thick = choose(facts((512, 512, 24)), CLASSES, 50, 500, SIZES)
    thin = choose(facts((512, 512, 4)), CLASSES, 50, 500, SIZES)
    assert thick.height_px < thin.height_px == 512


def test_time_buys_size_width_and_epochs() -> None:
    data = facts((360, 480, 4))
    short, middle, long = (choose(data, CLASSES, 300, minutes, SIZES) for minutes in (3, 30, 300))
    assert short.height_px < middle.height_px == long.height_px == 360
    assert short.width == 16
    assert long.width == 32
    assert choose(data, CLASSES, 300, 60, SIZES[:1]).epochs == pytest.approx(
        2 * choose(data, CLASSES, 300, 30, SIZES[:1]).epochs, abs=1
    )
    pixels = 300 * middle.epochs * 360 * 480 * (1 - 0.75 * middle.half_size)
    assert pixels / 2e6 / 60 == pytest.approx(30 * 0.85, rel=0.05)


def test_rare_classes_weigh_more_within_bounds() -> None:
    data = dataclasses.replace(facts((64, 96, 4)), shares=(0.9999, 0.0001))
    common, rare = choose(data, CLASSES, 50, 10, SIZES).class_weights
    assert rare / common == pytest.approx(4.0 / 0.3, rel=0.01)
    even = dataclasses.replace(data, shares=(0.5, 0.5))
    assert choose(even, CLASSES, 50, 10, SIZES).class_weights == (1.0, 1.0)
    absent = dataclasses.replace(data, shares=(1.0, 0.0))
    assert all(weight > 0 for weight in choose(absent, CLASSES, 50, 10, SIZES).class_weights)


def test_reasons_name_what_the_time_was_too_short_for() -> None:
    chosen = choose(facts((480, 640, 3)), CLASSES, 2000, 3, SIZES)
    assert any(
        "'bar', 3.0 px thick" in reason and "the time or the memory is short" in reason for reason in chosen.reasons
    )


def test_a_step_fits_into_the_memory_of_a_gpu() -> None:
    data = facts((240, 320, 8), sky=80)

    def chosen(memory_px: int | None) -> tuple[int, int, tuple[str, ...]]:
        sizes = [dataclasses.replace(size, memory_px=memory_px) for size in SIZES]
        found = choose(data, CLASSES, 200, 60, sizes)
        return found.batch_rows, found.height_px * found.width_px, found.reasons

    batch, area, reasons = chosen(None)
    assert (batch, area) == (8, 240 * 320)
    assert not any("memory:" in reason for reason in reasons)
    batch, area, reasons = chosen(3 * 240 * 320)
    assert (batch, area) == (2, 240 * 320)
    assert "memory: 2 samples a step and not 8, since no more fit" in reasons
    batch, area, _ = chosen(100 * 100)
    assert batch == 1
    assert area <= 100 * 100 * 1.1, "sides are multiples of 16"

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.images.outputs import decode_mask, encode_mask, overlay

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 800), (800, 1), (17, 33)])
def test_masks_survive(kind, size):
    mask = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, size).astype(kind)
    found = decode_mask(encode_mask(mask, PALETTE * 85 + ((0, 0, 0),)))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, mask)


def test_bit_depth_is_8_and_indexed_for_few_classes():
    data = encode_mask(np.array([[0, 1], [2, 1]], np.uint8), PALETTE)
    assert struct.unpack(">IIBB", data[16:26]) == (2, 2, 8, 3)
    with Image.open(BytesIO(data)) as picture:
        assert picture.mode == "P"
        assert np.asarray(picture.convert("RGB")).tolist() == [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]


def test_bit_depth_is_16_and_gray_for_many_classes():
    data = encode_mask(np.array([[0, 256, 65535]], np.uint16), [])
    assert struct.unpack(">IIBB", data[16:26]) == (3, 1, 16, 0)
    assert b"PLTE" not in data


def test_chunks_have_their_checksums():
    data, position, names = encode_mask(np.zeros((3, 4), np.uint8), PALETTE), 8, []
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        assert struct.unpack_from(">I", data, position + 8 + length) == (zlib.crc32(body),)
        names.append(body[:4])
        position += 12 + length
    assert names == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]


def test_overlay_by_hand():
    image = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[0, 2, 255]], np.uint8)
    # Half of 100 and half of 255 is 177.5, which rounds to even; id 255 has no colour.
    assert overlay(image, mask, PALETTE).tolist() == [[[178, 50, 50], [50, 50, 178], [100, 100, 100]]]
    np.testing.assert_array_equal(overlay(image, mask, PALETTE, opacity=0.0), image)

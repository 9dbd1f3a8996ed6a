import numpy as np
import pytest
from PIL import Image

from pipeline.errors import InputError
from pipeline.images.inputs import (
    NO_CLASS,
    PADDING,
    decode_fitted,
    decode_image,
    decode_label,
    decode_numbers,
    fit_label,
)
from testing.broken_images import broken, encoded, odd, picture, rotated

LIMIT = 1_000_000


@pytest.mark.parametrize("name", broken())
def test_broken_files_get_their_code_and_the_same_words_each_time(name):
    data, code = broken()[name]
    messages = set()
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            decode_image(data, LIMIT)
        assert caught.value.code == code
        messages.add(caught.value.message)
    assert len(messages) == 1
    assert "0x" not in messages.pop(), "no address of an object in a message"


@pytest.mark.parametrize("name", odd())
def test_odd_files_are_read(name):
    data, color = odd()[name]
    image = decode_image(data, LIMIT)
    assert image.dtype == np.uint8
    assert image.shape == (7, 9, 3) if "16-bit" not in name else (9, 7, 3)
    np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), atol=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_is_applied_once(orientation, kind):
    image = decode_image(rotated(orientation, kind), LIMIT)
    np.testing.assert_allclose(image.astype(int), picture().astype(int), atol=12)
    fitted = decode_fitted(rotated(orientation, kind), LIMIT, 24, 32)
    assert (fitted.height, fitted.width) == (24, 32)
    np.testing.assert_array_equal(fitted.pixels, image)


def test_no_damage_to_png_data_passes_in_silence():
    data = encoded(picture(), "PNG")
    start = data.index(b"IDAT") + 4
    for position in range(start, len(data) - 12):
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        with pytest.raises(InputError):
            decode_fitted(bytes(damaged), LIMIT, 24, 32)


def test_too_many_pixels_is_said_before_decoding():
    bomb = encoded(Image.new("1", (5_000, 5_000)), "PNG")
    with pytest.raises(InputError, match="the image has 5000 x 5000 pixels, the limit is 1000000 in all") as caught:
        decode_image(bomb, LIMIT)
    assert caught.value.code == "too_many_pixels"
    assert decode_image(encoded(picture(10, 10), "PNG"), 100).shape == (10, 10, 3), "the limit itself is allowed"


@pytest.mark.parametrize(
    ("size", "valid"),
    [((180, 240), (180, 240)), ((360, 480), (180, 240)), ((100, 100), (180, 180)), ((1, 800), (1, 240)),
     ((800, 1), (180, 1)), ((1, 1), (180, 180)), ((17, 33), (124, 240))],
)  # fmt: skip
def test_fit_keeps_the_aspect_and_pads_right_and_bottom(size, valid):
    # 17 x 33 to a width of 240: 17 * 240 / 33 = 123.6.
    fitted = decode_fitted(encoded(np.full((*size, 3), 200, np.uint8), "PNG"), LIMIT, 180, 240)
    boxed = fitted.pixels
    assert (fitted.valid_height, fitted.valid_width) == valid
    assert boxed.shape == (180, 240, 3)
    assert (boxed[: valid[0], : valid[1]] == 200).all()
    assert (boxed[valid[0] :] == PADDING).all()
    assert (boxed[:, valid[1] :] == PADDING).all()
    assert (fit_label(np.full(size, 3, np.uint8), 180, 240) == NO_CLASS).sum() == 180 * 240 - valid[0] * valid[1]


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    data = encoded(picture(1200, 1600), "JPEG", quality=95)
    fitted = decode_fitted(data, 10_000_000, 60, 80)
    whole = decode_fitted(encoded(decode_image(data, 10_000_000), "PNG"), 10_000_000, 60, 80).pixels
    assert (fitted.height, fitted.width, fitted.valid_height, fitted.valid_width) == (1200, 1600, 60, 80)
    np.testing.assert_allclose(fitted.pixels.astype(int), whole.astype(int), atol=4)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_label_with_the_usual_orientation_is_read():
    label = np.array([[0, 1, 2], [10, 11, 0]], np.uint8)
    np.testing.assert_array_equal(decode_label(encoded(label, "PNG", exif=turned(1)), 2, 3), label)


def test_numbers_of_16_bits_are_whole():
    numbers = np.array([[0, 1, 255], [256, 65535, 0]], np.uint16)
    np.testing.assert_array_equal(decode_numbers(encoded(numbers, "PNG"), 2, 3), numbers)
    with pytest.raises(InputError, match="the label has an EXIF orientation"):
        decode_numbers(encoded(numbers, "PNG", exif=turned(6)), 2, 3)


NOT_GRAY = "the label is not a gray or palette PNG of 8 bits"


def test_labels_are_values_whatever_their_palette():
    label = np.array([[0, 1, 2], [10, 11, 0]], np.uint8)
    indexed = Image.fromarray(label)
    indexed.putpalette([9, 9, 9] * 12)
    for image in (Image.fromarray(label), indexed):
        np.testing.assert_array_equal(decode_label(encoded(image, "PNG"), 2, 3), label)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the label cannot be read: the file has no bytes"),
        (encoded(np.zeros((3, 2), np.uint8), "PNG"), "the label is 3 x 2, not 2 x 3"),
        (encoded(np.zeros((2, 4), np.uint8), "PNG"), "the label is not 2 x 3, as the image is"),
        (
            encoded(np.zeros((2, 3, 3), np.uint8), "PNG"),
            f"{NOT_GRAY}, but an RGB image",
        ),
        (
            encoded(np.zeros((2, 3), np.uint8), "JPEG"),
            f"{NOT_GRAY}, but a JPEG of mode L",
        ),
        (
            encoded(np.zeros((2, 3), np.uint16), "PNG"),
            f"{NOT_GRAY}, but a PNG of mode I;16",
        ),
        (
            encoded(np.zeros((2, 3), np.uint8), "PNG", exif=turned(3)),
            "the label has an EXIF orientation; labels must be stored upright",
        ),
    ],
)
def test_bad_labels(data, message):
    with pytest.raises(InputError) as caught:
        decode_label(data, 2, 3)
    assert (caught.value.code, caught.value.message) == ("bad_label", message)

"""Small images in every layout that a format allows, each with the colours that it shows.

tifffile writes the TIFF files and imagecodecs compresses them. The colours follow from the samples by the rules of the
format's standard, in `shown`, which shares no code with the product.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from testing.hostile.corpus import chunk, encoded, lines, png, tiff

HEIGHT, WIDTH = 21, 37  # neither fills its tiles, its blocks or its last byte
_GRAYS = ("minisblack", "miniswhite")
_PILLOW_SUBSAMPLING = ((1, 1), (2, 1), (2, 2))
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


#: The layouts that are refused, and what the error must say. All others must be read.
REFUSED = {
    r"tiff mini(sblack|swhite) (6|10|14)\b.*": "a layout that is not read: gray",
    r"tiff miniswhite 12.*": "gray whose 0 is white, 1 x 12 bits",
    r"tiff (mini\w+|rgb) (24|32|64)\b.*": "bits, whose range nobody knows",
    r"tiff miniswhite 16( None, planes)?(, .*big-endian|, fill order 2 .)": "a layout that is not read: gray whose 0",
    r"tiff minisblack 16, fill order 2 >": "bits in reverse order, big-endian",
    r"tiff rgb 16(, planes)?, fill order 2 .|tiff (separated|ycbcr) 8, fill order 2 .": "bits in reverse order",
    r"tiff palette 16.*": "a layout that is not read: palette, 1 x 16 bits",
    r"tiff rgb (2|4|5|10|12)\b.*": "a layout that is not read: RGB, 3 x",
    r"tiff miniswhite (8|16) (un)?ass\w*alpha.*": "gray whose 0 is white, 2 x",
    r"tiff miniswhite (8|16) None(?!, planes).*": "gray whose 0 is white, 2 x",
    r"tiff minisblack 16 (un)?ass\w*alpha.*|tiff minisblack 16 None(?!, planes).*": "gray, 2 x 16 bits",
    r"tiff minisblack 8 (un)?ass\w*alpha, planes.*": "gray, 2 x 8 bits, extra samples",
    r"tiff separated (8|16) (un)?ass\w*alpha.*|tiff separated 16 None(?!, planes).*": "CMYK, 5 x",
    r"tiff rgb 8 (alpha and 3|and 4) more(?!, planes).*": "RGB, 7 x 8 bits",
    r"tiff rgb (8|16) alpha and . more, planes.*": "in planes",
    r"tiff rgb 16 (alpha )?and . more(?!, planes).*": "16 bits, extra samples",
    r"tiff of . x f.*": "floating-point numbers, whose range nobody knows",
    r"tiff of . x i.*": "signed numbers, whose range nobody knows",
    r"tiff cielab 16": r"CIE L*a*b*, 3 x 16 bits",
    r"tiff (icclab 8|logluv|linear raw 16)": "photometric interpretation",
    r"tiff mask": "a layout that is not read: mask",
    r"tiff rgb 8, (jpeg2000|lerc|jpegxl|png)": "compression",
    r"jpeg 12 bits": "samples of 12 bits",
    r"bmp masks (444|bgr 565|xbgr|10 bits)\b.*": "a layout that is not read: a header of 40 bytes",
    r"bmp masks 1555.*": "alpha in pixels of 16 bits",
    r"netpbm P(7|f).*": "the file is none of",
}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A file, and the colours (h, w, 3) that it shows; None if they do not follow from the file."""

    data: bytes
    colours: np.ndarray | None
    samples: np.ndarray | None = None
    """What another decoder must find in the file."""
    tolerance: float = 1.0


def random_samples(channels: int, bits: int, seed: int = 0) -> np.ndarray:
    """Samples (h, w, channels) of the whole range, or (h, w) of one channel. The corners are the least and the most."""
    most = (1 << bits) - 1
    generator = np.random.default_rng([seed, channels, bits])
    samples = generator.integers(0, most, (HEIGHT, WIDTH, channels), endpoint=True, dtype=np.uint64)
    samples[0, 0], samples[-1, -1] = 0, most
    samples = samples.astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32 if bits <= 32 else "u8")
    return samples if channels > 1 else samples[..., 0]


def smooth(channels: int) -> np.ndarray:
    """Samples of 8 bits that JPEG keeps well."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [60 + 3 * x, 200 - 5 * y, 90 + x + y, 40 + 2 * y]
    samples = np.stack(planes[:channels], 2).astype(np.uint8)
    return samples if channels > 1 else samples[..., 0]


def shown(
    samples: np.ndarray, bits: int, photometric: str, alpha: str | None = None, colormap: np.ndarray | None = None
) -> np.ndarray:
    """The colours of samples (h, w) or (h, w, channels) on white, 0 to 255, by TIFF 6.0.

    ``alpha``: whether the channel behind the colours is "unassalpha", "assocalpha" or something else (None). Of samples
    of more than 8 bits the 8 highest bits count.
    """
    if bits > 8 and photometric != "palette":
        samples, bits = samples >> (bits - 8), 8
    values = samples.reshape(*samples.shape[:2], -1).astype(np.float64) / ((1 << bits) - 1)
    count = {"palette": 1, "minisblack": 1, "miniswhite": 1, "separated": 4}.get(photometric, 3)
    colours, opacity = values[..., :count], values[..., count : count + 1]
    if photometric == "palette":
        assert colormap is not None
        colours = np.moveaxis(colormap, 0, -1)[samples.reshape(*samples.shape[:2], -1)[..., 0]] / 65535
    elif photometric == "miniswhite":
        colours = 1 - colours
    elif photometric == "separated":
        colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
    elif photometric == "ycbcr":
        luminance, blue, red = (colours[..., index] for index in range(3))
        blue, red = blue - 128 / 255, red - 128 / 255
        green = luminance - 0.344136 * blue - 0.714136 * red
        colours = np.stack([luminance + 1.402 * red, green, luminance + 1.772 * blue], 2).clip(0, 1)
    elif photometric == "cielab":
        colours = _from_lab(samples)
    if colours.shape[2] == 1:
        colours = np.repeat(colours, 3, 2)
    if alpha == "assocalpha":
        colours = colours + (1 - opacity)
    elif alpha == "unassalpha":
        colours = colours * opacity + (1 - opacity)
    return (255 * colours).clip(0, 255)


def _from_lab(samples: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of 8 bits, white D50, to sRGB, 0 to 1: IEC 61966-2-1, with the matrix of Bruce Lindbloom for D50."""
    light = samples[..., 0] / 255 * 100
    a, b = (samples[..., index].astype(np.uint8).view(np.int8).astype(float) for index in (1, 2))
    middle = (light + 16) / 116
    ratios = np.stack([middle + a / 500, middle, middle - b / 200], 2)
    ratios = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29))
    to_rgb = np.array([[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540],
                       [0.0719453, -0.2289914, 1.4052427]])  # fmt: skip
    linear = (ratios * [0.9642, 1.0, 0.8249] @ to_rgb.T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def layouts() -> dict[str, Callable[[], Layout]]:
    """All layouts by name."""
    found: dict[str, Callable[[], Layout]] = {}
    for make in (_tiff_layouts, _png_layouts, _jpeg_layouts, _bmp_layouts, _gif_webp_layouts, _netpbm_layouts):
        for name, layout in make():
            assert name not in found, name
            found[name] = layout
    return found


def tiff_file(samples: np.ndarray, **options: Any) -> bytes:
    stream = BytesIO()
    writer = {name: options.pop(name) for name in ("byteorder", "bigtiff") if name in options}
    with tifffile.TiffWriter(stream, **writer) as file:
        file.write(samples, metadata=None, software=False, **options)
    return stream.getvalue()


def _tiff(
    channels: int,
    bits: int,
    photometric: str,
    *,
    planar: bool = False,
    alpha: str | None = None,
    extra: int = 0,
    dtype: Any = None,
    is_known: bool = True,
    **options: Any,
) -> Layout:
    samples = random_samples(channels + extra, bits)
    if alpha == "assocalpha":  # a colour is at most its alpha
        samples[..., :channels] = np.minimum(samples[..., :channels], samples[..., channels:])
    if photometric == "ycbcr":  # colours that exist
        samples = np.clip(samples, 80, 170)
    stored = samples if dtype is None else samples.astype(dtype)
    if planar:
        options["planarconfig"] = "separate"
        stored = np.moveaxis(stored, -1, 0).copy()
    elif channels + extra > 1:
        options["planarconfig"] = "contig"
    if extra:
        options["extrasamples"] = [alpha or "unspecified", *["unspecified"] * (extra - 1)]
    if bits not in (8, 16, 32, 64):
        options["bitspersample"] = bits
    colormap = None
    if photometric == "palette":
        generator = np.random.default_rng(1)
        colormap = generator.integers(0, 65535, (3, 1 << (8 if bits <= 8 else 16)), endpoint=True).astype(np.uint16)
        options["colormap"] = colormap
    data = tiff_file(stored, photometric=photometric, **options)
    colours = shown(samples, bits, photometric, alpha, colormap) if is_known else None
    return Layout(data=data, colours=colours, samples=stored)


def _tiff_layouts() -> Iterator[tuple[str, Callable[[], Layout]]]:
    kinds: list[tuple[str, dict[str, Any]]] = []
    for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64):
        for photometric in _GRAYS:
            if bits != 1:
                kinds.append((f"{photometric} {bits}", {"channels": 1, "bits": bits, "photometric": photometric}))
    for bits in (2, 4, 8, 16):
        kinds.append((f"palette {bits}", {"channels": 1, "bits": bits, "photometric": "palette"}))
    for bits, planar in itertools.product((2, 4, 5, 8, 10, 12, 16, 32), (False, True)):
        name = f"rgb {bits}{', planes' if planar else ''}"
        kinds.append((name, {"channels": 3, "bits": bits, "photometric": "rgb", "planar": planar}))
    for bits, planar in itertools.product((8, 16), (False, True)):
        where = ", planes" if planar else ""
        given = {"bits": bits, "planar": planar}
        kinds.append((f"separated {bits}{where}", {"channels": 4, "photometric": "separated"} | given))
        for alpha in ("unassalpha", "assocalpha", None):
            behind = {"alpha": alpha, "extra": 1} | given
            kinds.append((f"rgb {bits} {alpha}{where}", {"channels": 3, "photometric": "rgb"} | behind))
            kinds.append((f"separated {bits} {alpha}{where}", {"channels": 4, "photometric": "separated"} | behind))
            for photometric in _GRAYS:
                kinds.append(
                    (f"{photometric} {bits} {alpha}{where}", {"channels": 1, "photometric": photometric} | behind)
                )
        for count in (2, 3, 4):
            behind = {"extra": count, "alpha": "unassalpha"} | given
            kinds.append(
                (f"rgb {bits} alpha and {count - 1} more{where}", {"channels": 3, "photometric": "rgb"} | behind)
            )
            behind = {"extra": count} | given
            kinds.append((f"rgb {bits} and {count} more{where}", {"channels": 3, "photometric": "rgb"} | behind))
    for planar in (False, True):
        given = {"channels": 3, "bits": 8, "photometric": "ycbcr", "planar": planar}
        kinds.append((f"ycbcr 8{', planes' if planar else ''}", given))
    ways: list[tuple[str, dict[str, Any]]] = [
        ("", {}),
        (", big-endian", {"byteorder": ">"}),
        (", BigTIFF", {"bigtiff": True}),
        (", strips of 4", {"rowsperstrip": 4}),
        (", tiles", {"tile": (16, 16)}),
        (", tiles, big-endian", {"tile": (32, 16), "byteorder": ">"}),
        (", lzw", {"compression": "lzw"}),
        (", packbits", {"compression": "packbits"}),
        (", deflate, big-endian", {"compression": "zlib", "byteorder": ">"}),
        (", deflate, predictor", {"compression": "zlib", "predictor": 2}),
        (
            ", lzw, tiles, predictor, big-endian",
            {"compression": "lzw", "predictor": 2, "tile": (16, 16), "byteorder": ">"},
        ),
        (", zstd", {"compression": "zstd"}),
        (", lzma", {"compression": "lzma"}),
    ]
    for (name, kind), (how, options) in itertools.product(kinds, ways):
        packed = kind["bits"] not in (8, 16, 32, 64)
        if packed and ("compression" in options or "tile" in options or (kind["bits"] > 8 and "byteorder" in options)):
            continue  # tifffile does not write them, or not rightly
        yield f"tiff {name}{how}", lambda kind=kind, options=options: _tiff(**kind, **options)
    for photometric, (how, options) in itertools.product(_GRAYS, ways):
        if "predictor" not in options:
            yield f"tiff {photometric} 1{how}", lambda p=photometric, o=options: _bilevel(p, o)
    for (name, kind), order in itertools.product(kinds, "<>"):
        if not re.fullmatch(r"mini.* ([248]|16)|palette 8|rgb (8|16)(, planes)?|separated 8|ycbcr 8", name):
            continue
        yield f"tiff {name}, fill order 2 {order}", lambda kind=kind, order=order: _reversed_bits(kind, order)
    for orientation, bits, planar in itertools.product(range(1, 9), (8, 16), (False, True)):
        name = f"tiff rgb {bits}, orientation {orientation}{', planes' if planar else ''}"
        yield name, lambda o=orientation, b=bits, p=planar: _turned(o, 3, b, "rgb", planar=p)
        if not planar:
            name = f"tiff miniswhite {bits}, orientation {orientation}"
            yield name, lambda o=orientation, b=bits: _turned(o, 1, b, "miniswhite")
            name = f"tiff rgb {bits}, orientation {orientation}, lzw"
            yield name, lambda o=orientation, b=bits: _turned(o, 3, b, "rgb", compression="lzw")
    for dtype, channels, order in itertools.product(("i1", "i2", "i4", "i8", "f2", "f4", "f8"), (1, 3), "<>"):
        name = f"tiff of {channels} x {dtype} {order}"
        yield name, lambda d=dtype, c=channels, o=order: _other_numbers(d, c, o)
    for photometric in ("minisblack", "rgb"):
        for quality, tile in itertools.product((90, 100), (None, (16, 16))):
            name = f"tiff {photometric} jpeg {quality}{', tiles' if tile else ''}"
            yield name, lambda p=photometric, q=quality, t=tile: _tiff_jpeg(p, q, t, (1, 1))
    for subsampling in ((1, 1), (2, 1), (2, 2)):
        name = f"tiff ycbcr jpeg {subsampling}"
        yield name, lambda s=subsampling: _tiff_jpeg("rgb", 95, (16, 32), s)
    for compression in ("jpeg2000", "lerc", "jpegxl", "png"):
        yield f"tiff rgb 8, {compression}", lambda c=compression: _tiff(3, 8, "rgb", compression=c)
    yield "tiff separated 8, jpeg", _inks_by_jpeg
    yield "tiff two pages", _two_pages
    yield "tiff rgb 8, four samples, no word of alpha", lambda: _no_extra_samples("<")
    yield "tiff rgb 8, profile", lambda: _tiff(3, 8, "rgb", iccprofile=bytes(1000))
    for how, options in ways:
        yield f"tiff cielab 8{how}", lambda o=options: _lab(o)
    for subsampling in ((1, 1), (2, 1), (2, 2)):
        yield f"tiff ycbcr 8, uncompressed {subsampling}", lambda s=subsampling: _subsampled(s)
    yield "tiff cielab 16", lambda: _tiff(3, 16, "cielab", is_known=False)
    yield "tiff icclab 8", lambda: _tiff(3, 8, "icclab", is_known=False)
    yield "tiff logluv", lambda: _tiff(3, 16, "logluv", is_known=False)
    yield "tiff linear raw 16", lambda: _tiff(3, 16, "linear_raw", is_known=False)
    yield "tiff mask", lambda: _tiff(1, 8, "mask", is_known=False)
    yield "tiff with white level", lambda: _tiff(1, 16, "minisblack", extratags=[(281, 3, 1, 4095, True)])


def _bilevel(photometric: str, options: dict[str, Any]) -> Layout:
    samples = random_samples(1, 1)
    data = tiff_file(samples.astype(bool), photometric=photometric, **options)
    return Layout(data=data, colours=shown(samples, 1, photometric), samples=samples.astype(bool))


def _reversed_bits(kind: dict[str, Any], order: str) -> Layout:
    """The same file, with the first pixel in the last bit of each byte."""
    layout = _tiff(**kind, byteorder=order, rowsperstrip=HEIGHT, extratags=[("FillOrder", 3, 1, 1, True)])
    with tifffile.TiffFile(BytesIO(layout.data)) as file:
        page = file.pages.first
        ranges = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        value = page.tags[266].valueoffset
    data = bytearray(layout.data)
    for start, size in ranges:
        part = np.frombuffer(layout.data, np.uint8, size, start)
        data[start : start + size] = np.packbits(np.unpackbits(part), bitorder="little").tobytes()
    data[value : value + 2] = struct.pack(order + "H", 2)
    return Layout(data=bytes(data), colours=layout.colours, samples=layout.samples)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (h, w, ...) as they are to be seen (TIFF 6.0, Orientation)."""
    turned = np.swapaxes(stored, 0, 1) if orientation > 4 else stored
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    return turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned


def _turned(orientation: int, channels: int, bits: int, photometric: str, **options: Any) -> Layout:
    layout = _tiff(channels, bits, photometric, extratags=[("Orientation", 3, 1, orientation, True)], **options)
    assert layout.colours is not None
    return Layout(data=layout.data, colours=upright(layout.colours, orientation), samples=layout.samples)


def _other_numbers(dtype: str, channels: int, order: str) -> Layout:
    """Signed and floating-point samples, whose range the file does not tell."""
    samples = random_samples(channels, 8).astype(np.float64) - 128
    samples = (samples / 128 if dtype[0] == "f" else samples).astype(dtype)
    data = tiff_file(samples, photometric="rgb" if channels == 3 else "minisblack", byteorder=order)
    return Layout(data=data, colours=None, samples=samples)


def _tiff_jpeg(photometric: str, quality: int, tile: tuple[int, int] | None, subsampling: tuple[int, int]) -> Layout:
    samples = smooth(3 if photometric == "rgb" else 1)
    options: dict[str, Any] = {"compressionargs": {"level": quality}, "tile": tile, "compression": "jpeg"}
    if photometric == "rgb":
        options["subsampling"] = subsampling
    data = tiff_file(samples, photometric=photometric, **options)
    decoded = tifffile.imread(BytesIO(data))
    assert abs(decoded.astype(float) - samples).mean() < 2
    return Layout(data=data, colours=np.broadcast_to(decoded.reshape(HEIGHT, WIDTH, -1), (HEIGHT, WIDTH, 3)))


def _inks_by_jpeg() -> Layout:
    samples = smooth(4)
    data = tiff_file(samples, photometric="separated", compression="jpeg", compressionargs={"level": 98})
    return Layout(data=data, colours=shown(tifffile.imread(BytesIO(data)), 8, "separated"))


def _lab(options: dict[str, Any]) -> Layout:
    samples = random_samples(3, 8)
    samples[..., 0] = samples[..., 0] // 2 + 100
    samples[..., 1:] = samples[..., 1:] % 25 - 12  # colours that exist
    samples[0, 0], samples[-1, -1] = (0, 0, 0), (255, 0, 0)
    data = tiff_file(samples, photometric="cielab", planarconfig="contig", **options)
    return Layout(data=data, colours=shown(samples, 8, "cielab"), samples=samples, tolerance=4)


def _subsampled(factors: tuple[int, int]) -> Layout:
    """Uncompressed YCbCr in units: the luminances of a block of pixels, then its chrominances (TIFF 6.0, 21)."""
    across, down = factors
    samples = random_samples(3, 8).clip(80, 170)
    rows, columns = -(-HEIGHT // down) * down, -(-WIDTH // across) * across
    padded = np.pad(samples, ((0, rows - HEIGHT), (0, columns - WIDTH), (0, 0)), "edge")
    for channel in (1, 2):  # one value for a block
        padded[..., channel] = np.repeat(np.repeat(padded[::down, ::across, channel], down, 0), across, 1)
    blocks = padded.reshape(rows // down, down, columns // across, across, 3).swapaxes(1, 2)
    light = blocks[..., 0].reshape(*blocks.shape[:2], -1)
    body = np.concatenate([light, blocks[:, :, 0, 0, 1:]], 2).astype(np.uint8).tobytes()
    data = tiff(samples, photometric=6, extra=[(530, 3, list(factors))], body=body)
    return Layout(data=data, colours=shown(padded[:HEIGHT, :WIDTH], 8, "ycbcr"), tolerance=2)


def _two_pages() -> Layout:
    first, second = random_samples(3, 8), random_samples(3, 8, seed=1)
    stream = BytesIO()
    with tifffile.TiffWriter(stream) as file:
        file.write(first, photometric="rgb", metadata=None)
        file.write(second, photometric="rgb", metadata=None)
    return Layout(data=stream.getvalue(), colours=first.astype(float))


def _no_extra_samples(order: str) -> Layout:
    """Four samples of RGB without the tag that says what the fourth is. It counts as alpha."""
    layout = _tiff(3, 8, "rgb", alpha="unassalpha", extra=1, byteorder=order)
    data = bytearray(layout.data)
    with tifffile.TiffFile(BytesIO(layout.data)) as file:
        at = file.pages.first.tags[338].offset
    data[at : at + 2] = struct.pack(order + "H", 65000)
    return Layout(data=bytes(data), colours=layout.colours)


# PNG


def _png_lines(samples: np.ndarray, depth: int, *, interlaced: bool) -> bytes:
    if not interlaced:
        return lines(samples, depth)
    parts = (samples[top::down, left::right] for top, left, down, right in _ADAM7)
    return b"".join(lines(part, depth) for part in parts if part.size)


def _png_layouts() -> Iterator[tuple[str, Callable[[], Layout]]]:
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    names = {0: "gray", 2: "rgb", 3: "palette", 4: "gray and alpha", 6: "rgb and alpha"}
    for colour, interlaced in itertools.product(names, (False, True)):
        for depth in depths[colour]:
            name = f"png {names[colour]} {depth}{', interlaced' if interlaced else ''}"
            yield name, lambda c=colour, d=depth, i=interlaced: _png_layout(c, d, interlaced=i)
            if colour in (0, 2, 3):
                yield (
                    f"{name}, transparent colour",
                    lambda c=colour, d=depth, i=interlaced: _png_layout(c, d, interlaced=i, key=True),
                )
    for name, before in {
        "gAMA": chunk(b"gAMA", struct.pack(">L", 100_000)),
        "sRGB": chunk(b"sRGB", b"\0"),
        "cHRM": chunk(b"cHRM", struct.pack(">8L", *[31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000])),
        "sBIT": chunk(b"sBIT", b"\4\4\4"),
        "bKGD": chunk(b"bKGD", struct.pack(">HHH", 9, 9, 9)),
        "cICP": chunk(b"cICP", bytes([9, 16, 0, 1])),
    }.items():
        yield f"png rgb 8, {name}", lambda before=before: _png_layout(2, 8, interlaced=False, before=before)


def _png_layout(colour: int, depth: int, *, interlaced: bool, key: bool = False, before: bytes = b"") -> Layout:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    samples = random_samples(channels, depth)
    photometric = {2: "rgb", 6: "rgb", 3: "palette"}.get(colour, "minisblack")
    table = np.random.default_rng(1).integers(0, 256, (1 << min(depth, 8), 3))
    if colour == 3:
        before += chunk(b"PLTE", table.astype(np.uint8).tobytes())
    colormap = (table.T * 257).astype(np.uint16)
    colours = shown(samples, depth, photometric, "unassalpha" if colour in (4, 6) else None, colormap)
    if key and colour == 3:
        alpha = np.random.default_rng(2).integers(0, 256, len(table))
        before += chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
        opacity = alpha[samples][..., None] / 255
        colours = colours * opacity + 255 * (1 - opacity)
    elif key:
        clear = samples[3, 5]
        # A neighbour that differs in its lowest bit stays as it is.
        samples[3, 6] = clear ^ 1
        colours = shown(samples, depth, photometric)
        before += chunk(b"tRNS", np.array(clear).astype(">u2").tobytes())
        same = samples == clear
        colours[same.all(2) if same.ndim == 3 else same] = 255
    raw = _png_lines(samples, depth, interlaced=interlaced)
    data = png(WIDTH, HEIGHT, depth, colour, raw, before, interlaced=interlaced)
    return Layout(data=data, colours=colours, samples=samples if not key and colour != 3 and depth >= 8 else None)


# JPEG


def _jpeg_layouts() -> Iterator[tuple[str, Callable[[], Layout]]]:
    for progressive, subsampling in itertools.product((False, True), (*_PILLOW_SUBSAMPLING, (1, 2), (4, 1))):
        name = f"jpeg {'progressive ' if progressive else ''}{subsampling}"
        yield name, lambda p=progressive, s=subsampling: _jpeg(p, s)
    yield "jpeg gray", lambda: _other_jpeg(smooth(1), "GRAY", "GRAY", None)
    yield "jpeg rgb as such", lambda: _other_jpeg(smooth(3), "RGB", "RGB", None)
    yield "jpeg cmyk", lambda: _other_jpeg(smooth(4), "CMYK", "CMYK", "separated")
    yield "jpeg ycck", lambda: _other_jpeg(smooth(4), "CMYK", "YCCK", "separated")
    yield "jpeg 12 bits", _wide_jpeg
    yield "jpeg lossless", _lossless_jpeg
    for orientation, kind in itertools.product(range(1, 9), ("JPEG", "PNG", "WEBP")):
        yield f"{kind} of orientation {orientation}", lambda o=orientation, k=kind: _exif(o, k)


def _jpeg(progressive: bool, subsampling: tuple[int, int]) -> Layout:
    image = smooth(3)
    if subsampling in _PILLOW_SUBSAMPLING:
        number = _PILLOW_SUBSAMPLING.index(subsampling)
        data = encoded(Image.fromarray(image), "JPEG", quality=97, progressive=progressive, subsampling=number)
    else:
        data = bytes(imagecodecs.jpeg8_encode(image, level=97, subsampling=subsampling))
    decoded = imagecodecs.jpeg8_decode(data)
    assert abs(decoded.astype(float) - image).mean() < 2
    return Layout(data=data, colours=decoded.astype(float))


def _other_jpeg(samples: np.ndarray, space: str, stored: str, photometric: str | None) -> Layout:
    data = bytes(imagecodecs.jpeg8_encode(samples, level=98, colorspace=space, outcolorspace=stored))
    decoded = imagecodecs.jpeg8_decode(data, outcolorspace=space)
    assert abs(decoded.astype(float) - samples).mean() < 2
    if photometric:
        colours = shown(255 - decoded, 8, photometric)  # as Adobe stores inks: 0 is full
    else:
        colours = np.broadcast_to(decoded.reshape(HEIGHT, WIDTH, -1), (HEIGHT, WIDTH, 3))
    return Layout(data=data, colours=colours)


def _wide_jpeg() -> Layout:
    data = bytes(imagecodecs.jpeg8_encode(smooth(3).astype(np.uint16) * 16, level=98, bitspersample=12))
    return Layout(data=data, colours=smooth(3).astype(float))


def _lossless_jpeg() -> Layout:
    samples = random_samples(1, 8)
    data = bytes(imagecodecs.ljpeg_encode(samples, bitspersample=8))
    return Layout(data=data, colours=shown(samples, 8, "minisblack"))


def _exif(orientation: int, kind: str) -> Layout:
    image = smooth(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    data = encoded(Image.fromarray(image), kind, exif=exif, **options)
    return Layout(data=data, colours=upright(image, orientation).astype(float), tolerance=6 if kind == "JPEG" else 0)


# BMP, written byte by byte


def _bmp_layouts() -> Iterator[tuple[str, Callable[[], Layout]]]:
    for bits, top_down, core in itertools.product((1, 4, 8, 24, 16, 32), (False, True), (False, True)):
        if not (core and (top_down or bits in (16, 32))):
            name = f"bmp {bits}{', top down' if top_down else ''}{', core header' if core else ''}"
            yield name, lambda b=bits, t=top_down, c=core: bmp_layout(b, top_down=t, core=c)
    masks: dict[str, tuple[int, tuple[int, ...], int]] = {
        "565": (16, (0xF800, 0x07E0, 0x001F), 40),
        "555": (16, (0x7C00, 0x03E0, 0x001F), 40),
        "444": (16, (0x0F00, 0x00F0, 0x000F), 40),
        "bgr 565": (16, (0x001F, 0x07E0, 0xF800), 40),
        "xrgb": (32, (0xFF0000, 0xFF00, 0xFF), 40),
        "xbgr": (32, (0xFF, 0xFF00, 0xFF0000), 40),
        "rgbx": (32, (0xFF000000, 0xFF0000, 0xFF00), 40),
        "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF), 40),
        "argb, header 4": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 108),
        "abgr, header 4": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), 108),
        "rgba, header 5": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF), 124),
        "1555, header 5": (16, (0x7C00, 0x03E0, 0x001F, 0x8000), 124),
        "565, header 4": (16, (0xF800, 0x07E0, 0x001F, 0), 108),
    }
    for name, (bits, mask, header) in masks.items():
        for top_down in (False, True):
            yield (
                f"bmp masks {name}{', top down' if top_down else ''}",
                lambda b=bits, m=mask, h=header, t=top_down: bmp_layout(b, masks=m, header=h, top_down=t),
            )
    for bits, top_down in itertools.product((4, 8), (False, True)):
        yield f"bmp run lengths {bits}{', top down' if top_down else ''}", lambda b=bits, t=top_down: bmp_runs(b, t)
    yield "bmp run lengths 8, skipped pixels", lambda: bmp_runs(8, False, skip=True)
    for bits, count in ((1, 2), (4, 2), (8, 2), (4, 16), (8, 16), (8, 256), (4, 7), (8, 7)):
        yield f"bmp {bits}, {count} colours", lambda b=bits, c=count: bmp_layout(b, used=c)
        for top_down in (False, True):
            ramp = [index * 255 // (count - 1) if count == 2 else index for index in range(count)]
            name = f"bmp {bits}, {count} grays{', top down' if top_down else ''}"
            yield name, lambda b=bits, c=count, r=ramp, t=top_down: bmp_layout(b, used=c, grays=r, top_down=t)
            if bits > 1:
                name = f"bmp run lengths {bits}, {count} grays{', top down' if top_down else ''}"
                yield name, lambda b=bits, r=ramp, t=top_down: bmp_runs(b, t, grays=r)


def _levels(values: np.ndarray, mask: int) -> np.ndarray:
    shift = (mask & -mask).bit_length() - 1
    return 255.0 * ((values & mask) >> shift) / (mask >> shift)


def bmp_layout(
    bits: int,
    *,
    top_down: bool = False,
    core: bool = False,
    masks: Sequence[int] = (),
    header: int = 40,
    used: int = 0,
    grays: Sequence[int] = (),
) -> Layout:
    generator = np.random.default_rng(bits)
    rows: list[bytes]
    palette = b""
    if bits <= 8:
        count = used or 1 << bits
        table = np.repeat(np.array(grays)[:, None], 3, 1) if grays else generator.integers(0, 256, (count, 3))
        indices = generator.integers(0, count, (HEIGHT, WIDTH))
        colours = table[indices].astype(float)
        rows = [line[1:] for line in (lines(indices[row : row + 1], bits) for row in range(HEIGHT))]
        palette = b"".join(bytes([*map(int, color[::-1])]) + (b"" if core else b"\0") for color in table)
    elif bits == 24:
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3))
        colours = pixels.astype(float)
        rows = [pixels[row, :, ::-1].astype(np.uint8).tobytes() for row in range(HEIGHT)]
    else:
        values = generator.integers(0, 1 << bits, (HEIGHT, WIDTH))
        used_masks = masks or ((0x7C00, 0x03E0, 0x001F) if bits == 16 else (0xFF0000, 0xFF00, 0xFF))
        colours = np.stack([_levels(values, mask) for mask in used_masks[:3]], 2)
        if len(used_masks) == 4 and used_masks[3]:
            opacity = _levels(values, used_masks[3])[..., None] / 255
            colours = colours * opacity + 255 * (1 - opacity)
        rows = [values[row].astype(f"<u{bits // 8}").tobytes() for row in range(HEIGHT)]
    padded = [row + bytes(-len(row) % 4) for row in (rows if top_down else rows[::-1])]
    return Layout(data=_bmp_file(bits, b"".join(padded), palette, top_down, core, masks, header, used), colours=colours)


def _bmp_file(
    bits: int,
    body: bytes,
    palette: bytes,
    top_down: bool,
    core: bool = False,
    masks: Sequence[int] = (),
    header: int = 40,
    used: int = 0,
    compression: int = 0,
) -> bytes:
    if core:
        info = struct.pack("<LHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        height = -HEIGHT if top_down else HEIGHT
        compression = compression or (3 if masks else 0)
        info = struct.pack("<LllHHLLllLL", header, WIDTH, height, 1, bits, compression, len(body), 2835, 2835, used, 0)
        info += struct.pack(f"<{len(masks)}L", *masks)
        info = info.ljust(header if header > 40 else len(info), b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<LHHL", start + len(body), 0, 0, start) + info + palette + body


def bmp_runs(bits: int, top_down: bool, *, skip: bool = False, grays: Sequence[int] = ()) -> Layout:
    """Runs and literal pixels by turns; ``skip``: an escape that leaves pixels out, which then have the index 0."""
    generator = np.random.default_rng(9)
    table = np.repeat(np.array(grays)[:, None], 3, 1) if grays else generator.integers(0, 256, (1 << bits, 3))
    count = len(table)
    indices = np.zeros((HEIGHT, WIDTH), int)
    body = b""
    order = range(HEIGHT) if top_down else range(HEIGHT - 1, -1, -1)
    for row in order:
        indices[row, :10] = generator.integers(0, count)
        body += bytes([10, indices[row, 0] * (17 if bits == 4 else 1)])
        if skip and row % 3 == 0:
            body += bytes([0, 2, 5, 0])
            indices[row, 15:] = generator.integers(0, count)
            body += bytes([WIDTH - 15, indices[row, 15]]) + b"\0\0"
            continue
        literal = generator.integers(0, count, WIDTH - 10)
        indices[row, 10:] = literal
        content = literal.astype(np.uint8).tobytes() if bits == 8 else lines(literal[None], 4)[1:]
        body += bytes([0, len(literal)]) + content + bytes(len(content) % 2) + b"\0\0"
    body += b"\0\1"
    palette = b"".join(bytes([*map(int, color[::-1]), 0]) for color in table)
    data = _bmp_file(bits, body, palette, top_down, used=count, compression=1 if bits == 8 else 2)
    return Layout(data=data, colours=table[indices].astype(float))


# GIF, WebP


def _gif_webp_layouts() -> Iterator[tuple[str, Callable[[], Layout]]]:
    for interlaced, transparent in itertools.product((0, 1), (None, 5)):
        yield f"gif, interlace {interlaced}, transparent {transparent}", lambda i=interlaced, t=transparent: _gif(i, t)
    for lossless, method in itertools.product((False, True), (0, 6)):
        yield f"webp lossless {lossless}, method {method}", lambda ll=lossless, m=method: _webp(ll, 3, m)
        yield f"webp lossless {lossless}, alpha, method {method}", lambda ll=lossless, m=method: _webp(ll, 4, m)


def _gif(interlaced: int, transparent: int | None) -> Layout:
    table = np.random.default_rng(3).integers(0, 256, (256, 3))
    indices = random_samples(1, 8)
    picture = Image.fromarray(indices)
    picture.putpalette(table.astype(np.uint8).tobytes())
    options = {} if transparent is None else {"transparency": transparent}
    data = encoded(picture, "GIF", interlace=interlaced, optimize=False, **options)
    colours = table[indices].astype(float)
    if transparent is not None:
        colours[indices == transparent] = 255
    return Layout(data=data, colours=colours)


def _webp(lossless: bool, channels: int, method: int) -> Layout:
    image = smooth(channels)
    data = encoded(Image.fromarray(image), "WEBP", lossless=lossless, method=method, quality=95, exact=True)
    decoded = imagecodecs.webp_decode(data)
    assert abs(decoded.astype(float) - image).mean() < (0.1 if lossless else 4)
    return Layout(data=data, colours=shown(decoded, 8, "rgb", "unassalpha" if channels == 4 else None))


# Netpbm


def _netpbm_layouts() -> Iterator[tuple[str, Callable[[], Layout]]]:
    for kind, most in itertools.product(
        (1, 2, 3, 4, 5, 6), (1, 2, 3, 7, 100, 254, 255, 256, 1000, 4095, 32768, 65534, 65535)
    ):
        if most == 1 or kind not in (1, 4):
            yield f"netpbm P{kind}, to {most}", lambda k=kind, m=most: _netpbm(k, m)
    for name, depth, most in (("BLACKANDWHITE", 1, 1), ("GRAYSCALE", 1, 255), ("RGB", 3, 255), ("RGB_ALPHA", 4, 65535)):
        yield f"netpbm P7, {name}", lambda n=name, d=depth, m=most: _pam(n, d, m)
    for scale in ("-1.0", "1.0"):
        yield (
            f"netpbm Pf {scale}",
            lambda s=scale: Layout(
                data=f"Pf\n{WIDTH} {HEIGHT}\n{s}\n".encode() + bytes(4 * WIDTH * HEIGHT), colours=None
            ),
        )


def _netpbm(kind: int, most: int) -> Layout:
    channels = 3 if kind in (3, 6) else 1
    samples = np.random.default_rng([kind, most]).integers(0, most, (HEIGHT, WIDTH, channels), endpoint=True)
    head = f"P{kind}\n{WIDTH} {HEIGHT}\n".encode() + (b"" if kind in (1, 4) else b"%d\n" % most)
    if kind <= 3:
        body = b"\n".join(b" ".join(b"%d" % value for value in row.ravel()) for row in samples)
    elif kind == 4:
        body = np.packbits(samples[..., 0].astype(np.uint8), axis=1).tobytes()
    else:
        body = samples.astype(np.uint8 if most < 256 else ">u2").tobytes()
    colours = 255.0 * (1 - samples / most if kind in (1, 4) else samples / most)
    return Layout(data=head + body, colours=np.broadcast_to(colours, (HEIGHT, WIDTH, 3)))


def _pam(name: str, depth: int, most: int) -> Layout:
    head = f"P7\nWIDTH {WIDTH}\nHEIGHT {HEIGHT}\nDEPTH {depth}\nMAXVAL {most}\nTUPLTYPE {name}\nENDHDR\n".encode()
    return Layout(data=head + bytes(HEIGHT * WIDTH * depth * (1 if most < 256 else 2)), colours=None)

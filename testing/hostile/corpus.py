"""A corpus of hostile and odd input files, each with the result that it must have.

Code makes all files, byte by byte if no library writes such a file. `CASES` is used by the tests, by the fuzzer, which
changes its small files, and by `write`, which writes all files to a folder as the source of a job.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
Quadrants = tuple[Colour, Colour, Colour, Colour]

HEIGHT, WIDTH = 32, 64
#: Top left, top right, bottom left, bottom right. Swapped channels, an inversion or a rotation would change them.
COLOURS: Quadrants = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (240, 240, 60))
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The expected row of one input. A row with ``error`` has nothing else."""

    member: str | None = None
    error: str | None = None
    size: tuple[int, int] | None = None
    """Height and width of the upright image."""
    colours: Quadrants | None = None
    """Mean colours of the four quarters of the image."""
    tolerance: float = 3
    text: str | None = None
    """The text of the document. The row must have its length and its digest."""
    num_chars: int | None = None
    """Length of the text, for texts that are too long to store here."""
    encoding: str | None = None

    @property
    def digest(self) -> str | None:
        return None if self.text is None else hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Case:
    name: str
    """Path of the file below the corpus's folder."""
    kind: Literal["image", "document"]
    make: Callable[[], bytes]
    expect: tuple[Row, ...]
    """The expected rows of the inputs in the file, in order."""
    heavy: bool = False
    """Whether the file is large. Large files are only written and tested on request."""


def write(folder: Path, kind: Literal["image", "document"] | None = None, *, heavy: bool = False) -> dict[str, Any]:
    """Write the corpus below ``folder``. Returns the expected rows by the files' names relative to it.

    Images are in the folder ``image``, documents in ``document``, so that each can be the source of a job.
    """
    found = {}
    for case in CASES:
        if kind in (None, case.kind) and (heavy or not case.heavy):
            path = folder / case.kind / case.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(case.make())
            found[f"{case.kind}/{case.name}"] = case.expect
    return found


def summary(rows: Iterable[Row]) -> dict[str, int]:
    """The number of rows with each error code, and of rows without one as ``done``."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.error or "done"] = counts.get(row.error or "done", 0) + 1
    return dict(sorted(counts.items()))


def peak_mib() -> float:
    """The peak memory of this process in MiB. It is read from the status file: Linux's getrusage also counts the memory
    of the parent process, of which this process was a copy before it started this program."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


# Pictures


def quarters(height: int = HEIGHT, width: int = WIDTH, colours: Quadrants = COLOURS) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    for index, colour in enumerate(colours):
        rows = slice(height // 2) if index < 2 else slice(height // 2, None)
        image[rows, slice(width // 2) if index % 2 == 0 else slice(width // 2, None)] = colour
    return image


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    stream = BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(
    width: int,
    height: int,
    depth: int,
    colour: int,
    raw: bytes,
    before: bytes = b"",
    after: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """A PNG file. ``raw`` are the scan lines with their filter bytes."""
    header = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", zlib.compress(raw, 9)), after, chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def lines(samples: np.ndarray, depth: int) -> bytes:
    """Unfiltered scan lines of samples (h, w) or (h, w, channels)."""
    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = flat.astype(">u2").view(np.uint8)
    elif depth == 8:
        packed = flat.astype(np.uint8)
    else:
        bits = (flat[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(len(flat), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def indices() -> np.ndarray:
    """For each pixel, the index of its quarter, (h, w)."""
    found = np.zeros((HEIGHT, WIDTH), int)
    found[:, WIDTH // 2 :] += 1
    found[HEIGHT // 2 :] += 2
    return found


def gray_quarters(*values: int) -> Quadrants:
    a, b, c, d = ((value, value, value) for value in values)
    return a, b, c, d


def gray_png(depth: int, values: Sequence[int], before: bytes = b"") -> bytes:
    return png(WIDTH, HEIGHT, depth, 0, lines(np.array(values)[indices()], depth), before)


def palette_png(depth: int, before: bytes = b"") -> bytes:
    count = 4 if depth > 1 else 2
    palette = chunk(b"PLTE", bytes(np.array(COLOURS[:count], np.uint8).tobytes()))
    return png(WIDTH, HEIGHT, depth, 3, lines(indices() % count, depth), palette + before)


def wide_png(colour: int, before: bytes = b"") -> bytes:
    """A PNG with 16 bits per channel. Their low bytes are noise, but 0 in the last quarter of colours without alpha, so
    that they are one colour. Alpha is 65535, and 0 in the last quarter."""
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4))
    samples = quarters().astype(int)
    alpha = np.where(indices() == 3, 0, 65535)[:, :, None]
    if colour == 4:
        samples = samples[:, :, :1]
    if colour == 2:
        noise[indices() == 3] = 0
    samples = samples * 256 + noise[:, :, : samples.shape[2]]
    if colour in (4, 6):
        samples = np.concatenate([samples, alpha], 2)
    return png(WIDTH, HEIGHT, 16, colour, lines(samples, 16), before)


def interlaced_png() -> bytes:
    image = quarters()
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    raw = b"".join(lines(image[top::down, left::right], 8) for top, left, down, right in passes)
    return png(WIDTH, HEIGHT, 8, 2, raw, interlaced=True)


def apng(hidden: bool) -> bytes:
    """An animated PNG of two frames. ``hidden``: its still image, for readers without animation, is not a frame."""
    image, other = quarters(), np.full((HEIGHT, WIDTH, 3), 7, np.uint8)

    def control(number: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">LLLLLHHBB", number, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0))

    def frame(number: int) -> bytes:
        return chunk(b"fdAT", struct.pack(">L", number) + zlib.compress(lines(other, 8)))

    before = chunk(b"acTL", struct.pack(">LL", 2, 0)) + (b"" if hidden else control(0))
    after = control(0) + frame(1) + control(2) + frame(3) if hidden else control(1) + frame(2)
    return png(WIDTH, HEIGHT, 8, 2, lines(image, 8), before, after)


def jpeg(**options: Any) -> bytes:
    return encoded(quarters(), "JPEG", **{"quality": 95, "subsampling": 0} | options)


def inks() -> np.ndarray:
    """Cyan, magenta, yellow and black that give `COLOURS` by the usual conversion without a profile."""
    return np.concatenate([255 - quarters(), np.zeros((HEIGHT, WIDTH, 1), np.uint8)], 2).astype(np.uint8)


def cmyk_jpeg(*, marker: bool = True) -> bytes:
    """A CMYK JPEG with inverted values, as Adobe writes it, with or without Adobe's marker."""
    data = encoded(Image.fromarray(inks(), "CMYK"), "JPEG", quality=95, subsampling=0)
    start = data.index(b"\xff\xee")
    return data if marker else data[:start] + data[start + 16 :]


def ycck_jpeg() -> bytes:
    """A JPEG with inks as luminance and chrominance. Pillow writes four inverted channels; the marker says which."""
    luminance = np.asarray(Image.fromarray(inks()[:, :, :3].copy()).convert("YCbCr"))
    stored = np.concatenate([255 - luminance, np.zeros((HEIGHT, WIDTH, 1), np.uint8)], 2).astype(np.uint8)
    data = bytearray(encoded(Image.fromarray(stored, "CMYK"), "JPEG", quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def rotated(orientation: int, kind: str) -> bytes:
    """A file that looks like `quarters` when it is upright."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.fromarray(quarters())
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = image.transpose(undo[orientation]) if orientation in undo else image
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    return encoded(turned, kind, exif=exif, **options)


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def bad_marker() -> bytes:
    """A JPEG with a reserved marker in the middle of the coded data."""
    data = bytearray(jpeg())
    middle = (data.index(b"\xff\xda") + 14 + len(data)) // 2
    data[middle : middle + 2] = b"\xff\x02"
    return bytes(data)


def scan_bomb() -> bytes:
    """A small progressive JPEG that repaints a large image 5000 times."""
    data = encoded(Image.new("L", (8000, 8000)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 5000 + data[-2:]


def declared_jpeg(height: int, width: int) -> bytes:
    data = bytearray(jpeg())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def small_frame_gif() -> bytes:
    """A GIF whose first frame covers only the right half of its screen."""
    half = Image.fromarray(quarters()[:, WIDTH // 2 :].copy()).quantize(4)
    data = bytearray(encoded(half, "GIF", interlace=0))
    data[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    at = data.index(b"," + struct.pack("<HHHH", 0, 0, WIDTH // 2, HEIGHT))
    data[at + 1 : at + 5] = struct.pack("<HH", WIDTH // 2, 0)
    return bytes(data)


def declared_gif(side: int) -> bytes:
    data = bytearray(encoded(Image.fromarray(quarters()).quantize(4), "GIF"))
    data[6:10] = struct.pack("<HH", side, side)
    return bytes(data)


def frames(kind: str, count: int = 3, **options: Any) -> bytes:
    first = Image.fromarray(quarters())
    others = [Image.new("RGB", first.size, (index % 256, 7, 7)) for index in range(1, count)]
    return encoded(first, kind, save_all=True, append_images=others, duration=10, **options)


def declared_webp(side: int) -> bytes:
    extended = struct.pack("<L", 0x10) + struct.pack("<L", side - 1)[:3] + struct.pack("<L", side - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<L", len(extended)) + extended
    body += encoded(quarters(), "WEBP")[12:]
    return b"RIFF" + struct.pack("<L", len(body)) + body


def tiff(
    samples: np.ndarray,
    *,
    photometric: int,
    bits: int = 8,
    order: str = "<",
    big: bool = False,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    planar: bool = False,
    deflate: bool = False,
    extra: Sequence[tuple[int, int, Sequence[int]]] = (),
    body: bytes | None = None,
) -> bytes:
    """A TIFF of samples (h, w, channels) with its directory at the end, as many programs write it. ``body``: data that
    stand in its only strip instead of the samples."""
    height, width, channels = samples.shape
    layers = [samples[:, :, index : index + 1] for index in range(channels)] if planar else [samples]

    def packed(part: np.ndarray) -> bytes:
        if bits == 16:
            data = part.astype(order + "u2").tobytes()
        elif bits == 8:
            data = part.astype(np.uint8).tobytes()
        else:
            step = 1 + -(-part.shape[1] * bits // 8)
            whole = lines(part, bits)
            data = b"".join(whole[at + 1 : at + step] for at in range(0, len(whole), step))
        return zlib.compress(data) if deflate else data

    pieces = []
    for layer in layers:
        if tile:
            for top in range(0, height, tile[0]):
                for left in range(0, width, tile[1]):
                    part = layer[top : top + tile[0], left : left + tile[1]]
                    missing = [(0, tile[0] - part.shape[0]), (0, tile[1] - part.shape[1]), (0, 0)]
                    pieces.append(packed(np.pad(part, missing)))
        else:
            step = rows or height
            pieces += [packed(layer[top : top + step]) for top in range(0, height, step)]
    pieces = pieces if body is None else [body]
    body, offsets = b"", []
    start = 16 if big else 8
    for piece in pieces:
        offsets.append(start + len(body))
        body += piece + b"\0" * (len(piece) % 2)
    sizes = [len(piece) for piece in pieces]
    entries: list[tuple[int, int, Sequence[int]]] = [
        (256, 4, [width]),
        (257, 4, [height]),
        (258, 3, [bits] * channels),
        (259, 3, [8 if deflate else 1]),
        (262, 3, [photometric]),
        (277, 3, [channels]),
        (284, 3, [2 if planar else 1]),
    ]
    if tile:
        entries += [(322, 4, [tile[1]]), (323, 4, [tile[0]]), (324, 4, offsets), (325, 4, sizes)]
    else:
        entries += [(273, 4, offsets), (278, 4, [rows or height]), (279, 4, sizes)]
    entries = sorted([*entries, *extra])
    directory, values = b"", b""
    room = 8 if big else 4
    base = start + len(body) + (8 + 20 * len(entries) + 8 if big else 2 + 12 * len(entries) + 4)
    for tag, kind, numbers in entries:
        code = {1: "B", 3: "H", 4: "L"}[kind]
        content = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        if len(content) > room:
            content, values = struct.pack(order + ("Q" if big else "L"), base + len(values)), values + content
        head = struct.pack(order + ("HHQ" if big else "HHL"), tag, kind, len(numbers))
        directory += head + content.ljust(room, b"\0")
    at = start + len(body)
    magic = b"II" if order == "<" else b"MM"
    if big:
        header = magic + struct.pack(order + "HHHQ", 43, 8, 0, at)
        return header + body + struct.pack(order + "Q", len(entries)) + directory + bytes(8) + values
    header = magic + struct.pack(order + "HL", 42, at)
    return header + body + struct.pack(order + "H", len(entries)) + directory + bytes(4) + values


def palette_tiff() -> bytes:
    table = np.zeros((3, 16), int)
    table[:, :4] = np.array(COLOURS).T * 257
    return tiff(indices()[:, :, None], photometric=3, bits=4, extra=[(320, 3, table.reshape(-1).tolist())])


def bilevel() -> np.ndarray:
    return np.where(indices() % 3 == 0, 255, 0).astype(np.uint8)


def pnm(kind: int, most: int) -> bytes:
    """A Netpbm image, P1 to P6: P1 and P4 are black and white, P2 and P5 the red channel. Samples go up to ``most``."""
    head = b"P%d\n# made by hand\n%d %d\n" % (kind, WIDTH, HEIGHT) + (b"" if kind in (1, 4) else b"%d\n" % most)
    if kind in (1, 4):
        black = (bilevel() == 0).astype(int)
        if kind == 4:
            return head + np.packbits(black, axis=1).tobytes()
        return head + b"\n".join(b"".join(b"%d" % value for value in row) for row in black) + b"\n"
    samples = quarters() if kind in (3, 6) else quarters()[:, :, :1]
    values = np.rint(samples / 255 * most).astype(int).reshape(-1)
    if kind in (2, 3):
        return head + b" # a comment\n".join(b" ".join(b"%d" % v for v in row) for row in values.reshape(8, -1)) + b"\n"
    return head + values.astype(">u2" if most > 255 else np.uint8).tobytes()


def huge_png(side: int) -> bytes:
    """A black PNG, 8-bit gray, that is made row by row."""
    packer = zlib.compressobj(1)
    row = bytes(side + 1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">LLBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND")


def huge_rgba_png(side: int) -> bytes:
    """A red, half transparent PNG."""
    packer = zlib.compressobj(1)
    row = b"\0" + bytes((200, 0, 0, 128)) * side
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">LLBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND")


def bomb(megabytes: int) -> bytes:
    """Zeros, compressed to a thousandth of their size."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(megabytes)) + packer.flush()


def overlong_idat() -> bytes:
    """A PNG whose data stream continues with 200 MB of zeros after the last line."""
    packer = zlib.compressobj(9)
    data = packer.compress(lines(quarters(), 8))
    data += b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    header = struct.pack(">LLBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND")


def many_values_tiff(count: int) -> bytes:
    """A TIFF with a list of strips that is as long as the file."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, count, 200), (277, 3, 1, 1)]
    directory = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4)
    return data.ljust(200, b"\0") + bytes(4 * count)


def large(kind: str, **options: Any) -> bytes:
    return encoded(Image.new("RGB", (10_000, 10_000), (200, 100, 50)), kind, **options)


_SOUND = Row(size=(HEIGHT, WIDTH), colours=COLOURS)
_LOSSY = Row(size=(HEIGHT, WIDTH), colours=COLOURS, tolerance=6)
_LOOKS_WEBP = Row(size=(HEIGHT, WIDTH), colours=COLOURS, tolerance=12)


_IN_HEIC = Row(size=(48, 64), colours=COLOURS)


def _stored(name: str) -> bytes:
    """A file that no library here can write; see ``make_heic.py``."""
    return (Path(__file__).parent / name).read_bytes()


def _shown(*colours: Colour) -> Row:
    a, b, c, d = colours
    return Row(size=(HEIGHT, WIDTH), colours=(a, b, c, d))


def _one(colour: Colour, height: int, width: int) -> Row:
    return Row(size=(height, width), colours=(colour, colour, colour, colour))


def _bad(code: str) -> Row:
    return Row(error=code)


def _exif(content: bytes) -> bytes:
    return with_segment(jpeg(), 0xE1, b"Exif\0\0" + content)


def _cuts() -> dict[str, tuple[Callable[[], bytes], Row]]:
    whole: dict[str, Callable[[], bytes]] = {
        "jpg": jpeg,
        "progressive.jpg": lambda: jpeg(progressive=True),
        "png": lambda: encoded(quarters(), "PNG"),
        "gif": lambda: encoded(Image.fromarray(quarters()).quantize(4), "GIF"),
        "webp": lambda: encoded(quarters(), "WEBP", lossless=True),
        "tif": lambda: encoded(quarters(), "TIFF"),
        "deflate.tif": lambda: tiff(quarters(), photometric=2, deflate=True),
        "bmp": lambda: encoded(quarters(), "BMP"),
        "ppm": lambda: encoded(quarters(), "PPM"),
    }

    def cut(make: Callable[[], bytes], tenths: int) -> Callable[[], bytes]:
        return lambda: (data := make())[: len(data) * tenths // 10]

    return {
        f"cut/at {10 * tenths}%.{ending}": (cut(make, tenths), _bad("truncated"))
        for ending, make in whole.items()
        for tenths in range(1, 10)
    }


def _images() -> dict[str, tuple[Callable[[], bytes], Row]]:
    red = tuple(colour[0] for colour in COLOURS)
    last_white = (*COLOURS[:3], WHITE)
    half = Image.fromarray(np.concatenate([quarters(), np.full((HEIGHT, WIDTH, 1), 128, np.uint8)], 2))
    on_white = [
        (round(r * 128 / 255 + 127), round(g * 128 / 255 + 127), round(b * 128 / 255 + 127)) for r, g, b in COLOURS
    ]
    grays = Image.fromarray(quarters()[:, :, 0].copy())
    two_values = _shown(*((WHITE, BLACK, BLACK, WHITE)))
    halved = (COLOURS[1], COLOURS[1], COLOURS[3], COLOURS[3])
    found: dict[str, tuple[Callable[[], bytes], Row]] = {
        # Not images
        "zero bytes.jpg": (lambda: b"", _bad("empty")),
        "one byte.png": (lambda: b"\x89", _bad("not_an_image")),
        "text.jpg": (lambda: b"this is a note\n" * 50, _bad("not_an_image")),
        "pdf.png": (lambda: b"%PDF-1.7\n" + bytes(1000), _bad("not_an_image")),
        "zeros.tif": (lambda: bytes(10_000), _bad("not_an_image")),
        "wrong ending, a png.jpg": (lambda: encoded(quarters(), "PNG"), _SOUND),
        "wrong ending, a jpeg.gif": (jpeg, _LOSSY),
        "UPPER CASE.JPG": (jpeg, _LOSSY),
        # Names
        "with  two spaces.jpg": (jpeg, _LOSSY),
        "ünïcödé ☃ 漢字 עברית.jpg": (jpeg, _LOSSY),
        "100%25 %2F %00.jpg": (jpeg, _LOSSY),
        "new\nline\ttab.jpg": (jpeg, _LOSSY),
        "#hash?query=1&b;'\"quotes\\[x]*.jpg": (jpeg, _LOSSY),
        "folder with space/..dots...jpg": (jpeg, _LOSSY),
        # JPEG
        "progressive.jpg": (lambda: jpeg(progressive=True), _LOSSY),
        "420.jpg": (lambda: jpeg(subsampling=2), _LOSSY),
        "gray.jpg": (lambda: encoded(grays, "JPEG", quality=95), _shown(*gray_quarters(*red))),
        "restarts.jpg": (lambda: jpeg(restart_marker_rows=1), _LOSSY),
        "rgb.jpg": (lambda: jpeg(keep_rgb=True), _LOSSY),
        "cmyk, adobe, inverted.jpg": (cmyk_jpeg, _LOSSY),
        "cmyk, nobody's.jpg": (lambda: cmyk_jpeg(marker=False), _LOSSY),
        "ycck.jpg": (ycck_jpeg, _LOSSY),
        "bytes after the end.jpg": (lambda: jpeg() + b"\xff\x02more" * 1000, _LOSSY),
        "two pictures.jpg": (lambda: jpeg() + jpeg(), _LOSSY),
        "end marker in a comment.jpg": (lambda: with_segment(jpeg(), 0xFE, b"\xff\xd9"), _LOSSY),
        "fill bytes.jpg": (lambda: (d := jpeg())[:2] + b"\xff" * 100 + d[2:], _LOSSY),
        "broken exif.jpg": (lambda: _exif(b"MM\0\x2a\xff\xff\xff\xff"), _LOSSY),
        "exif of nothing.jpg": (lambda: _exif(b""), _LOSSY),
        "exif in circles.jpg": (lambda: _exif(b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"), _LOSSY),
        "orientation 99.jpg": (lambda: rotated(99, "JPEG"), _LOSSY),
        "short jfif.jpg": (lambda: (d := jpeg())[:2] + b"\xff\xe0\0\4JF" + d[20:], _LOSSY),
        "thousand exifs.jpg": (lambda: (d := jpeg())[:2] + (b"\xff\xe1\0\x08Exif\0\0" * 1000) + d[2:], _LOSSY),
        "bad marker.jpg": (bad_marker, _bad("not_an_image")),
        "marker before the tables.jpg": (lambda: (d := jpeg())[:2] + b"\xff\x02\0\4ab" + d[2:], _bad("not_an_image")),
        "no scan.jpg": (lambda: (d := jpeg())[: d.index(b"\xff\xda")] + b"\xff\xd9", _bad("not_an_image")),
        "12 bits.jpg": (
            lambda: (d := jpeg())[: (at := d.index(b"\xff\xc0") + 4)] + b"\x0c" + d[at + 1 :],
            _bad("not_an_image"),
        ),
        "no height.jpg": (lambda: declared_jpeg(0, 64), _bad("not_an_image")),
        "without its last byte.jpg": (lambda: jpeg()[:-1], _bad("truncated")),
        "declares 65,500 x 65,500.jpg": (lambda: declared_jpeg(65_500, 65_500), _bad("too_many_pixels")),
        "5000 scans.jpg": (scan_bomb, _bad("not_an_image")),
        "a megabyte of fill bytes.jpg": (
            lambda: (d := jpeg())[:2] + b"\xff" * (1 << 20) + b"\0" + d[2:],
            _bad("not_an_image"),
        ),
        "fill bytes in the data.jpg": (lambda: jpeg()[:-2] + b"\xff" * (1 << 20) + b"\0\xff\xd9", _LOSSY),
        # PNG
        "1 bit.png": (lambda: gray_png(1, (1, 0, 0, 1)), two_values),
        "2 bits.png": (lambda: gray_png(2, (0, 1, 2, 3)), _shown(*gray_quarters(0, 85, 170, 255))),
        "4 bits.png": (lambda: gray_png(4, (0, 5, 10, 15)), _shown(*gray_quarters(0, 85, 170, 255))),
        "16 bits.png": (
            lambda: gray_png(16, (255, 0x80FF, 0x40FF, 0xFFFF)),
            _shown(*gray_quarters(0, 128, 64, 255)),
        ),
        "1 bit, white is transparent.png": (
            lambda: gray_png(1, (1, 0, 0, 1), chunk(b"tRNS", b"\0\1")),
            two_values,
        ),
        "1 bit, black is transparent.png": (
            lambda: gray_png(1, (1, 0, 0, 1), chunk(b"tRNS", b"\0\0")),
            _shown(*[WHITE] * 4),
        ),
        "2 bits, one is transparent.png": (
            lambda: gray_png(2, (0, 1, 2, 3), chunk(b"tRNS", b"\0\1")),
            _shown(*gray_quarters(0, 255, 170, 255)),
        ),
        "4 bits, one is transparent.png": (
            lambda: gray_png(4, (0, 5, 10, 15), chunk(b"tRNS", b"\0\5")),
            _shown(*gray_quarters(0, 255, 170, 255)),
        ),
        "16 bits, one is transparent.png": (
            lambda: gray_png(16, (255, 0x80FF, 0x40FF, 0xFFFF), chunk(b"tRNS", b"\x80\xff")),
            _shown(*gray_quarters(0, 255, 64, 255)),
        ),
        "8 bits, one is transparent.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"tRNS", struct.pack(">HHH", *COLOURS[3]))),
            _shown(*last_white),
        ),
        "48 bits.png": (lambda: wide_png(2), _SOUND),
        "48 bits, one is transparent.png": (
            lambda: wide_png(2, chunk(b"tRNS", struct.pack(">HHH", *(256 * value for value in COLOURS[3])))),
            _shown(*last_white),
        ),
        "64 bits with alpha.png": (lambda: wide_png(6), _shown(*last_white)),
        "gray with alpha, 32 bits.png": (lambda: wide_png(4), _shown(*gray_quarters(*red[:3], 255))),
        "gray with alpha.png": (
            lambda: encoded(Image.merge("LA", [grays, Image.fromarray(bilevel())]), "PNG"),
            _shown(*gray_quarters(red[0], 255, 255, red[3])),
        ),
        "rgba.png": (lambda: encoded(half, "PNG"), _shown(*on_white)),
        "palette, 1 bit.png": (
            lambda: palette_png(1),
            _shown(COLOURS[0], COLOURS[1], COLOURS[0], COLOURS[1]),
        ),
        "palette, 2 bits.png": (lambda: palette_png(2), _SOUND),
        "palette, 4 bits.png": (lambda: palette_png(4), _SOUND),
        "palette, 8 bits.png": (lambda: palette_png(8), _SOUND),
        "palette with alpha.png": (
            lambda: palette_png(8, chunk(b"tRNS", b"\x80\x80\x80\x80")),
            _shown(*on_white),
        ),
        "palette, one is transparent.png": (
            lambda: palette_png(8, chunk(b"tRNS", b"\xff\xff\xff\0")),
            _shown(*last_white),
        ),
        "interlaced.png": (interlaced_png, _SOUND),
        "animated.png": (lambda: apng(hidden=False), _SOUND),
        "animated, hidden first image.png": (lambda: apng(hidden=True), _SOUND),
        "animated, no frames.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"acTL", bytes(8))),
            _SOUND,
        ),
        "bytes after the end.png": (lambda: encoded(quarters(), "PNG") + bytes(1000), _SOUND),
        "empty data chunks.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"IDAT") * 1000, chunk(b"IDAT") * 1000),
            _SOUND,
        ),
        "text bomb.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"zTXt", b"k\0\0" + bomb(200)) * 3),
            _SOUND,
        ),
        "text bomb after the data.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), b"", chunk(b"iTXt", b"k\0\1\0\0\0" + bomb(200))),
            _SOUND,
        ),
        "profile bomb.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"iCCP", b"k\0\0" + bomb(200))),
            _SOUND,
        ),
        "data beyond its size.png": (overlong_idat, _SOUND),
        "broken text.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
            _SOUND,
        ),
        "declares 60,000 x 60,000.png": (
            lambda: png(60_000, 60_000, 8, 2, lines(quarters(), 8)),
            _bad("too_many_pixels"),
        ),
        "bomb of 60,000 x 60,000.png": (lambda: png(60_000, 60_000, 8, 2, bytes(1 << 20)), _bad("too_many_pixels")),
        "no width.png": (lambda: png(0, 1, 8, 2, b""), _bad("not_an_image")),
        "3 bits.png": (lambda: png(8, 8, 3, 0, bytes(100)), _bad("not_an_image")),
        "too little data.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8)[: HEIGHT * WIDTH]),
            _bad("truncated"),
        ),
        "two headers.png": (
            lambda: png(8, 8, 8, 2, bytes(1000), chunk(b"IHDR", bytes(13))),
            _bad("not_an_image"),
        ),
        "no header.png": (lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"x") + chunk(b"IEND"), _bad("not_an_image")),
        "no palette.png": (lambda: png(WIDTH, HEIGHT, 8, 3, lines(indices(), 8)), _bad("not_an_image")),
        "unknown critical chunk.png": (
            lambda: png(WIDTH, HEIGHT, 8, 2, lines(quarters(), 8), chunk(b"CgBI", bytes(4))),
            _bad("not_an_image"),
        ),
        "one bit flipped.png": (
            lambda: (d := encoded(quarters(), "PNG"))[:60] + bytes([d[60] ^ 1]) + d[61:],
            _bad("not_an_image"),
        ),
        # GIF, WebP
        "still.gif": (lambda: encoded(Image.fromarray(quarters()).quantize(4), "GIF", interlace=0), _SOUND),
        "interlaced.gif": (lambda: encoded(Image.fromarray(quarters()).quantize(4), "GIF", interlace=1), _SOUND),
        "animated.gif": (lambda: frames("GIF"), _SOUND),
        "a thousand frames.gif": (lambda: frames("GIF", 1000), _SOUND),
        "without its last byte.gif": (lambda: encoded(Image.fromarray(quarters()).quantize(4), "GIF")[:-1], _SOUND),
        "frame in a larger screen.gif": (small_frame_gif, _shown(WHITE, halved[0], WHITE, halved[2])),
        "screen of 65,535 x 65,535.gif": (lambda: declared_gif(65_535), _bad("too_many_pixels")),
        "no frame.gif": (lambda: b"GIF89a\1\0\1\0\0\0\0;", _bad("not_an_image")),
        "lossy.webp": (lambda: encoded(quarters(), "WEBP", quality=95), _LOOKS_WEBP),
        "lossless.webp": (lambda: encoded(quarters(), "WEBP", lossless=True), _SOUND),
        "alpha.webp": (lambda: encoded(half, "WEBP", lossless=True, exact=True), _shown(*on_white)),
        "animated.webp": (lambda: frames("WEBP", lossless=True), _SOUND),
        "profile.webp": (
            lambda: encoded(quarters(), "WEBP", lossless=True, icc_profile=bytes(2 << 20)),
            _SOUND,
        ),
        "declares 16,384 x 16,384.webp": (lambda: declared_webp(16_384), _bad("too_many_pixels")),
        "sound.avif": (lambda: encoded(quarters(), "AVIF", quality=100), _SOUND),
        "cut.avif": (lambda: encoded(quarters(), "AVIF")[:-9], _bad("truncated")),
        "upright.heic": (lambda: _stored("four.heic"), _IN_HEIC),
        "turned.heic": (lambda: _stored("four_turned.heic"), _IN_HEIC),
        "cut.heic": (lambda: _stored("four.heic")[:-9], _bad("truncated")),
        # TIFF
        "strips.tif": (lambda: tiff(quarters(), photometric=2, rows=5), _SOUND),
        "tiles.tif": (lambda: tiff(quarters(), photometric=2, tile=(16, 48)), _SOUND),
        "tiles, deflate.tif": (lambda: tiff(quarters(), photometric=2, tile=(16, 48), deflate=True), _SOUND),
        "planes.tif": (lambda: tiff(quarters(), photometric=2, planar=True), _SOUND),
        "planes, deflate.tif": (lambda: tiff(quarters(), photometric=2, planar=True, deflate=True), _SOUND),
        "big-endian.tif": (lambda: tiff(quarters(), photometric=2, order=">"), _SOUND),
        "bigtiff.tif": (lambda: tiff(quarters(), photometric=2, big=True, rows=7), _SOUND),
        "48 bits.tif": (lambda: tiff(quarters().astype(int) * 257, photometric=2, bits=16), _SOUND),
        "48 bits, big-endian, deflate.tif": (
            lambda: tiff(quarters().astype(int) * 257, photometric=2, bits=16, order=">", deflate=True),
            _SOUND,
        ),
        "16 bits.tif": (
            lambda: tiff(quarters()[:, :, :1].astype(int) * 257, photometric=1, bits=16),
            _shown(*gray_quarters(*red)),
        ),
        "1 bit, white is zero.tif": (
            lambda: tiff((bilevel()[:, :, None] == 0).astype(int), photometric=0, bits=1),
            two_values,
        ),
        "white is zero.tif": (
            lambda: tiff(255 - quarters()[:, :, :1], photometric=0),
            _shown(*gray_quarters(*red)),
        ),
        "palette.tif": (palette_tiff, _SOUND),
        "cmyk.tif": (lambda: tiff(inks(), photometric=5), _SOUND),
        "rgba.tif": (lambda: tiff(np.asarray(half), photometric=2, extra=[(338, 3, [2])]), _shown(*on_white)),
        "lzw.tif": (lambda: encoded(quarters(), "TIFF", compression="tiff_lzw"), _SOUND),
        "jpeg.tif": (lambda: encoded(quarters(), "TIFF", compression="jpeg", quality=95), _LOSSY),
        "group 4.tif": (
            lambda: encoded(Image.fromarray(bilevel()).convert("1"), "TIFF", compression="group4"),
            two_values,
        ),
        "pages.tif": (lambda: frames("TIFF"), _SOUND),
        "floating-point.tif": (
            lambda: encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
            _bad("not_an_image"),
        ),
        "lab.tif": (lambda: tiff(quarters(), photometric=8), Row(size=(HEIGHT, WIDTH))),
        "tile of 60,000 x 60,000.tif": (
            lambda: tiff(quarters(), photometric=2, deflate=True, extra=[(322, 4, [60_000]), (323, 4, [60_000])]),
            _bad("too_many_pixels"),
        ),
        "five million strips.tif": (lambda: many_values_tiff(5_000_000), _bad("not_an_image")),
        "directory in circles.tif": (
            lambda: b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0",
            _bad("not_an_image"),
        ),
        # BMP, PPM
        "plain.bmp": (lambda: encoded(quarters(), "BMP"), _SOUND),
        "palette.bmp": (lambda: encoded(Image.fromarray(quarters()).quantize(4), "BMP"), _SOUND),
        "declares 60,000 x 60,000.bmp": (
            lambda: (d := encoded(quarters(), "BMP"))[:18] + struct.pack("<LL", 60_000, 60_000) + d[26:],
            _bad("too_many_pixels"),
        ),
        "P1.pbm.ppm": (lambda: pnm(1, 1), two_values),
        "P2.pgm": (lambda: pnm(2, 255), _shown(*gray_quarters(*red))),
        "P3.ppm": (lambda: pnm(3, 100), _SOUND),
        "P4.pbm.ppm": (lambda: pnm(4, 1), two_values),
        "P5, 16 bits.pgm": (lambda: pnm(5, 65535), _shown(*gray_quarters(*red))),
        "P6, 16 bits.ppm": (lambda: pnm(6, 65535), _SOUND),
        "P6, 7 bits.ppm": (lambda: pnm(6, 127), _SOUND),
        "a megabyte of comments.ppm": (
            lambda: b"P3\n64 32\n255\n" + b"#\n" * (1 << 19) + pnm(3, 255).split(b"255\n", 1)[1],
            _SOUND,
        ),
        "declares 60,000 x 60,000.ppm": (lambda: b"P6 60000 60000 255\n" + bytes(100), _bad("too_many_pixels")),
        "declares 9,999 x 9,999.ppm": (lambda: b"P6 9999 9999 255\n" + bytes(100), _bad("truncated")),
        # Sizes
        "1 x 1.png": (lambda: encoded(np.full((1, 1, 3), 9, np.uint8), "PNG"), _one((9, 9, 9), 1, 1)),
        "1 x 8000.png": (lambda: encoded(np.full((1, 8000, 3), 9, np.uint8), "PNG"), _one((9, 9, 9), 1, 8000)),
        "8000 x 1.jpg": (lambda: encoded(np.full((8000, 1, 3), 9, np.uint8), "JPEG"), _one((9, 9, 9), 8000, 1)),
    }
    for orientation in range(1, 9):
        for kind, ending, row in (("JPEG", "jpg", _LOSSY), ("PNG", "png", _SOUND), ("TIFF", "tif", _SOUND),
                                  ("WEBP", "webp", _SOUND)):  # fmt: skip
            make = lambda orientation=orientation, kind=kind: rotated(orientation, kind)  # noqa: E731
            found[f"orientation/{orientation}.{ending}"] = (make, row)
    return found | _cuts()


def _large_images() -> dict[str, tuple[Callable[[], bytes], Row]]:
    paint = (200, 100, 50)
    return {
        "100 megapixels.jpg": (lambda: large("JPEG"), _one(paint, 10_000, 10_000)),
        "100 megapixels, progressive.jpg": (lambda: large("JPEG", progressive=True), _one(paint, 10_000, 10_000)),
        "100 megapixels, turned.jpg": (
            lambda: with_segment(large("JPEG"), 0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
            _one(paint, 10_000, 10_000),
        ),
        "100 megapixels of zeros.png": (lambda: huge_png(10_000), _one(BLACK, 10_000, 10_000)),
        "100 megapixels with alpha.png": (lambda: huge_rgba_png(10_000), _one((227, 127, 127), 10_000, 10_000)),
        "100 megapixels, 16 bits.png": (
            lambda: encoded(Image.fromarray(np.full((10_000, 10_000), 0x40FF, np.uint16)), "PNG", compress_level=1),
            _one((64, 64, 64), 10_000, 10_000),
        ),
        "100 megapixels.tif": (lambda: large("TIFF", compression="tiff_lzw"), _one(paint, 10_000, 10_000)),
        "100 megapixels, 16 bits.ppm": (
            lambda: b"P5 10000 10000 65535\n" + b"\x40\xff" * 100_000_000,
            _one((64, 64, 64), 10_000, 10_000),
        ),
        "one pixel too many.png": (lambda: huge_png(10_001), _bad("too_many_pixels")),
    }


# Documents

PROSE = "It was late. The rain had stopped! Had it? Yes.\n\nA second paragraph begins here; it is short.\n"
RIGHT_TO_LEFT = "שלום עולם. זה משפט שני.\n\nمرحبا بالعالم. هذه جملة ثانية؟ نعم۔\n"
IDEOGRAPHS = "一。二！「三？」四\n\n日本語の文章です。次の文。\n"
BEYOND = "𝒜 𝓫 😀 👩‍👩‍👧 é e\u0301 \ufeff inside. Next.\n"


def _text(text: str, encoding: str = "utf-8") -> Row:
    return Row(text=text, encoding=encoding)


def _lines(*rows: Row | None) -> tuple[Row, ...]:
    """The expected rows for the lines of a JSONL file; None for a blank line, which is no input."""
    numbered = [(number, row) for number, row in enumerate(rows, 1) if row is not None]
    return tuple(
        Row(member=str(number), error=row.error, text=row.text, encoding=row.encoding) for number, row in numbered
    )


def _records(*records: Any) -> bytes:
    """Records as JSONL; records that are bytes are written unchanged."""
    texts = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in records]
    return b"".join(text + b"\n" for text in texts)


def _documents() -> dict[str, tuple[Callable[[], bytes], tuple[Row, ...]]]:
    single: dict[str, tuple[Callable[[], bytes], Row]] = {
        "empty.txt": (lambda: b"", _bad("empty")),
        "white space.txt": (lambda: b" \n\t\r\n \x0b\x0c" * 100, _bad("empty")),
        "white space of unicode.txt": (lambda: "\u3000\u2003\u2028\x85".encode(), _bad("empty")),
        "a mark alone.txt": (lambda: codecs.BOM_UTF8, _bad("empty")),
        "a mark of utf-16 alone.txt": (lambda: codecs.BOM_UTF16_LE, _bad("empty")),
        "one letter.txt": (lambda: b"a", _text("a")),
        "utf-8.text": (lambda: PROSE.encode(), _text(PROSE)),
        "utf-8.md": (lambda: PROSE.encode(), _text(PROSE.strip())),
        "a page of utf-8.html": (lambda: b"<p>It was late.<p>It rained.", _text("It was late.\n\nIt rained.")),
        "not html.pdf": (lambda: b"<!doctype html><h1>404</h1>", _text("404")),
        "cut.pdf": (lambda: b"%PDF-1.7\n1 0 obj\n<</Type/Catalog", _bad("bad_document")),
        "cut.docx": (lambda: b"PK\x03\x04" + bytes(40), _bad("bad_document")),
        "no book.epub": (lambda: PROSE.encode(), _bad("bad_document")),
        "backwards.vtt": (lambda: b"WEBVTT\n\n00:02.000 --> 00:01.000\nx\n", _bad("bad_document")),
        "metadata.json": (lambda: b'{"id": 1}', _bad("other_data")),
        "utf-8 with a mark.txt": (lambda: PROSE.encode("utf-8-sig"), _text(PROSE, "utf-8-sig")),
        "two marks.txt": (lambda: codecs.BOM_UTF8 * 2 + b"a", _text("\ufeffa", "utf-8-sig")),
        "utf-16 le.txt": (
            lambda: codecs.BOM_UTF16_LE + (PROSE + BEYOND).encode("utf-16-le"),
            _text(PROSE + BEYOND, "utf-16"),
        ),
        "utf-16 be.txt": (lambda: codecs.BOM_UTF16_BE + PROSE.encode("utf-16-be"), _text(PROSE, "utf-16")),
        "utf-32 le.txt": (lambda: codecs.BOM_UTF32_LE + PROSE.encode("utf-32-le"), _text(PROSE, "utf-32")),
        "utf-32 be.txt": (lambda: codecs.BOM_UTF32_BE + PROSE.encode("utf-32-be"), _text(PROSE, "utf-32")),
        "utf-16 without a mark.txt": (lambda: PROSE.encode("utf-16-le"), _bad("not_text")),
        "utf-16, odd.txt": (lambda: codecs.BOM_UTF16_LE + b"a\0b", _bad("bad_encoding")),
        "utf-16, half a pair.txt": (lambda: codecs.BOM_UTF16_LE + b"a\0\0\xd8b\0", _bad("bad_encoding")),
        "utf-16 with a zero.txt": (lambda: codecs.BOM_UTF16_LE + b"a\0\0\0b\0", _bad("not_text")),
        "utf-32, too large.txt": (lambda: codecs.BOM_UTF32_LE + b"\0\0\x11\0", _bad("bad_encoding")),
        "latin-1.txt": (lambda: "Das Mädchen aß Käse.".encode("latin-1"), _bad("bad_encoding")),
        "windows-1252.txt": (lambda: "“Quoted” — text.".encode("cp1252"), _bad("bad_encoding")),
        "utf-8, cut.txt": (lambda: "Käse".encode()[:2], _bad("bad_encoding")),
        "utf-8, overlong.txt": (lambda: b"a\xc0\xafb", _bad("bad_encoding")),
        "utf-8, surrogate.txt": (lambda: b"a\xed\xa0\x80b", _bad("bad_encoding")),
        "zero byte.txt": (lambda: b"one\0two", _bad("not_text")),
        "an image.txt": (lambda: encoded(quarters(), "PNG"), _bad("not_text")),
        "line ends of windows.txt": (
            lambda: PROSE.replace("\n", "\r\n").encode(),
            _text(PROSE.replace("\n", "\r\n")),
        ),
        "lone carriage returns.txt": (lambda: PROSE.replace("\n", "\r").encode(), _text(PROSE.replace("\n", "\r"))),
        "all line ends.txt": (
            lambda: "a\r\n\rb\n\rc\x85\u2028d\u2029e\x0cf".encode(),
            _text("a\r\n\rb\n\rc\x85\u2028d\u2029e\x0cf"),
        ),
        "right to left.txt": (lambda: RIGHT_TO_LEFT.encode(), _text(RIGHT_TO_LEFT)),
        "cjk.txt": (lambda: IDEOGRAPHS.encode(), _text(IDEOGRAPHS)),
        "beyond the basic plane.txt": (lambda: BEYOND.encode(), _text(BEYOND)),
        "control characters.txt": (lambda: b"a\x01\x1b[31m\x7f. B", _text("a\x01\x1b[31m\x7f. B")),
        "a million stops.txt": (lambda: b"." * 1_000_000, Row(num_chars=1_000_000)),
        "a million closing quotes.txt": (lambda: b"." + b'"' * 1_000_000, Row(num_chars=1_000_001)),
        "a million dashes.txt": (lambda: b"-" * 1_000_000, Row(num_chars=1_000_000)),
        "a million spaces.txt": (lambda: b"a:" + b" " * 1_000_000 + b"b", Row(num_chars=1_000_003)),
        "a million line ends.txt": (lambda: b"a" + b"\n \t" * 333_333 + b"b", Row(num_chars=1_000_001)),
        "a million accents.txt": (lambda: ("a" + "\u0301" * 1_000_000).encode(), Row(num_chars=1_000_001)),
        "names with spaces, ü, 100%25 and\na new line.txt": (lambda: PROSE.encode(), _text(PROSE)),
    }
    good = {"text": PROSE}
    several: dict[str, tuple[Callable[[], bytes], tuple[Row, ...]]] = {
        "empty.jsonl": (lambda: b"", ()),
        "blank lines.jsonl": (
            lambda: _records(good, b"", b"  \r", {"text": "b"}),
            _lines(_text(PROSE), None, None, _text("b")),
        ),
        "no line end.jsonl": (lambda: _records(good, good)[:-1], _lines(_text(PROSE), _text(PROSE))),
        "windows.jsonl": (
            lambda: _records(good, good).replace(b"\n", b"\r\n"),
            _lines(_text(PROSE), _text(PROSE)),
        ),
        "with a mark.jsonl": (lambda: codecs.BOM_UTF8 + _records(good, good), _lines(_text(PROSE), _text(PROSE))),
        "a broken line in the middle.jsonl": (
            lambda: _records(good, b'{"text": "not clo', good),
            _lines(_text(PROSE), _bad("bad_record"), _text(PROSE)),
        ),
        "records.jsonl": (
            lambda: _records(
                {"doc_id": "no text"},
                {"text": None},
                {"text": 3},
                {"text": ["a"]},
                [],
                b"null",
                b"NaN",
                b'"a"',
                {"text": ""},
                {"text": " \n"},
                {"text": "a", "doc_id": 3},
                {"text": "a", "doc_id": None},
                {"text": "a\0b"},
                {"text": "a", "paragraphs": [[0, 2]]},
                {"text": "a b", "paragraphs": [[0, 1], [2, 3]]},
                b'{"text": "a", "text": "b"}',
                b'{"text": "a"} {"text": "b"}',
                b"{'text': 'a'}",
            ),
            _lines(
                *[_bad("bad_record")] * 8,
                _bad("empty"),
                _bad("empty"),
                _text("a"),
                _text("a"),
                _bad("not_text"),
                _bad("bad_record"),
                _text("a b"),
                _text("b"),
                _bad("bad_record"),
                _bad("bad_record"),
            ),
        ),
        "the same doc_id twice.jsonl": (
            lambda: _records({"text": "a", "doc_id": "x"}, {"text": "b", "doc_id": "x"}),
            _lines(_text("a"), _text("b")),
        ),
        "surrogates.jsonl": (
            lambda: _records(
                b'{"text": "a \\ud83d\\ude00"}',
                b'{"text": "a \\ud83d"}',
                b'{"text": "a", "doc_id": "\\udc00"}',
                b'{"text": "a \\ude00\\ud83d"}',
            ),
            _lines(_text("a 😀"), *[_bad("bad_record")] * 3),
        ),
        "encodings.jsonl": (
            lambda: _records(
                '{"text": "Käse"}'.encode(),
                '{"text": "Käse"}'.encode("latin-1"),
                b'{"text": "\xed\xa0\x80"}',
                json.dumps({"text": RIGHT_TO_LEFT}, ensure_ascii=False).encode(),
                {"text": IDEOGRAPHS},
            ),
            _lines(_text("Käse"), _bad("bad_encoding"), _bad("bad_encoding"), _text(RIGHT_TO_LEFT), _text(IDEOGRAPHS)),
        ),
        "deep and long.jsonl": (
            lambda: _records(
                b"[" * 100_000,
                b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
                b'{"text": "a", "x": ' + b"9" * 10_000 + b"}",
                b'{"text": "a", "x": 1e999999}',
                {"text": "a", "x": [[[]]] * 10_000},
            ),
            _lines(*[_bad("bad_record")] * 3, _text("a"), _text("a")),
        ),
    }
    return {name: (make, (row,)) for name, (make, row) in single.items()} | several


def _large_documents() -> dict[str, tuple[Callable[[], bytes], tuple[Row, ...]]]:
    prose = PROSE.encode()
    words = b"".join(b"word%d\n" % index for index in range(1_000_000))
    return {
        "99 MB.txt": (
            lambda: prose * (99_000_000 // len(prose)),
            (Row(num_chars=99_000_000 // len(prose) * len(prose)),),
        ),
        "100 MB, one character too long.txt": (lambda: b"a b. " * 20_000_000 + b"c", (_bad("too_long"),)),
        "100 MB of ideographs.txt": (
            lambda: ("日本語の文章です。" * 3_700_000).encode(),
            (Row(num_chars=9 * 3_700_000),),
        ),
        "a line of 10 MB.txt": (lambda: b"word " * 2_000_000, (Row(num_chars=10_000_000),)),
        "a line of 10 MB without a space.txt": (lambda: b"w" * 10_000_000, (Row(num_chars=10_000_000),)),
        "a line of 10 MB.jsonl": (
            lambda: _records({"text": "a"}, {"text": "word. " * 1_700_000}, {"text": "b"}),
            tuple(Row(member=str(number), num_chars=count) for number, count in ((1, 1), (2, 10_200_000), (3, 1))),
        ),
        "a million lines of one word.txt": (lambda: words, (Row(num_chars=len(words)),)),
        "10 MB of sentences of one word.txt": (lambda: b"Xy.\n\n" * 2_000_000, (Row(num_chars=10_000_000),)),
    }


def _table() -> tuple[Case, ...]:
    cases = []
    for images, heavy in ((_images(), False), (_large_images(), True)):
        cases += [
            Case(name=name, kind="image", make=make, expect=(row,), heavy=heavy) for name, (make, row) in images.items()
        ]
    for documents, heavy in ((_documents(), False), (_large_documents(), True)):
        cases += [
            Case(name=name, kind="document", make=make, expect=rows, heavy=heavy)
            for name, (make, rows) in documents.items()
        ]
    return tuple(cases)


#: All cases of the corpus.
CASES = _table()

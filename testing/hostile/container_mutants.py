"""Mutants of containers: archives, compressed files, JSONL and Parquet, changed by small steps, by seed and number.

Many changes mend what a reader checks first: the sum of a tar header, the length of a pax record or of a Parquet
footer, the compression around a changed file. So what is behind the check is reached.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from testing.hostile.mutants import EXTREMES, cut, extreme, flip, remove, repeat, splice

Kind = Literal["document", "image"]
_BLOCK = 512
_MOST_BYTES = 1 << 20  # of a mutant
_TEXTS = ("One. Two.", "Three!\n\nFour?", "\u00fc \U0001f600 five. " * 20, "", "six")
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc00000030101003bb6ee56"
    "0000000049454e44ae426082"
)


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A changed container. ``changes`` are the names of what was done to it, in order."""

    kind: Kind
    suffix: str
    changes: tuple[str, ...]
    data: bytes


@cache
def seeds() -> dict[str, list[bytes]]:
    """Sound files before compression, by form: tar, jsonl, text, parquet."""
    return {"tar": _tars(), "jsonl": _lines(), "text": [text.encode() for text in _TEXTS if text], "parquet": _tables()}


#: The endings under which each form is read.
SUFFIXES = {
    "tar": (".tar", ".tar", ".tar.gz", ".tgz", ".tar.zst"),
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst"),
    "text": (".txt.gz", ".txt.zst"),
    "parquet": (".parquet",),
}


def mutant(seed: int, number: int) -> Mutant:
    """Make mutant ``number``."""
    draw = random.Random(f"container {seed} {number}")
    form = draw.choice(("tar", "tar", "tar", "jsonl", "text", "parquet", "parquet", "parquet"))
    suffix = draw.choice(SUFFIXES[form])
    files = seeds()[form]
    data = draw.choice(files)
    own = [name for name, (forms, _) in CHANGES.items() if form in forms]
    own += [name for name in own if name in _FREQUENT]
    changes: list[str] = []
    if draw.random() < 0.9:
        for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
            name = draw.choice(own)
            data = CHANGES[name][1](draw, data, files)[:_MOST_BYTES]
            changes.append(name)
    if suffix.endswith((".gz", ".tgz", ".zst")):
        data, packed = _packed(draw, data, suffix)
        changes += [packed] if packed else []
        if draw.random() < (0.4 if changes else 1):
            name = draw.choice(("flipped bits", "cut off", "removed piece", "repeated piece", "zeroed piece"))
            data = CHANGES[name][1](draw, data, [data])[:_MOST_BYTES]
            changes.append(f"{name}, compressed")
    kind: Kind = "image" if form in ("tar", "parquet") and draw.random() < 0.4 else "document"
    return Mutant(kind=kind, suffix=suffix, changes=tuple(changes) or ("none",), data=data)


def _packed(draw: random.Random, data: bytes, suffix: str) -> tuple[bytes, str]:
    """The data compressed as the suffix says, and what is odd about it."""
    pack = zstandard.compress if suffix.endswith(".zst") else _gzip
    other = _gzip if suffix.endswith(".zst") else zstandard.compress
    odd = draw.choice(("", "", "", "", "", "two members", "nested", "other compression", "not compressed", "a tail"))
    middle = draw.randrange(len(data) + 1)
    return {
        "": lambda: pack(data),
        "two members": lambda: pack(data[:middle]) + pack(data[middle:]),
        "nested": lambda: pack(pack(data)),
        "other compression": lambda: other(data),
        "not compressed": lambda: data,
        "a tail": lambda: pack(data) + draw.choice((bytes(512), draw.randbytes(100), pack(b""), other(b"x"))),
    }[odd](), odd


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)  # without the time of day, so that a mutant can be made again


# Any bytes


def _zero(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    start, size = draw.randrange(len(data) + 1), draw.choice((1, 4, 16, 512, 4096))
    return data[:start] + bytes(min(size, len(data) - start)) + data[start + size :]


def _join(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    return data + draw.choice(others)


# Tar archives


def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            long = "folder/" * 12 + "n" * (60 if form == tarfile.USTAR_FORMAT else 200) + ".txt"
            for name in ("a.txt", "b.png", "folder/", long, "\u00fc.txt", "c.jsonl", "a.txt", "link.txt", "d.png"):
                item = tarfile.TarInfo(name)
                data = _PNG if name.endswith("png") else b"One. Two." * (1 if name == "a.txt" else 70)
                if name == "link.txt":
                    item.type, item.linkname, data = tarfile.SYMTYPE, "x" * 99, b""
                elif name.endswith("/"):
                    item.type, data = tarfile.DIRTYPE, b""
                item.size = len(data)
                if form == tarfile.PAX_FORMAT and name == "b.png":
                    item.pax_headers = {"comment": "c" * 600, "mtime": "1.5", "size": str(len(data))}
                archive.addfile(item, io.BytesIO(data))
        found.append(out.getvalue())
    pax = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.txt", "GNU.sparse.realsize": "9000"}
    for headers in (pax, {"GNU.sparse.map": "0,512,4096,3", "GNU.sparse.size": "5000"}, {"path": "p.txt"}):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"charset": "BINARY"}) as tar:
            item = tarfile.TarInfo("GNUSparseFile.0/s.txt")
            item.size, item.pax_headers = 1024, headers
            tar.addfile(item, io.BytesIO(b"1\n0\n512\n".ljust(512, b"\0") + b"x" * 512))
            tar.addfile(tarfile.TarInfo("empty.txt"))
        found.append(out.getvalue())
    return [*found, _old_sparse()]


def _old_sparse() -> bytes:
    """An archive of GNU tar with a file with holes, whose map goes on in a second header."""
    item = tarfile.TarInfo("s.txt")
    item.type, item.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(item.tobuf(tarfile.GNU_FORMAT))
    for number in range(4):
        header[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (number * 4096, 100)
    header[482] = 1
    header[483:495] = b"%011o\0" % 20000
    after = bytearray(_BLOCK)
    after[0:24] = b"%011o\0%011o\0" % (16384, 112)
    plain = tarfile.TarInfo("after.txt")
    plain.size = 5
    end = plain.tobuf(tarfile.GNU_FORMAT) + b"After".ljust(_BLOCK, b"\0") + bytes(2 * _BLOCK)
    return _summed(bytes(header)) + bytes(after) + b"x" * _BLOCK + end


def _summed(header: bytes) -> bytes:
    """A tar header with the right sum."""
    changed = bytearray(header)
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed)
    return bytes(changed)


def _headers(data: bytes) -> list[int]:
    """Where the tar headers are, by their mark."""
    return [at for at in range(0, len(data) - _BLOCK + 1, _BLOCK) if data[at + 257 : at + 262] == b"ustar"]


_FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "owner": (108, 8),
    "size": (124, 12),
    "time": (136, 12),
    "type": (156, 1),
    "link": (157, 100),
    "mark": (257, 8),
    "device": (329, 8),
    "prefix": (345, 155),
    "map": (386, 98),
    "is extended": (482, 1),
}


def _tar_header(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change fields of a header, and its sum with them."""
    places = _headers(data)
    if not places:
        return flip(draw, data, others)
    at = draw.choice(places)
    header = bytearray(data[at : at + _BLOCK])
    for _ in range(draw.choice((1, 1, 2, 4))):
        start, size = _FIELDS[draw.choice(("size", "size", "type", *_FIELDS))]
        if size == 1:
            value = draw.choice(b"0 1 2 3 4 5 6 7 S L K x g X D M N V A \0\xff Z".replace(b" ", b"")).to_bytes(1, "big")
        else:
            value = draw.choice(_NUMBERS)(draw, size)
        header[start : start + size] = value[:size].ljust(size, b"\0")
    return data[:at] + _summed(bytes(header)) + data[at + _BLOCK :]


_NUMBERS: tuple[Callable[[random.Random, int], bytes], ...] = (
    lambda draw, size: b"%o" % draw.choice((0, 1, 511, 512, 513, 1 << 20, 1 << 32, 8**11 - 1)),
    lambda draw, size: b"\x80" + draw.randrange(1 << draw.choice((1, 16, 40, 8 * size - 8))).to_bytes(size - 1, "big"),
    lambda draw, size: b"\xff" * size,
    lambda draw, size: b"\xff" + draw.randrange(1 << (8 * size - 8)).to_bytes(size - 1, "big"),
    lambda draw, size: b"-%o" % draw.randrange(1 << 20),
    lambda draw, size: draw.randbytes(size),
    lambda draw, size: b" " * size,
    lambda draw, size: draw.choice(
        (b"../../x.txt", b"/etc/passwd.txt", b"x\ny.txt", b"\xff\xfe.txt", b".txt", b"9" * 98)
    ),
)


def _pax(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Put an extended header of odd records, or an odd long name, before a header."""
    places = [*_headers(data), 0]
    at = draw.choice(places)
    records = b"".join(_pax_record(draw) for _ in range(draw.choice((1, 1, 2, 5))))
    item = tarfile.TarInfo("header")
    item.type = draw.choice((tarfile.XHDTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"))
    item.size = draw.choice((len(records),) * 6 + (0, 1, len(records) - 1, len(records) + 1, 1 << 21))
    filled = records + bytes(-len(records) % _BLOCK)
    return data[:at] + item.tobuf(tarfile.USTAR_FORMAT) + filled + data[at:]


def _pax_record(draw: random.Random) -> bytes:
    keys = (
        "path",
        "size",
        "size",
        "linkpath",
        "mtime",
        "charset",
        "hdrcharset",
        "comment",
        "GNU.sparse.name",
        "",
        "\0",
    )
    key = draw.choice((*keys, "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "SCHILY.xattr.x", "k" * 300))
    value = draw.choice(
        (
            *(b"a.txt", b"", b"-1", b"0", b"5", b"1e9", b"9" * 30, b"\xb2", b"1\n2", b"\xff.txt", b"x" * 5000),
            *(
                b" 7",
                b"+7",
                b"0x10",
                b"1_0",
                "\u0663".encode(),
                b"18446744073709551616",
                b"1152921504606846976",
                b"a\0.txt",
            ),
        )
    )
    body = b" " + key.encode() + draw.choice((b"=", b"=", b"=", b"", b"==")) + value + draw.choice((b"\n", b"\n", b""))
    length = len(body) + 1
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    stated = draw.choice((length,) * 6 + (0, 1, 5, length - 1, length + 1, 10**19, 10**25))
    return draw.choice((b"%d" % stated,) * 4 + (b"0%d" % stated, b"+%d" % stated, b"\xb2")) + body


def _tar_move(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Double, remove or move whole blocks."""
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    where, other = draw.randrange(len(blocks) or 1), draw.randrange(len(blocks) or 1)
    if not blocks:
        return data
    match draw.randrange(4):
        case 0:
            blocks[where:where] = [blocks[other]] * draw.choice((1, 2, 50))
        case 1:
            del blocks[where]
        case 2:
            blocks[where], blocks[other] = blocks[other], blocks[where]
        case _:
            blocks[where] = bytes(_BLOCK)
    return b"".join(blocks)


# JSONL


def _lines() -> list[bytes]:
    records: list[dict[str, Any]] = [
        {"text": text, "doc_id": f"d{number}", "paragraphs": [[0, len(text)]]} for number, text in enumerate(_TEXTS)
    ]
    records += [{"text": "No name."}, {"text": "Numbers.", "doc_id": 5}, {"other": 1}]
    plain = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    return [plain, plain.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + plain, plain * 20, json.dumps(records).encode()]


def _json_piece(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    start = draw.randrange(len(data) + 1)
    pieces = (
        b"[",
        b"{",
        b'"',
        b"\n",
        b"\n\n",
        b"\0",
        b"\\ud800",
        b"1e999",
        b"NaN",
        b"\xff",
        b"\xed\xa0\x80",
        b"[" * 5000,
    )
    keys = (
        b'"text": null,',
        b'"text": 5,',
        b'"doc_id": [1],',
        b'"paragraphs": {"start": 1},',
        b'"paragraphs": [[0,1]],',
    )
    more = (b'"uri": "x",', b"9" * 5000, b"-", b"\xef\xbb\xbf", b"\x1e", b"\r")
    return data[:start] + draw.choice((*pieces, *keys, *more)) + data[start:]


# Parquet


def _tables() -> list[bytes]:
    """Parquet files of many types, encodings and compressions, small."""
    texts = [*_TEXTS, None] * 4
    ids = [f"d{number}" for number in range(len(texts))]
    spans = [[{"start": 0, "end": 1, "score": 0.5}]] * len(texts)
    documents = pa.table({"text": texts, "doc_id": ids})
    images = [_PNG, None, b"", _PNG * 3] * 3
    structs = pa.array([None if item is None else {"bytes": item, "path": "a.png"} for item in images])
    times = pa.array(range(len(texts)), pa.timestamp("us", "UTC"))
    found: list[tuple[pa.Table, dict[str, Any]]] = [
        (documents, {"row_group_size": 7}),
        (documents, {"compression": "none", "use_dictionary": False, "data_page_size": 64}),
        (documents, {"compression": "zstd", "data_page_version": "2.0", "write_page_index": True}),
        (documents, {"compression": "gzip", "column_encoding": "DELTA_BYTE_ARRAY", "use_dictionary": False}),
        (documents, {"compression": "lz4", "column_encoding": "DELTA_LENGTH_BYTE_ARRAY", "use_dictionary": False}),
        (documents, {"compression": "brotli", "write_page_checksum": True, "store_schema": False}),
        (documents.set_column(1, "doc_id", times), {"use_content_defined_chunking": True}),
        (
            documents.set_column(1, "doc_id", pa.array(range(len(texts)), pa.int32())),
            {"column_encoding": {"text": "PLAIN", "doc_id": "DELTA_BINARY_PACKED"}, "use_dictionary": False},
        ),
        (documents.append_column("paragraphs", pa.array(spans)), {}),
        (documents.set_column(0, "text", documents["text"].cast(pa.large_string()).dictionary_encode()), {}),
        (pa.table({"image": structs, "label": list(range(len(images)))}), {"row_group_size": 5}),
        (pa.table({"bytes": pa.array(images, pa.large_binary())}), {"compression": "none"}),
        (pa.table({"uri": ["x", "y"], "etag": ["1", "2"], "size": [1, 2]}), {}),
        (pa.table({"other": [1.5, 2.5]}), {}),
        (documents.slice(0, 0), {}),
    ]
    files = []
    for table, options in found:
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        files.append(out.getvalue())
    return files


def _with_footer(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the footer of a Parquet file; its length is right afterwards."""
    length = int.from_bytes(data[-8:-4], "little")
    if data[-4:] != b"PAR1" or length > len(data) - 8:
        return data
    changed = change(data[-8 - length : -8])
    return data[: -8 - length] + changed + struct.pack("<I", len(changed)) + b"PAR1"


def _footer_bits(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change the footer's own bytes; mostly those before the Arrow schema, which is most of it."""

    def change(footer: bytes) -> bytes:
        edge = footer.find(b"ARROW:schema")
        edge = edge if edge > 0 and draw.random() < 0.8 else len(footer)
        name = draw.choice((flip, flip, remove, repeat, _nudge, _nudge))
        return name(draw, footer[:edge], others) + footer[edge:]

    return _with_footer(data, change)


def _nudge(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        if changed:
            at = draw.randrange(len(changed))
            changed[at] = draw.choice(
                ((changed[at] + 1) & 255, (changed[at] - 1) & 255, 0, 0x7F, 0xFF, changed[at] ^ 0x10)
            )
    return bytes(changed)


def _footer_number(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Replace a varint of the footer by another number: a count, a size, an offset, a type."""

    def change(footer: bytes) -> bytes:
        edge = footer.find(b"ARROW:schema")
        places = [at for at in range(1, edge if edge > 0 else len(footer)) if footer[at - 1] & 15 in (4, 5, 6)]
        if not places:
            return footer
        at = end = draw.choice(places)
        while end < len(footer) - 1 and footer[end] & 128:
            end += 1
        return (
            footer[:at] + varint(draw.choice((*EXTREMES, 3, 5, 10, 100, 2**40, 2**63, 2**64 - 1))) + footer[end + 1 :]
        )

    return _with_footer(data, change)


def varint(value: int) -> bytes:
    """A number as Thrift's compact protocol writes it, without zigzag."""
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _footer_of_another(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    other = draw.choice(others)
    length = int.from_bytes(other[-8:-4], "little")
    return _with_footer(data, lambda _: other[-8 - length : -8])


def _arrow_schema(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change the Arrow schema in the footer, which is a flatbuffer in base 64; its length stays."""

    def change(footer: bytes) -> bytes:
        start = footer.find(b"/////")
        end = start
        while start >= 0 and end < len(footer) and (footer[end : end + 1].isalnum() or footer[end] in b"+/="):
            end += 1
        try:
            schema = base64.b64decode(footer[start : start + (end - start) // 4 * 4])
        except ValueError:
            return footer
        changed = draw.choice((flip, _nudge))(draw, schema, others)
        text = base64.b64encode(changed)
        return footer[:start] + text + footer[start + len(text) :]

    return _with_footer(data, change)


def _pages(draw: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Change the pages and their headers, not the footer."""
    length = int.from_bytes(data[-8:-4], "little")
    if length > len(data) - 12:
        return data
    body, footer = data[4 : -8 - length], data[-8 - length :]
    changed = bytearray(draw.choice((flip, _nudge, _zero))(draw, body, others))
    return data[:4] + bytes(changed) + footer


_ANY = ("tar", "jsonl", "text", "parquet")
#: These are drawn twice as often as the others.
_FREQUENT = ("tar header, sum mended", "tar extended header", "parquet footer, length mended", "parquet number")
CHANGES: dict[str, tuple[tuple[str, ...], Callable[[random.Random, bytes, list[bytes]], bytes]]] = {
    "flipped bits": (_ANY, flip),
    "cut off": (_ANY, cut),
    "removed piece": (_ANY, remove),
    "repeated piece": (_ANY, repeat),
    "zeroed piece": (_ANY, _zero),
    "two files spliced": (_ANY, splice),
    "two files joined": (_ANY, _join),
    "extreme number": (_ANY, extreme),
    "tar header, sum mended": (("tar",), _tar_header),
    "tar extended header": (("tar",), _pax),
    "tar blocks": (("tar",), _tar_move),
    "json piece": (("jsonl", "text"), _json_piece),
    "parquet footer, length mended": (("parquet",), _footer_bits),
    "parquet number": (("parquet",), _footer_number),
    "parquet footer of another file": (("parquet",), _footer_of_another),
    "parquet arrow schema": (("parquet",), _arrow_schema),
    "parquet pages": (("parquet",), _pages),
}

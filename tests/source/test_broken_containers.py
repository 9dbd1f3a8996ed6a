"""Broken and hostile containers: what can be read has its rows, the rest is one failed row, and nothing is endless."""

from __future__ import annotations

import gc
import gzip
import io
import json
import os
import random
import socket
import struct
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.errors import ERROR_CODES, RequestError
from pipeline.rows import InputKind
from pipeline.source import containers
from pipeline.source.compression import decompress
from pipeline.source.entries import entries
from pipeline.source.fetch import FetchConfig, fetch
from pipeline.storage import local
from tests.source.test_containers import tar_of

KIND = InputKind(suffixes=(".txt", ".jsonl", ".tar", ".tgz", ".parquet"), record=("body", "note"))
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
RECORDS = [json.dumps({"body": f"number {number}"}).encode() for number in range(3000)]


def read(source: Path, config: FetchConfig | None = None) -> dict[tuple[str, str | None], bytes | str]:
    """The bytes, or the error code, of each input of a source, by name and member."""
    config = config or FetchConfig()
    found: dict[tuple[str, str | None], bytes | str] = {}
    for rows in entries([str(source)], KIND, config):
        data, errors = fetch(rows, KIND, config)
        listed = zip(rows["uri"].to_pylist(), rows["member"].to_pylist(), data, errors.to_pylist(), strict=True)
        for uri, member, item, error in listed:
            assert (item is None) == (error is not None)
            assert error is None or error["code"] in ERROR_CODES
            key = (Path(uri).name, member)
            assert key not in found
            found[key] = error["code"] if item is None else item
    return found


def of(name: str, found: dict[tuple[str, str | None], bytes | str]) -> dict[str | None, bytes | str]:
    """What was found in one container, with a sound input beside it."""
    assert found.pop(("sound.txt", None)) == b"sound"
    assert {uri for uri, _ in found} == {name}
    return {member: item for (_, member), item in found.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sound.txt").write_bytes(b"sound")
    return tmp_path


# Things that are no files


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.tar", "x.tar.zst", "x.parquet", "x.txt.gz", "x.txt"])
@pytest.mark.parametrize("make", ["pipe", "socket", "device"])
def test_what_is_no_file_is_not_opened(folder: Path, name: str, make: str) -> None:
    if make == "pipe":
        os.mkfifo(folder / name)
    elif make == "device":
        (folder / name).symlink_to("/dev/zero")
    else:
        server = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket must be short
        try:
            server.bind(name)
        finally:
            os.chdir(here)
        server.close()
    assert of(name, read(folder)) == {None: "unreadable"}
    if name in ("x.jsonl", "x.parquet"):
        with pytest.raises(RequestError, match=r"failed to (read|list) it"):
            read(folder / name)


# Streams that are cut or damaged


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_lines_before_a_cut_have_their_rows(folder: Path, compression: str) -> None:
    noise = random.Random(1)
    lines = [json.dumps({"body": noise.randbytes(400).hex()}).encode() + b"\n" for _ in range(3000)]
    packed = PACK[compression](b"".join(lines))
    name = f"x.jsonl{compression}"
    (folder / name).write_bytes(packed[: len(packed) // 2])
    found = of(name, read(folder))
    assert found.pop(None) == "bad_archive"
    sound = [int(member or 0) for member, item in found.items() if isinstance(item, bytes)]
    assert sound == list(range(1, len(sound) + 1))
    assert len(sound) > 1200
    assert all(found[str(number)] == lines[number - 1] for number in sound)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.jsonl.gz", gzip.compress(b"", mtime=0)[:10] + b"\x07\xff\xff\xff" * 20),
        ("x.jsonl.gz", b"no gzip"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0)[:5]),
        ("x.jsonl.zst", zstandard.compress(b"")[:-1]),
        ("x.jsonl.zst", b"(\xb5/\xfd"),
        ("x.txt.GZ", gzip.compress(b"text", mtime=0)[:-9] + b"\0" * 9),
        ("x.txt.zst", zstandard.compress(b"text" * 100)[:-2]),
        ("x.tar.gz", b""),
        ("x.tgz", gzip.compress(b"no tar", mtime=0)),
        ("x.tar", b""),
        ("x.tar", b"PK\x03\x04" * 500),
        ("x.parquet", b""),
        ("x.parquet", b"PAR1PAR1"),
        ("x.parquet", b"PAR1" + b"\xff" * 8 + b"PAR1"),
        ("x.parquet", b"PAR1" + b"\0" * 100 + b"\x64\0\0\0PAR1"),
    ],
)
def test_one_bad_file_fails_alone(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    assert of(name, read(folder)) == {None: "bad_archive"}


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_whole_stream_of_several_frames_is_whole(folder: Path, compression: str) -> None:
    pack = PACK[compression]
    (folder / f"x.jsonl{compression}").write_bytes(b"".join(pack(line + b"\n") for line in RECORDS[:50]))
    found = of(f"x.jsonl{compression}", read(folder))
    assert list(found.values()) == [line + b"\n" for line in RECORDS[:50]]


# Tar archives

FILES = [(f"{number}.txt", bytes([65 + number]) * (300 * number + 1)) for number in range(6)]
PLAIN = tar_of(FILES)
#: Where the header of each file begins.
HEADERS = [0]
for _, content in FILES:
    HEADERS.append(HEADERS[-1] + 512 + -(-len(content) // 512) * 512)


def damaged(position: int) -> bytes:
    return PLAIN[:position] + bytes([PLAIN[position] ^ 1]) + PLAIN[position + 1 :]


def with_header(**changes: object) -> bytes:
    """An archive whose third header has other bytes at some offsets, and the right checksum."""
    header = bytearray(PLAIN[HEADERS[2] : HEADERS[2] + 512])
    for offset, value in changes.items():
        start = int(offset.removeprefix("at"))
        assert isinstance(value, bytes)
        header[start : start + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return PLAIN[: HEADERS[2]] + bytes(header) + PLAIN[HEADERS[2] + 512 :]


BROKEN_ARCHIVES: dict[str, tuple[bytes, list[int]]] = {
    "cut before a header": (PLAIN[: HEADERS[3]], [0, 1, 2]),
    "cut in a header": (PLAIN[: HEADERS[3] + 100], [0, 1, 2]),
    "cut in data": (PLAIN[: HEADERS[3] + 700], [0, 1, 2]),
    "cut in the filling after data": (PLAIN[: HEADERS[3] + 512 + len(FILES[3][1]) + 1], [0, 1, 2, 3]),
    "no end mark": (PLAIN[: HEADERS[6]], [0, 1, 2, 3, 4, 5]),
    "half an end mark": (PLAIN[: HEADERS[6] + 512], [0, 1, 2, 3, 4, 5]),
    "a damaged header": (damaged(HEADERS[2] + 5), [0, 1, 3, 4, 5]),
    "a damaged first header": (damaged(5), [1, 2, 3, 4, 5]),
    "a block of zeros inside": (PLAIN[: HEADERS[3]] + bytes(512) + PLAIN[HEADERS[3] :], [0, 1, 2, 3, 4, 5]),
    "something after the end": (PLAIN + b"x" * 700, [0, 1, 2, 3, 4, 5]),
    "two archives joined": (tar_of(FILES[:2]) + tar_of(FILES[2:]), [0, 1, 2, 3, 4, 5]),
    "a negative size": (with_header(at124=b"\xff" * 12), [0, 1, 3, 4, 5]),
    "a size beyond all": (with_header(at124=b"\x80" + b"\x7f" * 11), [0, 1, 3, 4, 5]),
    "a size beyond the end": (with_header(at124=b"77777777777\0"), [0, 1]),
    "a size that is no number": (with_header(at124=b"xxxxxxxxxxx\0"), [0, 1, 3, 4, 5]),
}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.zst", "x.tgz"])
@pytest.mark.parametrize("case", list(BROKEN_ARCHIVES))
def test_an_archive_that_is_not_whole_says_so(folder: Path, case: str, name: str) -> None:
    data, wanted = BROKEN_ARCHIVES[case]
    pack = PACK[".gz" if name.endswith("gz") else ".zst" if name.endswith("zst") else ""]
    (folder / name).write_bytes(pack(data))
    found = of(name, read(folder))
    assert found.pop(None) == "bad_archive"
    assert found == {FILES[number][0]: FILES[number][1] for number in wanted}


def test_impossible_times_and_modes_do_no_harm(folder: Path) -> None:
    (folder / "x.tar").write_bytes(with_header(at136=b"\x80" + b"\xff" * 11, at108=b"\xff" * 8))
    assert of("x.tar", read(folder)) == dict(FILES)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_a_sound_archive_of_any_format_is_read_as_tar_reads_it(folder: Path, kind: int) -> None:
    long = "folder/" * 13 + "n" * (80 if kind == tarfile.USTAR_FORMAT else 150) + ".txt"
    with tarfile.open(folder / "x.tar", "w", format=kind) as archive:
        for name, data in [(long, b"long"), ("ü.txt", b"two" * 1000), ("folder/", b""), ("a.txt", b"")]:
            item = tarfile.TarInfo(name)
            item.type, item.size = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE, len(data)
            archive.addfile(item, io.BytesIO(data))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "a.txt"
        archive.addfile(link)
    assert of("x.tar", read(folder)) == {long: b"long", "ü.txt": b"two" * 1000, "a.txt": b""}


def test_names_in_an_archive_that_are_not_utf_8(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name in ("plage.txt", "café.txt", "é" * 120 + ".txt", "café\\xe9.txt"):
            item = tarfile.TarInfo(name)
            item.size = 3
            archive.addfile(item, io.BytesIO(b"abc"))
    members = of("x.tar", read(folder))
    assert set(members) == {"plage.txt", r"caf\xe9.txt", r"\xe9" * 120 + ".txt", r"caf\xe9\x5cxe9.txt"}
    assert set(members.values()) == {b"abc"}


def test_a_file_that_is_stored_with_holes_is_not_given_other_bytes(folder: Path) -> None:
    with tarfile.open(folder / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, headers in [("holes.txt", {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), ("a.txt", {})]:
            item = tarfile.TarInfo(name)
            item.size, item.pax_headers = 3, headers
            archive.addfile(item, io.BytesIO(b"abc"))
    assert of("x.tar", read(folder)) == {"holes.txt": "bad_archive", "a.txt": b"abc"}


@pytest.mark.parametrize("records", [b"x path=a.txt\n", b"99 path=a.txt\n", b"6 path\n", b"11 size=-1\n", b"9999999"])
def test_a_damaged_pax_header_is_reported(folder: Path, records: bytes) -> None:
    item = tarfile.TarInfo("header")
    item.type, item.size = tarfile.XHDTYPE, len(records)
    header = item.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    (folder / "x.tar").write_bytes(header + PLAIN)
    found = of("x.tar", read(folder))
    assert found.pop(None) == "bad_archive"
    assert set(found) >= {f"{number}.txt" for number in range(1, 6)}


# Parquet files


def parquet(rows: int, claimed: int) -> bytes:
    """A Parquet file whose footer claims another number of rows, the file's or that of its row group."""
    out = io.BytesIO()
    pq.write_table(pa.table({"body": ["A text."] * rows}), out)
    data = out.getvalue()
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8]
    here = footer.index(b"\x16" + bytes([2 * rows]))  # field num_rows, an i64 as a zigzag varint
    footer = footer[: here + 1] + _varint(2 * claimed) + footer[here + 2 :]
    return data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def _varint(value: int) -> bytes:
    out = b""
    while value >= 128:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


@pytest.mark.parametrize("claimed", [8, 3, 10**12, 2**62])
def test_a_false_count_of_rows_is_not_believed(folder: Path, claimed: int) -> None:
    (folder / "x.parquet").write_bytes(parquet(5, claimed))
    began = time.monotonic()
    found = of("x.parquet", read(folder))
    assert time.monotonic() - began < 30
    assert found.pop(None) == "bad_archive"
    assert found == {str(number): b'{"body": "A text."}' for number in range(1, 6)}


def test_a_row_group_that_claims_rows_is_counted(folder: Path) -> None:
    """All counts in the footer agree, for there are two of them and both are changed."""
    out = io.BytesIO()
    pq.write_table(pa.table({"body": ["A text."] * 5}), out)
    data = out.getvalue()
    length = struct.unpack("<I", data[-8:-4])[0]
    footer = data[-8 - length : -8].replace(b"\x16\x0a", b"\x16" + _varint(2 * 10**12))
    (folder / "x.parquet").write_bytes(data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1")
    found = of("x.parquet", read(folder))
    assert found.pop(None) == "bad_archive"
    assert len(found) <= 5


def test_many_rows_in_few_bytes_are_still_rows(folder: Path) -> None:
    pq.write_table(pa.table({"body": pa.nulls(20_000, pa.string())}), folder / "x.parquet")
    assert len(of("x.parquet", read(folder))) == 20_000


def test_a_bad_value_fails_its_row(folder: Path) -> None:
    texts = pa.array([b"sound", b"caf\xe9", b"also sound", None], pa.binary())
    texts = pa.Array.from_buffers(pa.string(), 4, texts.buffers())
    notes = pa.array([None, None, None, 2**62], pa.timestamp("us"))
    pq.write_table(pa.table({"body": texts, "note": notes}), folder / "x.parquet")
    assert of("x.parquet", read(folder)) == {
        "1": b'{"body": "sound"}',
        "2": "bad_encoding",
        "3": b'{"body": "also sound"}',
        "4": "bad_record",
    }


def test_a_damaged_page_leaves_the_other_row_groups(folder: Path) -> None:
    texts = [f"text {number} " + "x" * 50 for number in range(40)]
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"body": texts}), folder / "x.parquet", row_group_size=10, **options)
    data = bytearray((folder / "x.parquet").read_bytes())
    at = data.index(b"text 10 ")
    data[at - 4 : at] = b"\xff" * 4  # the length of the eleventh text
    (folder / "x.parquet").write_bytes(data)
    found = of("x.parquet", read(folder))
    failed = [int(member or 0) for member, item in found.items() if item == "bad_archive"]
    assert failed == list(range(11, 21))


def test_a_text_beyond_the_limit_fails_its_row(folder: Path) -> None:
    pq.write_table(pa.table({"body": ["short", "l" * 5000, "short"]}), folder / "x.parquet")
    found = of("x.parquet", read(folder, FetchConfig(max_bytes=1000)))
    assert [item if isinstance(item, str) else "done" for item in found.values()] == ["done", "too_large", "done"]


# Bombs


def bomb(megabytes: int, pack: str) -> bytes:
    """A compressed stream of zeros without a line end."""
    out = io.BytesIO()
    zeros = bytes(1 << 20)
    stream = gzip.GzipFile(fileobj=out, mode="wb") if pack == ".gz" else zstandard.ZstdCompressor().stream_writer(out)
    for _ in range(megabytes):
        stream.write(zeros)
    stream.flush(zstandard.FLUSH_FRAME) if pack == ".zst" else stream.close()
    return out.getvalue()


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_damaged_streams_leave_nothing_in_memory(compression: str) -> None:
    """Of 4,000 cut files each left 16 KiB behind, where the decompressor raised."""
    cut = PACK[compression](b"line\n" * 100)[:-2]

    def read_all(count: int) -> float:
        for _ in range(count):
            with decompress(f"x{compression}", io.BytesIO(cut)) as file, pytest.raises((OSError, EOFError)):
                file.read()
        return memory_mib()

    before = read_all(500)
    assert read_all(4000) - before < 8


def memory_mib() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_line_larger_than_the_limit_takes_no_memory(folder: Path, compression: str) -> None:
    name = f"x.jsonl{compression}"
    pack = PACK[compression]
    (folder / name).write_bytes(pack(RECORDS[0] + b"\n") + bomb(64, compression) + pack(b"\n" + RECORDS[1]))
    tracemalloc.start()
    found = of(name, read(folder, FetchConfig(max_bytes=1 << 20)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == {"1": RECORDS[0] + b"\n", "2": "too_large", "3": RECORDS[1]}
    assert peak < 16 << 20


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.zst"])
def test_a_header_larger_than_memory_is_not_read(folder: Path, name: str, kind: bytes) -> None:
    item = tarfile.TarInfo("header")
    item.type, item.size = kind, 64 << 20
    out = tar_of(FILES[:1])[:1024] + item.tobuf(tarfile.GNU_FORMAT)
    pack = PACK["." + name.rpartition(".")[2]]
    (folder / name).write_bytes(pack(out) + bomb(64, "." + name.rpartition(".")[2]) + pack(PLAIN[HEADERS[1] :]))
    tracemalloc.start()
    found = of(name, read(folder))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.pop(None) == "too_large"
    known = FILES[2:] if kind != tarfile.XGLTYPE else FILES[1:]
    assert {**found, **dict(known)} == found
    assert peak < 16 << 20


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.tar.gz", "x.jsonl.zst", "x.tar.zst"])
def test_a_container_in_which_nothing_comes_ends_at_the_deadline(folder: Path, name: str) -> None:
    compression = "." + name.rpartition(".")[2]
    (folder / name).write_bytes(bomb(256, compression) * 400)
    began = time.monotonic()
    found = of(name, read(folder, FetchConfig(deadline_s=0.5)))
    assert found == {None: "timeout"}
    assert time.monotonic() - began < 30


def test_few_bytes_do_not_stand_for_inputs_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_PACKED_INPUTS", 100)
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(b"[]\n" * 100_000))
    found = of("x.jsonl.gz", read(folder))
    assert found.pop(None) == "too_large"
    assert len(found) == (folder / "x.jsonl.gz").stat().st_size + 100


def test_the_files_of_a_compressed_archive_fit_into_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_MAX_PACKED_FILES", 4)
    (folder / "x.tar.gz").write_bytes(gzip.compress(PLAIN))
    assert of("x.tar.gz", read(folder)) == {**dict(FILES[:4]), None: "too_large"}
    (folder / "x.tar.gz").rename(folder / "y")
    (folder / "x.tar").write_bytes(PLAIN)
    assert of("x.tar", read(folder)) == dict(FILES)


# Manifests, and times of files


def test_a_manifest_names_files_that_are_not_utf_8(folder: Path) -> None:
    path = os.fsencode(folder) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_bytes(b"found")
    (folder / "list.jsonl").write_bytes(b'{"uri": "' + path + b'"}\n')
    (folder / "surrogate.jsonl").write_text(json.dumps({"uri": os.fsdecode(path)}) + "\n")
    (folder / "list.csv").write_bytes(b"uri\n" + path + b"\n")
    pq.write_table(pa.table({"uri": [path]}), folder / "list.parquet")
    for name in ("list.jsonl", "surrogate.jsonl", "list.csv", "list.parquet"):
        assert read(folder / name) == {(r"caf\xe9.txt", None): b"found"}


def test_a_name_that_no_file_can_have_fails_alone(folder: Path) -> None:
    lines = [{"uri": f"{folder}/\ud83d.txt"}, {"uri": f"{folder}/sound.txt"}]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(read(folder / "list.jsonl").values()) == ["unreadable", b"sound"]


@pytest.mark.parametrize(
    "line", ['{"uri": "a", "etag": "x", "size": 1e99}', '{"uri": "a", "etag": "x", "size": "big"}', "[" * 99_999]
)
def test_a_manifest_with_impossible_values_is_a_wrong_request(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.jsonl").write_text('{"uri": "a", "etag": "x", "size": 1}\n' + line + "\n")
    with pytest.raises(RequestError, match=r"cannot be read|must be a string|with a string"):
        read(tmp_path / "list.jsonl")


@pytest.mark.parametrize("seconds", [1 << 40, -(1 << 40), 1 << 62])
def test_a_time_beyond_the_calendar_is_unknown(folder: Path, seconds: int) -> None:
    """Not every file system can store such times, so the status is made up."""
    status = os.stat(folder / "sound.txt")
    wrong = SimpleNamespace(st_mtime_ns=seconds * 10**9, st_size=status.st_size, st_mode=status.st_mode)
    found = local._object("sound.txt", cast("os.stat_result", wrong))
    assert (found.mtime, found.size) == (None, 5)
    assert found.etag == f"{seconds * 10**9:x}-5"


# Whatever else


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst", "x.tar", "x.tar.gz", "x.tar.zst", "x.parquet"])
def test_files_with_random_damage_never_end_a_listing(folder: Path, name: str) -> None:
    choice = random.Random(name)
    if name.endswith("parquet"):
        out = io.BytesIO()
        pq.write_table(pa.table({"body": [line.decode() for line in RECORDS[:60]]}), out, row_group_size=20)
        sound = out.getvalue()
    else:
        content = PLAIN if ".tar" in name else b"\n".join(RECORDS[:60])
        sound = PACK[name[name.rindex(".") :] if name != "x.tar" else ""](content)
    for _ in range(60):
        data = bytearray(sound)
        for _ in range(choice.choice([1, 1, 3, 20])):
            data[choice.randrange(len(data))] = choice.randrange(256)
        if choice.random() < 0.3:
            del data[choice.randrange(len(data)) :]
        (folder / name).write_bytes(data)
        found = read(folder)
        assert found[("sound.txt", None)] == b"sound"

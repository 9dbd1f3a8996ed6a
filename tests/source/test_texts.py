"""Text files of users, as their editors write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import parse
from jobs.evaluate import Evaluate
from pipeline.errors import RequestError
from pipeline.rows import InputKind
from pipeline.source.entries import entries
from pipeline.source.labelled import split_files
from pipeline.source.texts import lines_of, read_text

IMAGES = InputKind(suffixes=(".png",))
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-16-le", "utf-16-be"])
def test_a_mark_names_the_encoding_and_is_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    (tmp_path / "a").write_bytes((mark + "größe\r\nx").encode(encoding))
    assert lines_of(read_text(str(tmp_path / "a"))) == ["größe", "x"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\nb\nstraße".encode("latin-1"), r"/a, line 3: must be UTF-8, but byte 8 \(0xdf\) is not"),
        (b"\xff\xfea\0\n\0x", r"/a, line 2: must be UTF-16-LE, but byte 6 \(0x78\) is not"),
        ("a\r\nb".encode("utf-16-le"), "/a, line 1: must be text, but it holds a zero byte"),
    ],
)
def test_other_encodings_are_named_by_line_and_byte(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(RequestError, match=message):
        read_text(str(tmp_path / "a"))


def test_only_line_ends_end_lines() -> None:
    assert lines_of("a\r\nb\rc\n\nd\x0be\u2028f\n") == ["a", "b", "c", "", "d\x0be\u2028f"]
    assert lines_of("") == []


def listed(folder: Path, text: str, encoding: str = "utf-8") -> list[tuple[str, str]]:
    (folder / "train.txt").write_bytes(text.encode(encoding))
    rows = split_files(str(folder), "train").to_pylist()
    return [tuple(row[name].removeprefix(f"{folder}/") for name in ("uri", "label_uri")) for row in rows]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lists_as_editors_write_them(tmp_path: Path, encoding: str) -> None:
    text = 'a.png l/a.png\r\n\r\n# two names\r\nb c.png\tl/b.png\r\n"d e.png" "l/d e.png"\r\n  f.png   l/f.png '
    expected = [("a.png", "l/a.png"), ("b c.png", "l/b.png"), ("d e.png", "l/d e.png"), ("f.png", "l/f.png")]
    assert listed(tmp_path, text, encoding) == expected


def test_lines_that_do_not_name_two_files(tmp_path: Path) -> None:
    for line in ("a b.png l.png", "a.png", "a\tb\tc", '"a b.png'):
        with pytest.raises(RequestError, match=r"train.txt, line 2: must be 'image label'; a tab may separate them"):
            listed(tmp_path, f"# one\n{line}\n")
    with pytest.raises(RequestError, match=r"line 1: .*a.b.png: no such file; .* separated by /, not by a backslash"):
        listed(tmp_path, "a\\b.png l\\b.png\n")
    (tmp_path / "a\\b.png").touch()
    assert listed(tmp_path, "a\\b.png l.png") == [("a\\b.png", "l.png")], "a name may hold one here"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_manifests_with_marks(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "list.csv").write_bytes(f"uri\n{tmp_path}/größe.png\n".encode(encoding))
    (table,) = entries([str(tmp_path / "list.csv")], IMAGES)
    assert table["uri"].to_pylist() == [f"{tmp_path}/größe.png"]
    (tmp_path / "list.jsonl").write_bytes(f'{{"uri": "{tmp_path}/größe.png"}}\n'.encode(encoding))
    if encoding.startswith("utf-8"):
        (table,) = entries([str(tmp_path / "list.jsonl")], IMAGES)
        assert table["uri"].to_pylist() == [f"{tmp_path}/größe.png"]
    else:
        with pytest.raises(RequestError, match=r"list.jsonl' must be UTF-8, it is UTF-(16|32)-LE"):
            list(entries([str(tmp_path / "list.jsonl")], IMAGES))


def test_names_in_a_manifest_that_are_no_text_are_escaped_and_looked_for(tmp_path: Path) -> None:
    """A disk may hold such names. The ones that are not there get a row that says so, when they are fetched."""
    (tmp_path / "list.csv").write_bytes("uri\na.png\nstraße.png\n".encode("latin-1"))
    (tmp_path / "list.jsonl").write_bytes('{"uri": "a.png"}\n{"uri": "straße.png"}\n'.encode("latin-1"))
    for name in ("list.csv", "list.jsonl"):
        (page,) = entries([str(tmp_path / name)], IMAGES)
        assert [uri.rsplit("/", 1)[-1] for uri in page["uri"].to_pylist()] == ["a.png", r"stra\xdfe.png"]


def test_a_manifest_with_a_mark_is_read_as_the_mark_says(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "list.csv").write_bytes("uri\nstraße.png\n".encode(encoding))
        (page,) = entries([str(tmp_path / "list.csv")], IMAGES)
        assert [uri.rsplit("/", 1)[-1] for uri in page["uri"].to_pylist()] == ["straße.png"]
    (tmp_path / "list.jsonl").write_bytes('{"uri": "ß.png"}\n'.encode("utf-16"))
    with pytest.raises(RequestError, match=r"list.jsonl' must be UTF-8, it is UTF-16-LE"):
        list(entries([str(tmp_path / "list.jsonl")], IMAGES))


def test_files_of_settings(tmp_path: Path) -> None:
    file, arguments = tmp_path / "s.yaml", ["--model", "m", "--data", "d"]
    for encoding in ("utf-8", "utf-8-sig"):
        file.write_bytes("split: größe\n".encode(encoding))
        assert parse(Evaluate, ["--config", str(file), *arguments]).split == "größe"
    file.write_bytes("split: größe\n".encode("utf-16"))
    with pytest.raises(RequestError, match=r"--config: .*s.yaml must be UTF-8, it is UTF-16-LE"):
        parse(Evaluate, [f"--config={file}", *arguments])
    file.write_bytes("a: b\nsplit: größe\n".encode("latin-1"))
    with pytest.raises(RequestError, match=r"--config: .*s.yaml, line 2: must be UTF-8, but byte 14"):
        parse(Evaluate, ["--config", str(file), *arguments])

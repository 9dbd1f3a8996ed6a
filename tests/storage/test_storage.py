"""Storage: names, atomic writes, listings, typed errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ERROR_CODES, InputError, RequestError


def test_names_are_canonical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.canonical("a/b/") == f"{tmp_path}/a/b"
    assert storage.canonical(f"file://{tmp_path}/a b%20c") == f"{tmp_path}/a b%20c"
    assert storage.canonical("s3://bucket/key/") == "s3://bucket/key"
    assert storage.join("s3://bucket", "a", "b") == "s3://bucket/a/b"


def test_unknown_scheme_is_a_wrong_request() -> None:
    with pytest.raises(RequestError, match="no store for nope://"):
        storage.read("nope://x")


def test_write_replaces_and_leaves_no_temporary(tmp_path: Path) -> None:
    where = storage.join(str(tmp_path), "deep", "er", "file")
    storage.write(where, b"one")
    storage.write(where, b"two")
    assert storage.read(where) == b"two"
    assert storage.names(storage.join(str(tmp_path), "deep", "er")) == ["file"]
    storage.delete(where)
    storage.delete(where)
    assert not storage.exists(where)


def test_walk_is_ordered_and_complete(tmp_path: Path) -> None:
    names = ["b/2.txt", "b/1 with space%.txt", "a.txt", "c/ü\n.txt", "b.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    os.symlink(tmp_path / "nowhere", tmp_path / "broken.txt")
    os.symlink(tmp_path, tmp_path / "b" / "up", target_is_directory=True)
    found = walked(tmp_path)
    assert {item["uri"] for item in found} == {str(tmp_path / name) for name in [*names, "broken.txt"]}
    assert found == walked(tmp_path)
    assert {item["etag"] for item in found if item["uri"].endswith("broken.txt")} == {""}
    assert [item["uri"] for item in walked(tmp_path, "b/")] == []
    assert [item["uri"] for item in walked(tmp_path, "b.")] == [str(tmp_path / "b.txt")]


def walked(folder: Path, begins: str = "") -> list[dict]:
    return [row for page in storage.walk(str(folder), begins) for row in page.to_pylist()]


def test_the_tag_changes_with_the_content(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"one")
    before = storage.stat(str(file))
    assert storage.fetch(str(file), storage.Read(etag=before.etag, max_bytes=10)) == b"one"
    file.write_bytes(b"other")
    with pytest.raises(InputError) as caught:
        storage.fetch(str(file), storage.Read(etag=before.etag, max_bytes=10))
    assert caught.value.code == "changed"


def test_typed_errors(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    for path, limit, code in [("nothing", 9, "not_found"), ("large", 4, "too_large"), (".", 9, "unreadable")]:
        with pytest.raises(InputError) as caught:
            storage.fetch(str(tmp_path / path), storage.Read(max_bytes=limit))
        assert caught.value.code == code
    assert storage.input_error(PermissionError()).code == "forbidden"
    assert storage.input_error(TimeoutError()).code == "timeout"
    assert storage.input_error(ValueError("secret")).message == "the store failed to read the object"
    assert set(ERROR_CODES) >= {"not_found", "forbidden", "timeout", "too_large", "changed", "unreadable"}


def test_a_range(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    assert storage.fetch(str(tmp_path / "x"), storage.Read(max_bytes=100, start=2, end=5)) == b"234"

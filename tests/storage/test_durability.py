"""What is written on a local disk outlasts a power cut: it is there before its name is, and so are its folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline import storage


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is done, in order: (sync, path) of real calls of fsync, and (name, path) where a file gets its name."""
    done: list[tuple[str, str]] = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        done.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def replaced(source: str, target: str) -> None:
        replace(source, target)
        done.append(("name", target))

    def linked(source: str, target: str) -> None:
        link(source, target)
        done.append(("name", target))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "link", linked)
    return done


@pytest.mark.parametrize("write", [storage.write, storage.create])
def test_bytes_then_name_then_folder(tmp_path: Path, disk: list[tuple[str, str]], write: object) -> None:
    file = tmp_path / "new" / "deep" / "file"
    assert callable(write)
    write(str(file), b"bytes")
    assert file.read_bytes() == b"bytes"
    kinds = [(kind, Path(path).name.split(".")[0]) for kind, path in disk]
    made = [("sync", tmp_path.name), ("sync", "new")]  # the folders that have the names of the new folders
    assert kinds == [*made, ("sync", "file"), ("name", "file"), ("sync", "deep")]
    assert disk[2][1].endswith(".tmp")
    assert [path.name for path in file.parent.iterdir()] == ["file"]


def test_a_name_that_is_taken_is_not_written(tmp_path: Path, disk: list[tuple[str, str]]) -> None:
    (tmp_path / "file").write_bytes(b"theirs")
    assert not storage.create(str(tmp_path / "file"), b"mine")
    assert (tmp_path / "file").read_bytes() == b"theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_of_others_are_brought_to_the_disk_once(tmp_path: Path, disk: list[tuple[str, str]]) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "0.json").touch()
    (folder / "sub").mkdir()
    known: set[str] = set()
    storage.sync(str(folder), known)
    assert [Path(path).name for _, path in disk] == ["0.json", "log", tmp_path.name]
    (folder / "1.json").touch()
    disk.clear()
    storage.sync(str(folder), known)
    assert [Path(path).name for _, path in disk] == ["1.json", "log", tmp_path.name]
    storage.sync("s3://bucket/log", known)  # other stores keep what they have taken

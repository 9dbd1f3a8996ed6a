"""Files that are passed over are counted by the endings of their names."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pipeline.images.letterbox import IMAGES
from pipeline.source.entries import entries
from pipeline.source.passed import NO_ENDING, OTHERS, PassedOver


def test_in_a_folder_and_in_an_archive(tmp_path: Path) -> None:
    inputs = ("a.jpg", "b.JFIF", "c.mpo", "d.HEIC", "e.avif")
    for name in (*inputs, "f.mov", "g.MOV", "h", ".hidden", "i.txt.gz", "j.json"):
        (tmp_path / name).write_bytes(b"x")
    with tarfile.open(tmp_path / "more.tar", "w") as archive:
        for name in ("k.jpe", "l.json", "m/cls"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    passed = PassedOver()
    listed = [row for page in entries([str(tmp_path)], IMAGES, passed=passed) for row in page.to_pylist()]
    names = sorted(row["member"] or Path(row["uri"]).name for row in listed)
    assert names == [*inputs, "k.jpe"]
    assert passed.by_ending() == {NO_ENDING: 3, ".mov": 2, ".json": 2, ".gz": 1}
    assert str(passed).startswith(
        "8 files are passed over, since their names do not end as those of inputs: 3 no ending"
    )


def test_hostile_endings_take_no_memory() -> None:
    passed = PassedOver()
    passed.add(f"/x/{number}.e{number}" for number in range(1000))
    passed.add(["/x/a." + "y" * 100])
    found = passed.by_ending()
    assert len(found) <= 51
    assert found[OTHERS] + sum(count for ending, count in found.items() if ending != OTHERS) == 1001

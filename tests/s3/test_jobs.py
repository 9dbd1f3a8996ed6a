"""The whole product on a real S3 server: the same commands, ``s3://`` for every path."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import storage
from pipeline.examples.prose import reference_documents, write_jsonl
from pipeline.table import lease
from pipeline.table.readers import open_delta
from testing.equality import table_rows
from testing.golden import GOLDEN
from testing.jobs import call_job
from testing.processes import descendants, run_job, start_job
from testing.runs import write_images, write_package
from testing.s3.ceph import Endpoint
from testing.s3.fixtures import applied, bucket
from testing.s3.proxy import Fault, FaultProxy

pytestmark = [pytest.mark.s3, pytest.mark.ray]
ONE_CPU = ("--cluster.cpus", "1", "--cluster.gpus", "0")
SMALL = ("--stream.actors", "1", "--stream.block_rows", "5", "--stream.batch_rows", "2", "--commit_s", "0.1")


def upload(folder: Path, uri: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: storage.write(f"{uri}/{path.relative_to(folder)}", path.read_bytes()), files))


@pytest.fixture
def place(s3_bucket: str, tmp_path: Path) -> str:
    """A bucket with 60 images, one of them broken, and a package."""
    storage.configure(storage.StorageConfig())
    images = write_images(tmp_path / "images", 60, largest=40)
    (images / "0007.png").write_bytes(b"broken")
    upload(images, f"s3://{s3_bucket}/images")
    upload(Path(write_package(tmp_path / "package", 0)), f"s3://{s3_bucket}/package")
    return f"s3://{s3_bucket}"


def arguments(place: str, sink: str = "sink") -> list[str]:
    return ["--source", f"{place}/images", "--model", f"{place}/package", "--sink", f"{place}/{sink}", *SMALL]


def test_a_table_and_its_repeat(s3_cluster: None, place: str, s3_environment: Endpoint, tmp_path: Path) -> None:
    code, summary, err = call_job("segment_images", *arguments(place))
    assert code == 0, err
    assert (summary["done"], summary["errors"]) == (59, {"not_an_image": 1})
    assert len(open_delta(f"{place}/sink").file_uris()) >= 12
    assert "data:image/png" in storage.read(summary["report"]).decode()
    with FaultProxy(s3_environment, log=tmp_path / "log") as proxy, applied(proxy.endpoint):
        code, again, err = call_job("segment_images", *arguments(place))
        assert code == 0, err
        read = [item for item in proxy.requests() if item["method"] == "GET" and "/images/" in item["path"]]
    assert (again["skipped"], again["pending"], again["fetched_bytes"], read) == (60, 0, 0, [])
    code, verified, _ = call_job("verify", "--sink", f"{place}/sink", "--vacuum")
    assert (code, verified["inputs"], verified["failed"], verified["vacuumed"]) == (0, 60, 1, 0)
    assert s3_environment.secret_key not in json.dumps([summary, again, verified]) + err


@pytest.mark.slow
@pytest.mark.heavy
def test_a_killed_driver_leaves_nothing_behind(place: str) -> None:
    process = start_job("segment_images", *arguments(place), *ONE_CPU)
    for line in process.stderr:
        if " to do" in line:
            break
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if any(page.num_rows for page in storage.walk(f"{place}/sink/table", "model=")):
            break
        time.sleep(0.05)
    process.kill()
    process.communicate()
    while descendants(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    code, _, err = run_job("segment_images", *arguments(place), *ONE_CPU)
    assert code == 0, err
    rows = table_rows(f"{place}/sink")
    assert len(rows) == len({row["uri"] for row in rows}) == 60
    code, verified, _ = call_job("verify", "--sink", f"{place}/sink", "--vacuum")
    assert (code, verified["inputs"]) == (0, 60)


def test_a_sink_in_use_is_left_alone(s3_cluster: None, place: str) -> None:
    held = lease.acquire(f"{place}/sink", "the-other-run", 30)
    code, summary, err = call_job("segment_images", *arguments(place))
    assert (code, "in use by run the-other-run (host " in summary["error"]) == (2, True), err
    assert storage.names(f"{place}/sink") == ["lease"]
    held.release()
    assert call_job("segment_images", *arguments(place), "--limit", "5")[0] == 0
    held = lease.acquire(f"{place}/sink", "the-other-run", 30)
    code, verified, _ = call_job("verify", "--sink", f"{place}/sink", "--vacuum")
    assert (code, "in use by run the-other-run" in verified["error"]) == (2, True)
    assert call_job("verify", "--sink", f"{place}/sink")[0] == 0
    held.release()


def test_a_dry_run_counts_and_leaves_nothing(s3_cluster: None, place: str) -> None:
    code, summary, err = call_job("segment_images", *arguments(place), "--dry-run")
    assert code == 0, err
    assert (summary["new"], summary["pending"], summary["sample"], summary["sample_failed"]) == (60, 60, 60, 1)
    low, high = summary["predicted_range"]
    assert 0 < low <= summary["predicted_seconds"] <= high
    assert not storage.exists(f"{place}/sink")


def test_a_store_that_fails_now_and_then_changes_nothing(place: str, s3_environment: Endpoint) -> None:
    kinds = ("reset", "truncate", "throttle", "server_error")
    with FaultProxy(s3_environment, [Fault(kind=kind, rate=0.05) for kind in kinds]) as proxy, applied(proxy.endpoint):
        code, summary, err = run_job("segment_images", *arguments(place), *ONE_CPU)
        faults = proxy.counts()["faults"]
    assert code == 0, err
    assert sum(faults.values()) > 5
    assert (summary["done"], summary["errors"]) == (59, {"not_an_image": 1})
    code, verified, _ = call_job("verify", "--sink", f"{place}/sink")
    assert (code, verified["inputs"]) == (0, 60)


def test_the_endpoint_can_be_a_setting(place: str, s3_environment: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    url = s3_environment.url
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    code, summary, err = run_job(
        "segment_images",
        *arguments(place),
        *ONE_CPU,
        "--limit",
        "5",
        "--storage.endpoint_url",
        url,
        "--storage.addressing",
        "path",
    )
    assert (code, summary["listed"] >= 5) == (0, True), err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--source": "s3://no-such-bucket-here/x"}, "no such file or folder"),
        ({"--source": "s3://"}, "names no bucket"),
        ({"--source": "s3://key:password@bucket/x"}, "must not hold credentials"),
        ({"--model": "s3://no-such-bucket-here/x"}, "no model package at"),
    ],
)
def test_wrong_requests(s3_cluster: None, place: str, changes: dict[str, str], message: str) -> None:
    given = dict(zip(*[iter(arguments(place, "unwritten"))] * 2, strict=True)) | changes
    code, summary, err = call_job("segment_images", *(item for pair in given.items() for item in pair))
    assert (code, message in summary["error"]) == (2, True), summary
    assert "password" not in err + json.dumps(summary)


@pytest.mark.slow
def test_everything_from_training_on(s3_cluster: None, s3_bucket: str) -> None:
    place = f"s3://{s3_bucket}"
    storage.configure(storage.StorageConfig())
    upload(GOLDEN / "scenes", f"{place}/scenes")
    upload(GOLDEN / "autoencoder", f"{place}/autoencoder")
    given = ["--images", f"{place}/scenes", "--out", f"{place}/segmenter", "--init", f"{place}/autoencoder"]
    given += ["--novelty", f"{place}/autoencoder", "--height_px", "24", "--width_px", "32", "--train.batch_rows", "4"]
    given += ["--recipe", "none", "--baseline", "none"]
    code, _, err = call_job("train_image_segmenter", *given, "--train.epochs", "2", "--train.checkpoint_s", "0")
    assert code == 0, err
    names = storage.names(f"{place}/segmenter")
    assert {"config.json", "model.safetensors", "card.md", "checkpoints", "tensorboard", "summary.json"} <= set(names)
    code, _, err = call_job("train_image_segmenter", *given, "--train.epochs", "2", "--train.checkpoint_s", "0")
    assert (code, "is trained already" in err) == (0, True), err
    model = ["--model", f"{place}/segmenter"]
    code, found, err = call_job("evaluate", *model, "--data", f"{place}/scenes", "--split", "val")
    assert (code, found["inputs"]) == (0, 3), err
    source = ["--source", f"{place}/scenes/images", "--sink", f"{place}/sink"]
    code, summary, err = call_job("segment_images", *model, *source)
    assert (code, summary["done"]) == (0, 11), err
    assert call_job("verify", "--sink", f"{place}/sink")[0] == 0


@pytest.mark.slow
@pytest.mark.heavy
def test_documents(s3_cluster: None, s3_bucket: str, tmp_path: Path) -> None:
    place = f"s3://{s3_bucket}"
    storage.configure(storage.StorageConfig())
    write_jsonl(str(tmp_path / "prose.jsonl"), reference_documents())
    upload(tmp_path, f"{place}/documents")
    model = ["--model.width", "8", "--model.hidden", "16", "--train.epochs", "1"]
    places = ["--documents", f"{place}/documents/prose.jsonl", "--out", f"{place}/tagger"]
    code, _, err = call_job("train_text_segmenter", *places, *model)
    assert code == 0, err
    given = ["--source", f"{place}/documents", "--model", f"{place}/tagger", "--sink", f"{place}/sink"]
    code, summary, err = call_job("segment_documents", *given)
    assert code == 0, err
    assert summary["done"] > 20
    assert call_job("verify", "--sink", f"{place}/sink")[0] == 0


@pytest.mark.slow
@pytest.mark.heavy
def test_ten_thousand_objects_again(s3_cluster: None, s3_bucket: str, s3_environment: Endpoint, tmp_path: Path) -> None:
    """A repeat reads none of them; when three are new and two have changed, it reads five."""
    place = f"s3://{s3_bucket}"
    storage.configure(storage.StorageConfig())
    upload(Path(write_package(tmp_path / "package", 0)), f"{place}/package")
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture)
    data = picture.read_bytes()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: storage.write(f"{place}/images/{number:05d}.png", data), range(10_000)))
    given = [
        "--source",
        f"{place}/images",
        "--model",
        f"{place}/package",
        "--sink",
        f"{place}/sink",
        "--cluster.cpus",
        "2",
    ]
    code, summary, err = call_job("segment_images", *given)
    assert (code, summary["done"]) == (0, 10_000), err
    with FaultProxy(s3_environment, log=tmp_path / "log") as proxy, applied(proxy.endpoint):

        def read() -> list[str]:
            gets = [item for item in proxy.requests() if item["method"] == "GET" and "/images/" in item["path"]]
            return [item["path"].rsplit("/", 1)[-1] for item in gets]

        code, summary, err = call_job("segment_images", *given)
        assert (code, summary["skipped"], summary["fetched_bytes"], read()) == (0, 10_000, 0, []), err
        other = Image.fromarray(np.ones((5, 5, 3), np.uint8))
        other.save(picture)
        for name in ("00017", "09999", "new-1", "new-2", "new-3"):
            storage.write(f"{place}/images/{name}.png", picture.read_bytes())
        code, summary, err = call_job("segment_images", *given)
        names = [f"{name}.png" for name in ("00017", "09999", "new-1", "new-2", "new-3")]
        assert (code, summary["pending"], summary["done"], sorted(read())) == (0, 5, 5, names), err
    assert summary["removed"] == 2
    code, verified, _ = call_job("verify", "--sink", f"{place}/sink")
    assert (code, verified["inputs"]) == (0, 10_003)


@pytest.mark.slow
@pytest.mark.heavy
def test_inputs_of_another_server(swift_endpoint: Endpoint, tmp_path: Path) -> None:
    """OpenStack Swift's S3: a run from end to end, but one at a time, since its conditional writes are not atomic."""
    with applied(swift_endpoint), bucket(swift_endpoint) as name:
        storage.configure(storage.StorageConfig())
        images = write_images(tmp_path / "images", 12, largest=40)
        upload(images, f"s3://{name}/images")
        upload(Path(write_package(tmp_path / "package", 0)), f"s3://{name}/package")
        code, summary, err = run_job("segment_images", *arguments(f"s3://{name}"), *ONE_CPU)
        assert (code, summary["done"]) == (0, 12), err
        code, verified, _ = call_job("verify", "--sink", f"s3://{name}/sink")
        assert (code, verified["inputs"]) == (0, 12)
    storage.configure(storage.StorageConfig())

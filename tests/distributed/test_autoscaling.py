"""Runs on a cluster that starts empty: Ray's own autoscaler brings nodes for the work, and takes them back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.quality.audit import audit
from testing.autoscaler import AutoscalingCluster, autoscaling_cluster
from testing.processes import run_job
from testing.runs import write_images, write_package

pytestmark = [pytest.mark.ray, pytest.mark.heavy]
KINDS = {
    "gpu": {"gpu_worker": {"resources": {"CPU": 1, "GPU": 1}, "max_workers": 2}},
    "cpu": {"cpu_worker": {"resources": {"CPU": 1}, "max_workers": 2}},
}


def run_arguments(images: Path, model: str, sink: Path, cluster: AutoscalingCluster) -> list[str]:
    places = ["--source", str(images), "--model", model, "--sink", str(sink)]
    return [*places, "--cluster.address", cluster.address]


@pytest.mark.parametrize("kind", KINDS)
def test_from_one_node_to_three_and_back(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    images = write_images(tmp_path / "images", 1500, largest=200)
    model, sink = write_package(tmp_path / "package", 0), tmp_path / "sink"
    with autoscaling_cluster(KINDS[kind]) as cluster:
        arguments = run_arguments(images, model, sink, cluster)
        code, summary, err = run_job("segment_images", *arguments, timeout_s=600)
        assert (code, summary["done"]) == (0, 1500), err
        assert f"working on {kind.upper()}s" in err
        assert max(cluster.nodes) >= 3, err
        assert cluster.wait_until_only_the_head_is_left()
    found = audit(str(sink)).summary()
    assert (found["done"], found["problems"]) == (1500, {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_is_asked_for_where_nothing_is_known_of_the_autoscaler(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node from which the head's autoscaler cannot be seen."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    images = write_images(tmp_path / "images", 1500, largest=200)
    model, sink = write_package(tmp_path / "package", 0), tmp_path / "sink"
    code = "from pipeline.runs import capacity; capacity._commands = lambda: []; "
    code += "from jobs import segment_images as job; job.main(job.SegmentImages, job.work)"
    with autoscaling_cluster(KINDS[kind], head_cpus=2) as cluster:
        arguments = [*run_arguments(images, model, sink, cluster), "--stream.gpu_wait_s", "20"]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "working on CPUs" in done.stderr
        assert "a GPU is asked for meanwhile, for 20 s" in done.stderr
        assert ("working on GPUs: the cluster has" in done.stderr) == (kind == "gpu"), done.stderr
        assert cluster.wait_until_only_the_head_is_left(), "the request is withdrawn at the end"
    found = audit(str(sink)).summary()
    assert (found["done"], found["problems"]) == (1500, {})


def test_cpu_work_asks_for_no_gpu_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    images = write_images(tmp_path / "images", 600, largest=200)
    model, sink = write_package(tmp_path / "package", 0), tmp_path / "sink"
    with autoscaling_cluster(KINDS["gpu"]) as cluster:
        arguments = run_arguments(images, model, sink, cluster)
        code, summary, err = run_job("segment_images", *arguments, "--stream.device", "cpu", timeout_s=600)
        assert (code, summary["done"]) == (0, 600), err
        assert "working on CPUs, as stream.device says" in err

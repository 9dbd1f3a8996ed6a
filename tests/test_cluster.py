"""cluster.yaml by Ray's own code: its schema, its hashes, its launching of machines; and the rules it is there for."""

from __future__ import annotations

import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.node_provider_availability_tracker import NodeProviderAvailabilityTracker
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer, get_nodes_for
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.scripts.scripts import start

from pipeline.distributed import fallback
from pipeline.runs.capacity import of_node_types

ROOT = Path(__file__).parent.parent
TASKS = [{"CPU": 1.0}] * 20
GPU_TASKS = [{"CPU": 1.0, "GPU": 1.0}] * 2


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def workers(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]}


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["max_workers"] == cluster["max_workers"]


def test_ray_would_refuse_a_wrong_one(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(cluster | {"max_wrokers": 3}))


def test_the_head_works_not_and_workers_come_and_go(cluster: dict[str, Any]) -> None:
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers(cluster).values())
    assert of_node_types(cluster) == (64 * 16 + 16 * 8, 16)


def test_each_spot_machine_has_its_like_on_demand(cluster: dict[str, Any]) -> None:
    kinds = workers(cluster)
    for device in ("cpu", "gpu"):
        spot, on_demand = kinds[f"{device}_spot"], kinds[f"{device}_on_demand"]
        assert spot["node_config"].pop("InstanceMarketOptions") == {"MarketType": "spot"}
        assert spot == on_demand


def test_no_machine_is_public_and_each_has_a_role_and_room_to_spill(cluster: dict[str, Any]) -> None:
    assert cluster["provider"]["use_internal_ips"]
    for name, kind in cluster["available_node_types"].items():
        machine = kind["node_config"]
        role = "head" if name == cluster["head_node_type"] else "worker"
        assert machine["IamInstanceProfile"] == {"Name": f"parquetry-{role}"}
        assert machine["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] >= (100 if role == "head" else 300)
        assert machine["ImageId"]


def launched(cluster: dict[str, Any], scorer: Any, demand: list[dict[str, float]], *failed: str) -> dict[str, int]:
    """What Ray's first autoscaler launches for a demand when launches of the types ``failed`` were refused."""
    tracker = NodeProviderAvailabilityTracker(timer=lambda: 0.0)
    refusal = NodeLaunchException("InsufficientInstanceCapacity", "no Spot capacity", None)
    for name in failed:
        tracker.update_node_availability(name, 0, refusal)
    kinds, head = prepare_config(cluster)["available_node_types"], cluster["head_node_type"]
    score = partial(scorer, node_availability_summary=tracker.summary())
    found, missing = get_nodes_for(kinds, {head: 1}, head, 80, demand, utilization_scorer=score)
    assert not missing
    return dict(found)


def test_spot_machines_come_first_and_others_where_there_are_none(cluster: dict[str, Any]) -> None:
    assert launched(cluster, fallback.score, TASKS) == {"cpu_spot": 2}
    assert launched(cluster, fallback.score, TASKS, "cpu_spot") == {"cpu_on_demand": 2}
    assert launched(cluster, fallback.score, GPU_TASKS) == {"gpu_spot": 2}
    assert launched(cluster, fallback.score, GPU_TASKS, "gpu_spot") == {"gpu_on_demand": 2}


def test_no_gpu_machine_for_cpu_work_even_if_no_cpu_machine_could_be_had(cluster: dict[str, Any]) -> None:
    assert launched(cluster, fallback.score, TASKS, "cpu_spot", "cpu_on_demand") == {"cpu_spot": 2}


def test_ray_alone_tries_the_missing_type_again(cluster: dict[str, Any]) -> None:
    assert launched(cluster, _default_utilization_scorer, TASKS, "cpu_spot") == {"cpu_spot": 2}


def test_the_scorer_in_the_start_command_exists(cluster: dict[str, Any]) -> None:
    command = " ".join(cluster["head_start_ray_commands"])
    settings = dict(part.rstrip(";").split("=", 1) for part in shlex.split(command) if part.startswith("RAY_"))
    assert settings["RAY_AUTOSCALER_UTILIZATION_SCORER"] == f"{fallback.__name__}.{fallback.score.__name__}"
    assert settings["RAY_enable_autoscaler_v2"] == "0"


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_ray_start_has_the_options(cluster: dict[str, Any], kind: str) -> None:
    known = {option for parameter in start.params for option in parameter.opts}
    for command in cluster[f"{kind}_start_ray_commands"]:
        assert command.startswith(". ~/parquetry/env;")
        used = {part.split("=")[0] for part in shlex.split(command) if part.startswith("--")}
        assert used <= known


def test_every_machine_is_set_up_by_the_script_for_its_device(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    for name, kind in workers(prepared).items():
        commands = kind.get("worker_setup_commands", prepared["worker_setup_commands"])
        device = "cuda" if kind["resources"].get("GPU") else "cpu"
        assert f"/home/ubuntu/parquetry/deploy/install.sh /home/ubuntu/venv {device}" in commands, name
        assert commands[-1].endswith("RAY_AUTH_MODE=token' > ~/parquetry/env")
    assert "/home/ubuntu/parquetry/deploy/install.sh /home/ubuntu/venv cpu" in prepared["head_setup_commands"]


@pytest.fixture
def checkout(cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what is mounted, beside a large .venv, as the current folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    root = tmp_path / "checkout"
    (tmp_path / "home/.ray").mkdir(parents=True)
    (tmp_path / "home/.ray/auth_token").write_text("secret")
    for mounted in cluster["file_mounts"].values():
        if mounted.startswith("~"):
            continue
        (root / mounted).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / mounted).is_dir():
            shutil.copytree(ROOT / mounted, root / mounted, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / mounted, root / mounted)
    (root / ".venv").mkdir()
    with (root / ".venv/libtorch.so").open("wb") as large:
        large.truncate(3 * 2**30)  # takes no disk, but seconds to hash
    (root / ".venv/dangling").symlink_to("nowhere")  # who reads it fails
    monkeypatch.chdir(root)
    return root


def contents(mounts: dict[str, str]) -> str | None:
    return hash_runtime_conf(mounts, [], {}, generate_file_mounts_contents_hash=True)[1]


def test_ray_hashes_what_is_installed_and_no_environment(cluster: dict[str, Any], checkout: Path) -> None:
    mounts = cluster["file_mounts"]
    first = contents(mounts)
    (checkout / ".venv/new.py").write_text("x = 1")
    assert contents(mounts) == first
    (checkout / "pipeline/rows.py").write_text("x = 1")
    assert contents(mounts) != first
    (checkout / ".venv/libtorch.so").unlink()
    with pytest.raises(FileNotFoundError, match="dangling"):  # as Ray reads it although rsync would leave it out
        contents({"/home/ubuntu/parquetry": "."})


def test_what_the_installation_reads_is_mounted(cluster: dict[str, Any]) -> None:
    home = "/home/ubuntu/parquetry/"
    mounted = {remote.removeprefix(home): local for remote, local in cluster["file_mounts"].items() if home in remote}
    assert all(remote == local for remote, local in mounted.items())
    copied: set[str] = set()
    for line in (ROOT / "deploy/Containerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            *sources, _ = line.split()[1:]
            copied |= set(sources)
    assert copied == set(mounted)


def test_ray_accepts_the_variant_with_an_image(cluster: dict[str, Any]) -> None:
    block = (ROOT / "deploy/README.md").read_text().split("```yaml\n")[1].split("```")[0]
    variant = cluster | yaml.safe_load(block)
    for name, kind in workers(variant).items():
        if kind.pop("worker_setup_commands", None):
            kind["docker"] = {"worker_image": f"registry/{name}"}
    prepared = prepare_config(variant)
    validate_config(prepared)
    assert prepared["docker"]["container_name"] == "parquetry"
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(variant | {"docker": variant["docker"] | {"imgae": "registry/cpu"}}))

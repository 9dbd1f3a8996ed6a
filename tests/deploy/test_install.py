"""The Containerfile, as far as it goes without a container: its steps in a fresh environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def steps(instruction: str) -> list[str]:
    """The arguments of an instruction of the Containerfile, in order."""
    text = (ROOT / "deploy/Containerfile").read_text().replace("\\\n", " ")
    return [line.removeprefix(instruction).strip() for line in text.splitlines() if line.startswith(f"{instruction} ")]


def test_the_image_is_not_root_and_holds_no_secret() -> None:
    assert steps("USER") == ["1000"]
    assert steps("CMD") == ['["parquetry", "--help"]']
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored  # .git, .venv and whatever else lies about stays outside


@pytest.mark.parametrize("arguments", [[], ["venv"], ["venv", "gpu"]])
def test_a_wrong_call_installs_nothing(arguments: list[str], tmp_path: Path) -> None:
    found = subprocess.run(
        [ROOT / "deploy/install.sh", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert found.returncode != 0
    assert ("usage" if len(arguments) < 2 else "must be cpu or cuda, got 'gpu'") in found.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.heavy
def test_its_steps_make_an_environment_that_works(tmp_path: Path) -> None:
    source, environment = tmp_path / "src", tmp_path / "opt"
    for copied in steps("COPY"):
        if copied.startswith("--from"):
            continue
        *files, target = copied.split()
        for file in files:
            place = (
                source / target if len(files) == 1 and not target.endswith("/") else source / target / Path(file).name
            )
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(ROOT / file, place) if (ROOT / file).is_dir() else shutil.copy(ROOT / file, place)
    (install,) = [step for step in steps("RUN") if "install.sh" in step]
    settings = {"PYTHON_VERSION": "3.11", "DEVICE": "cpu", "TORCH_INDEX": ""}  # from the index that pip has here
    install = install.replace("/opt/parquetry", str(environment))
    subprocess.run(["bash", "-c", install], cwd=source, env=os.environ | settings, check=True, timeout=1100)

    def command(*words: object) -> str:
        program = environment / "bin" / str(words[0])
        place = {"PATH": f"{environment / 'bin'}:/usr/bin:/bin", "HOME": str(tmp_path)}
        return subprocess.run(
            [program, *map(str, words[1:])], env=place, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    assert "segment-images" in command("parquetry", "--help")
    assert "2.60" in command("ray", "--version")
    missing = "import importlib.util as u; print([n for n in ('pytest', 'ruff', 'duckdb') if u.find_spec(n)])"
    assert command("python", "-c", missing).strip() == "[]"
    command("python", "-c", "import boto3, ray.autoscaler._private.aws.node_provider, pipeline.distributed.fallback")
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.full((2, 3), 255, np.uint8)).save(tmp_path / "labels/a.png")
    told = command(
        "parquetry", "convert-labels", "--labels", tmp_path / "labels", "--out", tmp_path / "ids", "--form", "mask"
    )
    assert json.loads(told.splitlines()[-1])
    assert np.asarray(Image.open(next((tmp_path / "ids").rglob("*.png")))).tolist() == [[1, 1, 1]] * 2

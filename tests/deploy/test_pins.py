"""The pinned versions: of runs, of tests, and of nodes with GPUs."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text().splitlines()
    assert lines == sorted(lines, key=str.lower)
    found = [line.split("==") for line in lines]
    assert len({canonicalize_name(package) for package, _ in found}) == len(found)
    return {canonicalize_name(package): Version(version) for package, version in found}


RUN, DEV, CUDA = pins("constraints.txt"), pins("constraints-dev.txt"), pins("constraints-cuda.txt")


def needed(wanted: list[str]) -> set[str]:
    """The names of the packages that installed packages need here, and theirs."""
    seen: dict[str, frozenset[str]] = {}
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        package = waiting.pop()
        name = canonicalize_name(package.name)
        extras = seen.get(name, frozenset()) | package.extras
        if seen.get(name) == extras:
            continue
        seen[name] = extras
        for text in requires(name) or ():
            other = Requirement(text)
            if other.marker is None or any(other.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(other)
    return set(seen) - {"setuptools"}  # part of every environment


def test_a_run_takes_its_pins_from_the_first_file_alone() -> None:
    assert needed(PROJECT["dependencies"]) <= set(RUN)
    aws = {canonicalize_name(Requirement(text).name) for text in EXTRAS["aws"]}
    tools = needed([*EXTRAS["onnx"], *EXTRAS["ocr"]]) - needed(PROJECT["dependencies"])
    assert tools <= set(RUN)
    assert set(RUN) - needed(PROJECT["dependencies"]) == aws | {"s3transfer"} | tools


def test_no_extra_brings_an_opencv_that_overwrites_the_headless_one() -> None:
    everything = needed([*PROJECT["dependencies"], *(text for extra in ("onnx", "ocr") for text in EXTRAS[extra])])
    assert "opencv-python-headless" in everything
    assert not {"opencv-python", "opencv-contrib-python"} & everything


def test_what_only_tests_need_is_in_the_second() -> None:
    tools = {canonicalize_name(Requirement(text).name) for text in (*EXTRAS["manifests"], *EXTRAS["browser"])}
    tools |= {"uv", "importlib-resources", "greenlet"}  # not installed here
    assert set(DEV) == (needed(EXTRAS["dev"]) - set(RUN)) | tools


def test_the_files_agree() -> None:
    assert not set(RUN) & set(DEV)
    assert {name: RUN[name] for name in set(RUN) & set(CUDA)} == {"torch": CUDA["torch"]}


@pytest.mark.parametrize(
    "text", [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["aws"], *EXTRAS["manifests"], *EXTRAS["browser"]]
)
def test_a_pin_is_a_version_that_the_project_allows(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains((RUN | DEV)[canonicalize_name(requirement.name)])


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("extras", "files"),
    [
        (["aws"], ["constraints.txt"]),
        (["aws", "dev", "manifests", "browser"], ["constraints.txt", "constraints-dev.txt"]),
        (["aws"], ["constraints.txt", "constraints-cuda.txt"]),
    ],
    ids=["run", "tests", "cuda"],
)
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_pins_resolve_on_linux(extras: list[str], files: list[str], python: str, tmp_path: Path) -> None:
    """uv reads the metadata in the package index, and must find one version of everything: the pinned one."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--target", tmp_path, "uv", "-c", "constraints-dev.txt"],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    found = subprocess.run(
        [
            *(tmp_path / "bin/uv", "pip", "compile", "pyproject.toml", "--no-header", "--no-annotate", "--quiet"),
            *("--python-version", python, "--python-platform", "x86_64-manylinux_2_28"),
            *(part for extra in extras for part in ("--extra", extra)),
            *(part for file in files for part in ("--constraint", file)),
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    resolved = {canonicalize_name(line.split("==")[0]): Version(line.split("==")[1]) for line in found.stdout.split()}
    pinned = {name: version for file in files for name, version in pins(file).items()}
    # On a machine with Linux, torch is the build for CUDA, whose libraries a CPU build does not bring.
    free = set() if "constraints-cuda.txt" in files else set(CUDA)
    assert {name: version for name, version in resolved.items() if name not in free} == {
        name: pinned[name] for name in resolved if name not in free
    }

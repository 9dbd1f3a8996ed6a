"""What a submitted job knows of itself, and what `ray job submit --working-dir .` uploads."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from pipeline import submission
from testing.job_server import copy_project

LARGEST_UPLOAD = 9 << 20  # bytes, of which the model inside the project takes six million


def test_the_submission_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert (submission.is_submitted(), submission.identified()) == (False, {})
    for value, name in (
        ('{"metadata": {"job_submission_id": "nightly-1"}, "runtime_env": {"a": 1}}', "nightly-1"),
        *(("{}", None), ("[]", None), ("{", None), ('{"metadata": null}', None)),
    ):
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", value)
        assert submission.is_submitted()
        assert submission.submission_id() == name
        assert submission.identified() == ({"submission_id": name} if name else {})
        assert submission.runtime_environment() == json.loads('{"a": 1}' if name else "{}")


def test_an_upload_has_what_a_job_needs_and_nothing_else(tmp_path: Path) -> None:
    """In a folder as users have it: with an environment, a demonstration, models and tables of their own."""
    folder = copy_project(tmp_path / "project")
    files = [path for name in ("jobs", "pipeline") for path in (folder / name).rglob("*.*")]
    needed = {path.relative_to(folder).as_posix() for path in files}
    large = bytes(LARGEST_UPLOAD)
    for name in (".venv/lib", ".git/objects", "demo", "masks/table", "models/scenes", "jobs/__pycache__", "env/lib"):
        (folder / name).mkdir(parents=True)
        (folder / name / "large.pyc").write_bytes(large)
    (folder / "photo.png").write_bytes(large)
    (folder / "nightly.yaml").write_text("batch_rows: 4\n")
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    assert package.stat().st_size < LARGEST_UPLOAD
    names = [name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")]
    assert {name for name in names if "/" in name} == needed
    assert {name.partition("/")[0] for name in names} == {
        *("jobs", "pipeline", "cluster.yaml", "nightly.yaml", "pyproject.toml", "constraints.txt", "README.md")
    }

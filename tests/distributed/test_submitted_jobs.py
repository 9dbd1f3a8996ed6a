"""Jobs that are submitted to a job server by the lines of docs/clusters.md, from a fresh copy of the project."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from testing.job_server import JobServer, copy_project, job_server
from testing.processes import ROOT
from testing.runs import write_images, write_package
from testing.s3.ceph import Endpoint
from testing.s3.fixtures import bucket, client

pytestmark = [pytest.mark.ray, pytest.mark.heavy]


@dataclass(frozen=True)
class Done:
    """A shell command that has ended. ``said`` is all that it printed."""

    code: int
    said: str

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads([line for line in self.said.splitlines() if line.startswith("{")][-1])


@dataclass(frozen=True)
class Submitter:
    """Somebody with a fresh copy of the project, who submits jobs to a server."""

    project: Path
    server: JobServer

    def shell(self, lines: str, **variables: str) -> Done:
        """Run lines of bash in the copy of the project."""
        ran = subprocess.run(
            ["bash", "-c", lines],
            cwd=self.project,
            env=self.server.client_environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return Done(ran.returncode, ran.stdout)

    def job(self, name: str) -> dict[str, Any]:
        """What the API of jobs tells of a job."""
        script = (
            "import json, sys; from ray.job_submission import JobSubmissionClient as Client; "
            "print(json.dumps(Client().get_job_info(sys.argv[1]).dict(), default=str))"
        )
        done = self.shell(shlex.join([sys.executable, "-c", script, name]), RAY_ADDRESS=self.server.url)
        return done.summary


@pytest.fixture(scope="module")
def submitter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitter]:
    with job_server() as server:
        yield Submitter(copy_project(tmp_path_factory.mktemp("clone") / "parquetry"), server)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_package(tmp_path_factory.mktemp("model") / "package", 1)


def documented(start: str) -> str:
    """The one block of the page that starts so."""
    found = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "clusters.md").read_text(), re.MULTILINE | re.DOTALL)
    (block,) = [block for block in found if block.startswith(start)]
    return block


def found_in(text: str, *folders: Path) -> list[Path]:
    """The files in which a text stands."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path for path in files if text.encode() in path.read_bytes()]


def test_the_documented_lines(submitter: Submitter, model: str, tmp_path: Path) -> None:
    images, sink = write_images(tmp_path / "images", 12), tmp_path / "sink"
    places = {"RUN": "masks-2026-11-30", "SOURCE": str(images), "MODEL": model, "SINK": str(sink)}
    done = submitter.shell(documented("ray job submit"), **places)
    assert done.code == 0, done.said
    assert (done.summary["done"], done.summary["exit_code"]) == (12, 0)
    assert done.summary["submission_id"] == "masks-2026-11-30"
    assert "submitted as masks-2026-11-30" in done.said
    (written,) = (sink / "runs").glob("*/summary.json")
    assert json.loads(written.read_text())["submission_id"] == "masks-2026-11-30"
    assert "succeeded" in submitter.shell(documented("ray job status"), **places).said
    assert submitter.shell(documented("ray job logs"), **places).summary["done"] == 12

    again = submitter.shell(documented("ray job submit"), **places)
    assert again.code == 1
    assert "already exists" in again.said
    assert list((sink / "runs").glob("*/summary.json")) == [written]


def test_a_wrong_request(submitter: Submitter, model: str, tmp_path: Path) -> None:
    places = {"RUN": "wrong-1", "SOURCE": str(write_images(tmp_path / "images", 1)), "MODEL": model, "SINK": "masks"}
    done = submitter.shell(documented("ray job submit"), **places)
    assert done.code == 1
    status = submitter.shell(documented("ray job status"), **places).said
    assert "failed with exit code 2" in status
    assert submitter.job("wrong-1")["driver_exit_code"] == 2
    logs = submitter.shell("ray job logs wrong-1").said.split("Running entrypoint for job wrong-1")[1].splitlines()[1:]
    ours = [line for line in logs if line.strip() and "WebSocket" not in line]
    assert len(ours) == 2, ours
    assert ours[0].startswith("error: sink 'masks': a submitted job must write to an absolute path")
    assert submitter.shell(documented("ray job logs"), **places).summary["exit_code"] == 2


@pytest.mark.parametrize("token", [None, "f" * 32])
def test_a_token_that_is_missing_or_wrong(submitter: Submitter, model: str, tmp_path: Path, token: str | None) -> None:
    arguments = ["--source", str(write_images(tmp_path / "images", 1)), "--model", model, "--sink", str(tmp_path / "s")]
    command = shlex.join(
        ["python", "-m", "jobs.segment_images", *arguments, "--cluster.address", submitter.server.address]
    )
    began = time.monotonic()
    # An empty token is none.
    done = submitter.shell(command, RAY_AUTH_TOKEN=token or "", RAY_AUTH_MODE="token" if token else "disabled")
    assert done.code == 2
    assert time.monotonic() - began < 60
    assert len(done.said.splitlines()) == 2, done.said
    reason = "refuses the token of this process" if token else "wants a token, and this process sent none"
    assert reason in done.summary["error"]
    assert str(token) not in done.said
    assert not (tmp_path / "s").exists()


@pytest.mark.s3
def test_credentials_of_the_command_reach_the_workers_and_nobody_else(
    submitter: Submitter, model: str, s3_endpoint: Endpoint, tmp_path: Path
) -> None:
    """The endpoint is also submitted with the job, with another value, which Ray would refuse as a conflict."""
    credentials = tmp_path / "credentials"
    credentials.write_text(
        f"AWS_ACCESS_KEY_ID={s3_endpoint.access_key}\nAWS_SECRET_ACCESS_KEY={s3_endpoint.secret_key}\n"
    )
    sink = tmp_path / "sink"
    with bucket(s3_endpoint) as name:
        for file in write_images(tmp_path / "images", 12).iterdir():
            client(s3_endpoint).put_object(Bucket=name, Key=f"in/{file.name}", Body=file.read_bytes())
        command = [
            *("python", "-m", "jobs.segment_images", "--source", f"s3://{name}/in", "--model", model),
            *("--sink", str(sink), "--storage.endpoint-url", s3_endpoint.url, "--storage.region", s3_endpoint.region),
        ]
        script = f"set -a; . {credentials}; exec {shlex.join(command)}"
        other = {"env_vars": {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1", "AWS_CONFIG_FILE": os.devnull}}
        submit = ["ray", "job", "submit", "--submission-id", "canary", "--working-dir", "."]
        done = submitter.shell(
            shlex.join([*submit, "--runtime-env-json", json.dumps(other), "--", "bash", "-c", script])
        )
    assert done.code == 0, done.said
    assert done.summary["done"] == 12
    info = json.dumps(submitter.job("canary"))
    assert "AWS_ENDPOINT_URL_S3" in info
    canary = s3_endpoint.secret_key
    assert canary not in done.said + info
    assert found_in(canary, submitter.server.folder, sink) == []

    # The search finds it where somebody submits it as a variable of the job.
    shown = json.dumps({"env_vars": {"CANARY": canary}})
    submit = ["ray", "job", "submit", "--submission-id", "shown", "--runtime-env-json", shown, "--", "true"]
    assert submitter.shell(shlex.join(submit)).code == 0
    assert canary in json.dumps(submitter.job("shown"))
    assert found_in(canary, submitter.server.folder) != []

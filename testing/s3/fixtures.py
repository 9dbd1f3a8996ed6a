"""Fixtures for tests that need an S3 server, and clients that sign for it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import botocore.session
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from testing.s3 import ceph, swift
from testing.s3.ceph import Endpoint

#: Settings of a developer's own that would send tests elsewhere, or sign for somebody else.
STRAY = ("AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE")
NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A Ceph for all tests; or, where ``PARQUETRY_S3_ENDPOINT`` names one, a server that runs already."""
    if url := os.environ.get("PARQUETRY_S3_ENDPOINT"):
        yield Endpoint(
            url=url.rstrip("/"),
            access_key=os.environ["AWS_ACCESS_KEY_ID"],
            secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            checksum_trailers=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "").lower() != "when_required",
        )
        return
    found, why = ceph.available()
    if not found:
        pytest.skip(why)
    with ceph.Ceph(folder=tmp_path_factory.mktemp("s3")) as server:
        yield server.endpoint


@pytest.fixture(scope="session")
def swift_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A Swift for all tests: S3 by other people."""
    found, why = swift.available()
    if not found:
        pytest.skip(why)
    with swift.Swift(folder=tmp_path_factory.mktemp("s3")) as server:
        yield server.endpoint


@pytest.fixture(scope="session")
def s3_environment(s3_endpoint: Endpoint) -> Iterator[Endpoint]:
    """The server in this process's environment, for the rest of the session: whatever starts later inherits it."""
    with applied(s3_endpoint):
        yield s3_endpoint


@pytest.fixture(scope="session")
def s3_cluster(s3_environment: Endpoint, cluster: None) -> None:
    """The session's cluster, whose workers know the server: files that need it come first, before it is started."""
    return


@pytest.fixture
def s3_bucket(s3_environment: Endpoint) -> Iterator[str]:
    """A new bucket on the server of the environment, which goes away with everything in it."""
    with bucket(s3_environment) as name:
        yield name


@contextlib.contextmanager
def applied(endpoint: Endpoint) -> Iterator[None]:
    """Another server, or a proxy in front of it, in this process's environment for the time of a ``with`` block.

    Workers of a cluster that runs already do not see it; jobs that are started in the block do.
    """
    names = [*endpoint.environment(), *NO_FILES, *STRAY]
    before = {name: os.environ.get(name) for name in names}
    for name in STRAY:
        os.environ.pop(name, None)
    os.environ.update(endpoint.environment() | NO_FILES)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def bucket(endpoint: Endpoint) -> Iterator[str]:
    """A new bucket; that it can be emptied afterwards is not what a test is about, so failing to is no failure."""
    name = f"test-{secrets.token_hex(6)}"
    s3 = client(endpoint)
    s3.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        with contextlib.suppress(BotoCoreError, ClientError):
            empty(s3, name)
            s3.delete_bucket(Bucket=name)


def empty(s3: Any, name: str) -> None:
    """Delete every object of a bucket, and every upload that was begun and never ended."""
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=name):
        for upload in page.get("Uploads", []):
            s3.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    keys = [
        {"Key": item["Key"]}
        for item in s3.get_paginator("list_objects_v2").paginate(Bucket=name).search("Contents")
        if item
    ]
    with ThreadPoolExecutor(8) as pool:  # servers delete the objects of one request one after the other
        for first in range(0, len(keys), 500):
            pool.submit(s3.delete_objects, Bucket=name, Delete={"Objects": keys[first : first + 500], "Quiet": True})


def client(endpoint: Endpoint, *, retries: int = 3) -> Any:
    """botocore's own client; ``retries=0`` to see every fault."""
    checksums: Any = "when_supported" if endpoint.checksum_trailers else "when_required"
    config = Config(
        s3={"addressing_style": "path"},
        retries={"total_max_attempts": 1 + retries, "mode": "standard"},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
        request_checksum_calculation=checksums,
        response_checksum_validation=checksums,
        proxies={},
    )
    return botocore.session.Session().create_client(
        "s3",
        region_name=endpoint.region,
        endpoint_url=endpoint.url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        config=config,
    )


def signed(
    endpoint: Endpoint, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> dict[str, str]:
    """The headers of a request that somebody else sends, byte for byte as the test wants it."""
    request = AWSRequest(method, endpoint.url + path, headers=headers or {}, data=body)
    credentials = Credentials(endpoint.access_key, endpoint.secret_key)
    S3SigV4Auth(credentials, "s3", endpoint.region).add_auth(request)
    return dict(request.headers.items())

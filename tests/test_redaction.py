"""Secrets of the environment are replaced in what is printed, and nothing else is."""

from __future__ import annotations

import io
import json
import logging
import traceback
import urllib.parse
from pathlib import Path

import pytest

from pipeline.redaction import redact, redacted, redacted_values
from testing.processes import start_job

SECRET = "wJalr/'X\"+tnF\\EMI"


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "RAY_AUTH_TOKEN", "DB_PASSWORD"],
)
def test_a_secret_is_replaced_however_it_is_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    for written in (SECRET, repr({"k": SECRET}), json.dumps([SECRET]), urllib.parse.quote(SECRET, safe="")):
        found = redacted(f"before {written} after")
        assert "tnF" not in found
        assert found.startswith("before ")
        assert "***" in found
        assert found.endswith(" after")
    assert redacted_values({"a": [SECRET, 1, None], "b": ("x",)}) == {"a": ["***", 1, None], "b": ["x"]}


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "demo /srv/tokens/auth_token https://store:9000 a-long-value"
    monkeypatch.setenv("API_TOKEN", "demo")  # too short to be one
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/srv/tokens/auth_token")
    monkeypatch.setenv("SECRETS_URL", "https://store:9000")
    monkeypatch.setenv("MONKEY", "a-long-value")
    assert redacted(text) == text


def test_a_stream_is_redacted_for_those_who_held_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    handler = logging.StreamHandler(stream)
    redact(stream)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    print("printed", SECRET, file=stream)
    handler.emit(logging.LogRecord("x", logging.ERROR, "x", 1, "logged %s", (SECRET,), None))
    try:
        raise ValueError(f"the variables { ({'env_vars': SECRET}) }")
    except ValueError:
        traceback.print_exc(file=stream)
    stream.flush()
    text = stream.buffer.getvalue().decode()  # pyright: ignore[reportAttributeAccessIssue]
    assert "printed ***\n" in text
    assert "logged ***\n" in text
    assert "tnF" not in text


@pytest.mark.slow
def test_a_command_prints_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-a-secret")
    process = start_job("verify", "--sink", str(tmp_path / "canary-of-a-secret"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "***" in out
    assert "***" in err
    assert "canary" not in out + err

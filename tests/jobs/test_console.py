"""What a job tells: lines for people, JSON for machines, or only warnings."""

from __future__ import annotations

import json

import pytest

from jobs.console import CONSOLE, configure
from pipeline.errors import RequestError
from pipeline.runs.events import Event, Teller


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CONSOLE, "form", "text")
    monkeypatch.setattr(CONSOLE, "is_quiet", False)


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    log = Teller(CONSOLE, run="r1")
    log.say("listing a folder")
    log.warn("no pixel of sky")
    log.tell("part", block="0-7", rows=8, seconds={"fetch": float("nan")})
    CONSOLE.error("it broke\nbadly")
    return capsys.readouterr().err.splitlines()


def test_people_get_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert configure(["--sink", "x"]) == ["--sink", "x"]
    lines = told(capsys)
    assert [line.partition("] ")[2] for line in lines[:2]] == ["listing a folder", "warning: no pixel of sky"]
    assert lines[2] == "error: it broke"


def test_machines_get_an_object_for_each_event(capsys: pytest.CaptureFixture[str]) -> None:
    assert configure(["--log-format=json", "--sink", "x"]) == ["--sink", "x"]
    found = [json.loads(line) for line in told(capsys)]
    assert [item["kind"] for item in found] == ["message", "warning", "part", "error"]
    assert found[0] | {"time": ""} == {"time": "", "kind": "message", "message": "listing a folder", "run": "r1"}
    assert (found[2]["block"], found[2]["rows"], found[2]["seconds"]) == ("0-7", 8, {"fetch": None})
    assert found[3]["message"] == "it broke\nbadly"


@pytest.mark.parametrize("arguments", [["--quiet"], ["--quiet", "--log-format", "json"]])
def test_quiet_leaves_warnings_and_errors(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert configure(arguments) == []
    text = "\n".join(told(capsys))
    assert "no pixel of sky" in text
    assert "it broke" in text
    assert "listing" not in text


def test_the_environment_counts_and_options_override_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARQUETRY_LOG_FORMAT", "json")
    monkeypatch.setenv("PARQUETRY_QUIET", "1")
    configure([])
    assert (CONSOLE.form, CONSOLE.is_quiet) == ("json", True)
    configure(["--log_format", "text"])
    assert CONSOLE.form == "text"


def test_a_format_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="--log-format must be one of text, json, got 'xml'"):
        configure(["--log-format", "xml"])
    monkeypatch.setenv("PARQUETRY_LOG_FORMAT", "yaml")
    with pytest.raises(RequestError, match="PARQUETRY_LOG_FORMAT must be one of text, json, got 'yaml'"):
        configure([])


def test_an_event_without_a_text_is_not_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    CONSOLE(Event(kind="commit", facts={"rows": 3}))
    assert capsys.readouterr().err == ""

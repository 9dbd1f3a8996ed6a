"""The command line: settings, one-line errors, exit codes, and the last line of standard output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.cli import parse
from pipeline.config import check
from pipeline.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    """A rate."""

    def __post_init__(self) -> None:
        check(self, "rate", self.rate > 0, "be positive")


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job."""

    source: str
    """Where from."""
    retry_errors: bool = False
    """Try again."""
    limit: int | None = None
    """At most."""
    inner: Inner = field(default_factory=Inner)
    places: list[str] | str = "here"
    """One or several."""


def test_an_option_that_takes_several_may_be_repeated() -> None:
    def places(*given: str) -> list[str] | str:
        return parse(Job, ["--source", "x", *given]).places

    assert places() == "here"
    assert places("--places", "a") == "a"
    assert places("--places", "[ab]*, c.png") == "[ab]*, c.png"
    assert places("--places", "a [b]", "--places=c, d", "--limit", "3") == ["a [b]", "c, d"]


def test_overrides_hyphens_and_bare_flags() -> None:
    found = parse(Job, ["--source", "a b", "--retry-errors", "--inner.rate=2", "--limit", "3"])
    assert found == Job(source="a b", retry_errors=True, limit=3, inner=Inner(rate=2.0))
    assert parse(Job, ["--source", "x", "--retry-errors", "false"]) == Job(source="x")
    assert parse(Job, ["--source", "x", "--retry-errors"]).retry_errors


def test_a_file_and_overrides_of_it(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("source: s3://bucket/x\ninner:\n  rate: 3\nlimit: 7\n")
    found = parse(Job, ["--config", str(tmp_path / "c.yaml"), "--limit", "8"])
    assert found == Job(source="s3://bucket/x", limit=8, inner=Inner(rate=3.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: source"),
        (["--source", "x", "--limi", "3"], "unrecognized arguments: --limi 3"),
        (["--source", "x", "--limit", "many"], "limit"),
        (["--source", "x", "--inner.rate", "-1"], "Inner.rate must be positive, got -1.0"),
        (["--source", "x", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(Job, arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_print_config_shows_everything_with_comments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Job, ["--source", "x", "--print_config"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "# A rate." in printed
    assert "rate: 0.5" in printed
    assert "source: x" in printed

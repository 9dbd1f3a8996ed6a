"""The command line: settings, one-line errors, exit codes, and the last line of standard output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from jobs.cli import parse
from jobs.train_autoencoder import TrainAutoencoder
from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.objectives.objective import ObjectiveConfig


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
    mode: Literal["fast", "best"] = "fast"
    """How."""


@dataclass(frozen=True, kw_only=True)
class Several:
    source: list[str] | str
    """Where from."""
    model: dict[str, Any] = field(default_factory=dict)
    """By name."""


def test_keys_of_a_mapping_may_be_set_one_by_one() -> None:
    found = parse(Several, ["--source", "a", "--model.width=3", "--model.deep-er", "[4]"])
    assert found == Several(source="a", model={"width": 3, "deep_er": [4]})
    assert parse(Several, ["--source=a", '--model={"my-own": 3}']).model == {"my-own": 3}


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


def test_names_in_a_file_may_have_hyphens(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("source: a-b\nretry-errors: true\nplaces: [c-d, e]\n")
    found = parse(Job, ["--config", str(tmp_path / "c.yaml")])
    assert found == Job(source="a-b", retry_errors=True, places=["c-d", "e"])


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text("source: ~/in\n")
    (tmp_path / "inner.yaml").write_text("rate: 4\n")
    assert parse(Job, ["--config=~/c.yaml"]).source == f"{tmp_path}/in"
    assert parse(Job, ["--source=~/x", "--inner=~/inner.yaml"]) == Job(source=f"{tmp_path}/x", inner=Inner(rate=4.0))
    assert parse(Job, ["--source=x/~"]).source == "x/~"
    assert parse(Several, ["--source=~/a", "--source", "s3://b/~"]).source == [f"{tmp_path}/a", "s3://b/~"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("source: x\nlimt: 3\n", "unrecognized option --limt; did you mean --limit?"),
        ("source: x\ninner: {rat: 3}\n", "unrecognized option --inner.rat; did you mean --inner.rate?"),
        ("source: x\nlimit: many\n", "--limit must be of type int | null, got 'many'"),
        ("limit: 3\n", "required options are missing: --source"),
        ("source: x\nlimit: [3\n", "--config: the file is not valid YAML, see its line 2"),
        ("secret words\n", "--config: the file must hold settings"),
    ],
)
def test_errors_of_a_file_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(RequestError) as caught:
        parse(Job, ["--config", str(tmp_path / "c.yaml")])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required options are missing: --source"),
        (["--source", "x", "--limi", "3"], "unrecognized option --limi; did you mean --limit?"),
        (["--source", "x", "--rate=3"], "unrecognized option --rate; did you mean --inner.rate?"),
        (["--source", "x", "--zzzzzz"], "unrecognized option --zzzzzz"),
        (["--source", "x", "y"], "unexpected value 'y'"),
        (["--source", "x", "--limit"], "--limit needs a value"),
        (["--source", "x", "--limit", "many"], "--limit must be of type int | null, got 'many'"),
        (["--source", "x", "--retry-errors", "maybe"], "--retry-errors must be of type bool, got 'maybe'"),
        (["--source", "x", "--mode", "slow"], "--mode must be one of fast, best, got 'slow'"),
        (["--source", "x", "--inner.rate", "-1"], "Inner.rate must be positive, got -1.0"),
        (["--source", "x", "--config", "/nowhere.yaml"], "/nowhere.yaml"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(Job, arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("option", ["--print_config", "--print-config"])
def test_print_config_shows_everything_with_comments(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Job, ["--source", "x", option])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "# A rate." in printed
    assert "rate: 0.5" in printed
    assert "source: x" in printed


def test_settings_that_are_nested_twice_are_of_their_classes() -> None:
    """The parser falls back to a placeholder where it cannot read the annotations of a class."""
    given = ["--images", "a", "--out", "b", "--task.objective.kl.warmup", "linear", "--task.objective.terms", '["kl"]']
    task = parse(TrainAutoencoder, given).task
    assert isinstance(task.objective, ObjectiveConfig)
    assert (task.objective.terms, task.objective.kl.warmup) == (("kl",), "linear")

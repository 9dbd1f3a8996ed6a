"""The command ``parquetry``: names, help, the file that help is made from, and what is not imported for it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jobs import training
from jobs.commands import COMMANDS, module_of
from jobs.describe import generated
from jobs.help import metavar, overview, page
from jobs.options import FILE, load
from jobs.reference import FILE as PAGE
from jobs.reference import reference
from testing.processes import ROOT

#: Modules that take long to import.
SLOW = ("torch", "ray", "jsonargparse", "pyarrow", "numpy")
#: Runs the command as the script of an installation does: without a module of its own.
SCRIPT = f"""
import sys
sys.argv[0] = "/somewhere/bin/parquetry"
sys.modules["__main__"].__spec__ = None
from jobs.__main__ import main
try:
    main()
finally:
    print("imported:", *(name for name in {SLOW} if name in sys.modules), file=sys.stderr)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=120)


def parquetry(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("-c", SCRIPT, *arguments)


def test_options_json_is_what_would_be_generated_now() -> None:
    current = FILE.read_text(encoding="utf-8") == generated()
    assert current, "settings have changed: run python -m jobs.describe (or make options), and commit jobs/options.json"


def test_the_reference_is_what_would_be_generated_now() -> None:
    current = PAGE.read_text(encoding="utf-8") == reference(load())
    assert current, "settings have changed: run python -m jobs.describe (or make options), and commit docs/reference.md"


def test_the_reference_has_every_option_of_every_command() -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = {section.partition("\n")[0]: section for section in text.split("\n## ")[1:]}
    for name, described in load().items():
        linked = re.findall(r"\[([\w.-]+)\]\(#options-", sections[name])
        there = sections[name] + "".join(sections[f"Options {group}"] for group in linked)
        for option in described.options:
            assert f"| `--{option.name}" in there, (name, option.name)
            assert option.required == (f"| `--{option.name} {metavar(option)}` | **required** |" in there)


def test_an_installation_has_the_command_and_its_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"parquetry": "jobs.__main__:main"}
    assert project["tool"]["setuptools"]["package-data"]["jobs"] == [FILE.name]


def test_every_job_is_a_command() -> None:
    jobs = {f"jobs.{path.stem}" for path in (ROOT / "jobs").glob("*.py") if "    main(" in path.read_text()}
    assert {module_of(name) for name in COMMANDS} == jobs - {"jobs.__main__"}


@pytest.mark.parametrize("name", COMMANDS)
def test_first_options_are_options_and_few(name: str) -> None:
    options = {option.name for option in load()[name].options if not option.required}
    assert set(COMMANDS[name].first) <= options
    assert len(COMMANDS[name].first) <= 12


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_no_underscore_in_an_option_and_fits_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    described = load()[name]
    short, whole = (page(described, f"parquetry {name}", first) for first in (COMMANDS[name].first, ()))
    for text in (short, whole):
        assert text.startswith(f"usage: parquetry {name}")
        words = [word for word in text.split() if word.startswith("--")]
        assert not [word for word in words if "_" in word]
        assert max(len(line) for line in text.splitlines() if not line.startswith("  --")) <= 80
    for option in described.options:
        assert f"  --{option.name}" in whole
        assert (f"  --{option.name} " in f"{short} ".replace("\n", " ")) == (
            option.required or option.name in COMMANDS[name].first
        )


def test_help_is_grouped_and_says_how_to_see_the_rest() -> None:
    short = page(load()["segment-images"], "parquetry segment-images", COMMANDS["segment-images"].first)
    titles = [line for line in short.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["required:", "options:", "stream:", "storage:", "cluster:", "all commands:"]
    assert short.splitlines()[-1].endswith("further settings: parquetry segment-images --help-all")
    assert "(default: 16)" in short
    whole = page(load()["segment-images"], "parquetry segment-images", ())
    assert "\nstream.fetch:\n" in whole
    assert "further settings" not in whole


def test_the_overview_has_one_line_for_a_command() -> None:
    lines = overview("parquetry").splitlines()
    for name in COMMANDS:
        assert len([line for line in lines if line.startswith(f"  {name} ")]) == 1
    assert max(len(line) for line in lines) <= 100


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["--help"], "usage: parquetry COMMAND"),
        ([], "usage: parquetry COMMAND"),
        (["--version"], "parquetry "),
        (["segment-images", "--help"], "usage: parquetry segment-images --source URI --model URI --sink URI"),
        (["segment_images", "--limit", "3", "--help_all"], "usage: parquetry segment-images --source URI"),
        (["completion", "bash"], "# Completion of parquetry for bash"),
    ],
)
def test_what_needs_no_pipeline_imports_nothing_slow(arguments: list[str], begins: str) -> None:
    found = parquetry(*arguments)
    assert (found.returncode, found.stderr.strip()) == (0, "imported:")
    assert found.stdout.startswith(begins)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment-imags"], "unknown command segment-imags; did you mean segment-images?"),
        (["zzz"], "unknown command zzz; see --help"),
        (["completion"], "completion must be for bash or zsh, got nothing"),
        (["completion", "fish"], "completion must be for bash or zsh, got fish"),
    ],
)
def test_a_wrong_command_is_one_line(arguments: list[str], message: str) -> None:
    found = parquetry(*arguments)
    assert found.returncode == 2
    assert found.stderr.splitlines() == [f"error: {message}", "imported:"]
    assert found.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment-images"], "required options are missing: --source, --model, --sink"),
        (["verify", "--vacuum"], "required options are missing: --sink"),
        (["verify", "--sinc=x"], "unrecognized option --sinc; did you mean --sink?"),
        (["train-autoencoder", "--epochs", "3"], "unrecognized option --epochs; did you mean --train.epochs?"),
        (["demo", "--demo.zzz"], "unrecognized option --demo.zzz"),
    ],
)
def test_wrong_options_are_one_line_and_a_summary_as_from_a_job(arguments: list[str], message: str) -> None:
    """They are found before the job is imported."""
    found = parquetry(*arguments)
    assert found.returncode == 2
    assert found.stderr.splitlines() == [f"error: {message}"]
    summary = {"status": "wrong request", "error": message, "exit_code": 2}
    assert json.loads(found.stdout.splitlines()[-1]) == summary


@pytest.mark.parametrize("arguments", [[], ["--sinc=x"], ["--sink", "/nowhere"], ["--sink=x", "--lease-s", "soon"]])
def test_a_job_says_the_same_by_either_name(arguments: list[str]) -> None:
    by_command, by_module = run("-m", "jobs", "verify", *arguments), run("-m", "jobs.verify", *arguments)
    assert by_command.returncode == by_module.returncode == 2
    assert by_command.stdout == by_module.stdout
    assert by_command.stderr.splitlines()[-1] == by_module.stderr.splitlines()[-1]


def test_a_file_may_hold_what_is_required(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"lease-s: 3\nsink: {tmp_path}/nowhere\n")
    found = run("-m", "jobs", "verify", "--config", str(tmp_path / "c.yaml"))
    assert found.returncode == 2
    assert json.loads(found.stdout.splitlines()[-1])["error"] == f"no table at {tmp_path}/nowhere/table"


@pytest.mark.parametrize("module", ["jobs.verify", "jobs"])
def test_a_job_can_show_its_configuration_without_what_is_required(module: str) -> None:
    command = ["-m", module] + (["verify"] if module == "jobs" else [])
    found = run(*command, "--print-config", "--lease-s", "7")
    assert found.returncode == 0, found.stderr
    assert "lease_s: 7.0" in found.stdout


def test_a_module_names_itself_in_its_help() -> None:
    found = run("-m", "jobs.verify", "--help")
    assert found.returncode == 0
    assert found.stdout.startswith("usage: python -m jobs.verify --sink URI [options]\n")
    assert run("-m", "jobs", "verify", "--help").stdout.startswith("usage: python -m jobs verify --sink URI")


@pytest.mark.parametrize(
    ("spec", "argv", "command"),
    [
        ("jobs.sample", ["/x/jobs/sample.py", "--out=a b"], "python -m jobs.sample '--out=a b'"),
        ("jobs.__main__", ["/x/jobs/__main__.py", "sample", "--out", "a"], "python -m jobs sample --out a"),
        (None, ["/x/bin/parquetry", "sample", "--out", "*"], "parquetry sample --out '*'"),
    ],
)
def test_the_command_of_a_card_can_be_typed_again(
    spec: str | None, argv: list[str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    found = None if spec is None else type(sys.__spec__)(spec, None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", found)
    assert training.command_line() == command

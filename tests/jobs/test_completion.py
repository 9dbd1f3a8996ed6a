"""Completion scripts, run by the shells that they are for."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from jobs.commands import COMMANDS
from jobs.completion import SCRIPTS
from jobs.options import load


def completed(*words: str) -> list[str]:
    """What bash proposes for the last of the words, which it splits at ``=`` as on a command line."""
    script = SCRIPTS["bash"](load())
    line = " ".join(f"'{word}'" for word in words)
    script += f'\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _parquetry; printf "%s\\n" "${{COMPREPLY[@]}}"\n'
    found = subprocess.run(["bash", "--norc"], input=script, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    return found.stdout.split()


@pytest.fixture(autouse=True)
def _with_bash(request: pytest.FixtureRequest) -> None:
    if "zsh" not in request.node.name and shutil.which("bash") is None:
        pytest.skip("no bash here")


def test_commands_are_completed() -> None:
    assert set(completed("parquetry", "")) == {*COMMANDS, "completion", "--help", "--version"}
    assert completed("parquetry", "seg") == ["segment-images", "segment-documents"]
    assert completed("parquetry", "completion", "") == ["bash", "zsh"]


def test_options_of_the_command_are_completed() -> None:
    assert completed("parquetry", "segment-images", "--max") == ["--max-error-rate", "--max-pixels"]
    assert completed("parquetry", "segment_images", "--stream.fetch.m") == ["--stream.fetch.max-bytes"]
    assert completed("parquetry", "verify", "--max") == []
    assert completed("parquetry", "verify", "--sink", "x", "--he") == ["--help", "--help-all"]
    assert "--vacuum" in completed("parquetry", "verify", "")


def test_values_are_completed_where_they_can_be_listed() -> None:
    assert completed("parquetry", "sample", "--sampler", "") == ["prior", "mixture", "two_stage"]
    assert completed("parquetry", "sample", "--sampler", "=", "m") == ["mixture"]
    assert completed("parquetry", "sample", "--sampler", "=") == ["prior", "mixture", "two_stage"]
    assert completed("parquetry", "sample", "--mixture.covariance", "l") == ["low_rank"]
    assert completed("parquetry", "train-autoencoder", "--train.gpu", "") == ["true", "false"]


def test_after_a_path_the_shell_proposes_files_and_after_a_flag_comes_an_option() -> None:
    assert completed("parquetry", "verify", "--sink", "") == []
    assert "--sink" in completed("parquetry", "verify", "--vacuum", "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
@pytest.mark.parametrize(
    ("words", "proposed"),
    [
        (("parquetry", ""), ["segment-images:write a mask for every image of a source"]),
        (("parquetry", "verify", "-"), ["--sink:Where the table is."]),
        (("parquetry", "sample", "--sampler", ""), ["prior", "mixture", "two_stage"]),
        (("parquetry", "sample", "--out", ""), ["files"]),
        (("parquetry", "completion", ""), ["bash", "zsh"]),
    ],
)
def test_zsh_is_given_what_to_propose(words: tuple[str, ...], proposed: list[str]) -> None:
    """The functions of zsh's completion system are replaced by some that print."""
    line = " ".join(f"'{word}'" for word in words)
    script = "compdef() { : }; _describe() { print -rl -- ${(P)2} }; _files() { print files }\n"
    script += SCRIPTS["zsh"](load()) + f"\nwords=({line}); CURRENT={len(words)}; _parquetry\n"
    found = subprocess.run(["zsh", "-f"], input=script, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    assert set(proposed) <= set(found.stdout.splitlines())


def test_the_script_for_zsh_names_every_option() -> None:
    script = SCRIPTS["zsh"](load())
    for described in load().values():
        for option in described.options:
            assert f"--{option.name}:" in script

"""What the pages for readers tell to type works: every command is parsed, and most blocks are run."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from jobs.cli import parse
from jobs.commands import COMMANDS, module_of
from jobs.options import load
from pipeline.errors import RequestError
from testing.doc_blocks import Block, blocks, commands
from testing.processes import ROOT
from tests.jobs.conftest import Demonstration

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md"]
BLOCKS = {page.relative_to(ROOT).as_posix(): blocks(page) for page in PAGES}
RUN = [name for name, found in BLOCKS.items() if any(block.is_run for block in found)]
#: Options of other programs that the pages name.
FOREIGN = {
    "working-dir",
    "no-wait",
    "runtime-env-json",
    "head",
    "autoscaling-config",
    "address",
    "parts",
    "rows",
    "small",
}

_OPTION = re.compile(r"`--([a-z][\w.-]*)")
_FILE = re.compile(r"\A# (\w+\.yaml)\n")


@pytest.mark.parametrize("name", BLOCKS)
def test_every_command_of_a_page_is_one_that_can_be_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that are not run, too."""
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS[name]:
        if block.language == "yaml" and (file := _FILE.match(block.text)):
            (tmp_path / file[1]).write_text(block.text)
        for command, arguments in commands(block.script) if block.is_shell else ():
            assert command in COMMANDS, (str(block), command)
            assert refusal(command, arguments) is None, str(block)


def refusal(command: str, arguments: list[str]) -> str | None:
    """Why arguments are refused before any work; None: they are not."""
    settings = getattr(importlib.import_module(module_of(command)), COMMANDS[command].settings)
    try:
        parse(settings, arguments)
    except RequestError as reason:
        return str(reason)
    return None


@pytest.mark.parametrize("name", [name for name in BLOCKS if not name.startswith("deploy")])
def test_every_option_that_a_page_names_is_one_of_a_command(name: str) -> None:
    known = {option.name for described in load().values() for option in described.options}
    known |= {name.rsplit(".", depth)[0] for name in known for depth in range(name.count(".") + 1)}  # groups
    known |= {"help", "help-all", "config", "print-config", "quiet", "log-format", "version"}
    named = {option.replace("_", "-").rstrip(".") for option in _OPTION.findall((ROOT / name).read_text())}
    assert sorted(option for option in named - known - FOREIGN if not option.endswith("-")) == []


def test_commands_are_found_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ parquetry verify --sink s --paint && ls  # a word\n"
        "$ .venv/bin/python -m jobs.export --sink a \\\n      --to png --out b\n```\n\n"
        "<!-- not run: a reason -->\n```bash\nray job submit -- python -m jobs.compact\n"
        "```\n```python\n1 + 1\n```\n"
    )
    first, second, third = blocks(page)
    assert [(block.line, block.why_not) for block in (first, second, third)] == [(1, None), (8, "a reason"), (11, None)]
    assert list(commands(first.script)) == [
        ("verify", ["--sink", "s", "--paint"]),
        ("export", ["--sink", "a", "--to", "png", "--out", "b"]),
    ]
    assert refusal("verify", ["--sink", "s", "--paint"]) == "unrecognized option --paint"
    assert list(commands(second.script)) == [("compact", [])]
    assert refusal("compact", []) == "required options are missing: --sink"


@pytest.fixture(scope="session")
def example(demonstration: Demonstration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that pages take for granted."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("masks", "paragraphs", "scenes"):
        shutil.copytree(demonstration.out / name, folder / name)
    shutil.copytree(demonstration.out, folder / "demo")
    shutil.copytree(demonstration.out / "segmenter", folder / "model")
    shutil.copytree(demonstration.out / "inbox" / "images", folder / "photos")
    (folder / "coloured").mkdir()
    Image.new("RGB", (4, 4), (192, 48, 32)).save(folder / "coloured" / "a.png")
    (folder / "own").mkdir()
    (folder / "own" / "classes.json").write_text(
        '{"classes": ["road", "roof", "other"], "palette": ["#808080", "#c03020", "#ffffff"], "ignore_index": 255}'
    )
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.mark.ray
@pytest.mark.heavy
@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run_one_after_the_other(name: str, example: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    if name == "docs/tutorial.md":  # it begins with nothing
        folder.mkdir()
    else:
        shutil.copytree(example, folder, symlinks=True)
    for block in BLOCKS[name]:
        if block.is_run:
            done = executed(block, folder)
            assert done.returncode == 0, f"{block}\n{block.script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def executed(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    program = ["bash", "-euo", "pipefail", "-c"] if block.is_shell else [sys.executable, "-c"]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [*program, block.script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )

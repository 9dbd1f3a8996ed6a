"""The pages for readers name what is there: modules, files, commands, make targets, imports. Each rule can fail."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages for those who change the project. Only their links are checked.
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "LOG.md"]
#: Commands of ``parquetry`` that are no jobs.
NO_JOBS = ("completion",)
#: Folders whose modules the map lists; tests and packages' own ``__init__`` are not modules to look up.
MAPPED = ("pipeline", "jobs", "testing", "benchmarks")
LONGEST_README = 150

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```\w*\n.*?```|`[^`\n]+`", re.DOTALL)
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
_MODULE = re.compile(r"python -m ([\w.]+)")
_COMMAND = re.compile(r"\bparquetry ([a-z]+(?:-[a-z]+)*)\b")
_TARGET = re.compile(r"(?:^|[`$;&] ?)make ([a-z][\w-]*(?: [a-z][\w-]*)*)", re.MULTILINE)
_PLACE = re.compile(r"`((?:pipeline|jobs|testing|tests|benchmarks|docs)/[\w./-]*\w)`")
_TO_FILL_IN = re.compile(r"/(?:NAME|VERSION|verb_noun)\b")
_LISTED = re.compile(r"^- `([\w/]+\.py)`: \S", re.MULTILINE)
_HEADING = re.compile(r"^## `([\w/]+)`: \S", re.MULTILINE)


def code(text: str) -> str:
    """The code of a page: its blocks, and what stands between backticks."""
    return "\n".join(_CODE.findall(text))


def broken_links(text: str, folder: Path) -> list[str]:
    """Relative links that point at nothing."""
    targets = [link.partition("#")[0] for link in _LINK.findall(text) if "://" not in link]
    return [target for target in targets if target and not (folder / target).exists()]


def missing_modules(text: str) -> list[str]:
    """Modules that ``python -m`` is asked to run, and that are not there. ``jobs.NAME`` stands for any."""
    names = [name.rstrip(".") for name in _MODULE.findall(text)]
    ours = [name for name in names if name.partition(".")[0] in MAPPED and not name.endswith(".NAME")]
    places = {name: ROOT / Path(*name.split(".")) for name in ours}
    return [
        name for name, place in places.items() if not any(path.exists() for path in (place.with_suffix(".py"), place))
    ]


def missing_commands(text: str) -> list[str]:
    """Commands of ``parquetry`` that are not there."""
    names = [name for name in _COMMAND.findall(code(text)) if name not in NO_JOBS]
    return [name for name in names if not (ROOT / "jobs" / f"{name.replace('-', '_')}.py").exists()]


def missing_targets(text: str, makefile: str) -> list[str]:
    """Targets that a page tells to make, and that the Makefile has not."""
    there = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    return [name for names in _TARGET.findall(code(text)) for name in names.split() if name not in there]


def missing_places(text: str) -> list[str]:
    """Files and folders of the project in backticks that are not there."""
    named = [place for place in _PLACE.findall(text) if not _TO_FILL_IN.search(place)]
    return [place for place in named if not (ROOT / place).exists()]


def missing_imports(text: str) -> list[str]:
    """Names that the examples import from the project, and that it does not have."""
    found = []
    for source in _PYTHON.findall(text):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MAPPED:
                module = importlib.import_module(str(node.module))
                found += [f"{node.module}.{item.name}" for item in node.names if not hasattr(module, item.name)]
    return found


def differences(listed: Iterable[str], there: Iterable[str]) -> list[str]:
    """What a list lacks, what it has that is gone, and what it has twice, as sentences."""
    listed, there = list(listed), set(there)
    return [
        *(f"{name} is missing" for name in sorted(there - set(listed))),
        *(f"{name} is gone" for name in sorted(set(listed) - there)),
        *(f"{name} is there twice" for name in sorted({name for name in listed if listed.count(name) > 1})),
    ]


def mapped_modules() -> list[str]:
    files = [path.relative_to(ROOT) for folder in MAPPED for path in (ROOT / folder).rglob("*.py")]
    return [path.as_posix() for path in files if path.name != "__init__.py" and "tests" not in path.parts]


def test_the_map_lists_every_module() -> None:
    text = (ROOT / "docs" / "map.md").read_text()
    assert differences(_LISTED.findall(text), mapped_modules()) == []


def test_the_map_has_a_heading_for_every_folder_and_its_modules_below_it() -> None:
    text = (ROOT / "docs" / "map.md").read_text()
    assert differences(_HEADING.findall(text), {str(Path(name).parent) for name in mapped_modules()}) == []
    for section in text.split("\n## ")[1:]:
        folder = section.split("`")[1]
        assert {str(Path(name).parent) for name in _LISTED.findall(section)} == {folder}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < LONGEST_README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_what_is_there(page: Path) -> None:
    text = page.read_text()
    assert broken_links(text, page.parent) == []
    assert missing_modules(text) == []
    assert missing_commands(text) == []
    assert missing_targets(text, (ROOT / "Makefile").read_text()) == []
    assert missing_places(text) == []
    assert missing_imports(text) == []


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text(), page.parent) == []


def test_the_readme_leads_to_every_page() -> None:
    links = {link.partition("#")[0] for link in _LINK.findall((ROOT / "README.md").read_text())}
    assert {page.relative_to(ROOT).as_posix() for page in [*PAGES[1:], *OTHERS]} <= links


def test_the_readme_has_every_command() -> None:
    files = (ROOT / "jobs").glob("*.py")
    jobs = {path.stem for path in files if re.search(r"^def work\(", path.read_text(), re.MULTILINE)}
    section = (ROOT / "README.md").read_text().split("\n## The commands\n")[1].split("\n## ")[0]
    assert differences(re.findall(r"^\| `(\w+)", section, re.MULTILINE), jobs) == []


def test_the_rules_can_be_broken() -> None:
    assert broken_links("[a](docs/map.md) [b](docs/gone.md) [c](https://x.org/y)", ROOT) == ["docs/gone.md"]
    assert missing_modules("`python -m jobs.verify`, `python -m jobs.NAME`, `python -m benchmarks.gone`.") == [
        "benchmarks.gone"
    ]
    assert missing_commands("`parquetry segment-images`, `parquetry NAME`, `parquetry paint`") == ["paint"]
    assert missing_targets("`make demo`, `make paint lint`, to make sure", "demo: install\nlint:\n") == ["paint"]
    assert missing_places("`pipeline/errors.py`, `pipeline/table`, `tests/gone.py`") == ["tests/gone.py"]
    wrong = "```python\nfrom pipeline.table.readers import open_delta, closed_delta\n```"
    assert missing_imports(wrong) == ["pipeline.table.readers.closed_delta"]
    assert differences(["a", "b", "b"], ["a", "c"]) == ["c is missing", "b is gone", "b is there twice"]

"""The code on the pages for readers: blocks, the commands in them, and how they are run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.commands import COMMANDS

_BLOCK = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
#: Words after which another command begins.
_ENDS = {";", "&&", "||", "|", "&", "--", ">", ">>"}
_SHELLS = ("console", "bash")


@dataclass(frozen=True)
class Block:
    """A piece of code on a page."""

    page: Path
    line: int
    """Of the page, where the block begins."""
    language: str
    text: str
    why_not: str | None
    """Why it is not run; None: it is."""

    @property
    def script(self) -> str:
        """What bash or Python is given. In a console, lines after ``$`` are commands, and those below go on."""
        if self.language != "console":
            return self.text
        return "".join(line.removeprefix("$ ") for line in self.text.splitlines(keepends=True))

    @property
    def is_shell(self) -> bool:
        return self.language in _SHELLS

    @property
    def is_run(self) -> bool:
        return self.why_not is None and (self.is_shell or self.language == "python")

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page whose language is named."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("language")) + 1, found["language"], found["text"], found["why"])
        for found in _BLOCK.finditer(text)
    ]


def commands(script: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of this project in a script of bash, each with its arguments: ``segment-images``, ``--source``..."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|><")
        lexer.whitespace_split = True
        words = list(lexer)
        for place, word in enumerate(words):
            name = _command(words, place)
            if name is None:
                continue
            begins = place + (1 if word.endswith("parquetry") else 3)
            begins += word.endswith("parquetry")
            ends = next((i for i in range(begins, len(words)) if words[i] in _ENDS), len(words))
            yield name, words[begins:ends]


def _command(words: list[str], place: int) -> str | None:
    """The name of the command that begins with a word: ``parquetry NAME``, or ``python -m jobs.NAME``."""
    word, following = words[place], words[place + 1 : place + 3]
    if word.rpartition("/")[2] == "parquetry" and following:
        name = following[0].replace("_", "-")
        return name if name in COMMANDS else None
    if word.rpartition("/")[2].startswith("python") and len(following) == 2 and following[0] == "-m":
        module = following[1]
        return module.removeprefix("jobs.").replace("_", "-") if re.fullmatch(r"jobs\.[a-z_]+", module) else None
    return None

"""Write ``jobs/options.json`` and ``docs/reference.md`` anew from the settings: ``python -m jobs.describe``.

Run it after a change to any setting, its default or its docstring; a test says when a file is out of date.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

from jobs.commands import COMMANDS, module_of
from jobs.options import FILE, Option, load, options_of
from jobs.reference import FILE as PAGE
from jobs.reference import reference


def generated() -> str:
    """What ``options.json`` must hold now. Imports all commands, which takes seconds."""
    described = {}
    for name, command in COMMANDS.items():
        settings = getattr(importlib.import_module(module_of(name)), command.settings)
        text = " ".join((inspect.getdoc(settings) or "").split())
        options = options_of(settings)
        described[name] = {"text": text, "options": [_plain(option, options) for option in options]}
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def _plain(option: Option, options: Sequence[Option]) -> dict[str, Any]:
    """An option as it is stored. Where its text names other settings, they are spelled as one types them."""
    names = {item.key.rpartition(".")[2] for item in options}
    text = re.sub(r"\w+", lambda word: word[0].replace("_", "-") if word[0] in names else word[0], option.help)
    stored = {"name": option.name, "type": option.type, "help": text}
    return stored | ({"required": True} if option.required else {"default": option.default})


if __name__ == "__main__":
    FILE.write_text(generated(), encoding="utf-8")
    PAGE.write_text(reference(load()), encoding="utf-8")
    print(f"{FILE} and {PAGE} describe {len(COMMANDS)} commands")

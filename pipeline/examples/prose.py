"""Example documents with known paragraphs: the language reference that every Python installation contains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pydoc_data.topics import topics
from typing import Any

from pipeline import storage

_SHORTEST_PARAGRAPH = 60
_FEWEST_PARAGRAPHS = 4


def reference_documents() -> list[dict[str, Any]]:
    """Records with ``doc_id``, ``text`` and ``paragraphs``; running text only, without headings, code or grammar."""
    records = []
    for name in sorted(topics):
        blocks = [re.sub(r"\s+", " ", block).strip() for block in _prose(topics[name])]
        if len(blocks) >= _FEWEST_PARAGRAPHS:
            records.append(record(name, blocks))
    return records


def record(doc_id: str, paragraphs: Iterable[str]) -> dict[str, Any]:
    """A document with blank lines between its paragraphs, and the paragraphs' [start, end) in code points."""
    spans, position = [], 0
    parts = list(paragraphs)
    for part in parts:
        spans.append([position, position + len(part)])
        position += len(part) + 2
    return {"doc_id": doc_id, "text": "\n\n".join(parts), "paragraphs": spans}


def write_jsonl(uri: str, records: Iterable[dict[str, Any]]) -> None:
    """Write records as JSONL."""
    storage.write(uri, "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in records).encode())


def _prose(text: str) -> list[str]:
    blocks = re.split(r"\n\s*\n", text)
    return [
        block
        for block in blocks
        if not block.startswith((" ", "\n", "*", "-", "["))
        and len(block) >= _SHORTEST_PARAGRAPH
        and not re.search(r"^(\*{3,}|={3,}|-{3,}|~{3,})$", block, re.MULTILINE)
    ]

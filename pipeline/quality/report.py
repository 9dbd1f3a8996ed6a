"""The report of a segmentation run, an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.quality.pages import Page
from pipeline.storage.columnar import ParquetReader, own_file


def run_report(folder: str, parts: Sequence[str], summary: Mapping[str, Any], examples: int = 12) -> str:
    """Write the report of a run: counts, time of each stage, errors with examples, and some rows. Returns its URI.

    ``parts`` are the part files from which the examples are taken. Those that another tool has deleted are left out.
    """
    page = Page(f"Run {summary['run_id']}")
    shown = ("source", "table", "model", "listed", "skipped", "done", "failed", "removed", "remade", "other_tools")
    page.table("Summary", [{"what": name, "value": summary[name]} for name in (*shown, "seconds") if name in summary])
    busy = summary.get("stage_seconds", {})
    page.table("Time by stage, all workers", [{"stage": name, "seconds": value} for name, value in busy.items()])
    failed, done = _examples(parts, examples)
    passed = [{"ending": ending, "files": count} for ending, count in summary.get("passed_over", {}).items()]
    page.table("Files passed over", passed)
    codes = [{"code": code, "inputs": count} for code, count in summary["errors"].items()]
    page.table("Errors", codes)
    page.table("Failed inputs", [{"input": _name(row), **row["error"]} for row in failed])
    masks = [(_name(row), row["mask"]["bytes"]) for row in done if row.get("mask")]
    if masks:
        page.pictures("Masks", masks)
    documents = [row for row in done if row.get("paragraphs")]
    page.table(
        "Documents",
        [
            {"input": _name(row), "characters": row["num_chars"], "paragraphs": row["num_paragraphs"]}
            for row in documents
        ],
    )
    return page.write(storage.join(folder, "report.html"))


def _examples(parts: Sequence[str], count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Some failed rows and some successful rows of a run."""
    failed: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = []
    for part in parts:
        try:
            with own_file(part), storage.open_file(part) as file:
                rows = ParquetReader(file).read().to_pylist()
        except FileNotFoundError:
            continue
        failed += [row for row in rows if row["error"] is not None]
        done += [row for row in rows if row["error"] is None]
        if len(done) >= count and len(failed) >= count:
            break
    return failed[:count], done[:count]


def _name(row: Mapping[str, Any]) -> str:
    return row["uri"] if row["member"] is None else f"{row['uri']} #{row['member']}"

"""The live display, and that it is one only on a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from typing import Any

from jobs.display import Display, described
from testing.processes import ROOT

FACTS: dict[str, Any] = {
    "done": 4980,
    "failed": 20,
    "pending": 20_000,
    "seconds": 100.0,
    "errors": {"truncated": 3, "not_an_image": 17},
    "nodes": 3,
    "cpus": 24.0,
    "gpus": 1.0,
    "actors_running": 2,
}


def test_the_display_in_words() -> None:
    reports = [(80.0, 3000), (90.0, 4500), (100.0, 5000)]
    assert described(FACTS, reports).split("  ·  ") == [
        "5,000 of 20,000",
        "100/s",
        "2 min to 5 min left",
        "failed: 17 not_an_image, 3 truncated",
        "2 actors on 3 nodes, 24 CPUs, 1 GPU",
    ]


def test_nothing_is_said_of_the_time_before_something_is_done() -> None:
    assert "left" not in described(FACTS, [(100.0, 5000)])
    assert "left" not in described(FACTS, [(90.0, 5000), (100.0, 5000)])
    assert "at least" in described(FACTS, [(80.0, 4000), (90.0, 5000), (95.0, 5000), (100.0, 5000)])


def test_lines_stay_and_names_with_brackets_are_no_markup() -> None:
    file = io.StringIO()
    display = Display(file)
    display.line("[05:00:00] reading [red]/data/[0].png")
    display.update(FACTS)
    display.close()
    assert "[05:00:00] reading [red]/data/[0].png" in file.getvalue()


def test_only_a_terminal_gets_one() -> None:
    code = (
        "import sys; from jobs.console import CONSOLE, configure, show\n"
        "configure(sys.argv[1:]); show(); print(CONSOLE.display is not None)"
    )
    environment = os.environ | {"TERM": "xterm"}

    def shown(*arguments: str) -> bool:
        main, terminal = pty.openpty()
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, stderr=terminal, stdout=subprocess.PIPE, check=True)
        os.close(terminal)
        os.close(main)
        return done.stdout.strip() == b"True"

    assert shown()
    assert not shown("--quiet")
    assert not shown("--log-format", "json")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

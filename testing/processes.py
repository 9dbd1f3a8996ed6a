"""Processes that tests start and kill: jobs as users start them, and the workers of a new cluster."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def start_job(name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a job in its own process group."""
    command = [sys.executable, "-m", f"jobs.{name}", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


def run_job(name: str, *arguments: str, timeout_s: float = 300) -> tuple[int, dict[str, Any], str]:
    """Run a job; returns its exit code, its summary and its standard error."""
    process = start_job(name, *arguments)
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    lines = out.strip().splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else {}, err


def descendants(pid: int) -> dict[int, str]:
    """The command lines of all descendants of a process, by process id."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    found: dict[int, str] = {}
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier and child not in found}
        found |= {child: commands[child] for child in frontier}
    return found


def end_tree(pid: int, patience_s: float = 10.0) -> None:
    """End a process and all its descendants: by SIGTERM, and by SIGKILL those that do not follow in time."""
    tree = [*descendants(pid), pid]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member, number)
        until = time.monotonic() + patience_s
        while any(_is_running(member) for member in tree) and time.monotonic() < until:
            time.sleep(0.1)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False

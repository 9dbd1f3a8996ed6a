"""What workers tell arrives, and where it cannot they go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import ray

from pipeline.distributed.progress import AT_WORK, Receiver, Sender
from testing.processes import descendants

pytestmark = pytest.mark.ray


def test_lines_arrive_in_their_order(cluster: None) -> None:
    heard: list[Any] = []
    receiver = Receiver(heard.append)
    ray.get(ray.remote(_tell).options(num_cpus=0.1).remote(receiver.sender, 50))
    until(lambda: len(heard) >= 50)
    receiver.sender.deliver(50)
    receiver.close()
    assert heard == list(range(51))


def test_a_worker_is_heard_as_long_as_it_works(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.distributed.progress._SIGN_S", 0.05)
    heard: list[Any] = []
    receiver = Receiver(heard.append)
    with receiver.sender.at_work():
        until(lambda: len(heard) >= 3)
    receiver.close()
    assert set(heard) == {AT_WORK}


def test_the_box_may_die(cluster: None) -> None:
    heard: list[Any] = []
    receiver = Receiver(heard.append)
    receiver.sender.deliver("before")
    until(lambda: heard == ["before"])
    box = next(pid for pid, name in descendants(os.getpid()).items() if "ray::_Box" in name)
    os.kill(box, signal.SIGKILL)
    number = 0

    def arrives() -> bool:
        nonlocal number
        number += 1
        started = time.monotonic()
        receiver.sender.put(number)
        assert time.monotonic() - started < 5
        return len(heard) > 1

    until(arrives)
    receiver.close()
    started = time.monotonic()
    receiver.sender.put("after its end")
    receiver.sender.deliver("after its end")
    assert time.monotonic() - started < 30


def _tell(sender: Sender, lines: int) -> None:
    for number in range(lines):
        sender.put(number)


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)

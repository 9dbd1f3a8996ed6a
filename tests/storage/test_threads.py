"""A map over threads: order, bounded lead, errors."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.storage.threads import ordered


def test_order_and_a_bounded_lead() -> None:
    begun: list[int] = []

    def items() -> object:
        for number in range(50):
            begun.append(number)
            yield number

    results = []
    for result in ordered(lambda number: (time.sleep(0.001 * (number % 3)), number)[1], items(), 4):
        results.append(result)
        assert len(begun) <= len(results) + 5
    assert results == list(range(50))


def test_an_error_arrives_and_threads_end() -> None:
    def fail(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    before = threading.active_count()
    results = ordered(fail, range(100), 4)
    with pytest.raises(ValueError, match="three"):
        list(results)
    assert threading.active_count() == before

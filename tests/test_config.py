"""Settings: to and from dicts, strictly."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from pipeline.config import check, digest, from_dict, to_dict
from pipeline.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    widths: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        check(self, "rate", self.rate > 0, "be positive")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    flag: bool = False


def test_round_trip() -> None:
    value = Outer(name="x", mode="b", limit=3, inner=Inner(rate=2.0, widths=(4,)), flag=True)
    assert from_dict(Outer, to_dict(value)) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "Outer.name is missing"),
        ({"name": 3}, "Outer.name must be of type str, got 3"),
        ({"name": "x", "nam": 1}, "Outer has no setting 'nam'; it has flag, inner, limit, mode, name"),
        ({"name": "x", "mode": "c"}, "Outer.mode must be one of 'a', 'b', got 'c'"),
        ({"name": "x", "limit": "3"}, "Outer.limit must be of type int, got '3'"),
        ({"name": "x", "limit": True}, "Outer.limit must be of type int, got True"),
        ({"name": "x", "inner": {"rate": -1}}, "Inner.rate must be positive, got -1.0"),
        ({"name": "x", "inner": {"widths": 3}}, "Inner.widths must be a list, got 3"),
        ({"name": "x", "inner": []}, "Inner must be a mapping, got []"),
        ([], "Outer must be a mapping, got []"),
    ],
)
def test_what_is_wrong_is_named(data: dict, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        from_dict(Outer, data)
    assert str(caught.value) == message


def test_digest_ignores_order_and_sees_values() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 32

"""Events: what a job tells while it works. Whoever listens decides what people see, and what machines get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["message", "warning", "progress", "waiting", "part", "commit"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, or how far the work is."""

    kind: Kind = "message"
    text: str | None = None
    """For people, in one line; None: only for machines."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For machines: names, and values that JSON can hold."""


Tell = Callable[[Event], None]


class Teller:
    """Tells events to several listeners, with facts that all of them share (the name of the run, say)."""

    def __init__(self, *listeners: Tell, **shared: Any) -> None:
        self._listeners, self.shared = list(listeners), shared

    def add(self, listener: Tell) -> None:
        self._listeners.append(listener)

    def say(self, text: str) -> None:
        """A line for people."""
        self.tell("message", text)

    def warn(self, text: str) -> None:
        self.tell("warning", text)

    def tell(self, kind: Kind, text: str | None = None, **facts: Any) -> None:
        event = Event(kind=kind, text=text, facts={**self.shared, **facts})
        for listener in self._listeners:
            listener(event)

"""The one policy by which anything is tried again: until a deadline, with pauses that grow and are random.

A pause is drawn from its whole length (full jitter: Brooker 2015, AWS Architecture Blog), so that clients which failed
together do not come back together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")

#: What a failure says of another attempt: useless, worth it, or worth it after a longer pause, as the store asked.
Verdict = Literal["final", "transient", "throttled"]

_LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = {"transient": 0.1, "throttled": 1.0}
_SHORTEST_TIMEOUT_S = 0.5


def retry(
    attempt: Callable[[float], T],
    judge: Callable[[Exception], Verdict],
    deadline_s: float,
    *,
    request_s: float = 30.0,
) -> T:
    """The result of ``attempt(timeout_s)``, called again while its failure is not final and the deadline is not near.

    The last failure is raised. ``request_s``: the longest timeout of one attempt.
    """
    end = time.monotonic() + deadline_s
    attempts = 0
    while True:
        try:
            # Most answers come at once; an attempt that hangs is given up sooner the first time.
            patience = request_s / 3 if attempts == 0 else request_s
            return attempt(max(_SHORTEST_TIMEOUT_S, min(patience, end - time.monotonic())))
        except Exception as reason:
            verdict = judge(reason)
            if verdict == "final":
                raise
            pause = random.uniform(0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S[verdict] * 2.0**attempts))
            attempts += 1
            if time.monotonic() + pause >= end:
                raise
            time.sleep(pause)

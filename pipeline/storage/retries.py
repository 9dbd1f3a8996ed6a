"""The retry policy for all requests: until a deadline, with random pauses that grow.

Each pause is drawn between zero and its longest length (full jitter: Brooker 2015, AWS Architecture Blog), so that
clients that failed together do not retry together.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")

#: Class of a failure: a retry is useless, may help, or may help after a longer pause because the store is overloaded.
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
    """Return ``attempt(timeout_s)``. If it raises, retry until the failure is final or the deadline is near.

    The last exception is raised. ``judge`` classifies exceptions, and ``request_s`` is the longest timeout of one
    attempt in seconds.
    """
    end = time.monotonic() + deadline_s
    attempts = 0
    while True:
        try:
            # Most requests are answered at once, so the first attempt is given less time to hang.
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

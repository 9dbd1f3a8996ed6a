"""ONNX files changed at random, and what becomes of them: ``python -m testing.hostile.onnx_mutants FIRST COUNT``.

Prints a line for each mutant: its number, and ``taken``, ``refused``, or the name of an exception that no user should
see. ONNX Runtime may crash of a mutant; `outcomes` then goes on with the next one in a new process.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Iterator

from pipeline.errors import RequestError
from testing.onnx_networks import Network
from testing.processes import ROOT

TAKEN, REFUSED, CRASHED = "taken", "refused", "crashed"

_NETWORKS = (
    Network(height=24, width=40),
    Network(end="softmax", layout="nhwc"),
    Network(end="argmax_flat", stride=4),
    Network(multiple=8),
)
_MEMORY = 2 << 30


def mutant(number: int) -> bytes:
    """The file of a small network with one to four changes: bytes set, cut out, doubled or cut off."""
    chance = random.Random(number)
    data = bytearray(_NETWORKS[number % len(_NETWORKS)].onnx())
    for _ in range(chance.randint(1, 4)):
        place, count = chance.randrange(len(data)), chance.randint(1, 8)
        change = chance.choice(("set", "set", "set", "small", "remove", "double", "end"))
        if change == "set":
            data[place : place + count] = chance.randbytes(count)
        elif change == "small":
            data[place] = (data[place] + chance.choice((-1, 1))) % 256
        elif change == "remove":
            del data[place : place + count]
        elif change == "double":
            data[place:place] = data[place : place + 40]
        elif chance.random() < 0.2:
            del data[place:]
        if not data:
            data.append(0)
    return bytes(data)


def outcomes(first: int, count: int, timeout_s: float = 120.0) -> Iterator[tuple[int, str]]:
    """What becomes of ``count`` mutants from the number ``first`` on, in processes of their own."""
    number, end = first, first + count
    while number < end:
        command = [sys.executable, "-m", "testing.hostile.onnx_mutants", str(number), str(end - number)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
        for line in done.stdout.splitlines():
            name, _, rest = line.partition(" ")
            if name != "mutant":  # ONNX Runtime prints, too
                continue
            found, _, outcome = rest.partition(" ")
            yield int(found), outcome
            number = int(found) + 1
        if number < end:
            assert done.returncode < 0, done.stderr
            yield number, f"{CRASHED} by signal {-done.returncode}"
            number += 1


def main(first: int, count: int) -> None:
    from pipeline.exchange.onnx_file import summary_of
    from pipeline.exchange.probing import ProbeRequest, probe
    from pipeline.models.segmenters.onnx import OnnxFile

    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    request = ProbeRequest(classes=3, files=(OnnxFile(name="model.onnx", sha256=""),), input_size=(24, 40))
    for number in range(first, first + count):
        data = mutant(number)
        try:
            summary_of(data)
            probe([data], request)
            outcome = TAKEN
        except (RequestError, MemoryError):
            outcome = REFUSED
        except Exception as reason:
            outcome = f"{type(reason).__name__}: {reason}"
        print("mutant", number, outcome, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

"""The process that opens an ONNX file which nobody has checked: ``python -m pipeline.exchange.trial_process FOLDER``.

`pipeline.exchange.trial` starts it, since a file may crash ONNX Runtime or want more memory than there is. The folder
has ``request.json`` and the files of the network. The result, or the line for users, goes to ``answer.json``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.errors import RequestError

REQUEST, ANSWER = "request.json", "answer.json"


def main(folder: Path) -> None:
    """Do what ``request.json`` asks for, and write the answer."""
    request = json.loads((folder / REQUEST).read_text())
    _limit_memory(request["memory_bytes"])
    try:
        content = [(folder / name).read_bytes() for name in request["files"]]
        answer = _STEPS[request["step"]](content, request)
    except RequestError as reason:
        answer = {"error": str(reason)}
    except MemoryError:
        answer = {
            "error": f"the network needs more than the {request['memory_bytes'] >> 20} MiB of memory that are free"
        }
    except Exception as reason:
        answer = {"error": f"the trial failed with {type(reason).__name__}"}
    (folder / ANSWER).write_text(json.dumps(answer))


def _summary(content: list[bytes], _: dict[str, Any]) -> dict[str, Any]:
    from pipeline.exchange.onnx_file import summary_of

    return config.to_dict(summary_of(content[0]))


def _probe(content: list[bytes], request: dict[str, Any]) -> dict[str, Any]:
    import torch

    from pipeline.exchange.probing import ProbeRequest, drawn_images, probe
    from pipeline.models.segmenters.onnx import Onnx

    torch.set_num_threads(request["threads"])
    asked = config.from_dict(ProbeRequest, request["probe"])
    found = probe(content, asked)
    model = Onnx(found.config)
    by_name = dict(zip((file.name for file in asked.files), content, strict=True))
    model.attach(lambda name, _: by_name[name])
    with torch.inference_mode():
        image = drawn_images(1, found.height_px, found.width_px)
        model(image)
        start = time.perf_counter()
        logits = model(image)
    seconds = time.perf_counter() - start
    wanted = (1, found.config.classes, found.height_px, found.width_px)
    if logits.shape != wanted:
        raise RequestError(
            f"output {found.config.output!r} gives {tuple(logits.shape)} for an image, and must give {wanted}"
        )
    return config.to_dict(found) | {"seconds": seconds}


_STEPS = {"summary": _summary, "probe": _probe}


def _limit_memory(size: int) -> None:
    """Let this process fail, and not the machine, if it wants more memory than this."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

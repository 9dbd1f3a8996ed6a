"""Daft: paths, ``download``, and a class with the model that runs once in each worker process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import daft  # pyright: ignore[reportMissingImports]
import numpy as np

from benchmarks.peers import opencv

_CORES = os.cpu_count() or 1


@daft.udf(return_dtype=daft.DataType.binary(), batch_size=16, concurrency=_CORES)
class Masks:
    def __init__(self, model: str) -> None:
        self.model = opencv.network(model, 1)

    def __call__(self, data: Any) -> list[bytes]:
        found = [opencv.boxed(item) for item in data.to_pylist()]
        boxes = np.stack([box for box, _, _ in found])
        return opencv.rows(self.model, boxes, [size for _, size, _ in found], [valid for _, _, valid in found])


def main() -> None:
    images, model, sink = sys.argv[1:4]
    paths = [str(file) for file in sorted(Path(images).iterdir())]
    frame = daft.from_pydict({"path": paths}).into_batches(128)
    frame = frame.with_column("bytes", frame["path"].download())
    masks: Any = Masks  # the decorator makes a UDF of the class
    frame = frame.with_column("mask", masks.with_init_args(model)(frame["bytes"])).select("path", "mask")
    frame.write_parquet(sink)


if __name__ == "__main__":
    main()

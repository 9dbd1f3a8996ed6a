"""Ray Data at its best: a manifest of paths, ``download``, OpenCV, columns dropped as soon as they are not needed."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data.expressions import download

from benchmarks.peers import opencv


def decoded(batch: pa.Table) -> pa.Table:
    found = [opencv.boxed(data.as_py()) for data in batch["bytes"]]
    columns = {
        "path": batch["path"],
        "box": [box.tobytes() for box, _, _ in found],
        "size": [list(size) for _, size, _ in found],
        "valid": [list(valid) for _, _, valid in found],
    }
    return pa.table(columns)


class Predictor:
    def __init__(self, model: str) -> None:
        self.model = opencv.network(model, 1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        shape = (opencv.HEIGHT_PX, opencv.WIDTH_PX, 3)
        boxes = np.stack([np.frombuffer(box.as_buffer(), np.uint8).reshape(shape) for box in batch["box"]])
        masks = opencv.rows(self.model, boxes, batch["size"].to_pylist(), batch["valid"].to_pylist())
        return pa.table({"path": batch["path"], "mask": masks})


def main() -> None:
    images, model, sink = sys.argv[1:4]
    cores = os.cpu_count() or 1
    # The expression plans its downloads in an actor that claims a core and hardly uses it, and each of its tasks claims
    # one: with two cores in all, the reads would wait for ever. Two more are told to Ray than there are.
    ray.init(address="local", num_cpus=cores + 2, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    manifest = f"{sink}-manifest.parquet"
    pq.write_table(pa.table({"path": [str(file) for file in sorted(Path(images).iterdir())]}), manifest)
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": 16}
    dataset = ray.data.read_parquet(manifest, override_num_blocks=8 * cores)
    # Less than a core each, so that downloads, decoding and the network find room on few cores.
    dataset = dataset.with_column("bytes", download("path")).map_batches(decoded, num_cpus=0.4, **options)
    actors = ray.data.ActorPoolStrategy(size=max(1, cores - 1))
    dataset = dataset.map_batches(Predictor, fn_constructor_args=(model,), compute=actors, num_cpus=0.5, **options)
    dataset.write_parquet(sink)


if __name__ == "__main__":
    main()

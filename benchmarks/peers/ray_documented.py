"""Ray Data as its documentation shows batch inference: ``read_images``, a class with the model, ``write_parquet``.

``read_images`` gives arrays of different sizes, which the class scales for the model. Masks have the images' own size.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import numpy as np
import ray
import torch
from torch.nn import functional as F

from benchmarks.peers import opencv
from pipeline import package


class Predictor:
    def __init__(self, model: str) -> None:
        torch.set_num_threads(1)
        self.model = package.load(model).model()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        masks = []
        for image in batch["image"]:
            height, width = image.shape[:2]
            scale = min(opencv.HEIGHT_PX / height, opencv.WIDTH_PX / width)
            valid = (max(1, round(height * scale)), max(1, round(width * scale)))
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
            small = F.interpolate(pixels, valid, mode="bilinear", antialias=True)
            boxed = F.pad(small, (0, opencv.WIDTH_PX - valid[1], 0, opencv.HEIGHT_PX - valid[0]), value=128 / 255)
            with torch.inference_mode():
                scores = self.model(boxed)[:, :, : valid[0], : valid[1]]
                large = F.interpolate(scores, (height, width), mode="bilinear")
            masks.append(opencv.png(large[0].argmax(0).to(torch.uint8).numpy()))
        return {"path": batch["path"], "mask": masks}


def main() -> None:
    images, model, sink = sys.argv[1:4]
    cores = os.cpu_count() or 1
    ray.init(address="local", num_cpus=cores, include_dashboard=False, logging_level=logging.ERROR)
    dataset = ray.data.read_images(images, mode="RGB", include_paths=True)
    dataset = dataset.map_batches(
        Predictor,
        fn_constructor_args=(model,),
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=max(1, cores - 1)),
    )
    dataset.write_parquet(sink)


if __name__ == "__main__":
    main()

"""A loop over a torch DataLoader: its workers decode, the main process predicts, threads make masks and PNG."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import opencv

_ROWS, _FILE_ROWS = 16, 128
_Item = tuple[str, np.ndarray, tuple[int, int], tuple[int, int]]


class Photographs(Dataset):
    def __init__(self, folder: str) -> None:
        self.files = sorted(Path(folder).iterdir())

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> _Item:
        return (str(self.files[index]), *opencv.boxed(self.files[index].read_bytes()))


def collated(items: list[_Item]) -> tuple[list[str], np.ndarray, list, list]:
    names, boxes, sizes, valids = zip(*items, strict=True)
    return list(names), np.stack(boxes), list(sizes), list(valids)


def main() -> None:
    images, model, sink = sys.argv[1:4]
    cores = os.cpu_count() or 1
    network = opencv.network(model, cores)
    Path(sink).mkdir()
    loader = DataLoader(Photographs(images), _ROWS, num_workers=cores, collate_fn=collated)
    held: list[tuple[str, bytes]] = []
    files = 0
    with ThreadPoolExecutor(cores) as threads, torch.inference_mode():
        for names, boxes, sizes, valids in loader:
            found = opencv.logits(network, boxes)
            masks = threads.map(lambda item: opencv.png(opencv.mask(*item)), zip(found, sizes, valids, strict=True))
            held += zip(names, masks, strict=True)
            while len(held) >= _FILE_ROWS:
                files += 1
                write(held[:_FILE_ROWS], f"{sink}/{files:05d}.parquet")
                held = held[_FILE_ROWS:]
    if held:
        write(held, f"{sink}/last.parquet")


def write(rows: list[tuple[str, bytes]], file: str) -> None:
    columns = {"path": [name for name, _ in rows], "mask": [mask for _, mask in rows]}
    pq.write_table(pa.table(columns), file)


if __name__ == "__main__":
    main()

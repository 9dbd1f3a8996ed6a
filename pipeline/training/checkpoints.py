"""Checkpoints of a training: a folder with a safetensors file for each step that one was made after; no pickle."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping

import safetensors.torch
from safetensors import safe_open

from pipeline import storage
from pipeline.errors import RequestError
from pipeline.training.trainer import Trainer

_SUFFIX = ".safetensors"
_KEPT = 2


class Checkpoints:
    """The checkpoints of one training in a folder, by URI. ``fingerprint`` tells the training from others."""

    def __init__(self, folder: str, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self.skipped: list[str] = []
        """Checkpoints that `newest` has found to be damaged."""

    def newest(self) -> str | None:
        """The URI of the newest checkpoint that is whole; None if there is none. Damaged ones are in `skipped`."""
        self.skipped = []
        for name in reversed(self._names()):
            found = storage.join(self._folder, name)
            if _is_whole(found):
                return found
            self.skipped.append(found)
        return None

    def write(self, trainer: Trainer, extra: Mapping[str, str] | None = None) -> None:
        """Write where the trainer stands, in one step, and remove all checkpoints but the newest two.

        ``extra``: texts to keep in the file's metadata, beside the trainer's state and the fingerprint.
        """
        tensors, plain = trainer.state()
        metadata = {**(extra or {}), "state": json.dumps(plain), "fingerprint": self._fingerprint}
        # The names sort as the steps do.
        where = storage.join(self._folder, f"step-{trainer.step:09d}{_SUFFIX}")
        storage.write(where, safetensors.torch.save(tensors, metadata))
        # Otherwise a damaged one of a later step would count as one of the newest two.
        storage.delete_all(name for name in self.skipped if name != where)
        self.skipped = []
        for name in self._names()[:-_KEPT]:
            storage.delete(storage.join(self._folder, name))

    def restore(self, trainer: Trainer, checkpoint: str) -> dict[str, str]:
        """Take the trainer to where it stood at a checkpoint, by its URI. Returns the file's metadata.

        `RequestError` where the checkpoint is of a training with another fingerprint.
        """
        with tempfile.NamedTemporaryFile(suffix=_SUFFIX) as local:
            local.write(storage.read(checkpoint))
            local.flush()
            with safe_open(local.name, framework="pt") as file:
                metadata = file.metadata()
                if metadata["fingerprint"] != self._fingerprint:
                    raise RequestError(f"{checkpoint} is a checkpoint of another training")
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        trainer.load_state(tensors, json.loads(metadata["state"]))
        return metadata

    def _names(self) -> list[str]:
        return [name for name in storage.names(self._folder) if name.endswith(_SUFFIX)]


def _is_whole(uri: str) -> bool:
    """Whether a file is as long as its header says: the header's length, the header, and the last tensor's end."""
    try:
        with storage.open_file(uri) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else {}
            ends = [item["data_offsets"][1] for name, item in header.items() if name != "__metadata__"]
            return bool(header.get("__metadata__")) and 8 + length + max(ends, default=0) == size
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False

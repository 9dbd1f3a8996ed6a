"""A network of another tool, in the ONNX format (Open Neural Network Exchange), which ONNX Runtime runs.

It has no weights as tensors: its files lie in the package, with their digests in the settings. The settings also say
how images are handed to the network and what its output means (`pipeline.exchange` finds that out).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.models.segmenters.interface import Segmenter, SegmenterConfig

#: Reads a file of a package by its name and its SHA-256. `RequestError` if it is not there or is another.
ReadFile = Callable[[str, str], bytes]

Gives = Literal["logits", "probabilities", "ids", "object_logit", "object_probability"]
Layout = Literal["nchw", "nhwc"]

_GRAY = 128 / 255  # what an image is padded with, as in letterboxes
_LEAST_PROBABILITY = 1e-7
_SURE = 16.0  # logit of the class that is given as an id, where the others have 0
_FATAL = 4  # of ONNX Runtime's log: what fails is raised, too
_KINDS = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    name: str
    """Name of the file in the package; other files of the network refer to it by this name."""
    sha256: str
    """SHA-256 of its bytes, 64 hex digits."""

    def __post_init__(self) -> None:
        check(self, "name", is_plain_name(self.name), "be the name of a file without a folder")


@dataclass(frozen=True, kw_only=True)
class OnnxConfig(SegmenterConfig):
    files: tuple[OnnxFile, ...]
    """The ONNX file, and after it the files with its external data."""
    input: str
    """Name of the tensor that takes the images."""
    output: str
    """Name of the tensor that has the result."""
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    """Type of the input's values."""
    layout: Layout = "nchw"
    """Order of the input's axes: batch, channels, height, width; or batch, height, width, channels."""
    output_layout: Layout = "nchw"
    """Order of the output's axes; nchw if it has no axis of channels."""
    gives: Gives = "logits"
    """What the output is: logits or probabilities of the classes; ids of classes; or of two classes the logit or the
    probability of the second one alone."""
    order: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels."""
    scale: float = 1 / 255
    """Factor on pixels of 0 to 255."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What is subtracted from scaled pixels: of red, green, blue."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """By what they are then divided: of red, green, blue."""
    height_px: int | None = None
    """Height of images if the network takes only one; null: any."""
    width_px: int | None = None
    """Width of images, likewise."""
    batch_rows: int | None = None
    """Number of images in a pass if the network takes only one number; null: any."""
    multiple_px: int = 1
    """Number of which height and width must be multiples. Other images are padded with gray, and the result is cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, "files", bool(self.files), "name the ONNX file")
        check(self, "files", len({file.name for file in self.files}) == len(self.files), "have no name twice")
        check(self, "channels", self.channels == 3, "be 3")
        check(self, "scale", self.scale > 0, "be positive")
        check(self, "std", len(self.std) == 3 and min(self.std) > 0, "be 3 positive numbers")
        check(self, "multiple_px", self.multiple_px >= 1, "be at least 1")
        for name in ("height_px", "width_px", "batch_rows"):
            value = getattr(self, name)
            check(self, name, value is None or value >= 1, "be at least 1, or null")
        both = (self.height_px is None) == (self.width_px is None)
        check(self, "width_px", both, "be given if and only if height_px is")
        is_plain = self.dtype != "uint8" or (self.scale, sum(self.mean), min(self.std), max(self.std)) == (1, 0, 1, 1)
        check(self, "dtype", is_plain, "not be uint8 where pixels are scaled, shifted or divided")
        is_single = self.gives.startswith("object_")
        check(self, "gives", not is_single or self.classes == 2, "be for two classes if it is of the object alone")


class Onnx(Segmenter):
    """An ONNX network as a segmenter. `attach` gives it its files.

    The session of ONNX Runtime is made at the first image: on the GPU of the image if ONNX Runtime has CUDA, else on
    the CPU with as many threads as torch uses. Pickling leaves session and files out; they are read again.
    """

    engines = ("float32",)  # ONNX Runtime computes in the precision of the file

    def __init__(self, config: OnnxConfig) -> None:
        super().__init__()
        self.config: OnnxConfig = config
        self._read: ReadFile | None = None
        self._content: dict[str, bytes] = {}
        self._session: Any = None

    @property
    def has_probabilities(self) -> bool:
        """Whether the logits tell how sure the network is. Ids do not."""
        return self.config.gives != "ids"

    def attach(self, read: ReadFile) -> None:
        """Read the files, which are kept until the first image. `RequestError` if one is missing, or ONNX Runtime."""
        runtime()
        self._read = read
        self._content = {file.name: read(file.name, file.sha256) for file in self.config.files}

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        self.check_channels(image)
        height, width = image.shape[2:]
        seen = (self.config.height_px, self.config.width_px)
        if seen[0] is not None and seen != (height, width):
            raise RequestError(f"the network takes images of {seen[0]} x {seen[1]} pixels only, got {height} x {width}")
        multiple = self.config.multiple_px
        padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), value=_GRAY)
        count = self.config.batch_rows or len(image)
        found = torch.cat([self._pass(part, count) for part in padded.split(count)])
        logits = self.logits(found.to(image.device), padded.shape[2], padded.shape[3])
        return logits[:, :, :height, :width]

    def prepared(self, image: Float[Tensor, "b 3 h w"]) -> Tensor:
        """Images in [0, 1] as the network takes them."""
        wanted, shape = self.config, (1, 3, 1, 1)
        x = (image * 255).round() if wanted.dtype == "uint8" else image * (255 * wanted.scale)
        if wanted.dtype != "uint8":
            x = (x - x.new_tensor(wanted.mean).view(shape)) / x.new_tensor(wanted.std).view(shape)
        if wanted.order == "bgr":
            x = x.flip(1)
        if wanted.layout == "nhwc":
            x = x.permute(0, 2, 3, 1)
        return x.to(_KINDS[wanted.dtype]).contiguous()

    def logits(self, found: Tensor, height: int, width: int) -> Float[Tensor, "b k h w"]:
        """The network's output as logits at this size: interpolated bilinearly, or by the nearest id."""
        if found.is_floating_point() and not found.isfinite().all():
            raise ArithmeticError(f"output {self.config.output!r} has values that are not finite")
        if self.config.gives == "ids":
            return self._one_hot(found, height, width)
        found = found if found.ndim == 4 else found.unsqueeze(1)
        if self.config.output_layout == "nhwc":
            found = found.permute(0, 3, 1, 2)
        found = found.float()
        if self.config.gives == "object_logit":
            found = torch.cat((torch.zeros_like(found), found), 1)
        elif self.config.gives == "object_probability":
            found = torch.cat((1 - found, found), 1)
        if self.config.gives.endswith(("probabilities", "probability")):
            found = found.clamp(min=_LEAST_PROBABILITY).log()
        if found.shape[2:] != (height, width):
            found = F.interpolate(found.contiguous(), (height, width), mode="bilinear", align_corners=False)
        return found

    def session(self, device: torch.device) -> Any:
        """The session of ONNX Runtime, made now if there is none yet."""
        if self._session is None:
            if not self._content:
                assert self._read is not None, "attach has not been called"
                self.attach(self._read)
            self._session = new_session([self._content[file.name] for file in self.config.files], self.config, device)
            self._content = {}
        return self._session

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None, "_content": {}}

    def _pass(self, image: Tensor, count: int) -> Tensor:
        """The output for up to ``count`` images. The last one is repeated where the network takes only that many."""
        wanted = self.prepared(image)
        if self.config.batch_rows is not None and len(wanted) < count:
            wanted = torch.cat((wanted, wanted[-1:].expand(count - len(wanted), *wanted.shape[1:])))
        (found,) = self.session(image.device).run([self.config.output], {self.config.input: wanted.cpu().numpy()})
        return torch.from_numpy(found)[: len(image)]

    def _one_hot(self, found: Tensor, height: int, width: int) -> Float[Tensor, "b k h w"]:
        ids = found.squeeze(1 if self.config.output_layout == "nchw" else 3) if found.ndim == 4 else found
        ids = ids.float().round()
        if len(ids) and (ids.min() < 0 or ids.max() >= self.config.classes):
            raise ArithmeticError(f"output {self.config.output!r} has ids that are no class")
        if ids.shape[1:] != (height, width):
            ids = F.interpolate(ids[:, None], (height, width), mode="nearest")[:, 0]
        return F.one_hot(ids.long(), self.config.classes).permute(0, 3, 1, 2).float() * _SURE


class RuntimeMissing(RequestError):
    """ONNX Runtime is not installed."""


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in the same folder, on any system."""
    return name not in ("", ".", "..") and not any(sign in name for sign in ("/", "\\", ":", "\0"))


def runtime() -> Any:
    """The package onnxruntime. `RuntimeMissing` that names the extra if it is not installed."""
    try:
        import onnxruntime
    except ImportError as reason:
        raise RuntimeMissing(
            "the model is an ONNX network, and ONNX Runtime is not installed here: pip install 'parquetry[onnx]'"
        ) from reason
    return onnxruntime


def new_session(content: list[bytes], config: OnnxConfig, device: torch.device) -> Any:
    """A session for the bytes of an ONNX file and of its external data, in the order of ``config.files``."""
    ort: Any = runtime()
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other actors share the cores
    if len(content) > 1:
        names = [file.name for file in config.files[1:]]
        options.add_external_initializers_from_files_in_memory(names, content[1:], [len(part) for part in content[1:]])
    return ort.InferenceSession(content[0], options, providers=_providers(ort, device))


def _providers(ort: Any, device: torch.device) -> list[Any]:
    if device.type == "cuda":
        if "CUDAExecutionProvider" in ort.get_available_providers():
            return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
        warnings.warn(
            "ONNX Runtime has no CUDA here, so the imported network runs on the CPU although there is a GPU: install "
            "onnxruntime-gpu in place of onnxruntime",
            RuntimeWarning,
            stacklevel=2,
        )
    return ["CPUExecutionProvider"]

"""Finds out, by running it, how a segmentation network takes images and what it gives.

What the file does not say is tried: the order of axes, the sizes, the number of images, logits or probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config import check
from pipeline.errors import RequestError
from pipeline.exchange.outputs import Unfit, read_output
from pipeline.models.segmenters.onnx import Gives, Layout, Onnx, OnnxConfig, OnnxFile, new_session

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_MULTIPLES = (1, 8, 16, 32, 64, 128)
_SAME = {"float32": 1e-3, "float16": 2e-2, "uint8": 1e-3}
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What is given about a network. What is null is found out."""

    classes: int
    files: tuple[OnnxFile, ...]
    input_size: tuple[int, int] | None = None
    """Height and width of images, for networks that take any."""
    order: str = "rgb"
    scale: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    layout: Layout | None = None
    output: str | None = None
    gives: Gives | None = None

    def __post_init__(self) -> None:
        check(self, "classes", self.classes >= 2, "be at least 2")


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What was found out."""

    config: OnnxConfig
    height_px: int
    width_px: int
    decisions: tuple[str, ...]
    """For people: what was found, and what overrides it."""


def probe(content: list[bytes], request: ProbeRequest) -> Probed:
    """Run a network on drawn images. ``content``: the bytes of ``request.files``. `RequestError` that names the tensor,
    what was found, and what would do, if it is no segmentation network for these classes."""
    return _Probe(content, request).probed()


class _Probe:
    def __init__(self, content: list[bytes], request: ProbeRequest) -> None:
        self._request = request
        self._draft = OnnxConfig(classes=request.classes, files=request.files, input="", output="")
        self._session = _loaded(content, self._draft)
        self._tensor = _input(self._session)
        sides = self._tensor.shape
        self._shape: list[int | None] = [side if isinstance(side, int) and side > 0 else None for side in sides]
        self._said: list[str] = []
        self._failures: list[str] = []

    def probed(self) -> Probed:
        for config, size in self._candidates():
            found = self._tried(config, size)
            if found is not None:
                return self._settled(*found, size)
        tried = f"; tried {', '.join(dict.fromkeys(self._failures))}" if self._failures else ""
        raise RequestError(
            f"the network fails on images of {' x '.join(map(str, self._box(self._layouts()[0])))} pixels in input "
            f"{self._tensor.name!r} {self._shown_shape()}{tried}; another --input-size or --layout may do"
        )

    def _layouts(self) -> list[Layout]:
        """The orders of axes that the shape of the input allows, the usual one first."""
        _, second, _, last = self._shape
        possible: list[Layout] = []
        if second in (3, None) and not (second is None and last == 3):
            possible.append("nchw")
        if last in (3, None) and not (last is None and second == 3):
            possible.append("nhwc")
        if not possible:
            raise RequestError(
                f"input {self._tensor.name!r} has the shape {self._shown_shape()}, and must have 3 channels (red, "
                "green, blue) on its second or its last axis"
            )
        asked = self._request.layout
        if asked is not None and asked not in possible:
            raise RequestError(f"layout must be {possible[0]} by the shape {self._shown_shape()}, got {asked!r}")
        return possible if asked is None else [asked]

    def _box(self, layout: Layout) -> tuple[int, int]:
        """Height and width of the images that are tried. `RequestError` if neither file nor request says them."""
        fixed = self._shape[2:] if layout == "nchw" else self._shape[1:3]
        asked = self._request.input_size
        name = f"input {self._tensor.name!r} {self._shown_shape()}"
        if asked is None:
            if None in fixed:
                raise RequestError(f"{name} takes images of any height or width: give --input-size HEIGHT WIDTH")
            return fixed[0], fixed[1]  # type: ignore[return-value]
        for side, wanted in zip(asked, fixed, strict=True):
            if wanted is not None and side != wanted:
                raise RequestError(f"input_size must be that of {name}, got {asked[0]} x {asked[1]}")
        return asked

    def _candidates(self) -> Iterator[tuple[OnnxConfig, tuple[int, int]]]:
        """Settings to try with the size of the images to try them on, the likeliest first."""
        request = self._request
        dtype = _DTYPES[self._tensor.type]
        scale = request.scale or (1.0 if dtype == "uint8" else 1 / 255)
        given = {"mean": request.mean, "std": request.std}
        given = {name: value for name, value in given.items() if value is not None}
        if dtype == "uint8" and (given or scale != 1):
            raise RequestError(f"input {self._tensor.name!r} takes uint8, so it must have no --mean, --std and --scale")
        layouts = self._layouts()
        for layout in layouts:
            height, width = self._box(layout)
            sides = self._shape[2:] if layout == "nchw" else self._shape[1:3]
            config: Any = dataclasses.replace(
                self._draft,
                input=self._tensor.name,
                dtype=dtype,  # type: ignore[arg-type]
                layout=layout,
                order=request.order,  # type: ignore[arg-type]
                scale=scale,
                batch_rows=self._shape[0],
                **given,  # type: ignore[arg-type]
            )
            if None not in sides:
                yield dataclasses.replace(config, height_px=height, width_px=width), (height, width)
                continue
            for multiple in _MULTIPLES:
                if any(side is not None and side % multiple for side in sides):
                    continue
                yield dataclasses.replace(config, multiple_px=multiple), _odd(height, width, multiple, sides)
            # It takes this size, and nobody knows which others.
            yield dataclasses.replace(config, height_px=height, width_px=width), (height, width)

    def _tried(self, config: OnnxConfig, size: tuple[int, int]) -> tuple[OnnxConfig, dict[str, Tensor]] | None:
        """The settings with the number of images in a pass, and all outputs for one image; None if it fails."""
        images = drawn_images(2, *size)
        count = config.batch_rows
        alone = self._run(config, images[:1].expand(count or 1, -1, -1, -1))
        if alone is None:
            self._failures.append(f"{size[0]} x {size[1]} as {config.layout}")
            return None
        if count is None and not self._takes_batches(config, images, alone):
            self._said.append("images go through one by one: in a batch the network fails, or gives other results")
            config = dataclasses.replace(config, batch_rows=1)
        return config, {name: value[:1] if value.ndim else value for name, value in alone.items()}

    def _takes_batches(self, config: OnnxConfig, images: Tensor, alone: dict[str, Tensor]) -> bool:
        both = self._run(config, images)
        if both is None:
            return False
        for name, value in alone.items():
            if value.ndim < 3:
                continue
            if both[name].shape != (2, *value.shape[1:]):
                return False
            one, other = value[0].double(), both[name][0].double()
            scale = one.abs().amax().clamp(min=1.0)
            if not ((one - other).abs() <= _SAME[config.dtype] * scale).double().mean() > 0.999:
                return not one.isfinite().all()  # another line says so
        return True

    def _run(self, config: OnnxConfig, images: Tensor) -> dict[str, Tensor] | None:
        """All outputs by name; None if ONNX Runtime fails."""
        array = Onnx(config).prepared(images).numpy()
        try:
            found = self._session.run(None, {config.input: array})
        except MemoryError:
            raise
        except Exception as reason:
            if is_out_of_memory(reason):
                raise MemoryError from reason
            return None
        names = [item.name for item in self._session.get_outputs()]
        tensors = ((name, as_tensor(value)) for name, value in zip(names, found, strict=True))
        return {name: value for name, value in tensors if value is not None}

    def _settled(self, config: OnnxConfig, outputs: dict[str, Tensor], size: tuple[int, int]) -> Probed:
        """With what the outputs mean."""
        request = self._request
        if request.output is not None and request.output not in outputs:
            raise RequestError(f"output must be one of {', '.join(map(repr, outputs))}, got {request.output!r}")
        chosen = {request.output: outputs[request.output]} if request.output else outputs
        fitting, unfit = {}, []
        for name, value in chosen.items():
            try:
                fitting[name] = read_output(name, value, config, size, request.gives)
            except Unfit as reason:
                unfit.append(str(reason))
        if not fitting:
            raise RequestError("; ".join(unfit[:3]) or "the network has no output that is a tensor of numbers")
        name, meaning = next(iter(fitting.items()))
        config = dataclasses.replace(config, output=name, gives=meaning.gives, output_layout=meaning.layout)
        height, width = self._box(config.layout)
        others = f", and not of {', '.join(map(repr, list(fitting)[1:]))} (--output)" if len(fitting) > 1 else ""
        box = "" if config.height_px is None else f" of {height} x {width} pixels only"
        many = "any number of images" if config.batch_rows is None else f"{config.batch_rows} in a pass"
        multiple = f", padded to multiples of {config.multiple_px}" if config.multiple_px > 1 else ""
        self._said += [
            f"input {config.input!r}: {config.dtype}, {config.layout} (--layout), images{box}, {many}{multiple}",
            f"output: {meaning.text} of {name!r}{others}",
        ]
        return Probed(config=config, height_px=height, width_px=width, decisions=tuple(self._said))

    def _shown_shape(self) -> str:
        return "(" + ", ".join("any" if side is None else str(side) for side in self._shape) + ")"


def drawn_images(count: int, height: int, width: int) -> Tensor:
    """Images (count, 3, h, w) in [0, 1] that differ: smooth waves of several lengths, edges and noise."""
    noise = torch.Generator().manual_seed(0)
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None, :]
    found = torch.zeros(count, 3, height, width)
    for index in range(count):
        for channel in range(3):
            phase = index + 2.1 * channel
            waves = torch.sin(7 * rows + phase) * torch.cos(11 * columns - phase)
            edges = ((4 * rows + index).long() + (5 * columns).long() + channel) % 2
            found[index, channel] = 0.5 + 0.2 * waves + 0.2 * (edges - 0.5)
    return (found + 0.1 * torch.randn(found.shape, generator=noise)).clamp(0, 1)


def as_tensor(value: Any) -> Tensor | None:
    """An output of ONNX Runtime as a tensor, of int64 if it is of whole numbers; None if it is none of numbers."""
    try:
        found = torch.from_numpy(value)
    except TypeError:
        return None
    return found if found.is_floating_point() or found.is_complex() else found.long()


def is_out_of_memory(reason: BaseException) -> bool:
    text = str(reason).lower()
    return "bad_alloc" in text or "allocate memory" in text or "bad allocation" in text or "out of memory" in text


def _loaded(content: list[bytes], config: OnnxConfig) -> Any:
    try:
        return new_session(content, config, _CPU)
    except (RequestError, MemoryError):
        raise
    except Exception as reason:
        if is_out_of_memory(reason):
            raise MemoryError from reason
        raise RequestError(
            f"ONNX Runtime cannot load it ({type(reason).__name__}): the file is damaged, its external data do not "
            "fit, or an operator or a type in it is not supported"
        ) from reason


def _input(session: Any) -> Any:
    """The one input. `RequestError` unless it is one of images."""
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(repr(item.name) for item in inputs) or "none"
        raise RequestError(f"the network must have one input, the images; it has {names}")
    (tensor,) = inputs
    if tensor.type not in _DTYPES:
        raise RequestError(
            f"input {tensor.name!r} is a {tensor.type}, and must be a tensor of float32, float16 or uint8"
        )
    if len(tensor.shape) != 4:
        raise RequestError(
            f"input {tensor.name!r} has {len(tensor.shape)} axes, and must have 4: batch, channels, height, width, or "
            "batch, height, width, channels"
        )
    return tensor


def _odd(height: int, width: int, multiple: int, fixed: list[int | None]) -> tuple[int, int]:
    """Sides near these that are odd multiples, so that a network that needs a larger multiple fails."""
    sides = []
    for side, wanted in zip((height, width), fixed, strict=True):
        count = max(1, side // multiple)
        sides.append(wanted or multiple * (count + 1 - count % 2))
    if sides[0] == sides[1] and fixed == [None, None]:
        sides[1] += 2 * multiple  # so that rows and columns can be told apart
    return sides[0], sides[1]

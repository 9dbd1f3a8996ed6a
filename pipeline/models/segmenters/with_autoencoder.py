"""A segmenter together with an autoencoder, whose reconstruction error tells how unusual an image is (novelty)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.autoencoders.interface import Autoencoder
from pipeline.models.segmenters.interface import Segmenter

_PREFIX = "autoencoder."


class SegmenterWithAutoencoder(Segmenter):
    """A segmenter that carries an autoencoder. Its masks are the segmenter's. Training does not change the autoencoder.

    In packages and checkpoints, the names of the segmenter's weights are the same as without an autoencoder; the names
    of the autoencoder's weights begin with ``autoencoder.``.
    """

    def __init__(self, segmenter: Segmenter, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.config, self.engines = segmenter.config, segmenter.engines
        self.segmenter = segmenter
        self.autoencoder = autoencoder.requires_grad_(False)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        return self.segmenter(image)

    def training_outputs(
        self, image: Float[Tensor, "b c h w"], draw: Callable[..., Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.segmenter.training_outputs(image, draw)

    def compile(self, *arguments: Any, **options: Any) -> None:
        self.segmenter.compile(*arguments, **options)  # what `training_outputs` calls, too

    def feature_maps(self, image: Float[Tensor, "b c h w"]) -> list[Tensor]:
        return self.segmenter.feature_maps(image)

    @property
    def has_encoder(self) -> bool:
        return self.segmenter.has_encoder

    def init_encoder(self, autoencoder: nn.Module) -> list[str]:
        return self.segmenter.init_encoder(autoencoder)

    def init_all(self, other: Segmenter, *, head: bool) -> list[str]:
        return self.segmenter.init_all(other, head=head)

    def state_dict(self, *arguments: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        weights = dict(self.segmenter.state_dict(*arguments, **options))
        carried = self.autoencoder.state_dict(*arguments, **options)
        return weights | {_PREFIX + name: value for name, value in carried.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        carried = {name[len(_PREFIX) :]: value for name, value in state_dict.items() if name.startswith(_PREFIX)}
        weights = {name: value for name, value in state_dict.items() if not name.startswith(_PREFIX)}
        self.autoencoder.load_state_dict(carried, strict, assign)
        return self.segmenter.load_state_dict(weights, strict, assign)

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.segmenter.named_parameters(*arguments, **options)
        for name, parameter in self.autoencoder.named_parameters(*arguments, **options):
            yield _PREFIX + name, parameter


def carry_autoencoder(segmenter: nn.Module, autoencoder: nn.Module) -> list[str]:
    """Copy an autoencoder's weights into the one that the segmenter carries; returns the names of the tensors.

    Do not rename: a training's digest contains the name of this function.
    """
    assert isinstance(segmenter, SegmenterWithAutoencoder)
    weights = autoencoder.state_dict()
    segmenter.autoencoder.load_state_dict(weights)
    return [_PREFIX + name for name in weights]


def init_from_segmenter(segmenter: nn.Module, package: nn.Module) -> list[str]:
    """Copy all weights of a package's segmenter, but not the autoencoder that it carries.

    Do not rename: a training's digest contains the name of this function, and of the next.
    """
    assert isinstance(segmenter, Segmenter)
    return segmenter.init_all(_own(package), head=True)


def init_without_head(segmenter: nn.Module, package: nn.Module) -> list[str]:
    """As `init_from_segmenter`, but the head stays new, since the classes differ."""
    assert isinstance(segmenter, Segmenter)
    return segmenter.init_all(_own(package), head=False)


def _own(model: nn.Module) -> Segmenter:
    """The segmenter without the autoencoder that it may carry."""
    assert isinstance(model, Segmenter)
    return model.segmenter if isinstance(model, SegmenterWithAutoencoder) else model

"""The Python face: a network, its input and its output put together; images in, `Proposals` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .batch import fit_size, make_batch, resize_image
from .checkpoint import SHIPPED, load_network
from .data.loader import decode_record
from .data.records import ImageRecord
from .errors import ConfigError, ImageError
from .evaluate import measure_recall
from .image import read_image, to_rgb
from .network import RegionProposalNetwork
from .recall_report import RecallReport
from .structures import Proposals

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Proposer:
    """Proposes where the objects of images are. Threads may share one.

    Args:
        network: a trained network; it is moved to `device` and set to evaluation mode.
        device: where to compute.
    """

    def __init__(self, network: RegionProposalNetwork, device: torch.device | str = "cpu"):
        self.network = network.to(device).eval()
        self.device = torch.device(device)

    @overload
    def __call__(self, images: ImageLike) -> Proposals: ...

    @overload
    def __call__(self, images: list[ImageLike] | tuple[ImageLike, ...]) -> list[Proposals]: ...

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Proposals | list[Proposals]:
        """Propose on one image, or on each of a list.

        Args:
            images: a path, a PIL image, a (H, W, 3) uint8 RGB array, a (3, H, W) uint8 RGB tensor (or floating-point in
                [0, 1]), or a list of them. A path's image is turned upright as its EXIF data says; all others are taken
                as they are.

        Returns:
            `Proposals` in the image's own pixels, best first; a list of them for a list.

        Raises:
            ImageError: an image that cannot be read or has another shape or type.
        """
        if isinstance(images, (list, tuple)):
            return [self.propose(image) for image in images]
        return self.propose(images)  # type: ignore[arg-type]

    def propose(self, image: ImageLike) -> Proposals:
        """Propose on one image; see `__call__`."""
        pixels = to_tensor(image)
        options = self.network.config.input
        height, width = size = (pixels.shape[-2], pixels.shape[-1])
        with torch.inference_mode():
            resized = resize_image(pixels, fit_size(size, options), options.resize).to(self.device)
            selection = self.network.propose(make_batch([resized], options))[0]
        scale = torch.tensor([width / resized.shape[-1], height / resized.shape[-2]] * 2)  # back, once
        limits = torch.tensor([width, height] * 2)  # rounding must not carry a box over the border
        return Proposals(  # copies, made outside inference mode: its own tensors cannot be changed in place
            boxes=torch.minimum(selection.boxes.cpu() * scale, limits),
            logits=selection.logits.cpu().clone(),
            levels=selection.levels.cpu().clone(),
            image_size=size,
            image=_keep_for_drawing(image, pixels),
        )


def load(source: str | Path = SHIPPED, *, device: torch.device | str = "auto") -> Proposer:
    """A proposer, ready to use.

    Args:
        source: nothing for the small network inside the package; a training run, a checkpoint folder or its
            `model.safetensors`.
        device: where to compute; "auto" is the GPU where there is one.

    Raises:
        CheckpointError: nothing there, a damaged file, or weights of another network.
        ConfigError: the device is not there.
    """
    chosen = choose_device(device)
    return Proposer(load_network(source), chosen)


def choose_device(device: torch.device | str = "auto") -> torch.device:
    """The device that a name means; "auto" is the GPU where there is one.

    Raises:
        ConfigError: it is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"device {str(device)!r}: there is no such kind; pass cpu, cuda, cuda:1, ... or auto"
        ) from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device}: torch finds {torch.cuda.device_count()} CUDA devices; pass cpu or auto")
    try:
        torch.ones(1, device=chosen).tolist()
    except (RuntimeError, AssertionError) as error:  # what torch says of it can be pages long
        raise ConfigError(f"device {device}: torch cannot compute there; pass cpu or auto") from error
    return chosen


def measure_network(
    network: RegionProposalNetwork,
    records: Sequence[ImageRecord],
    on_image: Callable[[int], None] = lambda num_done: None,
) -> RecallReport:
    """Recall of a network on images with known boxes, as `objectness evaluate` reports it.

    Args:
        network: it computes where its weights are, and is set to evaluation mode.
        records: images and boxes.
        on_image: called after each image with the number done.

    Raises:
        ImageError, AnnotationError: an image cannot be read, or has another size than its annotations say.
    """
    proposer = Proposer(network, next(network.parameters()).device)
    found = []
    for num_done, record in enumerate(records, start=1):
        proposals = proposer.propose(decode_record(record))
        found.append((proposals.boxes.numpy(), proposals.scores.numpy()))
        on_image(num_done)
    return measure_recall(records, found)


def to_tensor(image: ImageLike) -> Tensor:
    """Any image as (3, H, W) uint8 RGB.

    Raises:
        ImageError: it cannot be read, or is of another shape or type.
    """
    if isinstance(image, (str, Path)):
        return _from_array(read_image(image))
    if isinstance(image, Image.Image):
        return _from_array(to_rgb(image))
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ImageError(f"an array must be (H, W, 3) uint8 RGB; this one is {image.shape} {image.dtype}")
        return _from_array(np.require(image, requirements=["C", "W"]))  # torch warns of arrays that are read-only
    if not isinstance(image, Tensor):
        raise ImageError(f"an image must be a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ImageError(f"a tensor must be (3, H, W) RGB; this one is {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ImageError(f"a tensor must be uint8, or floating-point in [0, 1]; this one is {image.dtype}")
    if not (image.min() >= 0 and image.max() <= 1):  # NaN neither
        raise ImageError("a floating-point tensor must be in [0, 1]; this one is not: divide it by what is white")
    return (image.detach().float() * 255).round().to(torch.uint8)


def _from_array(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _keep_for_drawing(image: ImageLike, pixels: Tensor) -> Path | Image.Image | np.ndarray:
    if isinstance(image, Tensor):
        return pixels.permute(1, 2, 0).cpu().numpy()
    return Path(image) if isinstance(image, str) else image

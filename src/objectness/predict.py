"""The Python face: a network, its input and its output put together; images in, `Proposals` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .batch import fit_size, make_batch, resize_image
from .checkpoint import SHIPPED, load_network
from .data.loader import decode_record
from .data.records import ImageRecord
from .errors import ImageError
from .evaluate import measure_recall
from .image import read_image, to_rgb
from .network import RegionProposalNetwork
from .recall_report import RecallReport
from .structures import Proposals

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Proposer:
    """Proposes where the objects of images are.

    Args:
        network: a trained network; it is set to evaluation mode.
        device: where to compute.
    """

    def __init__(self, network: RegionProposalNetwork, device: torch.device | str = "cpu"):
        self.network = network.to(device).eval()
        self.device = torch.device(device)

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Proposals | list[Proposals]:
        """Propose on one image, or on each of a list.

        Args:
            images: a path, a PIL image, a (H, W, 3) uint8 RGB array, a (3, H, W) uint8 RGB tensor (or floating-point in
                [0, 1]), or a list of them.

        Returns:
            `Proposals` in the image's own pixels, best first; a list of them for a list.

        Raises:
            ImageError: an image that cannot be read or has another shape or type.
        """
        if isinstance(images, (list, tuple)):
            return [self.propose(image) for image in images]
        return self.propose(images)  # type: ignore[arg-type]

    @torch.inference_mode()
    def propose(self, image: ImageLike) -> Proposals:
        """Propose on one image; see `__call__`."""
        pixels = to_tensor(image)
        options = self.network.config.input
        size = (pixels.shape[-2], pixels.shape[-1])
        resized = resize_image(pixels, fit_size(size, options)).to(self.device)
        batch = make_batch([resized], options)
        selection = self.network.propose(batch)[0]
        scale = torch.tensor([size[1] / resized.shape[-1], size[0] / resized.shape[-2]] * 2)  # back, once
        return Proposals(
            boxes=selection.boxes.cpu() * scale,
            logits=selection.logits.cpu(),
            levels=selection.levels.cpu(),
            image_size=size,
            image=Path(image) if isinstance(image, str) else _keep_for_drawing(image),
        )


def load(source: str | Path = SHIPPED, *, device: torch.device | str | None = None) -> Proposer:
    """A proposer, ready to use.

    Args:
        source: nothing for the small network inside the package; a training run, a checkpoint folder or its
            `model.safetensors`.
        device: where to compute; the GPU where there is one by default.

    Raises:
        CheckpointError: nothing there, a damaged file, or weights of another network.
    """
    return Proposer(load_network(source), device or ("cuda" if torch.cuda.is_available() else "cpu"))


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
        return torch.from_numpy(read_image(Path(image))).permute(2, 0, 1)
    if isinstance(image, Image.Image):
        return torch.from_numpy(to_rgb(image)).permute(2, 0, 1)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ImageError(f"an array must be (H, W, 3) uint8 RGB; this one is {image.shape} {image.dtype}")
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if not isinstance(image, Tensor):
        raise ImageError(f"an image must be a path, a PIL image, an array or a tensor, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ImageError(f"a tensor must be (3, H, W) RGB; this one is {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point() or image.min() < 0 or image.max() > 1:
        raise ImageError(f"a tensor must be uint8, or floating-point in [0, 1]; this one is {image.dtype} beyond that")
    return (image * 255).round().to(torch.uint8)


def _keep_for_drawing(image: Path | Image.Image | np.ndarray | Tensor) -> Path | Image.Image | np.ndarray:
    return image if not isinstance(image, Tensor) else to_tensor(image).permute(1, 2, 0).cpu().numpy()

"""The Python face: a network, its input and its output put together; images in, `Proposals` out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .config import Config
from .device import choose_device_of
from .errors import ConfigError, ImageError
from .evaluation.report import RecallReport
from .files import write_text
from .geometry.roi_align import pool_features
from .images.network_input import fit_size, make_batch, resize_image
from .images.reading import read_image, read_reduced, to_rgb
from .network import RegionProposalNetwork
from .proposals import Proposals
from .runtimes.choose import make_engine
from .runtimes.engine import EngineName, Precision
from .structures import Output, Selection
from .threads import map_side_by_side, share_threads
from .weights import hub
from .weights.checkpoint import CONFIG_FILE, MODEL_FILE, SHIPPED, save_checkpoint
from .weights.opening import open_network

ImageLike = str | Path | Image.Image | np.ndarray | Tensor


class Prepared(NamedTuple):
    """An image on its way into the network."""

    pixels: Tensor  # (3, h, w) in 0..255, RGB, in the input frame
    image_size: tuple[int, int]  # (height, width) of the original, px
    image: Path | Image.Image | np.ndarray  # the original, for drawing


class Proposer:
    """Proposes where the objects of images are. Threads may share one.

    Args:
        network: a trained network; it is moved to `device` and set to evaluation mode.
        device: where to compute.
        engine: what computes the maps, (1, 3, H, W) in and `Output` out; by default a copy of the network as it is now,
            made faster (`RegionProposalNetwork.optimized`). See `objectness.runtimes` for others.
        at_once: images of a list that are computed side by side, each with its share of the cores: sooner done, and
            with more memory, than one after another.

    Attributes:
        notes: what was assumed of weights that came from elsewhere, one sentence each.
    """

    def __init__(
        self,
        network: RegionProposalNetwork,
        device: torch.device | str = "cpu",
        engine: Callable[[Tensor], Output] | None = None,
        at_once: int = 1,
    ):
        self.network = network.to(device).eval()
        self.device = torch.device(device)
        self.engine = engine or self.network.optimized()
        if at_once < 1:
            raise ConfigError(f"at_once = {at_once} must be at least 1")
        self.at_once = at_once
        self.notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        config = self.network.config
        millions = sum(each.numel() for each in self.network.parameters()) / 1e6
        engine = getattr(self.engine, "name", "torch")
        sides = f"{config.input.short_side} x {config.input.long_side} px"
        return (
            f"<Proposer: {config.backbone}, {millions:.1f} million weights, input {sides}, {engine} on {self.device}>"
        )

    @overload
    def __call__(self, images: ImageLike, *, keep: int | None = None, pool: int | None = None) -> Proposals: ...

    @overload
    def __call__(
        self, images: list[ImageLike] | tuple[ImageLike, ...], *, keep: int | None = None, pool: int | None = None
    ) -> list[Proposals]: ...

    def __call__(
        self, images: ImageLike | Sequence[ImageLike], *, keep: int | None = None, pool: int | None = None
    ) -> Proposals | list[Proposals]:
        """Propose on one image, or on each of a list.

        Args:
            images: a path, a PIL image, a (H, W, 3) uint8 RGB array, a (3, H, W) uint8 RGB tensor (or floating-point in
                [0, 1]), or a list of them. A path's image is turned upright as its EXIF data says; all others are taken
                as they are.
            keep: proposals of an image at most, in place of the configuration's `selection.keep`.
            pool: fill `Proposals.features` with what the pyramid sees in each box, on so many bins along each side
                (`roi_align.pool_features`; 7 is usual). 100 boxes with 256 channels take 5 MB then.

        Returns:
            `Proposals` in the image's own pixels, best first; a list of them for a list.

        Raises:
            ImageError: an image that cannot be read or has another shape or type.
            ConfigError: `keep` or `pool` is below 1, or the engine gives no features to pool.
        """
        if not isinstance(images, (list, tuple)):
            return self.propose(images, keep=keep, pool=pool)  # type: ignore[arg-type]
        proposing = map_side_by_side(
            lambda image: self.propose(image, keep=keep, pool=pool), images, self.at_once, self.torch_threads
        )
        return list(proposing)

    @property
    def torch_threads(self) -> int:
        """Threads that torch should take for each image; one where something else has the cores.

        torch's threads go on waiting busily for a while after each operation, and take the cores from another
        runtime's: int8 on two cores proposed on 30 photos a second beside two of them, and on 38 beside one.
        """
        elsewhere = self.device.type != "cpu" or getattr(self.engine, "name", "torch") != "torch"
        return 1 if elsewhere else share_threads(self.at_once)

    def prepare(self, image: ImageLike, *, reduce: bool = False) -> Prepared:
        """Decode and resize one image, the part of the work that a thread beside may do ahead; see `__call__`.

        Args:
            image: see `__call__`.
            reduce: decode a JPEG file of more than twice the size that the network sees to a part of its size. It is
                faster, and hardly another picture; without antialias in `InputOptions.resize` it is not done.
        """
        options = self.network.config.input
        if reduce and isinstance(image, (str, Path)) and options.resize == "antialias":
            pixels, size = read_reduced(image, lambda whole: fit_size(whole, options))
            resized = resize_image(_from_array(pixels), fit_size(size, options))
            return Prepared(resized, size, Path(image))
        whole = to_tensor(image)
        size = (whole.shape[-2], whole.shape[-1])
        with torch.inference_mode():
            resized = resize_image(whole, fit_size(size, options), options.resize)
        return Prepared(resized, size, _keep_for_drawing(image, whole))

    def propose(self, image: ImageLike | Prepared, *, keep: int | None = None, pool: int | None = None) -> Proposals:
        """Propose on one image, or on one that `prepare` made ready; see `__call__`."""
        for name, value in (("keep", keep), ("pool", pool)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value} must be at least 1")
        resized, size, source = image if isinstance(image, Prepared) else self.prepare(image)
        height, width = size
        with torch.inference_mode():
            batch = make_batch([resized.to(self.device)], self.network.config.input)
            output = self.engine(batch.images)
            selection = self.network.select(output, batch, keep=keep)[0]
            features = None if pool is None else _pool(output, selection, pool, self.network.config)
        scale = torch.tensor([width / resized.shape[-1], height / resized.shape[-2]] * 2)  # back, once
        limits = torch.tensor([width, height] * 2)  # rounding must not carry a box over the border
        return Proposals(  # copies, made outside inference mode: its own tensors cannot be changed in place
            boxes=torch.minimum(selection.boxes.cpu() * scale, limits),
            logits=selection.logits.cpu().clone(),
            levels=selection.levels.cpu().clone(),
            image_size=size,
            image=source,
            features=None if features is None else features.cpu().clone(),
        )

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: torch.device | str = "auto") -> Proposer:
        """The same as `load`, under the name that the hub's users expect."""
        return load(source, device=device)

    def save_pretrained(
        self, folder: str | Path, *, name: str | None = None, recall: RecallReport | None = None
    ) -> None:
        """Write a checkpoint with a model card, which `load` takes and a hub shows.

        Args:
            folder: where; an earlier network's files there are replaced.
            name: what the card calls the network; by default the folder's name.
            recall: on images that it was not trained on, for the card.

        Raises:
            ObjectnessError: other files are in the folder.
        """
        folder = Path(folder)
        hub.check_folder(folder, (MODEL_FILE, CONFIG_FILE, hub.CARD_FILE))
        save_checkpoint(folder, self.network.state_dict(), self.network.config)
        card = hub.make_card(self.network.config, name or str(folder), recall)
        write_text(folder / hub.CARD_FILE, card)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        message: str = "Upload a region proposal network",
        recall: RecallReport | None = None,
    ) -> str:
        """Publish the network on the Hugging Face hub, with a model card; `load(name)` then fetches it.

        Args:
            name: "owner/name".
            private: whether others may not see it; the hub's default where not given.
            token: by default the one of `hf auth login`.
            message: of the commit.
            recall: on images that it was not trained on, for the card.

        Returns:
            The address of the commit.

        Raises:
            DownloadError: huggingface_hub is not installed, or the hub refuses.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, name=name, recall=recall)
            return hub.publish(Path(folder), name, private=private, token=token, message=message)


def load(
    source: str | Path = SHIPPED,
    *,
    device: torch.device | str = "auto",
    engine: EngineName = "torch",
    precision: Precision = "float32",
    calibration: Sequence[Path] = (),
    at_once: int = 1,
    nms_iou: float | None = None,
    across_levels: bool | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Proposer:
    """A proposer, ready to use.

    Args:
        source: nothing for the small network inside the package; a training run, a checkpoint folder or its
            `model.safetensors`; weights of torchvision, detectron2 or mmdetection, by file or published name
            ("torchvision/maskrcnn_resnet50_fpn"); or a network on the hub ("owner/name").
        device: where to compute; "auto" is the GPU where there is one.
        engine: the runtime: "torch", one of `objectness.runtimes` that is installed, or "auto", the fastest of these; a
            network is converted at first, which takes up to a minute, and kept in the user's cache.
        precision: "bfloat16" (engines torch and openvino) and "int8" (openvino) are faster and less exact.
        calibration: photos like those to come, for int8.
        at_once: images of a list that are computed side by side, each with its share of the cores.
        nms_iou: suppress regions beyond this IoU with a better one, in place of the configuration's
            `selection.nms_iou`. Less gives fewer proposals that differ more; see docs/differences.md.
        across_levels: whether regions of all levels suppress each other, in place of `selection.across_levels`.
        say: called with a sentence where something takes long.

    Raises:
        CheckpointError: nothing there, a damaged file, or weights of another network.
        DownloadError: it cannot be fetched.
        ConfigError: the device is not there, an engine that cannot take the network or the precision, or an `nms_iou`
            beyond [0, 1].
        ObjectnessError: the engine is not installed.
    """
    chosen = choose_device_of(engine, device)
    network, notes = open_network(source)
    given = {"nms_iou": nms_iou, "across_levels": across_levels}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = replace(network.config, selection=replace(network.config.selection, **changes))
    network.to(chosen)
    if (engine, precision) == ("torch", "float32"):
        proposer = Proposer(network, chosen, at_once=at_once)
    else:
        made = make_engine(network, engine, precision=precision, calibration=calibration, at_once=at_once, say=say)
        proposer = Proposer(network, chosen, made, at_once)
    proposer.notes = notes
    network.config = config  # only now: an engine that is kept in the cache does not depend on it
    return proposer


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


def _pool(output: Output, selection: Selection, size: int, config: Config) -> Tensor:
    if not output.features:
        raise ConfigError("this engine gives no features to pool; load the network without an engine")
    return pool_features(output.features, [selection.boxes], size, first_level=config.anchors.finest_level)


def _keep_for_drawing(image: ImageLike, pixels: Tensor) -> Path | Image.Image | np.ndarray:
    if isinstance(image, Tensor):
        return pixels.permute(1, 2, 0).cpu().numpy()
    return Path(image) if isinstance(image, str) else image

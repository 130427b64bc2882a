"""OpenVINO in int8: whole numbers in place of float32, with scales taken from photos like those to come.

What turns distributions into distances stays in float32: exp() of a logit has too wide a range for 256 steps, and the
few sums cost next to nothing. With all in int8, AR@100 of such a network fell from 0.399 to 0.044.

How much recall it costs only boxes can tell: `objectness evaluate`, with `--precision int8` and without, measures it.
"""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch

from ..config import InputOptions
from ..errors import ConfigError
from ..images.network_input import fit_size, make_batch, resize_image
from ..images.reading import read_image
from ..network import RegionProposalNetwork
from .maps import quiet_conversion
from .openvino import convert_to_openvino, open_core, save_model

ENOUGH_PHOTOS = 100  # with fewer, scales hang on what happens to be on them
MOST_PHOTOS = 300  # more change little and take long; NNCF's usual number
EXACT = r".*\.distances/.*"  # operations of `model.head.Distances`, by the names that a trace gives them


def digest_photos(photos: Sequence[Path]) -> str:
    """What tells a calibration set from every other: the contents of its photos, in whatever order."""
    digests = sorted(hashlib.sha256(photo.read_bytes()).hexdigest() for photo in photos[:MOST_PHOTOS])
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def write_int8(
    network: RegionProposalNetwork, photos: Sequence[Path], folder: Path, say: Callable[[str], None]
) -> None:
    """Write `network.xml` and `network.bin` with weights and maps in int8.

    Args:
        network: what to convert.
        photos: to calibrate on; the first 300 are taken.
        folder: where; it must be there.
        say: called with what the user should know.

    Raises:
        ConfigError: no photos, or a network that cannot be converted.
        ImageError: a photo cannot be read.
    """
    if not photos:
        raise ConfigError(
            "precision int8 takes its scales from photos like those to come; name a folder with a hundred or more"
        )
    photos = photos[:MOST_PHOTOS]
    if len(photos) < ENOUGH_PHOTOS:
        say(f"precision int8: calibrating on {len(photos)} photos; with {ENOUGH_PHOTOS} or more it is more exact")
    model = convert_to_openvino(network)
    say(f"converting the network to int8, once; {len(photos)} photos to look at")
    open_core()  # before the cores that NNCF opens and closes
    with _quiet_quantization():
        import nncf

        images = [str(photo) for photo in photos]
        dataset = nncf.Dataset(images, lambda photo: _prepare(Path(photo), network.config.input))
        exact = nncf.IgnoredScope(patterns=[EXACT], validate=False)  # most networks have no such operations
        model = nncf.quantize(model, dataset, subset_size=len(images), ignored_scope=exact)
    save_model(model, folder)


def _prepare(photo: Path, options: InputOptions) -> np.ndarray:
    """A photo as the network takes it, (1, 3, H, W) float32."""
    pixels = torch.from_numpy(read_image(photo)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    resized = resize_image(pixels, fit_size((pixels.shape[1], pixels.shape[2]), options), options.resize)
    images: np.ndarray = make_batch([resized], options).images.numpy()
    return images


@contextmanager
def _quiet_quantization() -> Iterator[None]:
    """Without NNCF's warnings, log lines and progress bars."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet_conversion(), redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)

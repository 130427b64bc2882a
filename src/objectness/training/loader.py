"""Training examples step by step, each a function of (seed, step) alone, so that a run can go on anywhere.

    ImageRecord -> decode -> augment -> canvas (uint8) -> one step's `Examples` -> (on the device) normalise

The order of an epoch comes from (seed, epoch), an image's augmentation from (seed, epoch, image): nothing has to be
remembered between steps, and it does not matter how many workers or processes share the work.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ..config import AugmentOptions, InputOptions
from ..data.decode import decode_record
from ..data.records import ImageRecord
from ..errors import ObjectnessError, TrainingError
from ..images.network_input import Size, fit_size, make_batch, resize_image
from ..structures import Batch, Targets
from .augment import augment


class Examples(NamedTuple):
    """One process's share of one step."""

    images: list[Tensor]  # (3, h, w) uint8 each, within the canvas
    targets: list[Targets]  # in the same frames
    canvas: Size
    seeds: list[int]  # for sampling anchors, one an image
    files: list[str]


class TrainingSet(TorchDataset[Examples]):
    """What every training step sees; item s is step s.

    Args:
        records: images and boxes of all data sets together; a set given twice counts twice.
        input_options: `short_side` and `long_side` give the canvas, lying or standing as the image does.
        augment_options: flip and scale.
        images_per_step: of all processes together.
        seed: of order and augmentation.
        rank, num_ranks: this process's share, every `num_ranks`-th image of a step.
        cache: images by index already decoded, to be used in place of files.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        input_options: InputOptions,
        augment_options: AugmentOptions,
        images_per_step: int,
        *,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        cache: Sequence[Tensor] | None = None,
    ):
        if images_per_step < num_ranks:
            raise TrainingError(f"{images_per_step} images a step cannot be shared by {num_ranks} processes; take more")
        if len(records) == 0:
            raise TrainingError("there is no image to train on")
        self.records = records
        self.input_options = input_options
        self.augment_options = augment_options
        self.images_per_step = images_per_step
        self.seed = seed
        self.rank, self.num_ranks = rank, num_ranks
        self.cache = cache
        self._lying = np.array([record.width >= record.height for record in records])
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image is seen once."""
        return -(-len(self.records) // self.images_per_step)

    def __getitem__(self, step: int) -> Examples:
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self.plan_epoch(epoch))
        indices = self._epoch[1][place]
        lying = self._lying[indices].mean() >= 0.5
        canvas = self._make_canvas(bool(lying))
        return self._collect(indices[self.rank :: self.num_ranks], epoch, canvas)

    def plan_epoch(self, epoch: int) -> list[list[int]]:
        """Image indices of every step of an epoch.

        Lying images go together and standing ones together, so that little of the canvas stays empty; the last of
        each fill up one mixed step, and a short last step borrows from the first.
        """
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.records))
        count = self.images_per_step
        steps, rest = [], []
        for group in (order[self._lying[order]], order[~self._lying[order]]):
            whole = len(group) // count * count
            steps += group[:whole].reshape(-1, count).tolist()
            rest += group[whole:].tolist()
        rest += order.tolist() * count  # what an incomplete last step borrows
        missing = self.steps_per_epoch - len(steps)
        steps += [rest[i * count : (i + 1) * count] for i in range(missing)]
        return [steps[i] for i in rng.permutation(len(steps))]

    def _make_canvas(self, lying: bool) -> Size:
        short, long = self.input_options.short_side, self.input_options.long_side
        return (short, long) if lying else (long, short)

    def _collect(self, indices: Sequence[int], epoch: int, canvas: Size) -> Examples:
        examples = Examples([], [], canvas, [], [])
        for index in indices:
            rng = np.random.default_rng([self.seed, epoch, index])
            record = self.records[index]
            image = decode_record(record) if self.cache is None else self.cache[index]
            targets = make_targets(record, (image.shape[-2], image.shape[-1]), image.device)
            image, targets = augment(image, targets, canvas, self.augment_options, rng)
            examples.images.append(image)
            examples.targets.append(targets)
            examples.seeds.append(int(rng.integers(2**62)))
            examples.files.append(record.file)
        return examples


def make_targets(record: ImageRecord, size: Size, device: torch.device | str = "cpu") -> Targets:
    """A record's boxes, in the frame of its image resized to `size` (height, width)."""
    scale = np.array([size[1] / record.width, size[0] / record.height] * 2)
    boxes = torch.from_numpy((record.boxes * scale).astype(np.float32))
    ignore = torch.from_numpy(record.ignore)
    return Targets(boxes[~ignore].to(device), boxes[ignore].to(device))


def load_cache(
    records: Sequence[ImageRecord], options: InputOptions, scale: float, device: torch.device
) -> list[Tensor]:
    """Every image decoded once and kept on `device` as uint8, no larger than augmentation up to `scale` needs it."""
    cache = []
    for record in records:
        image = decode_record(record)
        size = (record.height, record.width)
        needed = fit_size(size, options)
        if needed[0] * scale < size[0]:
            image = resize_image(image, (round(needed[0] * scale), round(needed[1] * scale)))
        cache.append(image.contiguous().to(device))
    return cache


def iterate_steps(training_set: TrainingSet, first: int, last: int, num_workers: int) -> Iterator[Examples]:
    """Steps first..last - 1 in order, decoded ahead by `num_workers` processes (0: here, when asked for)."""
    loader = DataLoader(
        _Guarded(training_set),
        batch_size=None,
        sampler=range(first, last),
        num_workers=min(num_workers, os.cpu_count() or 1),
        collate_fn=_keep,
        worker_init_fn=_leave_stopping_to_the_parent,
    )
    for examples in loader:
        if isinstance(examples, ObjectnessError):
            raise examples
        yield examples


class _Guarded(TorchDataset["Examples | ObjectnessError"]):
    """A user's error travels from a worker as a value, since raised there it would arrive inside a traceback."""

    def __init__(self, training_set: TrainingSet):
        self.training_set = training_set

    def __getitem__(self, step: int) -> Examples | ObjectnessError:
        try:
            return self.training_set[step]
        except ObjectnessError as error:
            return error


def _leave_stopping_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process finishes its step and ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _keep(item: Any) -> Any:
    """No collation: an item is a whole step."""
    return item


def move_examples(examples: Examples, options: InputOptions, device: torch.device) -> tuple[Batch, list[Targets]]:
    """One step's examples on the device, normalised and padded to the canvas."""
    images = [image.to(device, non_blocking=True) for image in examples.images]
    targets = [Targets(*(boxes.to(device, non_blocking=True) for boxes in each)) for each in examples.targets]
    return make_batch(images, options, pad_to=examples.canvas), targets

"""The assembly, and the only file that knows all parts: backbone, pyramid, head; anchors, labels, losses, selection."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .config import NUM_LEVELS, Config
from .geometry.anchors import make_anchors, make_shapes
from .geometry.assignment import assign_aligned
from .geometry.boxes import BOX_CODERS
from .geometry.losses import LossSums, compute_margins, sum_aligned_losses, sum_losses
from .geometry.matching import match_grid, sample_anchors
from .geometry.selection import select_proposals
from .model.backbone import FOLDABLE, Backbone, make_backbone
from .model.efficientnet import EfficientNetLite
from .model.head import Distances, Head, LevelHeads
from .model.norm import fold_norms, make_norm
from .model.pyramid import Pyramid
from .structures import FIRST_LEVEL, AnchorGrid, Batch, Output, Selection, Targets, flatten_maps

FOCAL_INITIAL_LOGIT = -4.0  # nearly nothing is an object at first: RetinaNet (arXiv 1708.02002), section 4.1


class RegionProposalNetwork(nn.Module):
    """A feature pyramid and a region proposal head on a backbone.

    Args:
        config: what it is made of; ResNet-101 by default.
        backbone: any other backbone, in place of the one that the configuration names.

    Raises:
        ConfigError: an unknown backbone.
    """

    def __init__(self, config: Config | None = None, backbone: Backbone | None = None):
        super().__init__()
        self.config = config = config or Config()
        self.backbone = backbone or make_backbone(
            config.backbone,
            config.batch_norm,
            config.frozen_stages,
            norm_eps=config.norm_eps,
            stride_in_1x1=config.stride_in_1x1,
        )
        norm = None if config.pyramid_norm == "none" else make_norm(config.batch_norm, config.norm_eps)
        stages = self.backbone.count_channels()[config.anchors.finest_level - FIRST_LEVEL :]
        self.pyramid = Pyramid(
            stages,
            config.pyramid_channels,
            config.top_down,
            norm,
            bottom_up=config.bottom_up,
            activation=config.pyramid_activation,
            separable_levels=config.separable_levels,
        )
        self.head = make_head(config)

    def forward(self, images: Tensor) -> Output:
        """Predict, in training and in inference alike.

        Args:
            images: (N, 3, H, W) float32, normalised and padded (`network_input.make_batch`).

        Returns:
            Features, logits and deltas of every level.
        """
        stages = list(self.backbone(images))[-len(self.pyramid.laterals) :]
        features = self.pyramid(stages, consume=True)
        logits, deltas = self.head(features)
        return Output(features, logits, deltas)

    def make_anchors(self, output: Output, images: Tensor) -> AnchorGrid:
        """The anchors that belong to the predictions for a batch of `images`."""
        map_sizes = [(level.shape[-2], level.shape[-1]) for level in output.logits]
        height, width = images.shape[-2:]
        return make_anchors(self.config.anchors, map_sizes, (height, width), images.device)

    def optimized(self) -> RegionProposalNetwork:
        """A copy for inference alone, which says the same to rounding, sooner.

        Batch norms are folded into the convolutions before them, each pair of logits into one (the copy's output has
        A logits a cell instead of 2 A), and maps are laid out with their channels last, as the CPU's convolutions and
        a GPU's tensor cores want them. A backbone that is not ours keeps its norms. It takes
        images that are padded as the configuration says, as `make_batch` gives them.
        """
        network = copy.deepcopy(self).eval().requires_grad_(False)
        if isinstance(network.backbone.body, FOLDABLE):
            fold_norms(network.backbone.body)
        if isinstance(network.backbone.body, EfficientNetLite) and self.config.input.pad_multiple % 32 == 0:
            network.backbone.body.absorb_padding()
        network.pyramid.fold_norms()
        network.head.fold_pairs()
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def propose(self, batch: Batch, *, keep: int | None = None) -> list[Selection]:
        """Proposals of every image of a batch, best first, in the input frame; `keep` as in `select_proposals`."""
        return self.select(self(batch.images), batch, keep=keep)

    def select(self, output: Output, batch: Batch, *, keep: int | None = None) -> list[Selection]:
        """The proposals in what the network, or an engine in its place, said of a batch; see `propose`."""
        grid = self.make_anchors(output, batch.images)
        return select_proposals(
            output, grid, batch.sizes, self.config.selection, keep=keep, box_coding=self.config.box_coding
        )

    def sum_losses(self, output: Output, batch: Batch, targets: Sequence[Targets], seeds: Sequence[int]) -> LossSums:
        """Label the anchors and add up the losses of the predictions for a batch.

        Args:
            output: what `self(batch.images)` said.
            batch: N images.
            targets: N, in the input frame.
            seeds: N; which anchors are sampled depends on these only, not on the other images of the batch.
        """
        config, grid = self.config, self.make_anchors(output, batch.images)
        anchors = grid.join()
        losses: dict[str, Any] = {
            "objectness_loss": config.objectness_loss,
            "objectness_target": config.objectness_target,
            "box_loss": config.box_loss,
            "box_coding": config.box_coding,
        }
        if config.labels.assignment == "aligned":
            logits, boxes = self._read(output, anchors)
            assignments = [
                assign_aligned(grid, *each, config.labels) for each in zip(logits, boxes, targets, strict=True)
            ]
            return sum_aligned_losses(output, anchors, assignments, targets, **losses)
        generator = torch.Generator(anchors.device)
        matches = [match_grid(grid, each, config.labels) for each in targets]
        samples = [
            sample_anchors(match.labels, config.labels, generator.manual_seed(seed))
            for match, seed in zip(matches, seeds, strict=True)
        ]
        return sum_losses(output, anchors, matches, samples, targets, **losses)

    @torch.no_grad()
    def _read(self, output: Output, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and boxes (N, K, 4) as predicted, float32, without gradients."""
        decode = BOX_CODERS[self.config.box_coding].decode
        logits = compute_margins(flatten_maps(output.logits, 2).float())
        return logits, decode(flatten_maps(output.deltas, 4), anchors, self.config.selection.clamp)


def make_head(config: Config) -> Head | LevelHeads:
    """The head that a configuration describes."""
    num_anchors = len(config.anchors.ratios)
    distances = None
    if config.box_bins:
        side = config.anchors.sizes[0] / config.anchors.strides[0]
        left, top, right, bottom = make_shapes(side, config.anchors.ratios).unbind(1)  # in strides
        distances = Distances(config.box_bins, torch.stack([right - left, bottom - top], dim=1))
    heads = [
        Head(
            config.pyramid_channels,
            num_anchors,
            config.head_depth,
            class_order=config.class_order,
            delta_order=config.delta_order,
            convolution=config.head_convolution,
            initial_logit=FOCAL_INITIAL_LOGIT if config.objectness_loss == "focal" else 0.0,
            distances=distances,
        )
        for _ in range(1 if config.head_shared else NUM_LEVELS)
    ]
    return heads[0] if config.head_shared else LevelHeads(heads)

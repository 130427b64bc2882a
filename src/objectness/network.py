"""The assembly, and the only file that knows all parts: backbone, pyramid, head; anchors, labels, losses, selection."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .config import Config
from .geometry.anchors import make_anchors
from .geometry.losses import LossSums, sum_losses
from .geometry.matching import match_grid, sample_anchors
from .geometry.selection import select_proposals
from .model.backbone import FOLDABLE, Backbone, make_backbone
from .model.efficientnet import EfficientNetLite
from .model.head import Head
from .model.norm import fold_norms, make_norm
from .model.pyramid import Pyramid
from .structures import AnchorGrid, Batch, Output, Selection, Targets


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
        self.pyramid = Pyramid(self.backbone.count_channels(), config.pyramid_channels, config.top_down, norm)
        self.head = Head(
            config.pyramid_channels,
            len(config.anchors.ratios),
            config.head_depth,
            class_order=config.class_order,
            delta_order=config.delta_order,
        )

    def forward(self, images: Tensor) -> Output:
        """Predict, in training and in inference alike.

        Args:
            images: (N, 3, H, W) float32, normalised and padded (`network_input.make_batch`).

        Returns:
            Features, logits and deltas of every level.
        """
        features = self.pyramid(list(self.backbone(images)), consume=True)
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
        """Match, sample and add up the losses of the predictions for a batch.

        Args:
            output: what `self(batch.images)` said.
            batch: N images.
            targets: N, in the input frame.
            seeds: N; which anchors are sampled depends on these alone, not on the other images of the batch.
        """
        grid = self.make_anchors(output, batch.images)
        anchors = grid.join()
        generator = torch.Generator(anchors.device)
        matches = [match_grid(grid, each, self.config.labels) for each in targets]
        samples = [
            sample_anchors(match.labels, self.config.labels, generator.manual_seed(seed))
            for match, seed in zip(matches, seeds, strict=True)
        ]
        return sum_losses(
            output,
            anchors,
            matches,
            samples,
            targets,
            objectness_loss=self.config.objectness_loss,
            box_coding=self.config.box_coding,
        )

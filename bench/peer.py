"""torchvision's own region proposal network, made like one of ours, with ours' weights: the peer of the benchmarks.

All of it is torchvision's: ResNet, pyramid, head, anchors, matcher, sampler, losses and selection. Three things differ
from ours by its design, and are left as its users have them: anchors are rounded to whole pixels and their strides
taken from the maps' sizes; objectness is one logit, not a pair; and training selects proposals that nobody uses.
Only the preparation of images is shared: both see the same tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork as TorchvisionRPN
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from objectness.config import Config, InputOptions
from objectness.data.decode import decode_record
from objectness.data.records import ImageRecord
from objectness.evaluation.recall import measure_recall
from objectness.evaluation.report import RecallReport
from objectness.geometry.selection import fold_logits
from objectness.images.network_input import fit_size, make_batch, resize_image
from objectness.model.head import Head
from objectness.network import RegionProposalNetwork
from objectness.structures import Batch, Targets, flatten_map

NAME = f"torchvision {torchvision.__version__}"
STAGES = ("layer1", "layer2", "layer3", "layer4")
KEPT_IN_TRAINING = 2000  # before and after suppression: the default of torchvision's Faster R-CNN


class Peer(nn.Module):
    """torchvision's backbone with a pyramid, and its RPN."""

    def __init__(self, backbone: BackboneWithFPN, rpn: TorchvisionRPN):
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn

    def forward(self, batch: Batch, targets: Sequence[Targets] | None = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Boxes of every image, best first, in the input frame; and two losses, in training alone."""
        images = ImageList(batch.images, [(int(height), int(width)) for height, width in batch.sizes])
        wanted = None if targets is None else [{"boxes": each.boxes} for each in targets]
        boxes, losses = self.rpn(images, self.backbone(batch.images), wanted)
        return boxes, losses


def build_peer(config: Config) -> Peer:
    """torchvision's network of this configuration, initialised at random; its options beyond torchvision's go unused.

    Args:
        config: a ResNet or ResNeXt with frozen batch norm.
    """
    body = torchvision.models.get_model(config.backbone, weights=None, norm_layer=FrozenBatchNorm2d)
    for part in ("conv1", *STAGES)[: config.frozen_stages]:
        body.get_submodule(part).requires_grad_(False)
    channels = [body.inplanes // 2**i for i in (3, 2, 1, 0)]
    stages = {stage: str(i) for i, stage in enumerate(STAGES)}
    return Peer(BackboneWithFPN(body, stages, channels, config.pyramid_channels), build_rpn(config))


def build_rpn(config: Config) -> TorchvisionRPN:
    anchors, labels, selection = config.anchors, config.labels, config.selection
    sizes = tuple((int(size),) for size in anchors.sizes)
    return TorchvisionRPN(
        AnchorGenerator(sizes, (anchors.ratios,) * len(sizes)),
        RPNHead(config.pyramid_channels, len(anchors.ratios)),
        labels.positive_iou,
        labels.negative_iou,
        labels.anchors_per_image,
        labels.positive_share,
        pre_nms_top_n={"training": KEPT_IN_TRAINING, "testing": selection.per_level},
        post_nms_top_n={"training": KEPT_IN_TRAINING, "testing": selection.keep},
        nms_thresh=selection.nms_iou,
    )


def copy_weights(network: RegionProposalNetwork, peer: Peer) -> None:
    """Give the peer our weights; each pair of logits folds into one, object minus no object."""
    peer.backbone.body.load_state_dict(network.backbone.body.state_dict())
    fpn, head = peer.backbone.fpn, peer.rpn.head
    assert isinstance(network.head, Head)  # shared by all levels, as the peer's
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (network.head.convs[0], head.conv[0][0]),
        (network.head.reg, head.bbox_pred),
        *((ours, theirs[0]) for ours, theirs in zip(network.pyramid.laterals, fpn.inner_blocks, strict=True)),
        *((ours, theirs[0]) for ours, theirs in zip(network.pyramid.outputs, fpn.layer_blocks, strict=True)),
    ]
    for ours, theirs in pairs:
        theirs.load_state_dict(ours.state_dict())
    logits = network.head.cls.state_dict()  # (2 A, C, 1, 1) and (2 A,): object, no object, object, ...
    head.cls_logits.load_state_dict({name: value[0::2] - value[1::2] for name, value in logits.items()})


@torch.inference_mode()
def compare_maps(network: RegionProposalNetwork, peer: Peer, images: Tensor) -> float:
    """The largest difference between the two networks' logits and deltas, relative to the largest value."""
    output = network(images)
    logits, deltas = peer.rpn.head(list(peer.backbone(images).values()))
    ours = [fold_logits(flatten_map(level, 2)) for level in output.logits]  # (N, K_l)
    theirs = [flatten_map(level, 1)[..., 0] for level in logits]
    pairs = zip([*ours, *output.deltas], [*theirs, *deltas], strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@torch.inference_mode()
def propose(peer: Peer, image: Tensor, options: InputOptions) -> Tensor:
    """Propose on one image, through the same resizing as `objectness.Proposer`.

    Args:
        peer: in evaluation mode.
        image: (3, H, W) uint8 RGB.
        options: how the image becomes the network's input.

    Returns:
        (n, 4) float32 xyxy, px in the original image, best first; torchvision keeps its scores to itself.
    """
    size = (image.shape[-2], image.shape[-1])
    resized = resize_image(image, fit_size(size, options)).to(next(peer.parameters()).device)
    boxes, _ = peer(make_batch([resized], options))
    scale = torch.tensor([size[1] / resized.shape[-1], size[0] / resized.shape[-2]] * 2)
    proposals: Tensor = boxes[0].cpu() * scale
    return proposals


def measure_peer(peer: Peer, records: Sequence[ImageRecord], options: InputOptions) -> RecallReport:
    """Recall as `objectness.measure_network` has it; the proposals' ranks stand for their scores."""
    peer.eval()
    boxes = [propose(peer, decode_record(record), options).numpy() for record in records]
    return measure_recall(records, [(each, -np.arange(len(each))) for each in boxes])

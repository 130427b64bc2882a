"""The first stage of torchvision's Faster R-CNN and Mask R-CNN: what its models call `backbone` and `rpn`.

    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    replace_rpn(model, network)  # model now trains and predicts on the network's features and proposals

Only `replace_rpn` needs torchvision itself: the two modules take and return its forms, which are plain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .errors import ConfigError, ObjectnessError, TrainingError
from .network import RegionProposalNetwork
from .structures import Batch, Output, Targets

if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList

POOLED_NAMES = ("pool", "pool2")  # of the levels beyond C5's, as torchvision's own pyramid calls the first of them

Model = TypeVar("Model", bound=nn.Module)


class PyramidBackbone(nn.Module):
    """The network's backbone and pyramid; they share its weights.

    Attributes:
        out_channels: of every map, which torchvision makes its heads from.
    """

    def __init__(self, network: RegionProposalNetwork):
        super().__init__()
        self.backbone = network.backbone
        self.pyramid = network.pyramid
        self.out_channels = network.config.pyramid_channels
        self.order = network.config.input.order
        self.num_stages = len(network.pyramid.laterals)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) RGB, normalised and padded -> every level by torchvision's name, (N, C, H_l, W_l) each.

        P2..P6 are 0, 1, 2, 3 and pool; P3..P7 are 0, 1, 2, pool and pool2. The heads of torchvision's models pool from
        those with numbers.
        """
        stages = list(self.backbone(images if self.order == "RGB" else images.flip(1)))[-self.num_stages :]
        levels = self.pyramid(stages, consume=True)
        names = [*map(str, range(self.num_stages)), *POOLED_NAMES]
        return OrderedDict(zip(names, levels, strict=False))


class RPN(nn.Module):
    """The network's head, its losses and its selection; it shares the head's weights."""

    def __init__(self, network: RegionProposalNetwork):
        super().__init__()
        self.head = network.head
        self._network = (network,)  # in a tuple: as a submodule it would register every weight a second time

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals of every image and, in training, the losses.

        Which anchors a step samples follows from torch's default generator on the CPU, as `torch.manual_seed` sets it.

        Args:
            images: N, normalised and padded, with their sizes within the padding.
            features: the levels of the pyramid of them.
            targets: N with `boxes` (G, 4) xyxy, px in the input frame; needed in training.

        Returns:
            N of (n, 4) float32 boxes, best first, px in the input frame, without gradients: `selection.keep_training`
            at most in training, `selection.keep` in evaluation; and in training `loss_objectness` and
            `loss_rpn_box_reg`, both divided by their normaliser (the number of sampled anchors).

        Raises:
            TrainingError: training without targets.
        """
        (network,) = self._network
        levels = tuple(features.values())
        logits, deltas = self.head(levels)
        output = Output(levels, logits, deltas)
        sizes = torch.tensor(images.image_sizes, dtype=torch.float32, device=logits[0].device)
        batch = Batch(images.tensors, sizes)
        keep = network.config.selection.keep_training if self.training else None
        fixed = Output(*(tuple(level.detach() for level in maps) for maps in output))
        boxes = [selection.boxes for selection in network.select(fixed, batch, keep=keep)]
        if not self.training:
            return boxes, {}
        if targets is None:
            raise TrainingError("training needs targets: call the model with images and targets, or model.eval() first")
        nothing_ignored = sizes.new_zeros(0, 4)  # torchvision ignores nothing
        seeds = torch.randint(2**62, (len(boxes),)).tolist()
        truth = [Targets(each["boxes"].float(), nothing_ignored) for each in targets]
        objectness, box = network.sum_losses(output, batch, truth, seeds).divide()
        return boxes, {"loss_objectness": objectness, "loss_rpn_box_reg": box}


class FirstStage(NamedTuple):
    """What torchvision's models have under these names."""

    backbone: PyramidBackbone
    rpn: RPN


def as_rpn(network: RegionProposalNetwork) -> FirstStage:
    """A network as the two modules that torchvision's `GeneralizedRCNN` is made of, besides heads and transform.

    They share the network's weights: training a model with them trains the network. No weight is in both.
    """
    return FirstStage(
        PyramidBackbone(network).train(network.training),
        RPN(network).train(network.training),
    )


def replace_rpn(model: Model, network: RegionProposalNetwork) -> Model:
    """Put a network in the place of a model's backbone and RPN, and set the model's transform to the network's input.

    The model's mode, training or evaluation, is then that of the network too.

    Args:
        model: a torchvision Faster R-CNN, Mask R-CNN or Keypoint R-CNN; it is changed.
        network: it is shared, not copied; on the model's device.

    Returns:
        The model.

    Raises:
        ObjectnessError: torchvision is not there, or not for this torch.
        ConfigError: the model is of another kind, or its heads are for features of other channels.
    """
    try:
        from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
        from torchvision.ops import MultiScaleRoIAlign
    except (ImportError, OSError, RuntimeError) as error:  # a build for another torch fails with a RuntimeError
        raise ObjectnessError(
            f"torchvision does not import beside torch {torch.__version__}; install the build that belongs to it"
        ) from error
    if not isinstance(model, GeneralizedRCNN):
        raise ConfigError(
            f"{type(model).__name__} has no RPN to replace; pass a torchvision FasterRCNN, MaskRCNN or KeypointRCNN"
        )
    backbone, rpn = as_rpn(network)
    if model.backbone.out_channels != backbone.out_channels:
        raise ConfigError(
            f"the heads of this {type(model).__name__} take {model.backbone.out_channels} channels, the network's "
            f"pyramid has {backbone.out_channels}; make the model from as_rpn(network).backbone"
        )
    model.backbone, model.rpn = backbone, rpn
    model.train(model.training)
    for pool in model.roi_heads.modules():
        if isinstance(pool, MultiScaleRoIAlign):
            pool.scales = pool.map_levels = None  # it keeps those of the first features that it sees
    options, transform = network.config.input, model.transform
    transform.min_size, transform.max_size, transform.fixed_size = (options.short_side,), options.long_side, None
    transform.image_mean, transform.image_std = list(options.mean), list(options.std)
    transform.size_divisible = options.pad_multiple
    return model

"""mmdetection's weights, converted, propose what mmdetection proposes: its algorithm, worked out again, is the judge.

Checkpoints are written as versions 2 and 3 write them, with the text of their configuration. Images that need no
resizing are compared to the last digits; where they are resized, OpenCV's weights of 11 bits and torch's of 24 differ
by one in a tenth of the values, and boxes by parts of a pixel.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mmdetection_reference as reference
import numpy as np
import pytest
import torch
from mmdetection_reference import Proposed, Setting
from PIL import Image
from torch import Tensor

from objectness.config import InputOptions
from objectness.images.network_input import fit_size, make_batch, resize_image
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.weights.convert.conversion import convert_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torchvision")]  # about 20 seconds

SHORT, LONG = 96, 160
SIZES = ((96, 160), (160, 96), (96, 96), (64, 160), (96, 131))  # which these limits leave as they are
SCALE = {"scale": (LONG, SHORT)}
CAFFE = {"style": "caffe", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0), "bgr_to_rgb": False}
CAFFE_RESNEXT = {"mean": (103.53, 116.28, 123.675), "std": (57.375, 57.12, 58.395), "bgr_to_rgb": False}


class Variant(NamedTuple):
    """A network, and how its file is written."""

    setting: Setting
    folded: bool = False
    version: str = "3"  # of mmdetection; "" writes no configuration
    head: str = "rpn_head"
    has_second_stage: bool = False


VARIANTS = {
    "RPN, R50, version 3": Variant(Setting(**SCALE, nms_pre=2000), head="bbox_head"),
    "Faster R-CNN, R50 of Caffe, version 3": Variant(
        Setting(**SCALE, **CAFFE, rescale_first=False), folded=True, has_second_stage=True
    ),
    "Mask R-CNN, ResNeXt of Caffe2, version 2": Variant(
        Setting(**SCALE, **CAFFE_RESNEXT, groups=32, base_width=4, rescale_first=False),
        folded=True,
        version="2.28.2",
        has_second_stage=True,
    ),
    "RPN with softmax and scaled targets, version 2.4": Variant(
        Setting(
            **SCALE,
            use_sigmoid=False,
            object_index=1,
            target_stds=(0.1, 0.1, 0.2, 0.2),
            target_means=(0.01, 0.0, 0.02, -0.1),
            anchor_scale=4,
            ratios=(0.5, 1.0, 2.0, 3.0),
            rescale_first=False,
        ),
        version="2.4.0",
    ),
    "batch norm in the pyramid, two convolutions, no text": Variant(
        Setting(**SCALE, neck_norm=True, num_convs=2, rescale_first=False), version="", has_second_stage=True
    ),
}


class Case(NamedTuple):
    """One file, as mmdetection and as we understand it."""

    weights: reference.Weights
    setting: Setting
    network: RegionProposalNetwork


def write_config(variant: Variant) -> str:
    """The text that mmdetection stores, its values only."""
    setting = variant.setting
    norm = "dict(requires_grad=True, type='BN')"
    is_third = variant.version == "3"
    steps = [f"dict(keep_ratio=True, scale={setting.scale}, type='Resize')"]
    preprocessor = (
        f"data_preprocessor=dict(bgr_to_rgb={setting.bgr_to_rgb}, mean={list(setting.mean)}, pad_mask=True,"
        f" pad_size_divisor=32, std={list(setting.std)}, type='DetDataPreprocessor'),"
    )
    if not is_third:
        preprocessor = ""
        normalize = f"mean={list(setting.mean)}, std={list(setting.std)}, to_rgb={setting.bgr_to_rgb}"
        inner = (
            "dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'), "
            f"dict(type='Normalize', {normalize}), dict(type='Pad', size_divisor=32), "
            "dict(type='ImageToTensor', keys=['img']), dict(type='Collect', keys=['img'])"
        )
        steps = [f"dict(type='MultiScaleFlipAug', img_scale={setting.scale}, flip=False, transforms=[{inner}])"]
    pipeline = f"[dict(type='LoadImageFromFile'), {', '.join(steps)}]"
    data = f"test_dataloader = dict(dataset=dict(pipeline={pipeline}))"
    if not is_third:
        data = f"data = dict(test=dict(pipeline={pipeline}))"
    backbone = "ResNet" if setting.groups == 1 else "ResNeXt"
    return f"""
model = dict(
    type={"'RPN'" if not variant.has_second_stage else "'FasterRCNN'"},
    {preprocessor}
    backbone=dict(depth=50, frozen_stages=1, norm_cfg={norm}, norm_eval=True, num_stages=4, groups={setting.groups},
        base_width={setting.base_width}, out_indices=(0, 1, 2, 3), style='{setting.style}', type='{backbone}'),
    neck=dict(in_channels=[256, 512, 1024, 2048], num_outs=5, out_channels=64, type='FPN'),
    rpn_head=dict(
        anchor_generator=dict(ratios={list(setting.ratios)}, scales=[{setting.anchor_scale}],
            strides=[4, 8, 16, 32, 64], type='AnchorGenerator'),
        bbox_coder=dict(target_means={list(setting.target_means)}, target_stds={list(setting.target_stds)},
            type='DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid={setting.use_sigmoid}), type='RPNHead'),
    test_cfg=dict(rpn=dict(max_per_img={setting.max_per_img}, min_bbox_size=0,
        nms=dict(iou_threshold=0.7, type='nms'), nms_pre={setting.nms_pre})))
{data}
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Maps this small are done before a second thread is awake."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(photos: Sequence[Path]) -> list[np.ndarray]:
    """One of each of `SIZES`."""
    opened = [Image.open(path).convert("RGB") for path in (*photos, photos[0])]
    return [np.array(photo.resize(size[::-1])) for photo, size in zip(opened, SIZES, strict=True)]


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, images: list[np.ndarray], tmp_path_factory: Any) -> Case:
    variant = VARIANTS[request.param]
    weights = reference.make_weights(variant.setting, folded=variant.folded, head=variant.head, channels=64)
    reference.enliven(weights, variant.setting, images[0], variant.head)
    path = tmp_path_factory.mktemp("weights") / "epoch_12.pth"
    meta: dict[str, Any] = {"epoch": 12}
    if variant.version == "3":
        meta |= {"cfg": write_config(variant), "mmengine_version": "0.10.4"}
    elif variant.version:
        meta |= {"config": write_config(variant), "mmdet_version": f"{variant.version}+abcdef0"}
    second_stage = {"roi_head.bbox_head.fc_cls.weight": torch.zeros(81, 4)} if variant.has_second_stage else {}
    torch.save({"meta": meta, "state_dict": {**weights, **second_stage}, "optimizer": {"state": {}}}, path)
    changes = {} if variant.version else {"input.short_side": SHORT, "input.long_side": LONG}
    network = convert_weights(path, changes).network
    path.unlink()
    return Case(weights, variant.setting, network)


def find_missing(proposed: tuple[Tensor, Tensor], theirs: Proposed, px: float = 1e-2, score: float = 1e-5) -> float:
    """The share of their proposals that ours do not have."""
    boxes, scores = proposed
    near = (boxes[:, None] - theirs.boxes[None]).abs().amax(dim=2) < px  # (ours, theirs)
    equal = (scores[:, None] - theirs.scores[None]).abs() < score
    return 1 - (near & equal).any(dim=0).float().mean().item()


def test_inputs(case: Case, images: list[np.ndarray]) -> None:
    batch, sizes = reference.preprocess(images, case.setting)
    ours = make_batch([torch.from_numpy(image).permute(2, 0, 1) for image in images], case.network.config.input)
    torch.testing.assert_close(ours.images, batch, rtol=1e-6, atol=1e-4)
    assert ours.sizes.tolist() == [list(size) for size in sizes]


@torch.no_grad()
def test_maps(case: Case, images: list[np.ndarray]) -> None:
    batch, _ = reference.preprocess(images[:2], case.setting)
    ours, theirs = case.network(batch), reference.predict(case.weights, case.setting, batch)
    stds, means = (torch.tensor(v) for v in (case.setting.target_stds, case.setting.target_means))
    num_anchors = len(case.setting.ratios)
    for mine, other in zip(ours.logits, theirs.scores, strict=True):
        if not case.setting.use_sigmoid:
            pairs = other.unflatten(1, (num_anchors, 2))
            other = pairs[:, :, case.setting.object_index] - pairs[:, :, 1 - case.setting.object_index]
        torch.testing.assert_close(mine[:, 0::2] - mine[:, 1::2], other, rtol=1e-4, atol=1e-4)
    for mine, other in zip(ours.deltas, theirs.deltas, strict=True):
        scaled = other * stds.repeat(num_anchors)[:, None, None] + means.repeat(num_anchors)[:, None, None]
        torch.testing.assert_close(mine, scaled, rtol=1e-4, atol=1e-4)
    assert 0.5 < theirs.scores[0].std() < 5
    assert 0.05 < ours.deltas[0].std() < 1


@torch.no_grad()
def test_anchors(case: Case, images: list[np.ndarray]) -> None:
    batch, _ = reference.preprocess(images[:1], case.setting)
    output = case.network(batch)
    grid = case.network.make_anchors(output, batch)
    for mine, other in zip(grid.levels, reference.make_anchors(case.setting, grid.map_sizes), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def test_proposals(case: Case, images: list[np.ndarray]) -> None:
    """To 0.01 px and 0.00001 of the score; an IoU that rounds to the other side of 0.7 may exchange a few."""
    proposer = Proposer(case.network)
    for image in images:
        theirs = reference.propose(case.weights, case.setting, [image])[0]
        ours = proposer.propose(image)
        assert abs(len(ours) - len(theirs.boxes)) <= 3
        assert len(theirs.boxes) > 200
        assert find_missing((ours.boxes, ours.scores), theirs) < 0.01


@torch.no_grad()
def test_batches_of_unequal_images(case: Case, images: list[np.ndarray]) -> None:
    """None of which needs resizing, so that the frames are the same."""
    theirs = reference.propose(case.weights, case.setting, images[1:4])
    batch = make_batch([torch.from_numpy(image).permute(2, 0, 1) for image in images[1:4]], case.network.config.input)
    for ours, other in zip(case.network.propose(batch), theirs, strict=True):
        assert find_missing((ours.boxes, ours.logits.sigmoid()), other) < 0.01


def test_photos_that_they_resize(case: Case, photos: Sequence[Path]) -> None:
    proposer = Proposer(case.network)
    for path in photos[:2]:
        image = np.array(Image.open(path).convert("RGB"))
        ours = proposer.propose(image)
        theirs = reference.propose(case.weights, case.setting, [image])[0]
        assert find_missing((ours.boxes, ours.scores), theirs) < 0.01


def test_resizing(photos: Sequence[Path]) -> None:
    for path in photos:
        pixels = np.array(Image.open(path).convert("RGB"))
        for size in ((200, 333), (640, 800)):
            theirs = torch.from_numpy(reference.resize_as_opencv(pixels, *size)).int()
            ours = resize_image(torch.from_numpy(pixels).permute(2, 0, 1), size, "opencv")
            assert torch.equal(ours.permute(1, 2, 0).int(), theirs)


def test_sizes() -> None:
    options = InputOptions()
    for height in range(1, 1500, 7):
        for width in range(1, 1500, 11):
            theirs = reference.find_size(height, width, (1333, 800))
            assert fit_size((height, width), options) == (max(theirs[0], 1), max(theirs[1], 1))

import math

import pytest
import torch
from torch import nn

from objectness.model.backbone import make_backbone
from objectness.model.efficientnet import LITE0, EfficientNetLite, StageDesign, pad_same
from objectness.model.norm import make_norm


def make_empty() -> EfficientNetLite:
    """One without weights: shapes alone."""
    with torch.device("meta"):
        return EfficientNetLite(make_norm("trained"))


def test_number_of_parameters() -> None:
    # Source: timm's efficientnet_lite0, 4,652,008, less what follows C5: a 1x1 convolution 320 -> 1280, its batch
    # norm, and a classifier of 1,000
    beyond = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert sum(p.numel() for p in make_empty().parameters()) == 4_652_008 - beyond


def test_names_are_timms() -> None:
    shapes = {key: tuple(value.shape) for key, value in make_empty().state_dict().items()}
    some = {
        "conv_stem.weight": (32, 3, 3, 3),
        "bn1.running_var": (32,),
        "blocks.0.0.conv_dw.weight": (32, 1, 3, 3),
        "blocks.0.0.bn1.weight": (32,),
        "blocks.0.0.conv_pw.weight": (16, 32, 1, 1),
        "blocks.0.0.bn2.weight": (16,),
        "blocks.2.1.conv_pw.weight": (240, 40, 1, 1),
        "blocks.2.1.bn1.bias": (240,),
        "blocks.2.1.conv_dw.weight": (240, 1, 5, 5),
        "blocks.2.1.bn2.running_mean": (240,),
        "blocks.2.1.conv_pwl.weight": (40, 240, 1, 1),
        "blocks.2.1.bn3.weight": (40,),
        "blocks.6.0.conv_pwl.weight": (320, 1152, 1, 1),
    }
    assert {name: shapes.get(name) for name in some} == some
    assert [len(stage) for stage in make_empty().blocks] == [1, 2, 2, 3, 3, 4, 1]


def test_stages_of_the_paper() -> None:
    """Source: arXiv 1905.11946, table 1; Lite0 keeps the counts of B0."""
    assert [(s.num_blocks, s.channels, s.kernel, s.stride) for s in LITE0] == [
        (1, 16, 3, 1), (2, 24, 3, 2), (2, 40, 5, 2), (3, 80, 3, 2), (3, 112, 5, 1), (4, 192, 5, 2), (1, 320, 3, 1),
    ]  # fmt: skip


def test_shapes_of_the_stages() -> None:
    backbone = make_backbone("efficientnet_lite0").eval()
    with torch.inference_mode():
        stages = backbone(torch.zeros(1, 3, 70, 33))
        # halved and rounded up: 70, 35, 18, 9, 5, 3 and 33, 17, 9, 5, 3, 2
        assert [tuple(stage.shape) for stage in stages] == [
            (1, 24, 18, 9), (1, 40, 9, 5), (1, 112, 5, 3), (1, 320, 3, 2),
        ]  # fmt: skip
        assert [tuple(stage.shape[2:]) for stage in backbone(torch.zeros(1, 3, 1, 1))] == [(1, 1)] * 4


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8, 31, 32])
def test_padding_is_tensorflows(kernel: int, side: int) -> None:
    """TensorFlow's "same": ceil(side / stride) outputs, the odd pixel at the bottom and right."""
    conv = nn.Conv2d(1, 1, kernel, stride=2, bias=False)
    padded = pad_same(conv, torch.ones(1, 1, side, 8))
    total = max((math.ceil(side / 2) - 1) * 2 + kernel - side, 0)
    assert padded.shape[2] == side + total
    rows = padded[0, 0].any(dim=1).tolist()
    assert rows == [False] * (total // 2) + [True] * side + [False] * (total - total // 2)
    assert conv(padded).shape[2] == math.ceil(side / 2)


def test_stride_two_by_hand() -> None:
    conv = nn.Conv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # no zeros above and left, one row and column below and right: sums over rows 0..2 and 2..4, columns likewise
    # 0+1+2+4+5+6+8+9+10 = 45, 2+3+6+7+10+11 = 39, 8+9+10+12+13+14 = 66, 10+11+14+15 = 50
    assert conv(pad_same(conv, image)).tolist() == [[[[45, 39], [66, 50]]]]


def test_stride_one_is_not_padded_twice() -> None:
    conv = nn.Conv2d(1, 1, 5, padding=2)
    image = torch.ones(1, 1, 4, 4)
    assert pad_same(conv, image) is image


def test_shortcuts_where_the_shape_stays() -> None:
    net = EfficientNetLite(make_norm("frozen"), (StageDesign(1, 32, 3, 1, 6), StageDesign(2, 16, 3, 2, 6)))
    assert [block.has_shortcut for stage in net.blocks for block in stage] == [True, False, True]
    block = net.blocks[0][0].eval()
    nn.init.zeros_(block.conv_pwl.weight)
    x = torch.randn(1, 32, 5, 5)
    assert torch.equal(block(x), x)  # nothing but the shortcut is left


def test_relu6_caps_the_inner_maps() -> None:
    block = EfficientNetLite(make_norm("frozen"), (StageDesign(1, 8, 3, 1, 6),)).blocks[0][0]
    for conv in (block.conv_pw, block.conv_dw, block.conv_pwl):
        nn.init.ones_(conv.weight)
    y = block(torch.full((1, 32, 3, 3), 1e6))
    # each of the 192 inner channels is 6 after both steps; the output is not capped: 192 * 6, / sqrt(1 + 1e-5) for norm
    torch.testing.assert_close(y, torch.full((1, 8, 3, 3), 1152.0), rtol=1e-4, atol=0)


@pytest.mark.parametrize("size", [(64, 96), (128, 32)])
def test_absorbed_padding_changes_nothing(size: tuple[int, int]) -> None:
    """Kernels with zeros before their first row and column, and as much padding on all sides."""
    body = make_backbone("efficientnet_lite0").body.eval()
    assert isinstance(body, EfficientNetLite)
    x = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = body(x)
        body.absorb_padding()
        torch.testing.assert_close(body(x), expected)
    assert body.conv_stem.kernel_size == (4, 4)
    assert body.conv_stem.padding == (1, 1)
    assert body.blocks[2][0].conv_dw.kernel_size == (6, 6)  # 5 x 5 in the paper's table 1

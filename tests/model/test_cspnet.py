import torch
import torch.nn.functional as F

from objectness.model.backbone import make_backbone
from objectness.model.cspnet import CspNet


def test_shapes_and_number_of_parameters() -> None:
    backbone = make_backbone("cspnet")
    stages = backbone(torch.zeros(2, 3, 70, 100))
    assert [tuple(stage.shape) for stage in stages] == [
        (2, 64, 18, 25),
        (2, 128, 9, 13),
        (2, 256, 5, 7),
        (2, 512, 3, 4),
    ]
    # Stage of n channels on m: down 9 m n + n, each block 9 n n/2 + n/2 and 9 n/2 n/2 + n/2, out 9 n n + n
    expected = 9 * 3 * 32 + 32
    for m, n, blocks in ((32, 32, 1), (64, 64, 2), (128, 128, 2), (256, 256, 3)):
        half = n // 2
        expected += 9 * m * n + n + blocks * (9 * n * half + 9 * half * half + n) + 9 * n * n + n
    assert sum(p.numel() for p in backbone.parameters()) == expected


def test_a_stage_is_what_the_drawing_says() -> None:
    """Against convolutions written out: what passes the blocks comes last, in a block the second output first."""
    torch.manual_seed(0)
    stage = CspNet().stages[0]
    x = torch.randn(1, 32, 8, 8)

    def convolve(name: str, y: torch.Tensor) -> torch.Tensor:
        conv = stage.get_submodule(name)
        return F.leaky_relu(F.conv2d(y, conv.weight, conv.bias, padding=1), 0.1)

    past = convolve("down", x)
    first = convolve("blocks.0.first", past)
    blocks = torch.cat([convolve("blocks.0.second", first), first], dim=1)
    torch.testing.assert_close(stage(x), torch.cat([convolve("out", blocks), past], dim=1))


def test_freezing() -> None:
    backbone = make_backbone("cspnet", frozen_stages=2)
    frozen = {name.split(".")[1] + name.split(".")[2] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stemweight", "stembias", "stages0"}

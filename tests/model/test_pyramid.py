import pytest
import torch
from torch import Tensor, nn

from objectness.model.norm import make_norm
from objectness.model.pyramid import Pyramid


def make_transparent(top_down: str = "cumulative") -> Pyramid:
    """One channel, laterals and output convolutions that change nothing."""
    pyramid = Pyramid((1, 1, 1, 1), channels=1, top_down=top_down)
    with torch.no_grad():
        for lateral in pyramid.laterals:
            lateral.weight.fill_(1)
        for output in pyramid.outputs:
            output.weight.zero_()
            output.weight[..., 1, 1] = 1
    return pyramid


def make_stages(*sizes: tuple[int, int]) -> list[Tensor]:
    """Constant maps: 1, 10, 100, 1000."""
    return [torch.full((1, 1, *size), 10.0**i) for i, size in enumerate(sizes)]


SIZES = ((16, 24), (8, 12), (4, 6), (2, 3))


@pytest.mark.parametrize(
    ("top_down", "values"),
    [
        ("cumulative", [1111, 1110, 1100, 1000, 1000]),  # M_l = I_l + up(M_{l+1})
        ("adjacent", [11, 110, 1100, 1000, 1000]),  # M_l = I_l + up(I_{l+1})
    ],
)
def test_top_down_paths_by_hand(top_down: str, values: list[float]) -> None:
    levels = make_transparent(top_down)(make_stages(*SIZES))
    assert [level.unique().tolist() for level in levels] == [[value] for value in values]
    assert [tuple(level.shape[2:]) for level in levels] == [*SIZES, (1, 2)]


def test_upsampling_is_nearest() -> None:
    c4 = torch.tensor([[[[1.0, 2], [3, 4]]]])
    c2, c3, c5 = (torch.zeros(1, 1, side, side) for side in (8, 4, 1))
    p3 = make_transparent()([c2, c3, c4, c5])[1]
    assert p3[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


def test_odd_sizes() -> None:
    """Maps that were rounded up are laid over the finer one's own size, not over twice theirs."""
    c2, c3, c4 = (torch.zeros(1, 1, *size) for size in ((9, 17), (5, 9), (3, 5)))
    levels = make_transparent()([c2, c3, c4, torch.arange(6.0).reshape(1, 1, 2, 3)])
    assert [tuple(level.shape[2:]) for level in levels] == [(9, 17), (5, 9), (3, 5), (2, 3), (1, 2)]
    # row r of 3 shows row floor(r * 2 / 3), column c of 5 shows column floor(c * 3 / 5)
    assert levels[2][0, 0].tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


@pytest.mark.parametrize(("size", "expected"), [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((25, 42), (13, 21))])
def test_p6_is_every_second_cell_of_p5(size: tuple[int, int], expected: tuple[int, int]) -> None:
    top = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    stages = [*make_stages(*[(size[0] * s, size[1] * s) for s in (8, 4, 2)]), top]
    *_, p5, p6 = make_transparent()(stages)
    assert tuple(p6.shape[2:]) == expected
    assert torch.equal(p6, p5[..., ::2, ::2])


def test_outputs_are_convolved_with_zeros_around() -> None:
    pyramid = make_transparent()
    nn.init.ones_(pyramid.outputs[3].weight)
    p5 = pyramid(make_stages((24, 24), (12, 12), (6, 6), (3, 3)))[3]
    assert p5[0, 0].tolist() == [[4000, 6000, 4000], [6000, 9000, 6000], [4000, 6000, 4000]]


def test_initial_statistics() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid((256, 512, 1024, 2048))
    fans = (256, 512, 1024, 2048, *[256 * 9] * 4)
    for conv, fan_in in zip([*pyramid.laterals, *pyramid.outputs], fans, strict=True):
        # Kaiming uniform with a = 1: within sqrt(6 / (1 + a^2) / fan_in), standard deviation 1 / sqrt(fan_in)
        bound = (3 / fan_in) ** 0.5
        assert 0.98 * bound < conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.01)
        assert not conv.bias.any()


def test_number_of_parameters() -> None:
    pyramid = Pyramid((256, 512, 1024, 2048))
    assert sum(p.numel() for p in pyramid.laterals.parameters()) == 984_064  # 256 * (256 + 512 + 1024 + 2048) + 4 * 256
    assert sum(p.numel() for p in pyramid.outputs.parameters()) == 2_360_320  # 4 * (256 * 256 * 9 + 256)


def test_norms() -> None:
    """Convolutions with batch norm have no bias, and folding changes nothing but speed."""
    pyramid = Pyramid((2, 3, 4, 5), 6, norm=make_norm("trained")).eval()
    assert not any(name.endswith("bias") and "norm" not in name for name, _ in pyramid.named_parameters())
    for norm in [*pyramid.lateral_norms, *pyramid.output_norms]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    stages = [torch.randn(1, c, 16 >> i, 16 >> i) for i, c in enumerate((2, 3, 4, 5))]
    expected = pyramid(stages)
    pyramid.fold_norms()
    for level, same in zip(pyramid(stages), expected, strict=True):
        torch.testing.assert_close(level, same)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in pyramid.modules())


def test_maps_are_let_go_where_that_is_wanted() -> None:
    pyramid, stages = make_transparent(), make_stages(*SIZES)
    expected = pyramid(stages)
    assert len(stages) == 4
    for level, other in zip(pyramid(stages, consume=True), expected, strict=True):
        assert torch.equal(level, other)
    assert stages == []


def test_bottom_up_path_by_hand() -> None:
    """P3 and P2 stay; P4 gets the means of P3's 2 x 2 cells, P5 those of the new P4; P6 comes from the new P5."""
    pyramid = Pyramid((1, 1, 1, 1), channels=1, bottom_up=True)
    pyramid.load_state_dict(make_transparent().state_dict())
    levels = pyramid(make_stages(*SIZES))
    assert [level.unique().tolist() for level in levels] == [[1111], [1110], [2210], [3210], [3210]]
    c3 = torch.tensor([[1.0, 2, 5, 5], [3, 6, 5, 5]]).reshape(1, 1, 2, 4)  # means 3 and 5
    p4 = pyramid([torch.zeros(1, 1, 4, 8), c3, torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 1)])[2]
    assert p4.flatten().tolist() == [3, 5]


def test_activation_by_hand() -> None:
    pyramid = Pyramid((1, 1, 1, 1), channels=1, activation=True)
    pyramid.load_state_dict(make_transparent().state_dict())
    c2, *coarser = make_stages(*SIZES)
    levels = pyramid([torch.full_like(c2, -2110.0), *coarser])
    assert levels[0].unique().tolist() == [-100]  # 0.1 x (1110 - 2110)
    assert levels[1].unique().tolist() == [1110]


def test_from_p3_on() -> None:
    pyramid = Pyramid((4, 5, 6), channels=8, separable_levels=(3,))
    stages = [torch.randn(1, c, side, side) for c, side in ((4, 16), (5, 8), (6, 4))]
    levels = pyramid(stages)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 16, 16), (8, 8, 8), (8, 4, 4), (8, 2, 2), (8, 1, 1)]
    assert torch.equal(levels[4], levels[2][..., ::4, ::4])
    # a separable output convolution on P3 only: 8 x 9 + 8 and 8 x 8 + 8 weights instead of 8 x 8 x 9 + 8
    counts = [sum(p.numel() for p in output.parameters()) for output in pyramid.outputs]
    assert counts == [152, 584, 584]

import pytest
import torch
from torch import Tensor, nn

from objectness.model.norm import FrozenBatchNorm2d, convolve, fold_norm, fold_norms, make_norm

SHAPES = [  # in, out, kernel, stride, padding, groups
    (6, 8, 1, 1, 0, 1),
    (6, 8, 3, 2, 1, 1),
    (8, 8, 3, 1, 1, 4),
    (8, 8, 5, 2, 0, 8),
]


def randomise(norm: nn.Module, seed: int = 0) -> None:
    """Statistics as a trained network has them, far from 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*norm.named_parameters(), *norm.named_buffers()]:
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 2 + (-1 if name == "bias" else 0.1))


def make_pair(channels: int, eps: float = 1e-5) -> tuple[FrozenBatchNorm2d, nn.BatchNorm2d]:
    """Ours and torch's in evaluation mode, of the same statistics."""
    theirs = nn.BatchNorm2d(channels, eps)
    randomise(theirs)
    ours = FrozenBatchNorm2d(channels, eps)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs.eval()


def make_input(channels: int) -> Tensor:
    return torch.randn(2, channels, 9, 10, generator=torch.Generator().manual_seed(1))


def test_frozen_norm_by_hand() -> None:
    norm = FrozenBatchNorm2d(1, eps=1.0)
    norm.load_state_dict({name: torch.tensor([v]) for name, v in
                          {"weight": 6.0, "bias": 5.0, "running_mean": 2.0, "running_var": 3.0}.items()})  # fmt: skip
    scale, shift = norm.scale_and_shift()
    assert (scale.item(), shift.item()) == (3, -1)  # 6 / sqrt(3 + 1), 5 - 2 * 3
    assert norm(torch.tensor([[[[4.0]]]])).item() == 11


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_frozen_norm_is_batch_norm_in_evaluation(eps: float) -> None:
    ours, theirs = make_pair(6, eps)
    x = make_input(6)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.train()(x), theirs(x))  # in training too


def test_frozen_norm_has_nothing_to_train() -> None:
    norm = FrozenBatchNorm2d(4)
    assert not list(norm.parameters())
    assert norm.state_dict().keys() == {"weight", "bias", "running_mean", "running_var"}
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    norm.train()(make_input(4) * 100)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())


@pytest.mark.parametrize("shape", SHAPES)
def test_folding_changes_neither_output_nor_gradients(shape: tuple[int, int, int, int, int, int]) -> None:
    in_channels, out_channels, kernel, stride, padding, groups = shape
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
    ours, theirs = make_pair(out_channels)
    results = []
    for apply in (lambda x: convolve(conv, ours, x), lambda x: theirs(conv(x))):
        x = make_input(in_channels).requires_grad_()
        y = apply(x)
        conv.zero_grad()
        (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
        assert conv.weight.grad is not None
        results.append((y, conv.weight.grad.clone(), x.grad))
    for folded, plain in zip(*results, strict=True):
        torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)


def test_trained_norm_learns() -> None:
    conv = nn.Conv2d(3, 4, 3, bias=False)
    norm = make_norm("trained")(4).train()
    assert isinstance(norm, nn.BatchNorm2d)
    convolve(conv, norm, make_input(3) + 5)
    assert norm.running_mean is not None
    assert norm.running_mean.any()
    assert len(list(norm.parameters())) == 2


def test_make_norm() -> None:
    assert isinstance(make_norm("frozen")(4), FrozenBatchNorm2d)
    for kind in ("frozen", "trained"):
        assert make_norm(kind)(4).eps == 1e-5
        assert make_norm(kind, eps=1e-3)(4).eps == 1e-3


@pytest.mark.parametrize("kind", ["frozen", "trained"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_folded_norm_does_the_same(kind: str, has_bias: bool) -> None:
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=has_bias)
    norm = make_norm(kind, eps=0.1)(6).eval()
    randomise(norm)
    x = torch.randn(2, 4, 7, 5)
    folded = fold_norm(conv, norm)
    torch.testing.assert_close(folded(x), norm(conv(x)))
    assert (conv.bias is None) == (not has_bias)  # the original stays as it was
    assert not folded.weight.requires_grad


def test_norms_are_folded_into_what_stands_before_them() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), make_norm("frozen")(3), nn.ReLU(), nn.Sequential(make_norm("trained")(3)))
    for norm in (net[1], net[3][0]):
        randomise(norm)
    net.eval()
    x = torch.randn(1, 2, 4, 4)
    expected = net(x)
    fold_norms(net)
    torch.testing.assert_close(net(x), expected)
    assert isinstance(net[1], nn.Identity)
    assert isinstance(net[3][0], nn.BatchNorm2d)  # nothing stands before it

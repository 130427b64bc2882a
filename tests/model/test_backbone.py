import copy
import io
import pickle
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from objectness.errors import ConfigError
from objectness.model.backbone import BACKBONES, Backbone, find_module, make_backbone
from objectness.model.norm import FrozenBatchNorm2d

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Body(nn.Module):
    """Four stages, each of which halves the map and adds its number; quick, and known by heart."""

    def __init__(self, wait: Callable[[], object] = lambda: None):
        super().__init__()
        self.wait = wait
        self.inner = nn.ModuleDict({f"stage{i}": Halve(i) for i in (1, 2, 3, 4)})
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> None:
        x = self.norm(x)
        for stage in self.inner.values():
            x = stage(x)
            self.wait()


class Halve(nn.Module):
    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x[..., ::2, ::2] + self.number


DOTTED = tuple(f"inner.stage{i}" for i in (1, 2, 3, 4))


def run(backbone: Backbone, value: float) -> list[float]:
    """One number of each stage's map, for an image of a constant."""
    return [stage.flatten()[0].item() for stage in backbone(torch.full((1, 3, 16, 16), float(value)))]


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_any_module_serves() -> None:
    backbone = Backbone(Body().eval(), DOTTED)
    stages = backbone(torch.zeros(2, 3, 32, 48))
    assert [tuple(stage.shape) for stage in stages] == [(2, 3, 16, 24), (2, 3, 8, 12), (2, 3, 4, 6), (2, 3, 2, 3)]
    backbone.body.norm.eps = 0
    assert run(backbone, 10) == [11, 13, 16, 20]  # + 1, + 2, + 3, + 4
    assert backbone.count_channels() == [3, 3, 3, 3]
    assert backbone.training
    assert not backbone.body.training  # each as it was
    # in the order asked for, not the order of the body
    assert run(Backbone(backbone.body, DOTTED[::-1]), 10) == [20, 16, 13, 11]


def test_wrong_stage_is_named() -> None:
    with pytest.raises(ConfigError, match=r"Body has no module 'stage9' to take features from; it has inner, norm"):
        Backbone(Body(), ("stage9", *DOTTED[1:]))
    with pytest.raises(ConfigError, match=r"no module 'inner\.stage0'"):
        find_module(Body(), "inner.stage0")


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ConfigError, match=r"backbone 'resnet20' is unknown; known are resnet18, resnet34, resnet50"):
        make_backbone("resnet20")


def test_counting_channels_leaves_no_trace() -> None:
    backbone = make_backbone("resnet18", "trained").train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert backbone.count_channels() == [64, 128, 256, 512]
    assert backbone.training
    assert backbone.body.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert not backbone.eval().body.bn1.training
    backbone.count_channels()
    assert not backbone.training


def test_nothing_is_kept_between_passes() -> None:
    backbone = Backbone(Body().eval(), DOTTED)
    first = run(backbone, 0)
    backbone.body(torch.full((1, 3, 16, 16), 50.0))  # the body used by itself: the hooks say nothing to anybody
    assert run(backbone, 0) == first
    backbone.body.wait = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run(backbone, 0)
    backbone.body.wait = lambda: None
    assert run(backbone, 0) == first
    maps = [weakref.ref(stage) for stage in backbone(torch.zeros(1, 3, 16, 16))]
    assert [each() for each in maps] == [None] * 4  # nobody holds them, and their memory, any longer


@pytest.mark.parametrize("share", [True, False])
def test_threads_get_their_own_maps(share: bool) -> None:
    """Two passes in step with each other, through one network or through a network and its copy."""
    barrier = threading.Barrier(2, timeout=30)
    first = Backbone(Body().eval(), DOTTED)
    first.body.norm.eps = 0
    second = first if share else copy.deepcopy(first)
    first.body.wait = second.body.wait = barrier.wait
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            jobs = [pool.submit(run, first, 0), pool.submit(run, second, 100)]
            assert [job.result() for job in jobs] == [[1, 3, 6, 10], [101, 103, 106, 110]]


def test_copies_are_tapped_themselves() -> None:
    backbone = make_backbone("resnet18").eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    stages = backbone(images)
    for clone in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), save_and_load(backbone)):
        assert_same(clone(images), stages)
        nn.init.zeros_(clone.body.conv1.weight)
        assert not torch.equal(clone(images)[0], stages[0])  # its own weights make its maps
        assert_same(backbone(images), stages)


def save_and_load(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("frozen_stages", range(6))
def test_frozen_stages(name: str, frozen_stages: int) -> None:
    """The stem is stage 1, C2's stage 2, and so on; what lies between two stages freezes with the later one."""
    backbone = make_backbone(name, "trained", frozen_stages).train()
    before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
    stages = backbone(torch.randn(2, 3, 64, 64))
    if frozen_stages < 5:
        stages[-1].sum().backward()

    groups = [BACKBONES[name].stem]
    for between, stage in zip(BACKBONES[name].between, BACKBONES[name].stages, strict=True):
        groups.append((*between, stage))
    for place, parts in enumerate(groups):
        frozen = place < frozen_stages
        for part in parts:
            module = find_module(backbone.body, part)
            for parameter in module.parameters():
                assert parameter.requires_grad is not frozen
                assert (parameter.grad is None) is frozen
            for key, norm in module.named_modules(prefix=part):
                if isinstance(norm, nn.BatchNorm2d):
                    assert torch.equal(norm.running_mean, before[f"{key}.running_mean"]) is frozen
    # every part of the body belongs to one group
    covered = [part for parts in groups for part in parts]
    for key, _ in backbone.body.named_parameters():
        assert sum(key == part or key.startswith(f"{part}.") for part in covered) == 1, key


def test_frozen_stages_survive_a_copy() -> None:
    backbone = copy.deepcopy(make_backbone("resnet18", "trained", 2)).train()
    mean = backbone.body.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert torch.equal(backbone.body.bn1.running_mean, mean)


def test_frozen_norm_still_lets_convolutions_learn() -> None:
    backbone = make_backbone("resnet18").train()
    backbone(torch.randn(1, 3, 64, 64))[3].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())
    assert not any("bn" in name for name, _ in backbone.named_parameters())


def test_only_bottlenecks_have_a_stride_to_move() -> None:
    for name in ("resnet34", "efficientnet_lite0"):
        with pytest.raises(ConfigError, match=f"stride_in_1x1: {name} has no bottlenecks; leave it out"):
            make_backbone(name, stride_in_1x1=True)


@pytest.mark.parametrize(("name", "own"), [("resnet18", 1e-5), ("efficientnet_lite0", 1e-3)])
def test_epsilon(name: str, own: float) -> None:
    for given, expected in ((None, own), (0.0, 0.0)):
        norms = [m for m in make_backbone(name, norm_eps=given).modules() if isinstance(m, FrozenBatchNorm2d)]
        assert {norm.eps for norm in norms} == {expected}

import pytest
import torch

from objectness.config import Config, TrainOptions
from objectness.network import RegionProposalNetwork
from objectness.training.schedule import (
    compute_learning_rate,
    make_optimizer,
    set_learning_rate,
    update_average,
)


def test_learning_rate_by_hand():
    steps = TrainOptions(learning_rate=1.0, warmup_steps=0)
    rates = [compute_learning_rate(step, 90, steps) for step in (0, 59, 60, 79, 80)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01])  # 60 = 2/3 of 90, 80 = 8/9 of 90
    cosine = TrainOptions(learning_rate=1.0, warmup_steps=0, schedule="cosine")
    assert [compute_learning_rate(step, 90, cosine) for step in (0, 45)] == pytest.approx([1, 0.5])
    warm = TrainOptions(learning_rate=1.0, warmup_steps=10)
    assert compute_learning_rate(4, 90, warm) == pytest.approx(0.501)  # 5 of 10 steps, and a thousandth
    assert TrainOptions(images_per_step=8).peak_learning_rate == pytest.approx(0.01)


def test_average_by_hand():
    average, current = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.nn.init.constant_(average.weight, 1.0)
    torch.nn.init.constant_(current.weight, 3.0)
    update_average(average, current, 0.75)
    assert average.weight.item() == 1.5  # 0.75 * 1 + 0.25 * 3


def test_the_backbone_learns_at_its_own_rate():
    network = RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8, frozen_stages=2))
    optimizer = make_optimizer(network, TrainOptions(optimizer="adamw", backbone_rate=0.2, weight_decay=0.05))
    assert isinstance(optimizer, torch.optim.AdamW)
    set_learning_rate(optimizer, 0.01)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    learning = [p for p in network.parameters() if p.requires_grad]
    assert rates.keys() == {id(p) for p in learning}  # each once, and nothing frozen
    assert {rates[id(p)] for p in network.backbone.parameters() if p.requires_grad} == {0.01 * 0.2}
    assert {rates[id(p)] for p in network.head.parameters()} == {0.01}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05]


def test_one_rate_is_one_group():
    """As in checkpoints of earlier versions, which have a single one."""
    network = RegionProposalNetwork(Config(backbone="resnet18", pyramid_channels=8))
    optimizer = make_optimizer(network, TrainOptions())
    assert isinstance(optimizer, torch.optim.SGD)
    assert len(optimizer.param_groups) == 1
    del optimizer.param_groups[0]["rate"]
    set_learning_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5

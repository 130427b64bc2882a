import pytest
import torch

from objectness.config import TrainOptions
from objectness.training.schedule import choose_precision, compute_learning_rate, update_average


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


def test_precision():
    assert choose_precision("float32", torch.device("cpu")) == "float32"
    assert choose_precision("auto", torch.device("cpu")) in ("float32", "bfloat16")

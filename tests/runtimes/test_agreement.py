import pytest
import torch

from objectness.runtimes.agreement import Agreement, fold_maps, measure_agreement
from objectness.structures import Output


def make_output(logits: list[list[float]], deltas: float = 1.0) -> Output:
    """Two levels of one cell and one anchor each, or more logits where more are given."""
    maps = tuple(torch.tensor(level)[None, :, None, None] for level in logits)
    return Output((), maps, tuple(torch.full((1, 4, 1, 1), deltas) for _ in logits))


def test_pairs_are_folded_and_what_is_folded_stays() -> None:
    pairs, folded = make_output([[3.0, 1.0], [0.5, 1.0]]), make_output([[2.0], [-0.5]])
    for output in (pairs, folded):
        assert [level.flatten().tolist() for level in fold_maps(output)] == [[2.0], [-0.5]]


def test_the_worst_level_counts_in_shares_of_its_largest_value() -> None:
    expected, found = make_output([[2.0], [-10.0]], 4.0), make_output([[2.02], [-10.05]], 3.9)
    agreement = measure_agreement(found, expected)
    assert agreement.logits == pytest.approx(0.01, rel=1e-3)  # 0.02 / 2 > 0.05 / 10
    assert agreement.deltas == pytest.approx(0.025, rel=1e-3)  # 0.1 / 4
    assert agreement.worst == agreement.deltas
    assert measure_agreement(expected, make_output([[3.0, 1.0], [0.0, 10.0]], 4.0)) == Agreement(0, 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_no_number_is_no_agreement(value: float) -> None:
    assert measure_agreement(make_output([[1.0], [value]]), make_output([[1.0], [1.0]])).logits == torch.inf
    assert measure_agreement(make_output([[1.0], [1.0]], value), make_output([[1.0], [1.0]])).worst == torch.inf


def test_another_shape_is_no_agreement() -> None:
    wide = make_output([[1.0], [1.0]])
    wide = wide._replace(deltas=(wide.deltas[0], wide.deltas[1].expand(1, 4, 1, 2)))
    assert measure_agreement(wide, make_output([[1.0], [1.0]])).deltas == torch.inf


def test_zeros_agree_with_zeros() -> None:
    assert measure_agreement(make_output([[0.0]], 0.0), make_output([[0.0]], 0.0)) == Agreement(0, 0)
    assert measure_agreement(make_output([[1.0]], 0.0), make_output([[0.0]], 0.0)).logits > 1

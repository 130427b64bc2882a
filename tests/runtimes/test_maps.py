import pytest
import torch
from tiny import make_tiny

from objectness.config import InputOptions
from objectness.errors import ConfigError
from objectness.runtimes.agreement import fold_maps
from objectness.runtimes.maps import MAP_NAMES, Maps, join_maps


def test_maps_are_the_networks_in_order() -> None:
    assert MAP_NAMES[:2] + MAP_NAMES[-1:] == ("logits2", "logits3", "deltas6")
    network, images = make_tiny(), torch.randn(2, 3, 64, 96)
    maps = Maps(network)(images)
    assert [tuple(each.shape) for each in maps[:2]] == [(2, 3, 16, 24), (2, 3, 8, 12)]
    expected, found = network(images), join_maps(maps)
    torch.testing.assert_close(found.logits, fold_maps(expected))
    torch.testing.assert_close(found.deltas, expected.deltas)
    assert found.features == ()


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (352, 32)])
def test_a_trace_holds_for_every_size(size: tuple[int, int]) -> None:
    maps, images = Maps(make_tiny()), torch.randn(2, 3, *size)
    torch.testing.assert_close(maps.trace()(images), maps(images))


def test_padding_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"input\.pad_multiple = 16: only networks whose inputs are padded to a"):
        Maps(make_tiny(input=InputOptions(64, 96, pad_multiple=16)))
    assert Maps(make_tiny(input=InputOptions(64, 96, pad_multiple=64)))

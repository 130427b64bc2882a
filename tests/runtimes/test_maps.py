import pytest
import torch
from tiny import make_tiny

from objectness.config import AnchorOptions, InputOptions
from objectness.errors import ConfigError
from objectness.runtimes.agreement import fold_maps
from objectness.runtimes.maps import Maps, join_maps, name_maps


def test_maps_are_the_networks_in_order() -> None:
    network, images = make_tiny(), torch.randn(2, 3, 64, 96)
    maps = Maps(network)(images)
    assert [tuple(each.shape) for each in maps[:2]] == [(2, 3, 16, 24), (2, 3, 8, 12)]
    expected, found = network(images), join_maps(maps)
    torch.testing.assert_close(found.logits, fold_maps(expected))
    torch.testing.assert_close(found.deltas, expected.deltas)
    assert found.features == ()


def test_names_tell_the_level() -> None:
    assert name_maps(AnchorOptions()) == (
        *("logits2", "logits3", "logits4", "logits5", "logits6"),
        *("deltas2", "deltas3", "deltas4", "deltas5", "deltas6"),
    )
    assert name_maps(AnchorOptions(finest_level=3))[::4] == ("logits3", "logits7", "deltas6")


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (352, 32)])
def test_a_trace_holds_for_every_size(size: tuple[int, int]) -> None:
    maps, images = Maps(make_tiny()), torch.randn(2, 3, *size)
    torch.testing.assert_close(maps.trace()(images), maps(images))


def test_padding_must_fit() -> None:
    with pytest.raises(ConfigError, match=r"input\.pad_multiple = 16: only networks whose inputs are padded to a"):
        Maps(make_tiny(input=InputOptions(64, 96, pad_multiple=16)))
    assert Maps(make_tiny(input=InputOptions(64, 96, pad_multiple=64)))

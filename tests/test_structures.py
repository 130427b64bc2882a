import torch

from objectness.structures import flatten_map, flatten_maps


def test_maps_are_flattened_in_the_order_of_anchors() -> None:
    """Channel v of shape a in cell (i, j) of a level, here 1000 level + 100 i + 10 j + (values a + v)."""
    levels = [
        1000 * level
        + (torch.arange(height)[:, None] * 100 + torch.arange(2) * 10)[None, None]
        + torch.arange(6)[None, :, None, None]
        for level, height in ((2, 2), (3, 1))
    ]
    assert flatten_map(levels[0], 3)[0].tolist() == [
        [2000, 2001, 2002], [2003, 2004, 2005],
        [2010, 2011, 2012], [2013, 2014, 2015],
        [2100, 2101, 2102], [2103, 2104, 2105],
        [2110, 2111, 2112], [2113, 2114, 2115],
    ]  # fmt: skip
    both = flatten_maps(levels, 3)
    assert both.shape == (1, 12, 3)
    assert both[0, 8].tolist() == [3000, 3001, 3002]

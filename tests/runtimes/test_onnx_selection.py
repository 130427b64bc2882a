"""The selection in ONNX, run by ONNX Runtime on maps made up here, against `select_proposals`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from objectness.config import AnchorOptions, Config, SelectionOptions
from objectness.errors import ConfigError
from objectness.geometry.anchors import make_anchors
from objectness.geometry.selection import select_proposals_plain
from objectness.structures import Output, Selection

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from objectness.runtimes.maps import name_maps  # noqa: E402
from objectness.runtimes.onnx_selection import append_selection  # noqa: E402
from objectness.runtimes.onnxruntime import (  # noqa: E402
    MODEL_FILE,
    open_session,
    save_onnx,
)

ANCHORS = AnchorOptions(sizes=(8, 16, 32, 64, 128))
PADDED = (96, 64)  # P6 has 2 x 1 cells
SIZES = ((90, 60), (96, 40), (50, 64))


def make_config(options: SelectionOptions = SelectionOptions(), **fields: object) -> Config:  # noqa: B008  # frozen
    return Config(**{"anchors": ANCHORS, "selection": options, **fields})  # type: ignore[arg-type]


def count_cells(padded: tuple[int, int], finest_level: int = 2) -> list[tuple[int, int]]:
    cells = [(padded[0] >> level, padded[1] >> level) for level in range(finest_level, 6)]
    while len(cells) < 5:
        cells.append((-(-cells[-1][0] // 2), -(-cells[-1][1] // 2)))
    return cells


def make_maps(
    num_images: int, padded: tuple[int, int] = PADDED, *, spread: float = 0.5, finest_level: int = 2
) -> Output:
    """Folded logits and deltas of any boxes, most of them overlapping their neighbours'."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_images, 3, *cells) for cells in count_cells(padded, finest_level)]
    logits = tuple(3 * torch.randn(shape, generator=generator) for shape in shapes)
    deltas = tuple(spread * torch.randn(n, 4 * a, h, w, generator=generator) for n, a, h, w in shapes)
    return Output((), logits, deltas)


def write_selection(config: Config, folder: Path) -> None:
    """A network of nothing but its outputs, with the selection behind."""
    maps = {name: ["N", None, None, None] for name in name_maps(config.anchors)}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in ({"images": ["N", 3, "H", "W"]} | maps).items()
    ]
    graph = onnx.helper.make_graph([], "maps", inputs, [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    append_selection(model, config)
    save_onnx(model, folder)


def run_onnx(
    maps: Output, config: Config, folder: Path, sizes: tuple[tuple[int, int], ...], padded: tuple[int, int] = PADDED
) -> dict[str, Tensor]:
    """Every output of the selection, by name."""
    write_selection(config, folder)
    session = open_session(folder / MODEL_FILE)
    feeds = {
        "images": torch.zeros(len(sizes), 3, *padded),
        "sizes": torch.tensor(sizes, dtype=torch.float32),
        **dict(zip(name_maps(config.anchors), maps.logits + maps.deltas, strict=True)),
    }
    read = {each.name for each in session.get_inputs()}
    found = session.run(None, {name: values.numpy() for name, values in feeds.items() if name in read})
    return {each.name: torch.from_numpy(value) for each, value in zip(session.get_outputs(), found, strict=True)}


def split(found: dict[str, Tensor]) -> list[Selection]:
    return [
        Selection(*(found[name][image, :count] for name in ("boxes", "logits", "levels")))
        for image, count in enumerate(found["counts"].tolist())
    ]


def select(
    maps: Output, config: Config, sizes: tuple[tuple[int, int], ...], padded: tuple[int, int] = PADDED
) -> list[Selection]:
    grid = make_anchors(config.anchors, count_cells(padded, config.anchors.finest_level), padded)
    options, coding = config.selection, config.box_coding
    return select_proposals_plain(maps, grid, torch.tensor(sizes, dtype=torch.float32), options, box_coding=coding)


def check_same(found: Selection, expected: Selection) -> None:
    """In the same order, since the logits go through unchanged."""
    assert found.logits.tolist() == expected.logits.tolist()
    assert found.levels.tolist() == expected.levels.tolist()
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-5)


def check_all(maps: Output, config: Config, folder: Path, sizes: tuple[tuple[int, int], ...] = SIZES) -> int:
    """Compare every image; how many proposals there are."""
    expected = select(maps, config, sizes)
    for mine, theirs in zip(split(run_onnx(maps, config, folder, sizes)), expected, strict=True):
        check_same(mine, theirs)
    return sum(len(each.boxes) for each in expected)


OPTIONS = {
    "all": SelectionOptions(per_level=10_000, keep=10_000),
    "few": SelectionOptions(per_level=50, keep=30),
    "no suppression": SelectionOptions(nms_iou=1.0),
    "much suppression": SelectionOptions(nms_iou=0.1),
    "nothing over the border": SelectionOptions(min_visible=1.0),
    "little over the border": SelectionOptions(min_visible=0.9),
    "large ones": SelectionOptions(min_size=20.0),
    "thin ones too": SelectionOptions(min_size=0.0),
    "across levels": SelectionOptions(across_levels=True),
    "much across levels": SelectionOptions(across_levels=True, nms_iou=0.3, per_level=200, keep=30),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_the_same_proposals(tmp_path: Path, options: SelectionOptions) -> None:
    assert check_all(make_maps(3), make_config(options), tmp_path) >= 90


@pytest.mark.parametrize("decay_sigma", [0.3, 1.0])
def test_decayed_scores(tmp_path: Path, decay_sigma: float) -> None:
    """The same to rounding, so that near ties may change places; beyond the proposals still nothing."""
    config = make_config(SelectionOptions(per_level=100, keep=150, nms_iou=0.9, decay_sigma=decay_sigma))
    maps = make_maps(3)
    found = run_onnx(maps, config, tmp_path, SIZES)
    for mine, theirs in zip(split(found), select(maps, config, SIZES), strict=True):
        torch.testing.assert_close(mine.logits, theirs.logits, atol=1e-4, rtol=1e-4)
        assert len(mine.boxes) == 150
        same = (mine.boxes - theirs.boxes).abs().amax(dim=1) < 1e-3
        assert same.float().mean() > 0.98
    assert (found["scores"] - found["logits"].sigmoid()).abs().max() < 1e-5


def test_decayed_scores_of_fewer_proposals_than_wanted(tmp_path: Path) -> None:
    config = make_config(SelectionOptions(per_level=5, keep=100, decay_sigma=1.0))
    maps = make_maps(2)
    found = run_onnx(maps, config, tmp_path, SIZES[:2])
    for mine, theirs in zip(split(found), select(maps, config, SIZES[:2]), strict=True):
        assert 0 < len(mine.boxes) < 100
        torch.testing.assert_close(mine.logits, theirs.logits, atol=1e-4, rtol=1e-4)
    assert found["logits"][:, -1].tolist() == [-torch.inf] * 2


@pytest.mark.parametrize("clamp", ["above", "both"])
def test_boxes_that_grow_or_shrink_beyond_measure(tmp_path: Path, clamp: str) -> None:
    config = make_config(SelectionOptions(clamp=clamp, min_size=0.1))  # type: ignore[arg-type]
    assert check_all(make_maps(3, spread=5.0), config, tmp_path) > 90


ANCHOR_OPTIONS = {
    "strides from shape": AnchorOptions(sizes=(8, 16, 32, 64, 128), strides_from_shape=True),  # of P6: 48 and 64
    "rounded": AnchorOptions(sizes=(9, 17, 33, 65, 129), rounded=True),
    "one shape": AnchorOptions(sizes=(8, 16, 32, 64, 128), ratios=(1.0,)),
}


@pytest.mark.parametrize("anchors", ANCHOR_OPTIONS.values(), ids=ANCHOR_OPTIONS.keys())
def test_the_same_anchors(tmp_path: Path, anchors: AnchorOptions) -> None:
    maps, count = make_maps(3), len(anchors.ratios)
    maps = Output((), tuple(m[:, :count] for m in maps.logits), tuple(m[:, : 4 * count] for m in maps.deltas))
    assert check_all(maps, make_config(anchors=anchors), tmp_path) > 90


def test_levels_suppress_each_other_or_do_not(tmp_path: Path) -> None:
    """One object seen on two levels: the better of the two, or both."""
    logits = [torch.full((1, 3, *cells), -torch.inf) for cells in count_cells(PADDED)]
    deltas = [torch.zeros(1, 12, *cells) for cells in count_cells(PADDED)]
    logits[0][0, 1, 8, 8], logits[1][0, 1, 4, 4] = 1.0, 2.0  # both at (32, 32), of 8 px and of 16 px
    deltas[0][0, 6:8, 8, 8] = math.log(2)  # which makes the first as large as the second
    maps = Output((), tuple(logits), tuple(deltas))
    for across_levels, expected in ((True, [3]), (False, [3, 2])):
        [found] = split(run_onnx(maps, make_config(SelectionOptions(across_levels=across_levels)), tmp_path, (PADDED,)))
        assert found.levels.tolist() == expected
        torch.testing.assert_close(found.boxes, torch.tensor([[24.0, 24, 40, 40]] * len(expected)))


@pytest.mark.parametrize("across_levels", [True, False])
def test_levels_from_p3_on(tmp_path: Path, across_levels: bool) -> None:
    anchors = AnchorOptions(sizes=(8, 16, 32, 64, 128), strides=(8, 16, 32, 64, 128), finest_level=3)
    config = make_config(SelectionOptions(across_levels=across_levels), anchors=anchors)
    maps = make_maps(3, finest_level=3)
    assert check_all(maps, config, tmp_path) > 90
    assert set(run_onnx(maps, config, tmp_path, SIZES)["levels"].flatten().tolist()) == {0, 3, 4, 5, 6, 7}


def test_absolute_boxes(tmp_path: Path) -> None:
    maps = make_maps(3)
    maps = maps._replace(deltas=tuple(0.1 + 0.1 * each for each in maps.deltas))  # 51 px
    assert check_all(maps, make_config(box_coding="absolute"), tmp_path) > 90


@pytest.mark.parametrize("padded", [(32, 32), (64, 256), (352, 32)])
def test_every_size(tmp_path: Path, padded: tuple[int, int]) -> None:
    maps, config, sizes = make_maps(2, padded), make_config(), (padded, (1, 1))
    found = split(run_onnx(maps, config, tmp_path, sizes, padded))
    for mine, theirs in zip(found, select(maps, config, sizes, padded), strict=True):
        check_same(mine, theirs)


def test_what_is_beyond_the_count(tmp_path: Path) -> None:
    """Rows that are no proposals look like none, and outputs are as long as `keep` whatever was found."""
    config = make_config(SelectionOptions(min_size=20.0, keep=5000))
    found = run_onnx(make_maps(2), config, tmp_path, ((90, 60), (96, 10)))
    count, nothing = found["counts"].tolist()
    assert nothing == 0 < count < 5000
    shapes = {name: tuple(each.shape) for name, each in found.items()}
    rows = dict.fromkeys(("scores", "logits", "levels"), (2, 5000))
    assert shapes == {"boxes": (2, 5000, 4), "counts": (2,), **rows}
    for image, number in enumerate((count, 0)):
        assert not any(found[name][image, number:].any() for name in ("boxes", "scores", "levels"))
        assert (found["logits"][image, number:] == -torch.inf).all()
    torch.testing.assert_close(found["scores"], found["logits"].sigmoid())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("channel", range(5))  # the logit, dx, dy, dw, dh
def test_what_is_not_a_number(tmp_path: Path, value: float, channel: int) -> None:
    maps = make_maps(3)
    for logits, deltas in zip(maps.logits, maps.deltas, strict=True):
        spoilt = logits[:, 1] if channel == 0 else deltas[:, 4 + channel - 1]  # of the second shape
        spoilt.view(3, -1)[:, ::3] = value
    assert check_all(maps, make_config(), tmp_path) > 90


def test_equal_logits_keep_the_order_of_their_anchors(tmp_path: Path) -> None:
    """The first anchors of every level, level by level, clipped."""
    maps = make_maps(1)
    maps = Output((), tuple(torch.zeros_like(m) for m in maps.logits), tuple(torch.zeros_like(m) for m in maps.deltas))
    config = make_config(SelectionOptions(per_level=4, keep=10, nms_iou=1.0), anchors=ANCHORS)
    [found] = split(run_onnx(maps, config, tmp_path, (PADDED,)))
    first = make_anchors(ANCHORS, count_cells(PADDED), PADDED).levels
    anchors = torch.cat([first[0][:4], first[1][:4], first[2][:2]]).clamp(min=0)
    torch.testing.assert_close(found.boxes, anchors)
    assert found.levels.tolist() == [2] * 4 + [3] * 4 + [4] * 2


def test_the_articles_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="score_from = 'nearest' cannot be exported: it decodes every anchor"):
        write_selection(make_config(SelectionOptions(score_from="nearest")), tmp_path)

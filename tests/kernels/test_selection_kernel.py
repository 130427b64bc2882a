"""The selection kernel returns what `select_proposals_plain` returns, on every input and in every variant.

Where a test says equal, it means bit for bit. That needs deltas whose exp() torch and the C library agree on: of those
drawn at random, `EXACT` takes the ones whose exp() torch rounds correctly, as the C library always does.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from types import ModuleType
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.config import AnchorOptions, SelectionOptions
from objectness.geometry import selection as selecting
from objectness.geometry.anchors import make_anchors
from objectness.geometry.boxes import MAX_LOG_SCALE
from objectness.geometry.nms import nms
from objectness.geometry.selection import select_proposals, select_proposals_plain
from objectness.kernels.cpu.library import ENVIRONMENT, VARIANTS, choose_variant, describe, find_library
from objectness.kernels.cpu.selection import select
from objectness.structures import AnchorGrid, Output, Selection

pytestmark = pytest.mark.skipif(find_library() is None, reason=describe())

SIZES = (8.0, 16.0, 32.0, 64.0, 128.0)
RATIOS = (0.5, 1.0, 2.0, 0.25, 4.0)
SQUARES = ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3))  # 5,082 anchors of 3 shapes
CANDIDATES = torch.arange(-192, 193) / 64
EXACT = CANDIDATES[CANDIDATES.exp() == CANDIDATES.double().exp().float()]
RUNS = [name for i, name in enumerate(VARIANTS) if find_library() is not None and i <= choose_variant()]


@pytest.fixture(params=RUNS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each variant that this processor can run."""
    monkeypatch.setenv(ENVIRONMENT, request.param)
    return str(request.param)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tensors are tiny: threads would cost more than they give."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Case(NamedTuple):
    """What is selected from."""

    output: Output
    grid: AnchorGrid
    sizes: Tensor


def make_grid(map_sizes: Sequence[tuple[int, int]] = SQUARES, num_shapes: int = 3) -> AnchorGrid:
    return make_anchors(AnchorOptions(sizes=SIZES, ratios=RATIOS[:num_shapes]), map_sizes, (0, 0))


def draw_logits(shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Tensor:
    logits = torch.randn(shape, generator=generator)
    if kind == "tied":
        return (logits * 2).round() / 2
    if kind == "equal":
        return torch.zeros(shape)
    if kind == "nan":
        return torch.full(shape, math.nan)
    if kind == "huge":
        return logits * 1e38  # beyond float32 here and there
    if kind == "special":
        values = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40])
        chosen = values[torch.randint(len(values), shape, generator=generator)]
        return torch.where(torch.rand(shape, generator=generator) < 0.5, chosen, logits)
    return logits


def draw_deltas(shape: tuple[int, ...], kind: str, generator: torch.Generator) -> Tensor:
    deltas = EXACT[torch.randint(len(EXACT), shape, generator=generator)] * 1.0
    if kind == "zero":
        return torch.zeros(shape)
    if kind == "special":
        values = torch.tensor([math.nan, math.inf, -math.inf, 1e4, -1e4, 1e38])
        chosen = values[torch.randint(len(values), shape, generator=generator)]
        return torch.where(torch.rand(shape, generator=generator) < 0.2, chosen, deltas)
    return deltas


def lay_out(level: Tensor, layout: str) -> Tensor:
    """The same values, otherwise in memory."""
    if layout == "channels_last":
        return level.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # of larger maps, whose other values must not be looked at
        larger = torch.full((*level.shape[:2], level.shape[2] + 1, 2 * level.shape[3] + 1), 99.0)
        view = larger[:, :, 1:, 1::2]
        view.copy_(level)
        return view
    return level


def make_case(
    grid: AnchorGrid,
    *,
    num_images: int = 1,
    folded: bool = False,
    logits: str = "random",
    deltas: str = "exact",
    layout: str = "plain",
    seed: int = 0,
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    num_shapes = len(grid.options.ratios)
    maps = [
        (
            lay_out(draw_logits((num_images, num_shapes * (2 - folded), *size), logits, generator), layout),
            lay_out(draw_deltas((num_images, num_shapes * 4, *size), deltas, generator), layout),
        )
        for size in grid.map_sizes
    ]
    sizes = torch.rand(num_images, 2, generator=generator) * torch.tensor([64.0, 80]) + torch.tensor([64.0, 80])
    return Case(Output((), *zip(*maps, strict=True)), grid, sizes)


def assert_equal(ours: Sequence[Selection], plain: Sequence[Selection]) -> None:
    assert len(ours) == len(plain)
    for mine, other in zip(ours, plain, strict=True):
        for tensor, expected in zip(mine, other, strict=True):
            assert tensor.dtype == expected.dtype
            assert tensor.shape == expected.shape
            assert torch.equal(tensor, expected)


def check(case: Case, **options: object) -> list[Selection]:
    """Both ways; the kernel's answer."""
    chosen = SelectionOptions(**options)
    ours = run_kernel(case, chosen)
    assert_equal(ours, select_proposals_plain(*case, chosen))
    return ours


def run_kernel(case: Case, options: SelectionOptions) -> list[Selection]:
    with mock.patch.object(selecting, "select_proposals_plain", side_effect=AssertionError("the kernel did not run")):
        return select_proposals(*case, options)


# Equality


MAPS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=5, max_size=5)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    map_sizes=MAPS,
    num_shapes=st.integers(1, 5),
    drawn=st.fixed_dictionaries(
        {
            "num_images": st.integers(1, 3),
            "folded": st.booleans(),
            "logits": st.sampled_from(["random", "tied", "equal", "nan", "huge", "special"]),
            "deltas": st.sampled_from(["exact", "zero", "special"]),
            "layout": st.sampled_from(["plain", "channels_last", "sliced"]),
            "seed": st.integers(0, 2**32 - 1),
        }
    ),
    options=st.fixed_dictionaries(
        {
            "per_level": st.sampled_from([1, 2, 7, 50, 2000]),
            "keep": st.sampled_from([1, 5, 60, 2000]),
            "nms_iou": st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
            "min_visible": st.sampled_from([0.0, 0.5, 0.9, 1.0]),
            "min_size": st.sampled_from([0.0, 1e-3, 1.2e-38, 8.0]),
            "clamp": st.sampled_from(["above", "both"]),
            "score_from": st.sampled_from(["own", "nearest"]),
            "across_levels": st.booleans(),
            "decay_sigma": st.sampled_from([0.0, 0.0, 1.0]),
        }
    ),
)
def test_equal_on_whatever_there_is(
    variant: str,
    map_sizes: list[tuple[int, int]],
    num_shapes: int,
    drawn: dict[str, object],
    options: dict[str, object],
) -> None:
    check(make_case(make_grid(map_sizes, num_shapes), **drawn), **options)


@pytest.mark.parametrize("layout", ["plain", "channels_last", "sliced"])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("score_from", ["own", "nearest"])
@pytest.mark.parametrize("logits", ["random", "tied"])
def test_equal_on_a_small_image(variant: str, layout: str, folded: bool, score_from: str, logits: str) -> None:
    case = make_case(make_grid(), num_images=3, folded=folded, layout=layout, logits=logits)
    for selection in check(case, score_from=score_from, per_level=500, keep=300):
        assert len(selection.boxes) == 300


def test_levels_suppress_each_other_where_asked(variant: str) -> None:
    """`nms` over the regions of all levels, which no code of selection takes part in, chooses the same."""
    case = make_case(make_grid(), seed=5)
    everything = run_kernel(case, SelectionOptions(per_level=300, keep=10_000, nms_iou=1.0))[0]
    chosen = nms(everything.boxes, everything.logits, 0.3)
    across = run_kernel(case, SelectionOptions(per_level=300, keep=10_000, nms_iou=0.3, across_levels=True))[0]
    assert torch.equal(across.boxes, everything.boxes[chosen])
    assert torch.equal(across.levels, everything.levels[chosen])
    within = run_kernel(case, SelectionOptions(per_level=300, keep=10_000, nms_iou=0.3))[0]
    assert len(across.boxes) < len(within.boxes)


def test_no_cells(variant: str) -> None:
    nothing = [(0, 0), (0, 5), (5, 0), (0, 1), (1, 0)]
    for score_from in ("own", "nearest"):
        (selection,) = check(make_case(make_grid(nothing)), score_from=score_from)
        assert selection.boxes.shape == (0, 4)
    (selection,) = check(make_case(make_grid([(4, 4), *nothing[1:]]), deltas="zero"), nms_iou=1)
    assert len(selection.boxes) == 48


def test_an_empty_level_is_nobodys_nearest(variant: str) -> None:
    case = make_case(make_grid([(4, 4), (0, 0), (2, 2), (0, 3), (1, 1)]), deltas="zero")
    (selection,) = run_kernel(case, SelectionOptions(score_from="nearest", nms_iou=1))
    assert set(selection.levels.tolist()) == {2, 4, 6}


def test_no_images(variant: str) -> None:
    case = make_case(make_grid(), num_images=0)
    assert run_kernel(case, SelectionOptions()) == []
    assert select_proposals_plain(*case, SelectionOptions()) == []


@pytest.mark.parametrize("size", [(math.nan, 160.0), (128.0, math.nan), (math.nan, math.nan)])
def test_an_image_whose_size_is_no_number_has_no_proposals(variant: str, size: tuple[float, float]) -> None:
    case = make_case(make_grid(), num_images=2)._replace(sizes=torch.tensor([size, (128.0, 160.0)]))
    none, some = check(case)
    assert len(none.boxes) == 0
    assert len(some.boxes) > 0


def test_keep_in_place_of_the_options(variant: str) -> None:
    case = make_case(make_grid())
    for keep in (0, 1, 9, 10**30):
        options = SelectionOptions(per_level=10**30)
        plain = select_proposals_plain(*case, options, keep=min(keep, 10**9))
        assert_equal(select_proposals(*case, options, keep=keep), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(variant: str, dtype: torch.dtype) -> None:
    output, grid, sizes = make_case(make_grid())
    other = Output((), tuple(e.to(dtype) for e in output.logits), tuple(e.to(dtype) for e in output.deltas))
    (selection,) = check(Case(other, grid, sizes))
    assert selection.boxes.dtype == torch.float32


# More anchors than a collection holds: a bar from a sample, and what to do when it deceives


LARGE = ((64, 60), (2, 2), (2, 2), (1, 1), (1, 1))  # P2: 11,520 anchors of 3 shapes, beyond 4,096 + per_level
NUM_LARGE = 64 * 60 * 3


def make_large(p2: Tensor) -> Case:
    """P2 says `p2` (11,520,) at its anchors; folded."""
    output, grid, sizes = make_case(make_grid(LARGE), folded=True)
    level = p2.reshape(1, 64, 60, 3).permute(0, 3, 1, 2).contiguous()
    return Case(output._replace(logits=(level, *output.logits[1:])), grid, sizes)


@pytest.mark.parametrize(
    "p2",
    [
        torch.arange(NUM_LARGE).float(),
        -torch.arange(NUM_LARGE).float(),
        torch.arange(NUM_LARGE).reshape(-1, 3).T.reshape(-1).float(),  # rising as it is read
        torch.full((NUM_LARGE,), 0.5),
        torch.arange(NUM_LARGE).float().div(1000).floor(),
        torch.cat([torch.full((NUM_LARGE - 900,), -math.inf), torch.ones(900)]),
        torch.full((NUM_LARGE,), math.nan),
        torch.full((NUM_LARGE,), math.inf),
    ],
    ids=["rising", "falling", "rising in memory", "equal", "steps", "few", "nan", "infinite"],
)
@pytest.mark.parametrize("per_level", [1, 1000, 2000])
def test_many_anchors(variant: str, p2: Tensor, per_level: int) -> None:
    check(make_large(p2), per_level=per_level, nms_iou=1, min_size=0)


def test_a_sample_that_deceives(variant: str) -> None:
    """Only the 1,024 anchors that the sample looks at are good, so that it promises ten times as many of them."""
    p2 = torch.zeros(NUM_LARGE)
    p2[torch.arange(1024) * NUM_LARGE // 1024] = 5
    (selection,) = check(make_large(p2), per_level=2000, keep=2000, nms_iou=1, min_size=0)
    assert (selection.logits == 5).sum() == 1024
    assert (selection.logits[selection.levels == 2] == 0).sum() > 900


# Full size


FULL = ((200, 304), (100, 152), (50, 76), (25, 38), (13, 19))  # 800 x 1216


@cache
def make_full(kind: str) -> Case:
    """Random logits, or high ones around twenty places; deltas as a trained network's."""
    grid = make_anchors(AnchorOptions(), FULL, (800, 1216))
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(20, 3, generator=generator).tolist()

    def make_logits(height: int, width: int) -> Tensor:
        logits = torch.randn(1, 3, height, width, generator=generator)
        if kind == "random":
            return logits
        y, x = torch.arange(height)[:, None] / height, torch.arange(width)[None, :] / width
        hills = [torch.exp(-((y - a) ** 2 + (x - b) ** 2) / (0.02 + 0.1 * c)) for a, b, c in places]
        return logits / 10 - 4 + 8 * torch.stack(hills).amax(dim=0)

    logits = tuple(make_logits(*size) for size in FULL)
    deltas = tuple(torch.randn(1, 12, *size, generator=generator) / 5 for size in FULL)
    return Case(Output((), logits, deltas), grid, torch.tensor([[800.0, 1200]]))


@cache
def select_plainly(kind: str, score_from: str) -> Selection:
    return select_proposals_plain(*make_full(kind), SelectionOptions(score_from=score_from))[0]


@pytest.mark.parametrize("kind", ["random", "clustered"])
@pytest.mark.parametrize("score_from", ["own", "nearest"])
def test_full_size(variant: str, kind: str, score_from: str) -> None:
    """Any deltas: boxes to the last bits of exp()."""
    (ours,) = run_kernel(make_full(kind), SelectionOptions(score_from=score_from))
    plain = select_plainly(kind, score_from)
    assert len(ours.boxes) == 2000
    assert torch.equal(ours.logits, plain.logits)
    assert torch.equal(ours.levels, plain.levels)
    torch.testing.assert_close(ours.boxes, plain.boxes, rtol=1e-6, atol=2e-4)


@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_torchvision_chooses_the_same(variant: str, kind: str, torchvision: ModuleType) -> None:
    """Its own decoding, clipping and suppression; in the same order up to ties."""
    coder = torchvision.models.detection._utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    (logits, deltas), grid = make_full(kind).output[1:], make_full(kind).grid
    boxes, scores, levels = [], [], []
    for i, anchors in enumerate(grid.levels):
        values = logits[i].permute(0, 2, 3, 1).reshape(-1)
        best = values.topk(min(1000, len(values))).indices
        decoded = coder.decode(deltas[i].permute(0, 2, 3, 1).reshape(-1, 4)[best], [anchors[best]])[:, 0]
        boxes.append(torchvision.ops.clip_boxes_to_image(decoded, (800, 1200)))
        scores.append(values[best])
        levels.append(torch.full_like(best, i + 2))
    candidates = Selection(torch.cat(boxes), torch.cat(scores), torch.cat(levels))
    big = torchvision.ops.remove_small_boxes(candidates.boxes, 1e-3)
    candidates = Selection(*(tensor[big] for tensor in candidates))
    kept = torchvision.ops.batched_nms(*candidates, 0.7)[:1000]
    theirs = sort_ties(Selection(*(tensor[kept] for tensor in candidates)))
    (ours,) = run_kernel(make_full(kind), SelectionOptions(per_level=1000, keep=1000))
    ours = sort_ties(ours)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.levels, theirs.levels)
    torch.testing.assert_close(ours.boxes, theirs.boxes, rtol=1e-6, atol=2e-4)


def sort_ties(selection: Selection) -> Selection:
    """Equal logits by level, then from left to right."""
    order = selection.boxes[:, 0].round().argsort(stable=True)
    for values in (selection.levels, -selection.logits):
        order = order[values[order].argsort(stable=True)]
    return Selection(*(tensor[order] for tensor in selection))


# Who is asked


class Odd(Tensor):
    """A kind of tensor that may have no memory of its own, like those of a compiler's trace."""


def test_where_the_plain_function_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    output, grid, sizes = make_case(make_grid())
    options = SelectionOptions()
    plain = select_proposals_plain(output, grid, sizes, options)
    with mock.patch.object(selecting, "select", side_effect=AssertionError("the kernel ran")):
        wanted = output._replace(logits=tuple(level.requires_grad_() for level in output.logits))
        assert select_proposals(wanted, grid, sizes, options)[0].logits.requires_grad
        ours = Output((), tuple(level.detach() for level in output.logits), output.deltas)
        assert_equal(
            select_proposals(ours, grid, sizes, options, box_coding="absolute"),
            select_proposals_plain(ours, grid, sizes, options, box_coding="absolute"),
        )
        odd = ours._replace(deltas=tuple(level.as_subclass(Odd) for level in ours.deltas))
        assert len(select_proposals(odd, grid, sizes, options)[0].boxes) == len(plain[0].boxes)
        monkeypatch.setenv(ENVIRONMENT, "off")
        assert_equal(select_proposals(ours, grid, sizes, options), plain)


def test_meta_tensors_never_reach_the_kernel() -> None:
    output, grid, sizes = make_case(make_grid())
    elsewhere = Output((), tuple(e.to("meta") for e in output.logits), output.deltas)
    with pytest.raises(ValueError, match=r"logits\[0\] is on meta; a kernel needs it on the CPU"):
        call(Case(elsewhere, grid, sizes))


# What does not fit is said in one sentence


def call(case: Case, **changes: object) -> list[Selection]:
    """`select` itself, any argument replaced."""
    output, grid, sizes = case
    arguments = {
        "output": output,
        "shapes": [anchors[: len(grid.options.ratios)] for anchors in grid.levels],
        "strides": grid.strides,
        "sizes": sizes,
        "options": SelectionOptions(),
        "keep": 100,
        "max_log_scale": MAX_LOG_SCALE,
        "anchors": grid.options,
    }
    return select(**{**arguments, **changes})


def test_maps_that_do_not_fit() -> None:
    case = make_case(make_grid())
    output = case.output
    logits, deltas = output.logits, output.deltas
    for changed, sentence in (
        (Output((), logits[:4], deltas), "4 levels of logits and 5 of deltas"),
        (Output((), logits[:4], deltas[:4]), "4 maps, 5 shapes and 5 strides"),
        (Output((), (), ()), "0 maps, 5 shapes and 5 strides"),
        (Output((), (logits[0][:, :5], *logits[1:]), deltas), "5 channels of logits, 12 of deltas"),
        (Output((), (logits[0][0], *logits[1:]), deltas), r"logits\[0\] has the shape \(6, 32, 40\)"),
        (Output((), (*logits[:4], logits[4][0]), deltas), r"logits\[4\] has the shape \(6, 2, 3\)"),
        (Output((), (logits[0][:, :, :9], *logits[1:]), deltas), r"deltas\[0\] has the shape \(1, 12, 32, 40\)"),
        (Output((), logits, (*deltas[:4], deltas[4][:, :9])), r"deltas\[4\] has the shape \(1, 9, 2, 3\)"),
        (Output((), (*logits[:4], logits[4].expand(2, 6, 2, 3)), deltas), r"logits\[4\] has the shape \(2, 6, 2, 3\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            call(case, output=changed)


def test_arguments_that_do_not_fit() -> None:
    case = make_case(make_grid())
    shapes = [torch.zeros(3, 4)] * 5
    for name, value, error, sentence in (
        ("sizes", torch.zeros(2), ValueError, r"sizes has the shape \(2,\)"),
        ("sizes", torch.zeros(3, 2), ValueError, r"logits\[0\] has the shape \(1, 6, 32, 40\)"),
        ("shapes", [torch.zeros(2, 4), *shapes[1:]], ValueError, r"shapes\[0\] has the shape \(2, 4\)"),
        ("shapes", [torch.zeros(3, 4).double(), *shapes[1:]], TypeError, r"shapes\[0\] is a torch.float64 tensor"),
        ("shapes", [torch.zeros(3, 8)[:, ::2], *shapes[1:]], ValueError, r"shapes\[0\] is not contiguous"),
        ("strides", [(4, 4)], ValueError, "5 maps, 5 shapes and 1 strides"),
    ):
        with pytest.raises(error, match=sentence):
            call(case, **{name: value})
    with pytest.raises(ValueError, match="5 anchor sizes and 2 ratios for 5 levels and 3 shapes"):
        call(case, anchors=AnchorOptions(ratios=(1.0, 2.0)), options=SelectionOptions(score_from="nearest"))
    sparse = case.output._replace(logits=tuple(level.to_sparse() for level in case.output.logits))
    with pytest.raises(TypeError, match=r"torch\.sparse_coo"):
        call(case, output=sparse)


def test_more_anchors_than_a_key_can_number() -> None:
    """A map may be a view of one value, and so of any size."""
    case = make_case(make_grid([(1, 1)] * 5), folded=True)
    (logits, *coarser), (deltas, *others) = case.output.logits, case.output.deltas
    huge = Output((), (logits.expand(1, 3, 40_000, 40_000), *coarser), (deltas.expand(1, 12, 40_000, 40_000), *others))
    with pytest.raises(
        ValueError, match=r"logits\[0\] has 40000 x 40000 cells; a kernel can number 4294967296 anchors"
    ):
        call(case, output=huge)


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "off")
    with pytest.raises(RuntimeError, match="there is no objectness_select: kernels are switched off"):
        call(make_case(make_grid()))

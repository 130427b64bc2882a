"""The suppression kernel keeps what `nms_plain` keeps, in its order, on every input and in every variant."""

import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from objectness.geometry.boxes import compute_iou_plain
from objectness.geometry.nms import nms_plain, sort_scores
from objectness.kernels.cpu.library import ENVIRONMENT, FOLDER, OFF, VARIANTS, choose_variant, describe, find_library
from objectness.kernels.cpu.nms import suppress_boxes

pytestmark = pytest.mark.skipif(find_library() is None, reason=describe())

RUNS = [name for i, name in enumerate(VARIANTS) if find_library() is not None and i <= choose_variant()]
FEW, MANY = 40, 1500  # boxes that the kernel compares all with all, and such that it puts into bins
THRESHOLDS = (0.0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 0.95, 1.0)
every_variant = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(params=RUNS)
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each variant that this processor can run."""
    monkeypatch.setenv(ENVIRONMENT, request.param)
    return str(request.param)


def assert_equal(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    kept = suppress_boxes(boxes, scores, threshold, groups)
    assert kept.dtype == torch.int64
    assert torch.equal(kept, nms_plain(boxes, scores, threshold, groups))
    return kept


def make_boxes(kind: str, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*(shape or (count, 2)), generator=generator)

    corners, sides = draw(0, 500), draw(5, 60)
    if kind == "clustered":
        centres = draw(0, 500, 1 + count // 30, 2).repeat_interleave(30, dim=0)[:count]
        corners, sides = centres + draw(-3, 3), 40 + draw(-3, 3)
    if kind == "lattice":  # duplicates, and IoUs of exactly 1 / 4, 1 / 2 and others
        corners, sides = (corners / 8).floor() * 8, (draw(0, 4).floor() * 8).clamp(min=0)
    if kind == "of any size":
        sides = 10 ** draw(-4, 4)
    if kind == "thin":
        sides = torch.stack([10 ** draw(-3, 0, count), draw(10, 100, count)], dim=1)
    if kind == "equal":
        corners, sides = corners[:1].expand(count, 2), sides[:1].expand(count, 2)
    if kind == "nested":  # squares around one point, each 1 % larger than the last
        sides = 1.01 ** torch.arange(count)[:, None].expand(count, 2)
        corners = -sides / 2
    if kind == "far away":  # coordinates have no more than a quarter of a pixel
        corners, sides = corners + 3e6, sides.round()
    boxes = torch.cat([corners, corners + sides], dim=1)
    if kind == "hostile":
        values = torch.tensor([math.nan, math.inf, -math.inf, 3e38, -3e38, 0.0, -0.0, 1e-45, 1e-20, 1e19])
        chosen = values[torch.randint(len(values), boxes.shape, generator=generator)]
        boxes = torch.where(draw(0, 1, count, 4) < 0.2, chosen, boxes)
    if kind == "inverted":
        boxes = torch.where(draw(0, 1, count, 1) < 0.3, boxes[:, [2, 3, 0, 1]], boxes)
    scale = {"tiny": 1e-12, "denormal": 3e-21, "huge": 1e16}.get(kind, 1.0)
    return boxes * scale


KINDS = (
    "random", "clustered", "lattice", "of any size", "thin", "equal", "nested", "far away", "hostile", "inverted",
    "tiny", "denormal", "huge",
)  # fmt: skip


def make_scores(kind: str, count: int, seed: int) -> Tensor:
    scores = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    if kind == "tied":
        return scores.round()
    if kind == "special":
        values = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, -1e-45])
        return values[torch.randint(len(values), (count,), generator=torch.Generator().manual_seed(seed))]
    return scores


# Any input


@every_variant
@given(
    st.sampled_from(KINDS),
    st.sampled_from(["random", "tied", "special"]),
    st.one_of(st.integers(0, FEW), st.integers(FEW, MANY)),
    st.one_of(st.sampled_from(THRESHOLDS), st.floats(0, 1)),
    st.sampled_from([0, 0, 1, 3, 100]),
    st.integers(0, 2**31),
)
def test_any_boxes(
    variant: str, kind: str, score_kind: str, count: int, threshold: float, num_groups: int, seed: int
) -> None:
    boxes, scores = make_boxes(kind, count, seed), make_scores(score_kind, count, seed)
    groups = torch.randint(num_groups, (count,), generator=torch.Generator().manual_seed(seed)) if num_groups else None
    assert_equal(boxes, scores, threshold, groups)


@every_variant
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 8), st.integers(0, 8), st.integers(-2, 2)),
        max_size=25,
    ),
    st.sampled_from(THRESHOLDS),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
)
def test_few_boxes_on_a_small_grid(
    variant: str, rows: list[tuple[int, int, int, int, int]], threshold: float, names: list[int]
) -> None:
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows]).reshape(-1, 4).float()
    scores = torch.tensor([score for *_, score in rows]).float()
    groups = torch.tensor([names[i % len(names)] for i in range(len(rows))], dtype=torch.int64)
    assert_equal(boxes, scores, threshold, groups)
    assert_equal(boxes, scores, threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_many_boxes(variant: str, kind: str, threshold: float) -> None:
    boxes, scores = make_boxes(kind, MANY, seed=3), make_scores("random", MANY, seed=3)
    kept = assert_equal(boxes, scores, threshold)
    assert len(kept) > 0
    if kind == "random" and threshold == 0.5:
        assert 600 < len(kept) < MANY - 100  # enough for bins, and not all


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "clustered", "of any size"])
def test_very_many_boxes(variant: str, kind: str) -> None:
    boxes, scores = make_boxes(kind, 20_000, seed=5) * 4, make_scores("tied", 20_000, seed=5)
    assert_equal(boxes, scores, 0.5)


@pytest.mark.parametrize("others", [0, MANY])
def test_thresholds_next_to_the_iou(variant: str, others: int) -> None:
    """Of the two thresholds that lie next to a pair's IoU, only the lower one suppresses; without or with bins."""
    boxes = torch.cat([make_boxes("random", others, seed=4) + 1000, torch.zeros(2, 4)])
    scores = torch.zeros(len(boxes))
    for pair in make_boxes("clustered", 60, seed=2).reshape(-1, 2, 4):
        boxes[-2:] = pair
        overlap = compute_iou_plain(pair[:1], pair[1:])[0, 0]
        for threshold in (overlap, overlap.nextafter(torch.tensor(0.0))):
            stays = others + 1 in suppress_boxes(boxes, scores, float(threshold)).tolist()
            assert stays == (threshold == overlap)


def test_groups_that_share_everything_but_their_number(variant: str) -> None:
    boxes = make_boxes("equal", MANY, seed=0)
    groups = torch.arange(MANY) % 300 * 2**32  # differ in the upper half alone
    assert_equal(boxes, make_scores("tied", MANY, seed=0), 0.5, groups)
    assert len(suppress_boxes(boxes, torch.zeros(MANY), 0.5, groups)) == 300


# Order


def test_order_of_all_scores(variant: str) -> None:
    """Boxes that do not touch stay all, so that what comes back is the order."""
    values = [2.0, -1.0, 0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-45, 2.0, 3e38, -3e38, math.nan]
    boxes = torch.arange(len(values)).float()[:, None] * 10 + torch.tensor([0.0, 0, 5, 5])
    kept = suppress_boxes(boxes, torch.tensor(values), 0.5)
    assert kept.tolist() == [4, 10, 0, 9, 7, 2, 3, 8, 1, 11, 5, 6, 12]  # equal ones in their order, NaN as -inf
    assert torch.equal(kept, sort_scores(torch.tensor(values)))
    assert suppress_boxes(boxes, None, 0.5).tolist() == list(range(len(values)))


# Other memory, other types


def test_any_strides_and_types(variant: str) -> None:
    boxes, scores = make_boxes("lattice", 60, seed=1), make_scores("tied", 60, seed=1)
    groups = torch.arange(60) % 2
    expected = suppress_boxes(boxes, scores, 0.4, groups)
    assert torch.equal(suppress_boxes(boxes.T.contiguous().T, scores, 0.4, groups), expected)
    assert torch.equal(suppress_boxes(boxes.double(), scores.half(), 0.4, groups), expected)
    assert torch.equal(suppress_boxes(boxes.long(), scores.bfloat16(), 0.4, groups), expected)
    every_second = [each.repeat_interleave(2, dim=0)[::2] for each in (boxes, scores, groups)]
    assert not every_second[1].is_contiguous()
    assert torch.equal(suppress_boxes(every_second[0], every_second[1], 0.4, every_second[2]), expected)
    assert torch.equal(boxes, make_boxes("lattice", 60, seed=1))  # nothing is written into


def test_boxes_that_another_thread_writes_into(variant: str, tmp_path: Path) -> None:
    """They may give anything, but a value that changed after it was checked never becomes an index."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc")
    program = tmp_path / "changing"
    flags = ["-std=c11", "-O1", "-g", "-ffp-contract=off", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [Path(__file__).parent / "changing.c", f"-I{FOLDER}", "-lm", "-o", program]
    if subprocess.run([compiler, *flags, *sources], capture_output=True).returncode:
        pytest.skip("gcc cannot build with sanitizers here")
    process = subprocess.run([program, str(VARIANTS.index(variant))], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    numbers = [int(line) for line in process.stdout.split()]
    assert len(numbers) == 20
    assert min(numbers) > 512  # so that bins were used


def test_wrong_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = torch.rand(3, 4), torch.rand(3)
    with pytest.raises(ValueError, match=r"boxes has the shape \(3, 5\); a kernel needs \(3, 4\)"):
        suppress_boxes(torch.rand(3, 5), scores, 0.5)
    with pytest.raises(ValueError, match=r"scores has the shape \(2,\)"):
        suppress_boxes(boxes, scores[:2], 0.5)
    with pytest.raises(ValueError, match=r"groups has the shape \(3, 1\)"):
        suppress_boxes(boxes, scores, 0.5, torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"groups is a torch.float32 tensor"):
        suppress_boxes(boxes, scores, 0.5, torch.zeros(3))
    with pytest.raises(TypeError, match=r"scores is a torch.float64 tensor"):
        suppress_boxes(boxes, scores.double(), 0.5)
    with pytest.raises(ValueError, match="boxes is on meta"):
        suppress_boxes(boxes.to("meta"), scores, 0.5)
    monkeypatch.setenv(ENVIRONMENT, OFF)
    with pytest.raises(RuntimeError, match="there is no objectness_nms: kernels are switched off"):
        suppress_boxes(boxes, scores, 0.5)

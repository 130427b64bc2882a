import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from objectness.errors import ImageError, ObjectnessError
from objectness.images.drawing import draw_boxes
from objectness.proposals import Proposals

GREY = np.full((60, 80, 3), 128, dtype=np.uint8)
LOGITS = torch.tensor([2.0, 0.0, 0.0, -1.0])


def make_proposals(count: int = 4) -> Proposals:
    return Proposals(
        boxes=torch.arange(4 * count).reshape(count, 4).float() + torch.tensor([0.0, 0, 10, 20]),
        logits=LOGITS[:count].clone(),
        levels=torch.tensor([2, 6, 3, 4])[:count],
        image_size=(80, 120),
        features=torch.arange(count).float()[:, None, None, None].expand(-1, 2, 1, 1),
    )


@pytest.mark.parametrize(("count", "left"), [(0, 0), (1, 1), (4, 4), (9, 4), (-1, 0)])
def test_top(count: int, left: int) -> None:
    proposals = make_proposals()
    top = proposals.top(count)
    assert len(top) == left
    for name in ("boxes", "logits", "levels", "features"):
        assert torch.equal(getattr(top, name), getattr(proposals, name)[:left])
    assert top.image_size == (80, 120)


@pytest.mark.parametrize(("score", "left"), [(0.0, 4), (0.5, 3), (0.51, 1), (0.9, 0)])
def test_above(score: float, left: int) -> None:
    """Scores are 0.881, 0.5, 0.5 and 0.269; the threshold itself counts as above."""
    above = make_proposals().above(score)
    assert len(above) == left
    assert above.features is not None
    assert len(above.features) == left


def test_scores_are_sigmoids() -> None:
    np.testing.assert_allclose(make_proposals().scores, 1 / (1 + np.exp(-LOGITS.numpy())), rtol=1e-6)


# For others


def test_to_detectron2() -> None:
    proposals = make_proposals()
    plain = proposals.to_detectron2()
    assert list(plain) == ["proposal_boxes", "objectness_logits", "image_size"]
    assert torch.equal(plain["proposal_boxes"], proposals.boxes)
    assert torch.equal(plain["objectness_logits"], proposals.logits)
    assert plain["image_size"] == (80, 120)
    plain["proposal_boxes"] *= 2  # as detectron2's Boxes.scale() does, in place
    plain["objectness_logits"] *= 2
    assert torch.equal(proposals.boxes, make_proposals().boxes)
    assert torch.equal(proposals.logits, LOGITS)


@pytest.fixture(scope="module")
def supervision() -> ModuleType:
    with warnings.catch_warnings(action="ignore"):  # it complains where OpenCV is missing
        module: ModuleType = pytest.importorskip("supervision")
    return module


@pytest.mark.parametrize("count", [0, 4])
def test_to_supervision(count: int, supervision: ModuleType) -> None:
    proposals = make_proposals(count)
    detections = proposals.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == count
    np.testing.assert_array_equal(detections.xyxy, proposals.boxes)
    np.testing.assert_array_equal(detections.confidence, proposals.scores)
    np.testing.assert_array_equal(detections.class_id, np.zeros(count))
    np.testing.assert_array_equal(detections.data["level"], proposals.levels)
    sure = detections[detections.confidence > 0.6]
    assert sure.data["level"].tolist() == [2][:count]  # the levels go with the boxes
    detections.xyxy[:] = -1
    detections.data["level"][:] = -1
    assert torch.equal(proposals.boxes, make_proposals(count).boxes)
    assert (proposals.levels > 0).all()


def test_supervision_draws_them(supervision: ModuleType) -> None:
    scene = np.zeros((80, 120, 3), np.uint8)
    drawn = supervision.BoxAnnotator(thickness=1).annotate(scene.copy(), make_proposals().to_supervision())
    assert drawn[1, 5].any()  # on the upper edge of the first box, (0, 1, 12, 23)
    assert not drawn[60, 100].any()


def test_supervision_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ObjectnessError, match=r"needs supervision: pip install 'objectness\[supervision\]'$"):
        make_proposals().to_supervision()


PROPOSALS = Proposals(
    boxes=torch.tensor([[5.5, 5, 40, 40], [20, 10, 70, 55]]),
    logits=torch.tensor([3.0, -1.0]),
    levels=torch.tensor([3, 4]),
    image_size=(60, 80),
)


def test_proposals_draw_themselves_on_any_kind_of_image(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    expected = draw_boxes(GREY, PROPOSALS.boxes, PROPOSALS.scores, PROPOSALS.levels, labels=1)
    for image in (GREY, Image.fromarray(GREY), tmp_path / "a.png"):
        assert replace(PROPOSALS, image=image).draw(labels=1).tobytes() == expected.tobytes()


def test_proposals_without_their_image_say_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="do not know their image"):
        PROPOSALS.draw()
    with pytest.raises(ImageError, match=r"gone\.png: cannot be opened"):
        replace(PROPOSALS, image=tmp_path / "gone.png").draw()
    with pytest.raises(ImageError, match="the image is 60 x 80 px high and wide, and was 60 x 90 when"):
        replace(PROPOSALS, image=GREY, image_size=(60, 90)).draw()

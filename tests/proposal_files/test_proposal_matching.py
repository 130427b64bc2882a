import json
from pathlib import Path

import numpy as np
import pytest

from objectness.data.records import ImageRecord
from objectness.errors import AnnotationError
from objectness.proposal_files.jsonl import read_proposals
from objectness.proposal_files.matching import match_proposals
from objectness.proposal_files.record import ImageProposals


def make_record(path: str, size: tuple[int, int] = (30, 40)) -> ImageRecord:
    return ImageRecord(Path(path), Path(path).name, path, *size, np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=bool))


def make_found(*numbers: float, size: tuple[int, int] | None = (30, 40)) -> ImageProposals:
    """Boxes that tell one line from another by their scores."""
    return ImageProposals(np.tile([1.0, 2, 3, 4], (len(numbers), 1)), np.array(numbers), size=size)


def match(files: dict[str, ImageProposals], *paths: str) -> list[list[float]]:
    return [scores.tolist() for _, scores in match_proposals(files, [make_record(path) for path in paths], "all.jsonl")]


def test_images_find_their_lines_in_any_order() -> None:
    files = {"photos/a.jpg": make_found(0.1), "photos/b.jpg": make_found(0.2), "photos/c.jpg": make_found()}
    assert match(files, "photos/c.jpg", "photos/a.jpg") == [[], [0.1]]
    assert match(files, str(Path("photos/b.jpg").absolute()), "./photos/../photos/a.jpg") == [[0.2], [0.1]]


def test_files_that_were_moved_are_found_by_their_names() -> None:
    files = {"/old/train/a.jpg": make_found(0.1), "/old/val/a.jpg": make_found(0.2), "/old/val/b.jpg": make_found(0.3)}
    assert match(files, "/new/val/a.jpg", "/new/train/a.jpg", "/new/b.jpg") == [[0.2], [0.1], [0.3]]


def test_images_without_a_line_are_counted() -> None:
    with pytest.raises(AnnotationError, match=r"all.jsonl: has no line for 2 of 3 .*\(the first is b\.jpg\)"):
        match({"a.jpg": make_found(0.1)}, "a.jpg", "b.jpg", "c.jpg")


def test_what_may_be_either_is_refused() -> None:
    two = {"/old/train/a.jpg": make_found(0.1), "/old/val/a.jpg": make_found(0.2)}
    with pytest.raises(AnnotationError, match=r"train/a\.jpg and /old/val/a\.jpg may both be /new/a\.jpg"):
        match(two, "/new/a.jpg")
    with pytest.raises(AnnotationError, match=r"/old/a\.jpg may be /new/train/a\.jpg or /new/val/a\.jpg"):
        match({"/old/a.jpg": make_found(0.1)}, "/new/train/a.jpg", "/new/val/a.jpg")


def test_sizes_must_be_those_of_the_annotations() -> None:
    with pytest.raises(AnnotationError, match=r"of a\.jpg are for 80 x 60 px, its annotations for 40 x 30"):
        match({"a.jpg": make_found(0.1, size=(60, 80))}, "a.jpg")
    assert match({"a.jpg": make_found(0.1, size=None)}, "a.jpg") == [[0.1]]


def test_lines_of_other_tools_need_no_size(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text(json.dumps({"file": "a.jpg", "boxes": [[1, 2, 3, 4]], "scores": [0.5]}))
    ((boxes, scores),) = match_proposals(read_proposals(tmp_path / "all.jsonl"), [make_record("a.jpg")], "all.jsonl")
    assert (boxes.tolist(), scores.tolist()) == ([[1, 2, 3, 4]], [0.5])

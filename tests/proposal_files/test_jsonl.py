import math
from pathlib import Path

import numpy as np
import pytest
import torch

from objectness.bulk.run import Result, to_json_line
from objectness.errors import AnnotationError
from objectness.proposal_files.jsonl import read_lines, read_proposals, write_lines
from objectness.proposal_files.record import make_image
from objectness.proposals import Proposals


def test_reads_what_propose_writes(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.005, 2, 30, 40], [0, 0, 5.25, 6]])
    proposals = Proposals(boxes, torch.tensor([2.0, -1]), torch.tensor([2, 6]), (50, 60))
    name = Path('odd "é\u2028 \udcff.jpg')  # U+2028 ends a line for str.splitlines()
    results = [
        Result(name, proposals),
        Result(Path("bad.jpg"), error="bad.jpg: ends early"),
        Result(Path("b/empty.jpg"), proposals.top(0)),
    ]
    file = tmp_path / "all.jsonl"
    file.write_text("".join(to_json_line(result) + "\n" for result in results))
    found = read_proposals(file)
    assert list(found) == [str(name), "bad.jpg", "b/empty.jpg"]
    first = found[str(name)]
    np.testing.assert_allclose(first.boxes, boxes, atol=0.005)
    np.testing.assert_allclose(first.scores, torch.sigmoid(proposals.logits), atol=5e-6)
    assert first.size == (50, 60)
    assert first.levels is not None
    assert first.levels.tolist() == [2, 6]
    assert (first.file, first.image_id, first.logits, first.error) == (str(name), None, None, None)
    assert found["bad.jpg"].size is None
    assert found["bad.jpg"].error == "bad.jpg: ends early"
    assert found["bad.jpg"].boxes.shape == found["b/empty.jpg"].boxes.shape == (0, 4)
    assert found["bad.jpg"].scores.shape == (0,)


def test_writes_lines_as_propose_does(tmp_path: Path) -> None:
    boxes = torch.tensor([[1.005, 2, 30, 40], [0, 0, 5.25, 6]])
    proposals = Proposals(boxes, torch.tensor([2.0, -1]), torch.tensor([2, 6]), (50, 60))
    results = [
        Result(Path("é\u2028 \udcff.jpg"), proposals),
        Result(Path("bad.jpg"), error="bad.jpg: ends early"),
        Result(Path("empty.jpg"), proposals.top(0)),
    ]
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(to_json_line(result) + "\n" for result in results))
    write_lines(second, read_lines(first))
    assert second.read_bytes() == first.read_bytes()


def test_writes_all_that_is_known_in_full(tmp_path: Path) -> None:
    file = tmp_path / "all.jsonl"
    third = 1 / 3
    images = [
        make_image([[0, 0, 1, third]], None, [0], [3], file="a", image_id="x", size=(1, 2)),
        make_image([], file="b", image_id=17, size=(3, 4), error="b: is gone"),
    ]
    write_lines(file, images)
    assert file.read_text().splitlines() == [
        '{"file": "a", "image_id": "x", "width": 2, "height": 1, "boxes": [[0.0, 0.0, 1.0, 0.3333333333333333]], '
        '"scores": [0.5], "logits": [0.0], "levels": [3]}',
        '{"file": "b", "image_id": 17, "width": 4, "height": 3, "error": "b: is gone"}',
    ]
    first, second = read_lines(file)
    assert (first.image_id, second.image_id, second.size, second.error) == ("x", 17, (3, 4), "b: is gone")
    assert first.logits is not None
    assert first.logits.tolist() == [0]


def test_scores_and_logits_are_each_others() -> None:
    logits = np.array([-800.0, -40, -1, 0, 0.5, 30, 800])
    image = make_image(np.zeros((7, 4)), logits=logits)
    np.testing.assert_allclose(
        image.to_scores(), [1 / (1 + math.exp(min(-z, 700))) for z in logits], rtol=1e-14, atol=1e-300
    )
    back = make_image(np.zeros((7, 4)), image.to_scores()).to_logits()
    np.testing.assert_allclose(back[2:5], logits[2:5], atol=1e-14)
    # 2^-53 is 1.1e-16, and the logarithm of its odds -36.74
    np.testing.assert_allclose(make_image(np.zeros((2, 4)), [0, 1]).to_logits(), [-53 * math.log(2), 53 * math.log(2)])
    for score in (-0.1, 1.5):
        with pytest.raises(ValueError, match=rf"the score {score} is not in \[0, 1\], so that it has no logit"):
            make_image([[0, 0, 1, 1]], [score]).to_logits()


def test_an_empty_file_has_no_proposals(tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").touch()
    assert read_proposals(tmp_path / "all.jsonl") == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "no attribute 'get'"),
        ('{"boxes": [], "scores": []}', "there is no 'file'"),
        ('{"file": "a", "boxes": [[1, 2, 3, 4]], "scores": []}', "1 boxes and 0 scores"),
        ('{"file": "a", "boxes": [[1, 2, 3]], "scores": [1]}', r"boxes of the shape \(1, 3\), not \(n, 4\)"),
        ('{"file": "a", "boxes": [[1, 2, 3, 4]]}', "1 boxes and 0 scores"),
        ('{"file": "a", "boxes": [[1, 2, 3, 4]], "logits": [1, 2]}', "1 boxes and 2 logits"),
        ('{"file": "a", "boxes": [[1, 2, 3, 4]], "scores": [1], "levels": [2.5]}', "levels that are no integers"),
        (
            '{"file": "a", "boxes": [[1, 2, 3, 4], [5, 6, 4, 7]], "scores": [1, 1]}',
            r"box 1, \[5.*\], ends before it begins",
        ),
        ('{"file": "a", "image_id": 1.5}', "the image id 1.5 is no integer and no string"),
        ('{"file": "a", "width": 0, "height": 3}', "an image of 0 x 3 px"),
        ('{"file": "a", "boxes": [["x", 2, 3, 4]], "scores": [1]}', "could not convert"),
        ('{"file": "a", "boxes": null, "scores": [1]}', r"boxes of the shape \(\)"),
        ('{"file": "a", "boxes": [[1, 2, 3, 4], [1]], "scores": [1]}', "inhomogeneous"),
        ('{"file": "a", "boxes": [[1, 2, NaN, 4]], "scores": [1]}', "a number that is not finite"),
        ('{"file": "a", "boxes": [[1, 2, 3, 4]], "scores": [Infinity]}', "a number that is not finite"),
        ('{"file": "a", "height": 3, "boxes": [], "scores": []}', "there is no 'width'"),
        ('{"file": "a", "height": "x", "width": 3, "boxes": [], "scores": []}', "invalid literal"),
        ('{"file": "\xff"}', "'utf-8' codec"),
    ],
)
def test_says_which_line_is_none(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "all.jsonl"
    file.write_bytes(b'{"file": "first.jpg"}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(AnnotationError, match=rf"all.jsonl: line 2 is no line of proposals \(.*{reason}"):
        read_proposals(file)


def test_says_that_a_file_cannot_be_read_or_has_a_line_twice(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"gone: cannot be read \(No such file or directory\)"):
        read_proposals(tmp_path / "gone")
    (tmp_path / "twice").write_text('{"file": "a.jpg"}\n{"file": "b.jpg"}\n{"file": "a.jpg"}\n')
    with pytest.raises(AnnotationError, match=r"line 3 is a second one about a\.jpg"):
        read_proposals(tmp_path / "twice")

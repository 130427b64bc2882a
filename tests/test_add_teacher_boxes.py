"""experiments/add_teacher_boxes.py: which boxes of a teacher are added, by hand; and the script as a process."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objectness.data.dataset import read_dataset

SCRIPT = Path(__file__).parents[1] / "experiments" / "add_teacher_boxes.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("add_teacher_boxes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_document():
    """Two images of 100 x 80 px, the first with a box of (10, 10) to (30, 30)."""
    return {
        "info": {"year": 2007},
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2)],
        "annotations": [
            {"id": 40, "image_id": 1, "category_id": 3, "bbox": [10, 10, 20, 20], "segmentation": [[1, 2]]},
        ],
        "categories": [{"id": 3, "name": "cup"}],
    }


def make_proposals(*pairs):
    return np.array([box for box, _ in pairs], dtype=np.float64), np.array([score for _, score in pairs])


def test_boxes_are_added_by_hand(script):
    document = make_document()
    before = copy.deepcopy(document)
    proposals = make_proposals(
        ([50, 50, 70, 60], 0.3),  # ignored
        ([50, 10, 70, 30], 0.9),  # an object
        ([10, 10, 30, 20], 0.8),  # 200 of 400: IoU 0.5 with the annotation
        ([10, 10, 30, 18], 0.7),  # 160 of 400: 0.4, an object
        ([51, 10, 71, 30], 0.6),  # 380 of 420 with the second, which is better
        ([80, 60, 120, 90.004], 0.5),  # at HIGH, and reaching over the border
        ([0, 60, 10, 70], 0.19),  # too poor
        ([0, 60, 0.001, 70], 0.9),  # no width when written
        ([0, 60, 10, 70], 0.2),  # at LOW
    )
    taught = script.add_teacher_boxes(document, {1: proposals}, high=0.5, low=0.2)
    assert document == before
    assert {name: taught[name] for name in ("info", "images")} == {name: before[name] for name in ("info", "images")}
    assert taught["annotations"][0] == before["annotations"][0]
    assert taught["categories"] == [{"id": 3, "name": "cup"}, {"id": 4, "name": "teacher"}]
    added = taught["annotations"][1:]
    assert [(each["bbox"], each["score"], each.get("ignore", False)) for each in added] == [
        ([50, 10, 20, 20], 0.9, False),
        ([10, 10, 20, 8], 0.7, False),
        ([80, 60, 20, 20], 0.5, False),
        ([50, 50, 20, 10], 0.3, True),
        ([0, 60, 10, 10], 0.2, True),
    ]
    assert [each["id"] for each in added] == [41, 42, 43, 44, 45]
    assert {(each["image_id"], each["category_id"], each["iscrowd"]) for each in added} == {(1, 4, 0)}
    assert [each["area"] for each in added] == [400, 160, 400, 200, 100]


@pytest.mark.parametrize(("iou", "added"), [(0.449, 1), (0.45, 0), (0.451, 0)])
def test_an_iou_of_045_is_the_same_object(script, iou, added):
    # boxes of one height and corner: IoU is the quotient of their widths
    document = make_document()
    document["annotations"][0]["bbox"] = [0, 0, 100 * iou, 10]
    taught = script.add_teacher_boxes(document, {1: make_proposals(([0, 0, 100, 10], 1.0))}, high=0.5, low=0.2)
    assert len(taught["annotations"]) == 1 + added


def test_ignored_annotations_count_as_annotated_and_crowds_hold_objects(script):
    document = make_document()
    document["annotations"] = [
        {"id": 1, "image_id": 1, "bbox": [10, 10, 20, 20], "ignore": True},
        {"id": 2, "image_id": 2, "bbox": [0, 0, 100, 80], "iscrowd": 1},
    ]
    proposals = make_proposals(([10, 10, 30, 30], 0.9))
    added = script.add_teacher_boxes(document, {1: proposals, 2: proposals}, high=0.5, low=0.2)["annotations"][2:]
    assert [each["image_id"] for each in added] == [2]


def test_equal_scores_keep_their_order_and_nothing_is_ordinary(script):
    document = make_document()
    twice = make_proposals(([50, 10, 70, 30], 0.9), ([50, 10, 71, 30], 0.9))
    added = script.add_teacher_boxes(document, {2: twice}, high=0.5, low=0.2)["annotations"][1:]
    assert [each["bbox"] for each in added] == [[50, 10, 20, 20]]
    for nothing in ({}, {1: (np.zeros((0, 4)), np.zeros(0))}):
        assert script.add_teacher_boxes(document, nothing, high=0, low=0)["annotations"] == document["annotations"]


def test_a_second_teacher_shares_the_category(script):
    once = script.add_teacher_boxes(make_document(), {1: make_proposals(([50, 10, 70, 30], 0.9))}, high=0.5, low=0.2)
    twice = script.add_teacher_boxes(once, {1: make_proposals(([50, 40, 70, 60], 0.9))}, high=0.5, low=0.2)
    assert twice["categories"] == once["categories"]
    assert [(each["id"], each["category_id"]) for each in twice["annotations"]] == [(40, 3), (41, 4), (42, 4)]


def test_ids_and_categories_may_be_missing_or_text(script):
    document = {
        **make_document(),
        "annotations": [{"image_id": 1, "bbox": [0, 0, 5, 5], "category_id": "x", "id": "a"}],
    }
    del document["categories"]
    taught = script.add_teacher_boxes(document, {1: make_proposals(([50, 10, 70, 30], 0.9))}, high=0.5, low=0.2)
    assert taught["categories"] == [{"id": 1, "name": "teacher"}]
    assert taught["annotations"][1]["id"] == 1


@pytest.fixture
def files(tmp_path):
    """A folder with annotations, their images and a teacher's lines."""
    for image in make_document()["images"]:
        Image.new("RGB", (100, 80)).save(tmp_path / image["file_name"])
    (tmp_path / "a.json").write_text(json.dumps(make_document()))
    lines = [
        {"file": "elsewhere/1.jpg", "boxes": [[50, 10, 70, 30], [50, 50, 70, 60]], "scores": [0.9, 0.3]},
        {"file": "elsewhere/2.jpg", "boxes": [], "scores": []},
    ]
    (tmp_path / "teacher.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def run(folder, *words):
    command = [sys.executable, SCRIPT, folder / "a.json", folder / "teacher.jsonl", folder / "out.json", *words]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_the_script_writes_a_file_that_reads_as_it_should(files):
    ended = run(files, "--high", 0.5, "--low", 0.2)
    assert ended.returncode == 0, ended.stderr
    said = "2 images; 1 annotations, 1 objects added, 1 boxes added to be ignored"
    assert ended.stdout == f"{files / 'out.json'}: {said}\n"
    first, second = read_dataset(files / "out.json").records
    assert first.boxes.tolist() == [[10, 10, 30, 30], [50, 10, 70, 30], [50, 50, 70, 60]]
    assert first.ignore.tolist() == [False, False, True]
    assert len(second.boxes) == 0
    ignoring = read_dataset(files / "out.json", ignore_classes=["teacher"])
    assert ignoring.records[0].ignore.tolist() == [False, True, True]
    assert not (files / "out.json.partial").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--high", 0.1, "--low", 0.2], 2, "--low 0.2 --high 0.1: need numbers, LOW at most HIGH"),
        (["--high", "nan", "--low", 0.2], 2, "need numbers"),
        (["--high", 0.5, "--low", 0.2, "--overlap", 0], 2, "--overlap 0: must be above 0 and at most 1"),
        (["--high", 0.5], 2, "required: --low"),
    ],
)
def test_bad_options_are_said(files, words, code, message):
    ended = run(files, *words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert message in ended.stderr


def test_bad_files_are_said_and_nothing_is_written(files):
    options = ("--high", 0.5, "--low", 0.2)
    (files / "teacher.jsonl").write_text('{"file": "1.jpg", "boxes": [], "scores": []}\n')
    ended = run(files, *options)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "has no line for 1 of 2 annotated images (the first is 2.jpg)" in ended.stderr
    (files / "a.json").write_text("{")
    assert "a.json: is not valid JSON" in run(files, *options).stderr
    assert {path.name for path in files.iterdir()} == {"a.json", "teacher.jsonl", "1.jpg", "2.jpg"}
    (files / "out.json").symlink_to(files / "a.json")
    assert "holds the annotations themselves" in run(files, *options).stderr

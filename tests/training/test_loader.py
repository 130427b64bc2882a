from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import make_records

from objectness.config import AugmentOptions, InputOptions, LabelOptions
from objectness.data.decode import decode_record
from objectness.errors import AnnotationError, ImageError, TrainingError
from objectness.geometry.matching import match_anchors
from objectness.training.loader import TrainingSet, iterate_steps, load_cache, make_targets, move_examples

INPUT = InputOptions(64, 96)
AUGMENT = AugmentOptions(scale=(0.8, 1.3))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("photos"), 10)


def equal(first, second):
    same_images = all(torch.equal(a, b) for a, b in zip(first.images, second.images, strict=True))
    same_boxes = all(torch.equal(a.boxes, b.boxes) for a, b in zip(first.targets, second.targets, strict=True))
    return same_images and same_boxes and first.seeds == second.seeds and first.files == second.files


def test_an_epoch_shows_every_image_once(records):
    training_set = TrainingSet(records, INPUT, AUGMENT, 5)
    assert training_set.steps_per_epoch == 2
    assert Counter(i for step in training_set.plan_epoch(0) for i in step) == Counter(range(10))


def test_a_short_last_step_borrows_from_the_first(records):
    steps = TrainingSet(records, INPUT, AUGMENT, 4).plan_epoch(0)  # 10 images: 3 steps of 4, so 2 are seen twice
    assert [len(step) for step in steps] == [4, 4, 4]
    assert set(Counter(i for step in steps for i in step)) == set(range(10))


def test_lying_and_standing_images_go_apart(records):
    # 10 images, of which 0, 3, 6, 9 stand: steps of 3 give two lying ones, one standing one and one mixed
    steps = TrainingSet(records, INPUT, AUGMENT, 3).plan_epoch(0)
    kinds = Counter(len({records[i].width > records[i].height for i in step}) for step in steps)
    assert kinds[1] >= 3


def test_epochs_differ_and_repeat(records):
    training_set = TrainingSet(records, INPUT, AUGMENT, 5)
    assert training_set.plan_epoch(0) != training_set.plan_epoch(1)
    assert training_set.plan_epoch(1) == TrainingSet(records, INPUT, AUGMENT, 5).plan_epoch(1)
    assert training_set.plan_epoch(0) != TrainingSet(records, INPUT, AUGMENT, 5, seed=1).plan_epoch(0)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_step_is_the_same_wherever_one_starts(records, num_workers):
    training_set = TrainingSet(records, INPUT, AUGMENT, 4)
    expected = [training_set[step] for step in range(5)]
    for first in (0, 3):
        for examples, wanted in zip(iterate_steps(training_set, first, 5, num_workers), expected[first:], strict=True):
            assert equal(examples, wanted)


def test_two_processes_share_the_images_of_one(records):
    whole = TrainingSet(records, INPUT, AUGMENT, 4)[1]
    halves = [TrainingSet(records, INPUT, AUGMENT, 4, rank=rank, num_ranks=2)[1] for rank in (0, 1)]
    assert halves[0].files + halves[1].files == whole.files[0::2] + whole.files[1::2]
    assert halves[0].seeds == whole.seeds[0::2]
    assert torch.equal(halves[1].images[0], whole.images[1])


def test_cached_images_give_the_same_steps(records):
    cache = load_cache(records, INPUT, AUGMENT.scale[1], torch.device("cpu"))  # photos are small: kept as they are
    assert equal(TrainingSet(records, INPUT, AUGMENT, 4, cache=cache)[2], TrainingSet(records, INPUT, AUGMENT, 4)[2])


def test_the_cache_holds_large_photos_at_the_size_that_is_needed(tmp_path):
    [record] = make_records(tmp_path, 1, size=(300, 600))  # the first one stands: 600 x 300
    [image] = load_cache([record], INPUT, 1.5, torch.device("cpu"))
    assert image.shape == (3, 144, 72)  # 600 x 300 fits as 96 x 48; half as large again


def test_moved_examples_fill_the_canvas(records):
    examples = TrainingSet(records, INPUT, AUGMENT, 4)[0]
    batch, targets = move_examples(examples, INPUT, torch.device("cpu"))
    assert batch.images.shape == (4, 3, *(-(-side // 32) * 32 for side in examples.canvas))
    assert len(targets) == 4


def test_targets_follow_the_size_and_crowds_go_apart(records):
    record = records[1]
    crowd = np.zeros(len(record.boxes), dtype=bool)
    crowd[0] = True
    record = type(record)(**{**vars(record), "ignore": crowd})
    boxes, crowds = make_targets(record, (record.height * 2, record.width * 3))
    np.testing.assert_allclose(crowds, record.boxes[:1] * [3, 2, 3, 2])
    np.testing.assert_allclose(boxes, record.boxes[1:] * [3, 2, 3, 2])


def test_labels_of_an_ignored_object_by_hand(tmp_path):
    """Anchors on an object, on one of which nothing is known, half beside that, and elsewhere; the image is doubled."""
    [record] = make_records(tmp_path, 1, size=(100, 50))  # the first one stands: 50 x 100
    boxes = np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    ignore = np.array([False, True])
    record = type(record)(**{**vars(record), "boxes": boxes, "areas": np.array([100.0, 100]), "ignore": ignore})
    targets = make_targets(record, (record.height * 2, record.width * 2))
    # IoU 1; IoU 1 with the ignored; 10 * 20 of 600 with it, a third of its own too; none
    anchors = torch.tensor([[0.0, 0, 20, 20], [40, 0, 60, 20], [50, 0, 70, 20], [0, 60, 20, 80]])
    assert match_anchors(anchors, targets, LabelOptions()).labels.tolist() == [1, -1, -1, 0]
    as_object = targets._replace(boxes=torch.cat(targets), ignored=targets.ignored[:0])
    assert match_anchors(anchors, as_object, LabelOptions()).labels.tolist() == [1, 1, -1, 0]
    unknown = targets._replace(ignored=targets.ignored[:0])  # as if nobody had drawn it: background
    assert match_anchors(anchors, unknown, LabelOptions()).labels.tolist() == [1, 0, 0, 0]


def test_an_image_of_another_size_than_its_annotations(tmp_path):
    [record] = make_records(tmp_path, 1)
    Image.new("RGB", (10, 20)).save(record.path)
    with pytest.raises(AnnotationError, match=r"0\.png: the image is 10 x 20 px, its annotations are for 64 x 96"):
        decode_record(record)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_is_named_without_a_workers_traceback(tmp_path, num_workers):
    records = make_records(tmp_path, 2)
    records[1].path.write_bytes(b"no image")
    with pytest.raises(ImageError) as caught:
        list(iterate_steps(TrainingSet(records, INPUT, AUGMENT, 2), 0, 2, num_workers))
    assert str(records[1].path) in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_nothing_to_train_on(records):
    with pytest.raises(TrainingError, match="no image"):
        TrainingSet([], INPUT, AUGMENT, 4)
    with pytest.raises(TrainingError, match="cannot be shared by 4 processes"):
        TrainingSet(records, INPUT, AUGMENT, 3, num_ranks=4)

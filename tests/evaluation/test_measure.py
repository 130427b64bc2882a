import numpy as np
import pytest
import torch

from objectness.config import Config, InputOptions, SelectionOptions
from objectness.data.records import ImageRecord
from objectness.errors import AnnotationError
from objectness.evaluation.measure import measure_network
from objectness.evaluation.recall import measure_recall
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer

TINY = Config(backbone="resnet18", pyramid_channels=8, input=InputOptions(64, 96), selection=SelectionOptions(keep=20))


@pytest.fixture(scope="module")
def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(TINY)


@pytest.fixture(scope="module")
def proposer(network: RegionProposalNetwork) -> Proposer:
    return Proposer(network)


def test_measure_network_is_measure_recall_of_its_proposals(
    network: RegionProposalNetwork, proposer: Proposer, photo_records: tuple[ImageRecord, ...]
) -> None:
    done: list[int] = []
    report = measure_network(network, photo_records, on_image=done.append)
    found = [proposer.propose(record.path) for record in photo_records]
    own = measure_recall(photo_records, [(each.boxes, each.scores) for each in found])
    np.testing.assert_array_equal(report.recall, own.recall)
    assert report.to_dict() == own.to_dict()
    assert report.average_recall(100) > 0
    assert done == [1, 2, 3, 4]


def test_measure_network_refuses_boxes_of_another_size(
    network: RegionProposalNetwork, photo_records: tuple[ImageRecord, ...]
) -> None:
    first = photo_records[0]
    other = ImageRecord(first.path, first.file, 1, 100, 100, first.boxes, first.areas, first.ignore)
    with pytest.raises(AnnotationError, match="do not belong together"):
        measure_network(network, [other])

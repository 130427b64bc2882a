"""The recall of a network, or of a proposer, on images with known boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..data.decode import decode_record
from ..data.records import ImageRecord
from ..network import RegionProposalNetwork
from ..predict import Proposer
from ..threads import map_side_by_side
from .recall import measure_recall
from .report import RecallReport


def measure_network(
    network: RegionProposalNetwork,
    records: Sequence[ImageRecord],
    on_image: Callable[[int], None] = lambda num_done: None,
) -> RecallReport:
    """Recall of a network on images with known boxes, as `objectness evaluate` reports it.

    Args:
        network: it computes where its weights are, and is set to evaluation mode.
        records: images and boxes.
        on_image: called after each image with the number done.

    Raises:
        ImageError, AnnotationError: an image cannot be read, or has another size than its annotations say.
    """
    return measure_proposer(Proposer(network, next(network.parameters()).device), records, on_image)


def measure_proposer(
    proposer: Proposer, records: Sequence[ImageRecord], on_image: Callable[[int], None] = lambda num_done: None
) -> RecallReport:
    """`measure_network`, on the engine that a proposer has."""
    found = []
    each = map_side_by_side(
        lambda record: proposer.propose(decode_record(record)), records, proposer.at_once, proposer.torch_threads
    )
    for num_done, proposals in enumerate(each, start=1):
        found.append((proposals.boxes.numpy(), proposals.scores.numpy()))
        on_image(num_done)
    return measure_recall(records, found)

"""Find where the objects in an image are, before anyone says what they are.

    import objectness

    proposer = objectness.load()
    proposals = proposer("street.jpg")
    proposals.boxes, proposals.scores

The names below are the public ones. They are imported when first used, so that `import objectness` costs nothing and
the command answers `--help` before torch is there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .config import AnchorOptions as AnchorOptions
    from .config import AugmentOptions as AugmentOptions
    from .config import Config as Config
    from .config import InputOptions as InputOptions
    from .config import LabelOptions as LabelOptions
    from .config import SelectionOptions as SelectionOptions
    from .config import TrainOptions as TrainOptions
    from .data.dataset import read_dataset as read_dataset
    from .data.records import Dataset as Dataset
    from .data.records import ImageRecord as ImageRecord
    from .errors import AnnotationError as AnnotationError
    from .errors import CheckpointError as CheckpointError
    from .errors import ConfigError as ConfigError
    from .errors import DownloadError as DownloadError
    from .errors import ImageError as ImageError
    from .errors import ObjectnessError as ObjectnessError
    from .errors import TrainingError as TrainingError
    from .evaluation.measure import measure_network as measure_network
    from .evaluation.measure import measure_proposer as measure_proposer
    from .evaluation.recall import measure_recall as measure_recall
    from .evaluation.report import RecallReport as RecallReport
    from .geometry.nms import iou as iou
    from .geometry.nms import nms as nms
    from .geometry.roi_align import pool_features as pool_features
    from .geometry.selection import select_proposals as select_proposals
    from .images.drawing import draw_boxes as draw_boxes
    from .images.finding import find_images as find_images
    from .images.reading import read_image as read_image
    from .model.backbone import BACKBONES as BACKBONES
    from .model.backbone import Backbone as Backbone
    from .model.backbone import make_backbone as make_backbone
    from .network import RegionProposalNetwork as RegionProposalNetwork
    from .predict import Proposer as Proposer
    from .predict import load as load
    from .proposal_files.convert import convert_proposals as convert_proposals
    from .proposals import Proposal as Proposal
    from .proposals import Proposals as Proposals
    from .runtimes.choose import make_engine as make_engine
    from .structures import Batch as Batch
    from .structures import Output as Output
    from .structures import Selection as Selection
    from .structures import Targets as Targets
    from .training.loop import train as train
    from .weights.checkpoint import load_network as load_network
    from .weights.checkpoint import save_checkpoint as save_checkpoint
    from .weights.convert.conversion import convert_weights as convert_weights

_HOMES = {
    "config": (
        "AnchorOptions",
        "AugmentOptions",
        "Config",
        "InputOptions",
        "LabelOptions",
        "SelectionOptions",
        "TrainOptions",
    ),
    "data.dataset": ("read_dataset",),
    "data.records": ("Dataset", "ImageRecord"),
    "errors": (
        "AnnotationError",
        "CheckpointError",
        "ConfigError",
        "DownloadError",
        "ImageError",
        "ObjectnessError",
        "TrainingError",
    ),
    "evaluation.measure": ("measure_network", "measure_proposer"),
    "evaluation.recall": ("measure_recall",),
    "evaluation.report": ("RecallReport",),
    "geometry.nms": ("iou", "nms"),
    "geometry.roi_align": ("pool_features",),
    "geometry.selection": ("select_proposals",),
    "images.drawing": ("draw_boxes",),
    "images.finding": ("find_images",),
    "images.reading": ("read_image",),
    "model.backbone": ("BACKBONES", "Backbone", "make_backbone"),
    "network": ("RegionProposalNetwork",),
    "predict": ("Proposer", "load"),
    "proposal_files.convert": ("convert_proposals",),
    "proposals": ("Proposal", "Proposals"),
    "runtimes.choose": ("make_engine",),
    "structures": ("Batch", "Output", "Selection", "Targets"),
    "training.loop": ("train",),
    "weights.checkpoint": ("load_network", "save_checkpoint"),
    "weights.convert.conversion": ("convert_weights",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'objectness' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

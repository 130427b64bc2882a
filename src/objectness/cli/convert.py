"""`objectness convert weights` and `objectness convert proposals`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from ..errors import ConfigError
from .app import app
from .terminal import say

FileFormat = Literal["jsonl", "coco", "detectron2", "detectron", "mmdet", "npz", "parquet"]

convert = App(
    name="convert", help="Take over weights of other programs, and proposal files of other formats.", sort_key=5
)
app.command(convert)


@convert.command(name="weights")
def convert_weights(
    source: str,
    /,
    *,
    out: Path,
    changes: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
) -> int:
    """Turn the weights of torchvision, detectron2, mmdetection or timm into a checkpoint of Objectness.

    Whose they are, the file's contents say. The network proposes what it proposed there; all in which the programs
    differ is written into the checkpoint's config.json. What cannot be taken over exactly is refused, and what the file
    does not say and had to be assumed is told. docs/weights.md lists what was compared with what.

    Args:
        source: A .pth, .pt, .pkl or .safetensors file; or a published name, such as
            torchvision/maskrcnn_resnet50_fpn or timm/resnet50.a1_in1k.
        out: The checkpoint folder.
        changes: NAME=VALUE for a field of config.json that the file does not say, such as input.order=BGR,
            stride_in_1x1=true or anchors.ratios=0.5,1,2.
    """
    fields = _parse_changes(changes)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is there already; name a folder that is not")
    from ..weights.convert.conversion import convert_to_folder

    written = convert_to_folder(source, out, fields)
    for note in written.notes:
        say(f"note: {note}")
    if written.proposes:
        say(f"{out}: a network of {written.family}'s; try: objectness propose PHOTO --weights {out}")
    else:
        say(f"{out}: a backbone to train on: objectness train ... --weights {out / 'backbone.safetensors'}")
    return 0


@convert.command(name="proposals")
def convert_proposal_file(
    source: Path,
    target: Path,
    /,
    *,
    target_format: Annotated[FileFormat | None, Parameter(name="--to")] = None,
    source_format: Annotated[FileFormat | None, Parameter(name="--from")] = None,
    annotations: Path | None = None,
    images: Path | None = None,
) -> int:
    """Turn a proposal file into another format.

    JSON Lines (.jsonl), COCO results (.json), numpy (.npz), Parquet (.parquet), and the pickles of detectron2
    (box_proposals.pkl), Detectron (rpn_proposals.pkl) and mmdetection (DumpProposals; 2.x is read too). Nothing in a
    pickle is run. What the new format has no place for is said.

    Args:
        source: The file to read; its format is told by its ending and its contents.
        target: The file to write, whole or not at all; its format is told by its ending, of .pkl by --to.
        target_format: The format to write, where the ending does not tell it.
        source_format: The format to read, where ending and contents do not tell it.
        annotations: A COCO file of the same images, which tells ids, file names and sizes from each other. Without it
            an id is a file's name that is a number: 000000000139.jpg is 139.
        images: The folder of the images: put before the annotations' file names, and before names without a folder.
    """
    from ..proposal_files.convert import convert_proposals

    done = convert_proposals(
        source, target, source_format=source_format, target_format=target_format, annotations=annotations, images=images
    )
    for note in done.notes:
        say(f"note: {note}")
    say(f"{target}: {done.num_proposals:,} proposals of {done.num_images:,} images")
    return 0


def _parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """What `--set` was given: JSON where it is, lists with commas, and otherwise the text itself."""
    fields = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not (name and equals and text):
            raise ConfigError(f"--set {change}: must be NAME=VALUE, such as input.order=BGR")
        values = (
            [_parse_value(part) for part in text.split(",")] if "," in text and "[" not in text else _parse_value(text)
        )
        fields[name.replace("-", "_")] = values
    return fields


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text

"""Proposal files from one format into another.

A reader gives one image after the other, whatever the format, and a writer takes them; between the two, ids, names and
sizes are filled in, and what the writer's format has no place for is counted. JSON Lines, Parquet and COCO results are
written image by image, and the first two are read so: files larger than the memory can be converted between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import AnnotationError, ConfigError
from ..files import replace_file
from ..pickles import read_arrays
from .coco import read_coco, write_coco
from .detectron import is_detectron, read_detectron, write_detectron
from .detectron2 import BOX_MODE, is_detectron2, read_detectron2, write_detectron2
from .image_index import ImageIndex, read_image_index
from .jsonl import read_lines, write_lines
from .mmdet import INSTANCE_DATA, is_mmdet, read_mmdet, write_mmdet
from .notes import Notes
from .npz import read_npz, write_npz
from .parquet import read_parquet, write_parquet
from .record import ImageProposals

PICKLE, PICKLES = "pickle", (".pkl", ".pickle")  # one of three formats, and its endings


class Conversion(NamedTuple):
    """What was converted."""

    num_images: int
    num_proposals: int
    notes: tuple[str, ...]  # a sentence for each kind of thing that was left out or taken for granted


class Source(NamedTuple):
    """What is read."""

    path: Path
    image_index: ImageIndex | None
    notes: Notes
    content: Any = None  # of a pickle


class Target(NamedTuple):
    """What is written."""

    path: Path
    origin: str  # where the images come from, for messages
    notes: Notes


@dataclass(frozen=True)
class Format:
    """One format of proposal files.

    Attributes:
        title: for messages.
        suffixes: of its files, in small letters.
        holds: what it has a place for, besides boxes and scores: names in `_LOSSES`.
        needs: by what it names images, "file" or "image_id"; None where it takes either.
        read: gives a file's images.
        write: writes them into a new file.
        recognises: tells the content of a pickle; None where the format is none.
    """

    title: str
    suffixes: tuple[str, ...]
    holds: frozenset[str]
    needs: str | None
    read: Callable[[Source], Iterator[ImageProposals]]
    write: Callable[[Target, Iterable[ImageProposals]], None]
    recognises: Callable[[Any], bool] | None = None


_LOSSES: dict[str, tuple[str, Callable[[ImageProposals], bool]]] = {
    "empty": ("{images} without proposals", lambda image: not len(image)),
    "file": ("file names of {images}", lambda image: image.file is not None),
    "image_id": ("ids of {images}", lambda image: image.image_id is not None),
    "size": ("sizes of {images}", lambda image: image.size is not None),
    "levels": ("levels of {images}", lambda image: len(image) > 0 and image.levels is not None),
    "logits": ("logits, but for their scores, of {images}", lambda image: len(image) > 0 and image.logits is not None),
    "error": ("errors of {images}", lambda image: image.error is not None),
}
_ALL = frozenset(_LOSSES)

FORMATS = {
    "jsonl": Format(
        title="JSON Lines",
        suffixes=(".jsonl",),
        holds=_ALL,
        needs="file",
        read=lambda source: read_lines(source.path),
        write=lambda target, images: write_lines(target.path, images),
    ),
    "coco": Format(
        title="COCO results",
        suffixes=(".json",),
        holds=frozenset({"image_id"}),
        needs="image_id",
        read=lambda source: read_coco(source.path, source.image_index, source.notes),
        write=lambda target, images: write_coco(target.path, images),
    ),
    "detectron2": Format(
        title="detectron2's pickle",
        suffixes=PICKLES,
        holds=frozenset({"image_id", "empty", "logits"}),
        needs="image_id",
        read=lambda source: read_detectron2(source.path, source.content),
        write=lambda target, images: write_detectron2(target.path, images, target.origin, target.notes),
        recognises=is_detectron2,
    ),
    "detectron": Format(
        title="Detectron's pickle",
        suffixes=PICKLES,
        holds=frozenset({"image_id", "empty"}),
        needs="image_id",
        read=lambda source: read_detectron(source.path, source.content),
        write=lambda target, images: write_detectron(target.path, images),
        recognises=is_detectron,
    ),
    "mmdet": Format(
        title="mmdetection's pickle",
        suffixes=PICKLES,
        holds=frozenset({"file", "empty"}),
        needs="file",
        read=lambda source: read_mmdet(source.path, source.content, source.image_index, source.notes),
        write=lambda target, images: write_mmdet(target.path, images, target.origin, target.notes),
        recognises=is_mmdet,
    ),
    "npz": Format(
        title="npz",
        suffixes=(".npz",),
        holds=_ALL,
        needs=None,
        read=lambda source: read_npz(source.path),
        write=lambda target, images: write_npz(target.path, images, target.origin),
    ),
    "parquet": Format(
        title="Parquet",
        suffixes=(".parquet",),
        holds=_ALL,
        needs=None,
        read=lambda source: read_parquet(source.path),
        write=lambda target, images: write_parquet(target.path, images, target.origin),
    ),
}


def convert_proposals(
    source: Path,
    target: Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
) -> Conversion:
    """Write the proposals of one file into another one of any format.

    Boxes stay where they are: other conventions (widths and heights, last pixels) are reckoned to and fro. Scores and
    logits are each other's sigmoid and its inverse, in float64, where a format has only one of them; scores of exactly
    0 and 1 become logits of -36.7 and 36.7. The three pickles hold float32.

    Args:
        source: of proposals. Pickles are read without running anything in them.
        target: written whole or not at all, in place of what is there.
        source_format: a name in `FORMATS`; by the file's ending and content where it is not given.
        target_format: the same, by the ending; three formats end with .pkl, of which one must be named.
        annotations: a COCO file that tells which id is which file, and the images' sizes. Where an id is needed and
            there is none, it is the file's name if that is a number (000000000139.jpg is 139).
        images: the folder that the annotations' file names start from, put before them, and before bare names.

    Returns:
        How much there was, and sentences about what the target has no place for.

    Raises:
        ConfigError: a format that is not known or must be named, or a target that is no file in a folder.
        AnnotationError: the source or the annotations cannot be read, or do not fit each other or the target.
        ObjectnessError: pyarrow is not installed.
    """
    writer = FORMATS[_choose_target(target, target_format)]
    notes = Notes()
    index = read_image_index(annotations, images) if annotations else None
    found = read_images(source, source_format, index, notes)
    count = _Count(str(source), writer, notes)
    named = (_name(image, str(source), writer, index, images) for image in found)
    with replace_file(target) as partial:
        writer.write(Target(partial, str(source), notes), count.watch(named))
    return Conversion(count.num_images, count.num_proposals, notes.sentences)


def read_images(
    path: Path, source_format: str | None = None, index: ImageIndex | None = None, notes: Notes | None = None
) -> Iterator[ImageProposals]:
    """Read a file of any format, image by image where the format allows it.

    Args:
        path: of the file.
        source_format: a name in `FORMATS`; by the file's ending and content where it is not given.
        index: the images that the file is about, where that is known.
        notes: told of what is taken for granted.

    Raises:
        ConfigError: the format is not known.
        AnnotationError: the file cannot be read, or is of no format, or an image is bad; later ones while reading on.
    """
    if source_format is not None:
        _check_name(source_format, "--from")
    name, content = source_format or _recognise(path), None
    if name == PICKLE or FORMATS[name].recognises:
        content = read_arrays(path, inert=(BOX_MODE, *INSTANCE_DATA), error=AnnotationError)
    if name == PICKLE:
        name = _recognise_content(content, path)
    return FORMATS[name].read(Source(path, index, notes or Notes(), content))


class _Count:
    """Counts images on their way, and what a format has no place for."""

    def __init__(self, origin: str, writer: Format, notes: Notes):
        self.origin, self.writer, self.notes = origin, writer, notes
        self.num_images = self.num_proposals = 0

    def watch(self, images: Iterable[ImageProposals]) -> Iterator[ImageProposals]:
        """The images as they come.

        Raises:
            AnnotationError: two are the same.
        """
        seen = set()
        for image in images:
            name = image.file if self.writer.needs == "file" or image.image_id is None else str(image.image_id)
            if name in seen:
                raise AnnotationError(f"{self.origin}: has two images {name}; leave one of them out")
            seen.add(name)
            for what, (sentence, is_there) in _LOSSES.items():
                if what not in self.writer.holds and is_there(image):
                    self.notes.add(f"{sentence} left out: no place for them in {self.writer.title}")
            self.num_images += 1
            self.num_proposals += len(image)
            yield image


def _name(
    image: ImageProposals, origin: str, writer: Format, index: ImageIndex | None, folder: Path | None
) -> ImageProposals:
    """Give an image the id or the file that the writer needs.

    Raises:
        AnnotationError: there is none.
    """
    if index:
        image = index.complete(image)
    if folder and image.file and image.file == Path(image.file).name:
        image = replace(image, file=str(folder / image.file))
    if image.file is None and (writer.needs == "file" or image.image_id is None):
        raise AnnotationError(
            f"{origin}: image {image.image_id} has no file, without which there is no place for it in {writer.title}; "
            f"pass --annotations FILE, which tells it"
        )
    if writer.needs == "image_id" and image.image_id is None:
        stem = Path(str(image.file)).stem
        if not (stem.isascii() and stem.isdigit()):
            raise AnnotationError(
                f"{origin}: {image.file} has no id, without which there is no place for it in {writer.title}, and its "
                f"name is no number; pass --annotations FILE, which tells it"
            )
        image = replace(image, image_id=int(stem))
    return image


def _choose_target(target: Path, name: str | None) -> str:
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(
            f"{target}: is {'a folder' if target.is_dir() else 'in no folder'}; name a new file in a folder"
        )
    suffix = target.suffix.lower()
    names = [name] if name else [each for each, known in FORMATS.items() if suffix in known.suffixes]
    if len(names) > 1:
        raise ConfigError(f"{target}: several formats end with {suffix}; name one with --to {', '.join(names)}")
    if not names:
        endings = " ".join(dict.fromkeys(suffix for known in FORMATS.values() for suffix in known.suffixes))
        raise ConfigError(f"{target}: has none of the endings {endings}; name its format with --to")
    _check_name(names[0], "--to")
    return names[0]


def _check_name(name: str, option: str) -> None:
    if name not in FORMATS:
        raise ConfigError(f"{option} {name}: must be one of {', '.join(FORMATS)}")


def _recognise(path: Path) -> str:
    """The name of a file's format; PICKLE for the three, which only their content tells apart."""
    suffix = path.suffix.lower()
    if suffix in PICKLES:
        return PICKLE
    try:
        with path.open("rb") as file:
            start = file.read(256).lstrip()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    if suffix == ".json":  # which JSON Lines have as well
        return "jsonl" if start.startswith(b'{"file"') else "coco"
    named = [name for name, known in FORMATS.items() if suffix in known.suffixes]
    starts = {b"PK": "npz", b"PAR1": "parquet", b"\x80": PICKLE, b"[": "coco", b"{": "jsonl"}
    named += [name for beginning, name in starts.items() if start.startswith(beginning)]
    if not named:
        raise AnnotationError(f"{path}: is of no format that is known; name it with --from {', '.join(FORMATS)}")
    return named[0]


def _recognise_content(content: Any, path: Path) -> str:
    for name, known in FORMATS.items():
        if known.recognises and known.recognises(content):
            return name
    raise AnnotationError(
        f"{path}: is a pickle, but not laid out as detectron2's, Detectron's or mmdetection's proposals; name its "
        f"format with --from if it is one of these"
    )

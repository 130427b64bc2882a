"""Pascal VOC: one XML file an image, boxes as 1-based pixels with both ends included.

A layout is a folder with `Annotations/*.xml`, `JPEGImages/` and split files `ImageSets/Main/*.txt`. Read are each
object's own box (not those of its parts), and the size; whether it is difficult, and the name of its class, only for
those who ignore such objects. By default a difficult object is one like any other: it is hard to *recognise*, and VOC
leaves it out of its evaluation for that, but it is there, and drawn as carefully as the rest.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..errors import AnnotationError
from .faults import Faults
from .files import Listing, find_parent, read_bytes, read_lines
from .findings import MAX_SIDE_PX, Found, FoundBox, FoundImage, Mark

_XML_FOLDERS = ("Annotations", "annotations", ".")
_show = reprlib.repr  # of a strange value, shortened


def find_layout(split_file: Path) -> Path | None:
    """The layout that a split file belongs to: the folder that holds the `ImageSets` it lies in."""
    parents = (*split_file.parents, *split_file.absolute().parents)
    return next((folder.parent for folder in parents if folder.name == "ImageSets"), None)


def find_xml_folder(root: Path) -> Path | None:
    """The folder of the XML files of a layout: one of the usual names, or `root` itself; None where there are none."""
    return next((folder for name in _XML_FOLDERS if any((folder := root / name).glob("*.xml"))), None)


def read_voc(annotations: Path, images: Path | None, faults: Faults) -> Found:
    """Read VOC annotations.

    Args:
        annotations: a layout or a folder of XML files, all of which are read; or a split file of a layout.
        images: the folder of the images; None: `JPEGImages` or `images` in the layout, or where the XML files are.
        faults: what is told of everything bad.
    Raises:
        AnnotationError: a split file cannot be read, or `faults` raises it.
    """
    found = Found([], [])
    listing = Listing()
    for file in _list_files(annotations, listing):
        try:
            tree = _parse(file)
            image = _read_image(tree, file, [images] if images else _list_image_folders(file.parent), listing)
        except AnnotationError as error:
            faults.reject("image", str(error))
            continue
        found.boxes.extend(_read_boxes(tree, str(file), len(found.images), faults))
        found.images.append(image)
    return found


def _list_files(annotations: Path, listing: Listing) -> list[Path]:
    root = annotations if annotations.is_dir() else find_layout(annotations) or annotations.parent
    folder = find_xml_folder(root) or root / _XML_FOLDERS[0]
    if annotations.is_dir():
        return sorted(file for file in folder.glob("*.xml") if not file.name.startswith("."))  # macOS adds ._a.xml
    files = [folder / f"{line}.xml" for line in read_lines(annotations) if line]
    # The splits of single classes have 1, 0 or -1 behind each name.
    return [file if file in listing else Path(re.sub(r"\s+(-?1|0)\.xml$", ".xml", str(file))) for file in files]


def _list_image_folders(xml_folder: Path) -> list[Path]:
    root = find_parent(xml_folder)
    return [root / "JPEGImages", root / "images", xml_folder, xml_folder / "images", xml_folder / "JPEGImages"]


def _parse(file: Path) -> Element:
    content = read_bytes(file)
    try:
        root = ElementTree.fromstring(content)
    except (SyntaxError, ValueError, LookupError) as error:  # broken; or in an encoding that Python does not have
        raise AnnotationError(f"{file}: is not valid XML ({error})") from error
    if root.tag != "annotation":
        raise AnnotationError(f"{file}: is no VOC annotation: it begins with <{root.tag}>, not with <annotation>")
    return root


def _read_image(root: Element, file: Path, folders: Sequence[Path], listing: Listing) -> FoundImage:
    """The image that an XML file speaks of: the one it names or, if there is none, the one named like it."""
    name = re.split(r"[/\\]", root.findtext("filename") or file.stem)[-1].strip()  # some tools write a whole path
    named = (folder / name for folder in folders if folder / name in listing)
    alike = (path for folder in folders if (path := listing.find_image(folder, file.stem)))
    path = next(named, None) or next(alike, folders[0] / name)
    return FoundImage(str(file), path, path.name, path.stem, _read_size(root))


def _read_boxes(root: Element, source: str, owner: int, faults: Faults) -> list[FoundBox]:
    boxes = []
    for number, element in enumerate(root.findall("object"), start=1):
        where = f"{source}: object {number}"
        texts = [element.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(text or "") for text in texts)
        except ValueError:
            faults.reject("box", f"{where}: its bndbox is {_show(texts)}, not four numbers")
            continue
        box = (left - 1, top - 1, right, bottom)  # 1-based pixels -> edges
        mark: Mark = "difficult" if _read_text(element, "difficult").lower() in ("1", "true") else ""
        boxes.append(FoundBox(where, owner, box, mark=mark, class_id=_read_text(element, "name")))
    return boxes


def _read_text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()


def _read_size(root: Element) -> tuple[int, int] | None:
    """The (height, width), px; None where they are missing or 0, as some tools write, or no whole numbers."""
    try:
        height, width = (int(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if 0 < height < MAX_SIDE_PX and 0 < width < MAX_SIDE_PX else None

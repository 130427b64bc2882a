"""Put the best finds on several photos on one sheet, in rows that fill its width.

    python examples/contact_sheet.py [PHOTO_OR_FOLDER...] [--columns 2] [--width 900] [--out demo/sheet.jpg]

`docs/demo.jpg` is made by it. Photos are resized before boxes are drawn, so that lines and labels are as sharp and as
large on every one.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image

import objectness

PHOTOS = Path(__file__).parent / "photos"
GAP = 6  # px between photos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=[PHOTOS])
    parser.add_argument("--columns", type=int, default=2, help="photos in a row")
    parser.add_argument("--width", type=int, default=900, help="of the sheet, px")
    parser.add_argument("--out", type=Path, default=Path("demo/sheet.jpg"))
    parser.add_argument(
        "--weights", default="cspnet", help="a run or checkpoint folder, in place of the shipped network"
    )
    args = parser.parse_args()

    proposer = objectness.load(args.weights)
    files = objectness.find_images(args.sources)
    rows = [
        make_row(proposer, files[start : start + args.columns], args.width)
        for start in range(0, len(files), args.columns)
    ]
    sheet = stack(rows, args.width)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(args.out, quality=90, subsampling=0)  # lines keep their colour
    print(f"{args.out}: {len(files)} photos, {sheet.width} x {sheet.height} px")


def make_row(proposer: objectness.Proposer, files: list[Path], width: int) -> Image.Image:
    """Photos of one height side by side, `width` px wide in all."""
    photos = [Image.fromarray(objectness.read_image(file)) for file in files]
    ratios = [photo.width / photo.height for photo in photos]
    height = (width - GAP * (len(photos) - 1)) / sum(ratios)
    edges = [round(sum(ratios[:place]) * height) + GAP * place for place in range(len(photos) + 1)]
    row = Image.new("RGB", (width, round(height)), "white")
    for photo, left, right in zip(photos, edges, edges[1:], strict=False):
        size = (right - GAP - left, row.height)
        row.paste(draw(photo, size, proposer.propose(photo).highlights()), (left, 0))
    return row


def draw(photo: Image.Image, size: tuple[int, int], finds: objectness.Proposals) -> Image.Image:
    """A photo in another size (width, height), with its finds."""
    scale = torch.tensor([size[0] / photo.width, size[1] / photo.height] * 2)
    boxes = finds.boxes * scale
    return objectness.draw_boxes(
        photo.resize(size, Image.Resampling.LANCZOS), boxes, finds.scores, colour_by="box", width=3, labels=len(finds)
    )


def stack(rows: list[Image.Image], width: int) -> Image.Image:
    """Rows below each other."""
    sheet = Image.new("RGB", (width, sum(row.height for row in rows) + GAP * (len(rows) - 1)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return sheet


if __name__ == "__main__":
    main()

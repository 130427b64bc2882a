"""Cut the likeliest objects out of photos, for a search index or for somebody to name them.

    python examples/crop_objects.py [PHOTO_OR_FOLDER...] [--count 5] [--out demo/crops]

A crop's name tells its photo, its rank and its score: `coffee-1-0.98.jpg`.
"""

import argparse
import math
from pathlib import Path

from PIL import Image

import objectness

PHOTOS = Path(__file__).parent / "photos"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=[PHOTOS])
    parser.add_argument("--count", type=int, default=5, help="crops of each photo")
    parser.add_argument("--out", type=Path, default=Path("demo/crops"))
    parser.add_argument(
        "--weights", default="cspnet", help="a run or checkpoint folder, in place of the shipped network"
    )
    args = parser.parse_args()

    proposer = objectness.load(args.weights)
    args.out.mkdir(parents=True, exist_ok=True)
    for file in objectness.find_images(args.sources):
        image = objectness.read_image(file)  # (H, W, 3) uint8, upright
        best = proposer.propose(image).nms(0.4).top(args.count)  # no two crops of the same thing
        for rank, ((x1, y1, x2, y2), score, _, _) in enumerate(best, start=1):
            corners = math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)  # never less than a pixel
            Image.fromarray(image).crop(corners).save(args.out / f"{file.stem}-{rank}-{score:.2f}.jpg")
        print(f"{file}: {len(best)} crops in {args.out}")


if __name__ == "__main__":
    main()

"""Go on training the shipped network on your own boxes, and see what that does for recall.

    python examples/train_on_your_boxes.py [ANNOTATIONS] [--epochs 40] [--out runs/example]

ANNOTATIONS is a COCO file, a Pascal VOC folder or a YOLO folder. Without it the network learns the four photos of
examples/photos by heart: a toy, measured on the very photos that it learns, but every step is that of a real run.
Run again with the same options, it goes on where it was stopped.
"""

import argparse
from pathlib import Path

import objectness

BOXES = Path(__file__).parent / "boxes.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotations", nargs="?", default=BOXES)
    parser.add_argument("--epochs", type=float, default=40)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    parser.add_argument(
        "--weights", default="cspnet", help="a run or checkpoint folder, in place of the shipped network"
    )
    args = parser.parse_args()

    records = objectness.read_dataset(args.annotations).records
    network = objectness.load_network(args.weights)
    before = objectness.measure_network(network, records)
    options = objectness.TrainOptions(
        epochs=args.epochs,
        images_per_step=min(4, len(records)),
        learning_rate=0.002,
        schedule="cosine",
        weights=args.weights,
        num_workers=0,
    )
    objectness.train(
        network.config,
        options,
        records,
        args.out,
        resume=True,
        on_progress=lambda p: print(
            f"step {p.step}/{p.num_steps}: objectness loss {p.objectness_loss:.3f}, box loss {p.box_loss:.3f}"
        ),
    )
    after = objectness.measure_network(objectness.load_network(args.out), records)
    for top in before.tops:
        print(f"AR@{top}: {before.average_recall(top):.3f} before, {after.average_recall(top):.3f} after")


if __name__ == "__main__":
    main()

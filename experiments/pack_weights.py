"""Put a trained network into the package: half precision on disk, the size it shall see photos at in its configuration.

    python experiments/pack_weights.py runs/mine/last src/objectness/weights/cspnet --short 384 --long 512

A network trains on small canvases and proposes on larger inputs, where small objects reach its anchors; the recall of
several sizes decides which (`objectness evaluate DATA --weights OUT`).
"""

import argparse
from dataclasses import replace
from pathlib import Path

from objectness.weights.checkpoint import load_network, save_checkpoint


def main() -> None:
    """Read, change the input size and the counts, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--short", type=int, required=True, help="shorter side of the input, px")
    parser.add_argument("--long", type=int, required=True, help="longest side of the input, px")
    parser.add_argument("--keep", type=int, default=1000, help="proposals per image, and candidates per level")
    parser.add_argument("--nms-iou", type=float, default=0.85, help="threshold of suppression")
    parser.add_argument(
        "--decay-sigma", type=float, default=1.0, help="how far overlapping proposals' scores are lowered"
    )
    args = parser.parse_args()
    network = load_network(args.source)
    config = replace(
        network.config,
        input=replace(network.config.input, short_side=args.short, long_side=args.long),
        selection=replace(
            network.config.selection,
            keep=args.keep,
            per_level=args.keep,
            nms_iou=args.nms_iou,
            decay_sigma=args.decay_sigma,
        ),
    )
    save_checkpoint(args.out, network.state_dict(), config, half=True)
    size = sum(file.stat().st_size for file in args.out.iterdir())
    print(f"{args.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

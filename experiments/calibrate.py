r"""Let a network's scores say how often its boxes are right, and draw how well they do.

    python experiments/calibrate.py runs/mine/last runs/calibrated --data ../shared/data/coco/val.json \
        --plot docs/reliability.png

A box is right if it overlaps an annotated object with an IoU of at least 0.5. On every second photo a line is fitted
from the logits of the best 20 proposals to the log odds of being right (Platt, 1999). It goes into the weights of the
layers that give the logits, so that the order of proposals stays as it was and every engine and export has it. The
other photos tell how well the scores hold: for each tenth of the scores, how many of its boxes were right.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import objectness
from objectness.data.records import ImageRecord
from objectness.evaluation.recall import compute_iou
from objectness.model.head import Head, LevelHeads
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.weights.checkpoint import load_network, save_checkpoint

BEST, RIGHT_IOU = 20, 0.5  # of a photo: more would be nearly all wrong, and decide the fit
ROUNDS = 3  # the selection lowers some scores after the layers gave them, so that one line is not enough
Floats = NDArray[np.float64]


def collect(network: RegionProposalNetwork, records: Sequence[ImageRecord]) -> tuple[Floats, NDArray[np.bool_]]:
    """Logits (n,) of the best proposals of all photos, and which of them are right."""
    proposer = Proposer(network)
    logits, right = [np.zeros(0)], [np.zeros(0, dtype=bool)]
    for record in records:
        proposals = proposer.propose(record.path).top(BEST)
        overlaps = compute_iou(record.boxes[~record.ignore], proposals.boxes.numpy().astype(np.float64))  # (G, n)
        logits.append(proposals.logits.numpy().astype(np.float64))
        right.append(overlaps.max(axis=0, initial=0) >= RIGHT_IOU)
    return np.concatenate(logits), np.concatenate(right)


def fit_line(logits: Floats, right: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset of the log odds of being right, by maximum likelihood."""
    values, labels = torch.from_numpy(logits), torch.from_numpy(right).double()
    line = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([line], max_iter=100, line_search_fn="strong_wolfe")

    def lose() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(line[0] * values + line[1], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(lose)  # type: ignore[no-untyped-call]
    slope, offset = line.tolist()
    return slope, offset


@torch.no_grad()
def bend_scores(network: RegionProposalNetwork, slope: float, offset: float) -> None:
    """Put a line behind the network's logits, in place."""
    heads = list(network.head.levels) if isinstance(network.head, LevelHeads) else [network.head]
    for head in heads:
        assert isinstance(head, Head)
        assert head.cls.bias is not None
        head.cls.weight *= slope
        head.cls.bias *= slope
        head.cls.bias[head.class_order.index(0) :: 2] += offset


def tabulate(logits: Floats, right: NDArray[np.bool_]) -> list[tuple[float, float, int]]:
    """For each tenth of the scores that has boxes: their mean score, the share that is right, how many they are."""
    scores = 1 / (1 + np.exp(-logits))
    tenths = np.minimum((scores * 10).astype(int), 9)
    return [
        (float(scores[tenths == i].mean()), float(right[tenths == i].mean()), int((tenths == i).sum()))
        for i in range(10)
        if (tenths == i).any()
    ]


def draw(before: Sequence[tuple[float, float, int]], after: Sequence[tuple[float, float, int]], path: Path) -> None:
    """A reliability plot."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for rows, label, style in ((before, "as trained", "o--"), (after, "calibrated", "o-")):
        axes.plot([row[0] for row in rows], [row[1] for row in rows], style, label=label, markersize=4)
    axes.set(xlabel="score", ylabel="share of boxes that are right (IoU ≥ 0.5)", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Fit on one half, write, measure on the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint")
    parser.add_argument("out", type=Path, help="a checkpoint folder, to be written")
    parser.add_argument("--data", type=Path, required=True, help="annotated photos that it was not trained on")
    parser.add_argument("--plot", type=Path, help="a picture, to be written")
    args = parser.parse_args()
    network = load_network(args.source)
    records = objectness.read_dataset(args.data).records
    before = tabulate(*collect(network, records[1::2]))
    for _ in range(ROUNDS):
        slope, offset = fit_line(*collect(network, records[::2]))
        bend_scores(network, slope, offset)
        print(f"logits times {slope:.3f} plus {offset:.3f}")
    after = tabulate(*collect(network, records[1::2]))
    save_checkpoint(args.out, network.state_dict(), network.config)
    print(f"{args.out}: calibrated\n\n| score | right | boxes |\n|--:|--:|--:|")
    print("\n".join(f"| {score:.2f} | {share:.2f} | {count} |" for score, share, count in after))
    if args.plot:
        draw(before, after, args.plot)


if __name__ == "__main__":
    main()

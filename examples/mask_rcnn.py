"""Train torchvision's Mask R-CNN on the shipped network's features and proposals, and draw the masks that it finds.

    python examples/mask_rcnn.py [--steps 100] [--out demo/masks]

Needs torchvision. The second stage starts at random and learns the four photos of examples/photos by heart, whose
outlines in examples/masks.json were drawn by hand: a toy, shown on the very photos that it learns. All five losses
train together, the network's two among them; of the network only its backbone stays as it is, to save time.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

import objectness
from objectness.torchvision import as_rpn, replace_rpn

ANNOTATIONS = Path(__file__).parent / "masks.json"
SHORT_SIDE, LONG_SIDE = 256, 384  # of the input, px: smaller than the network is used to, for the sake of time
MIN_SCORE = 0.7  # of a detection that is drawn
COLOURS = [(230, 60, 50), (60, 160, 250), (250, 200, 40), (70, 200, 90), (190, 90, 230), (250, 130, 30)]


class Photo(NamedTuple):
    """A photo and what is on it."""

    file: Path
    pixels: Tensor  # (3, H, W) float32 in [0, 1]
    target: dict[str, Tensor]  # as torchvision takes it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="each on all four photos")
    parser.add_argument("--out", type=Path, default=Path("demo/masks"))
    parser.add_argument(
        "--weights", default="cspnet", help="a run or checkpoint folder, in place of the shipped network"
    )
    args = parser.parse_args()

    torch.manual_seed(0)
    photos, names = read_photos(ANNOTATIONS)
    network = objectness.load_network(args.weights)
    model = make_model(network, num_classes=len(names) + 1)
    train(model, photos, args.steps)
    draw(model.eval(), photos, names, args.out)


def make_model(network: objectness.RegionProposalNetwork, num_classes: int) -> MaskRCNN:
    """A Mask R-CNN around a network, with heads smaller than usual, so that a CPU trains them in a minute or two."""
    backbone = as_rpn(network).backbone
    model = MaskRCNN(
        backbone,
        box_head=TwoMLPHead(backbone.out_channels * 7 * 7, 256),
        box_predictor=FastRCNNPredictor(256, num_classes),
        mask_head=MaskRCNNHeads(backbone.out_channels, (128, 128), 1),
        mask_predictor=MaskRCNNPredictor(128, 64, num_classes),
        box_batch_size_per_image=96,
        box_fg_iou_thresh=0.6,
        box_bg_iou_thresh=0.6,
        box_nms_thresh=0.3,
    )
    replace_rpn(model, network)
    network.backbone.requires_grad_(False)
    model.transform.min_size, model.transform.max_size = (SHORT_SIDE,), LONG_SIDE
    return model


def train(model: MaskRCNN, photos: list[Photo], num_steps: int) -> None:
    first_stage = [*model.backbone.pyramid.parameters(), *model.rpn.parameters()]
    optimizer = torch.optim.AdamW([{"params": model.roi_heads.parameters()}, {"params": first_stage, "lr": 2e-4}], 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    model.train()
    for step in range(1, num_steps + 1):
        losses: dict[str, Tensor] = model([photo.pixels for photo in photos], [photo.target for photo in photos])
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step == 1 or step % 10 == 0 or step == num_steps:
            parts = ", ".join(f"{name.removeprefix('loss_')} {float(value):.3f}" for name, value in losses.items())
            print(f"step {step}/{num_steps}: loss {float(loss):.3f} ({parts})", flush=True)


@torch.inference_mode()
def draw(model: MaskRCNN, photos: list[Photo], names: dict[int, str], folder: Path) -> None:
    """Draw every sure detection's mask over its photo."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        found = model([photo.pixels])[0]
        sure = found["scores"] >= MIN_SCORE
        picture = photo.pixels.clone()  # (3, H, W)
        for i, mask in enumerate(found["masks"][sure, 0] >= 0.5):
            colour = torch.tensor(COLOURS[i % len(COLOURS)])[:, None] / 255
            picture[:, mask] = 0.45 * picture[:, mask] + 0.55 * colour
        image = Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy())
        pen = ImageDraw.Draw(image)
        for box, label, score in zip(
            *(found[key][sure].tolist() for key in ("boxes", "labels", "scores")), strict=True
        ):
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            pen.text(middle, f"{names[label]} {score:.2f}", "white", anchor="mm", stroke_width=2, stroke_fill="black")
        file = folder / f"{photo.file.stem}.png"
        image.save(file)
        print(f"{file}: {int(sure.sum())} masks for {len(photo.target['boxes'])} outlines")


def read_photos(annotations: Path) -> tuple[list[Photo], dict[int, str]]:
    """The photos of a COCO file whose outlines are polygons, and the names of its classes."""
    content = json.loads(annotations.read_text())
    photos = []
    for image in content["images"]:
        file = annotations.parent / image["file_name"]
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        corners = torch.tensor([each["bbox"] for each in objects])  # (G, 4) x, y, width, height
        target = {
            "boxes": torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1),
            "labels": torch.tensor([each["category_id"] for each in objects]),
            "masks": torch.stack([fill(each["segmentation"], (image["width"], image["height"])) for each in objects]),
        }
        pixels = torch.from_numpy(objectness.read_image(file)).permute(2, 0, 1) / 255
        photos.append(Photo(file, pixels, target))
    return photos, {each["id"]: each["name"] for each in content["categories"]}


def fill(polygons: list[Any], size: tuple[int, int]) -> Tensor:
    """What lies inside the polygons, as (height, width) uint8; `size` is (width, height)."""
    mask = Image.new("L", size)
    for polygon in polygons:
        ImageDraw.Draw(mask).polygon(polygon, fill=1)
    return torch.from_numpy(np.array(mask))


if __name__ == "__main__":
    main()

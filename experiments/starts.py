"""What a good start is worth: the same recipe from four places."""

from arms import Arm, run_question

from objectness.config import Config, InputOptions

if __name__ == "__main__":
    run_question(
        "starts",
        "What should training start from?",
        {
            "NanoDet's trunk, neck and box layers": Arm(),
            "NanoDet's trunk": Arm(start="trunk"),
            "ImageNet, EfficientNet-Lite0": Arm(
                Config.cspnet(backbone="efficientnet_lite0", input=InputOptions(mean=(0.5,) * 3, std=(0.5,) * 3)),
                start="lite0-imagenet.safetensors",
            ),
            "nothing": Arm(start="random"),
        },
    )

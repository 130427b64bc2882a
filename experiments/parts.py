"""What each part of the network is worth, from NanoDet's trunk alone, so that no arm has a better start."""

from arms import Arm, run_question

from objectness.config import AnchorOptions, Config

if __name__ == "__main__":
    run_question(
        "parts",
        "Which pyramid and head?",
        {
            "the recipe's": Arm(start="trunk"),
            "three anchors a cell": Arm(
                Config.cspnet(anchors=AnchorOptions((20.0, 40.0, 80.0, 160.0, 320.0), (0.5, 1.0, 2.0))), start="trunk"
            ),
            "deltas instead of distances": Arm(Config.cspnet(box_bins=0), start="trunk"),
            "no bottom-up path": Arm(Config.cspnet(bottom_up=False), start="trunk"),
            "adjacent top-down path (the article)": Arm(Config.cspnet(top_down="adjacent"), start="trunk"),
            "dense convolution on P2": Arm(Config.cspnet(separable_levels=()), start="trunk"),
            "separable convolutions everywhere": Arm(Config.cspnet(separable_levels=(2, 3, 4, 5)), start="trunk"),
            "one head for all levels": Arm(Config.cspnet(head_shared=True), start="trunk"),
            "one head, a 3x3 convolution deep": Arm(Config.cspnet(head_shared=True, head_depth=1), start="trunk"),
            "P3..P7": Arm(
                Config.cspnet(
                    anchors=AnchorOptions(
                        (40.0, 80.0, 160.0, 320.0, 640.0), (1.0,), (8, 16, 32, 64, 128), finest_level=3
                    ),
                    separable_levels=(),
                ),
                start="trunk",
            ),
            "absolute boxes (the article's failed experiment)": Arm(
                Config.cspnet(box_bins=0, box_coding="absolute"), start="trunk"
            ),
        },
    )

"""Labels by overlap or by alignment, labels or qualities as the score's target, and the losses."""

from arms import Arm, run_question

from objectness.config import Config, LabelOptions

if __name__ == "__main__":
    run_question(
        "labels",
        "Which labels and losses?",
        {
            "aligned, quality, focal, GIoU": Arm(),
            "label as the target": Arm(Config.cspnet(objectness_target="label")),
            "cross entropy": Arm(Config.cspnet(objectness_loss="cross_entropy")),
            "squared (the article)": Arm(Config.cspnet(objectness_loss="squared")),
            "smooth L1": Arm(Config.cspnet(box_loss="smooth_l1")),
            "by overlap, quality, cross entropy, GIoU": Arm(
                Config.cspnet(labels=LabelOptions(), objectness_loss="cross_entropy")
            ),
            "by overlap, label, cross entropy, smooth L1": Arm(
                Config.cspnet(
                    labels=LabelOptions(),
                    objectness_target="label",
                    objectness_loss="cross_entropy",
                    box_loss="smooth_l1",
                )
            ),
        },
    )

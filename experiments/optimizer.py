"""SGD, as the article has it, and AdamW."""

from arms import Arm, run_question

if __name__ == "__main__":
    run_question(
        "optimizer",
        "Which optimiser?",
        {
            "AdamW, 5e-4, backbone 1e-4": Arm(),
            "AdamW, 5e-4, backbone too": Arm(options={"backbone_rate": 1.0}),
            "SGD, 0.01": Arm(options={"optimizer": "sgd", "learning_rate": 0.01, "weight_decay": 1e-4}),
            "SGD, 0.002": Arm(options={"optimizer": "sgd", "learning_rate": 0.002, "weight_decay": 1e-4}),
        },
    )

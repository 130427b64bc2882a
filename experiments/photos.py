"""More photos, in which most objects have no box: Pascal VOC's, as they are or with a teacher's boxes."""

from pathlib import Path

from arms import DATA, Arm, run_question

COCO = (DATA / "coco" / "train.json",) * 3
TEACHER = Path("voc-teacher.json")  # written by experiments/add_teacher_boxes.py

if __name__ == "__main__":
    run_question(
        "photos",
        "Which photos?",
        {
            "COCO": Arm(),
            "COCO three times and VOC": Arm(data=(*COCO, DATA / "voc2007" / "train.json")),
            "the same, a teacher's boxes in VOC": Arm(data=(*COCO, TEACHER)),
        },
    )

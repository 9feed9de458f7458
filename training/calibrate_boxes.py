"""Choose how gaze maps become boxes on validation images, and save it with the checkpoint.

    cogaze calibrate_boxes --checkpoint outputs/demo/cogaze-tiny

The config's `box_settings` are all that changes of the checkpoint: of any kind that has gaze maps, a report generator
too. Threshold, smoothing and the least share of a region are those of the best mean of mAP at IoU 0.3 and 0.5.
`cogaze evaluate --only boxes` judges them on other images.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from processing.boxes import BoxSettings
from training.data.loading import load_data
from training.evaluation.boxes import box_scores, choose_settings
from training.evaluation.calibration import save_config_fields
from training.evaluation.scorers import load_scorer
from training.metrics.scores import to_json
from training.runs.command_line import parse_arguments
from training.runs.files import write_json
from training.runs.provenance import measured_on


@dataclass
class CalibrateBoxesArguments:
    checkpoint: str = field(metadata={"help": "folder of a checkpoint with gaze maps"})
    validation_data: str = field(
        default='{"name": "phantom", "split": "validation"}', metadata={"help": "JSON: images with boxes"}
    )
    batch_size: int = 32
    device: str = "cpu"


def main(argv: list[str] | None = None) -> BoxSettings:
    """
    Raises:
        ValueError: a checkpoint that is no folder; data without boxes.
    """
    (arguments,) = parse_arguments((CalibrateBoxesArguments,), argv, __doc__)
    folder = Path(arguments.checkpoint)
    if not folder.is_dir():
        raise ValueError(f"checkpoint: no folder {folder}; settings are saved where the model lies.")
    scorer = load_scorer(str(folder), arguments.batch_size, arguments.device)
    data = load_data(arguments.validation_data, "validation_data")
    settings = choose_settings(scorer, data)
    scores = box_scores(scorer, data, asdict(settings), None, 0)
    save_config_fields(folder, box_settings=asdict(settings))
    found = {"settings": asdict(settings), "chosen_on": measured_on(data), "scores": to_json(scores.values())}
    write_json(folder / "boxes.json", found)
    print(
        f"{settings}\non validation: "
        + ", ".join(f"{s.name} {s.shown()}" for s in scores.values() if "/" not in s.name)
    )
    return settings


if __name__ == "__main__":
    main()

"""Find a fine-tuned classifier's temperatures on validation images, and save them with it.

    cogaze calibrate --checkpoint outputs/finetune-classification-phantom/seed-0

The images, and whether the model reads a context, are fine-tuning's unless flags say otherwise.
The config's `logit_temperature` is all that changes of the checkpoint (the code that goes along is brought to this
package's): whatever opens it, the stock pipeline too, gives calibrated probabilities from then on. The order of the
images, and so AUROC, stays. Beside it `calibration.json` has calibration errors and likelihood before and after on the
test images, and the thresholds of F1 that hold from now on; `calibration.png` is the reliability diagram.
"""

from dataclasses import dataclass, field
from pathlib import Path

from training.data.loading import load_data
from training.downstream.classifiers import as_in_finetuning, drawn_validation, finetune_record, open_classifier
from training.evaluation.calibration import calibrate, save_temperatures
from training.figures.reliability import draw_calibration
from training.runs.command_line import parse_arguments
from training.runs.files import write_json
from training.runs.provenance import measured_on


@dataclass
class CalibrateArguments:
    checkpoint: str = field(metadata={"help": "folder that finetune_classification.py wrote, such as .../seed-0"})
    validation_data: str | None = field(
        default=None, metadata={"help": "JSON: temperatures are fitted on it; fine-tuning's if absent"}
    )
    test_data: str | None = field(
        default=None, metadata={"help": "JSON: they are judged on it; fine-tuning's if absent"}
    )
    per_label: bool = field(default=False, metadata={"help": "a temperature for each label, instead of one for all"})
    no_context: bool | None = field(default=None, metadata={"help": "True or False; as in fine-tuning if absent"})
    batch_size: int = 32
    device: str = "cpu"


def main(argv: list[str] | None = None) -> dict:
    """
    Raises:
        ValueError: a checkpoint that is no folder or no classifier; data, or whether there was a context, neither
            given nor recorded by fine-tuning; a patient in both splits; a label that the validation images all have,
            or none has.
    """
    (arguments,) = parse_arguments((CalibrateArguments,), argv, __doc__)
    folder = Path(arguments.checkpoint)
    if not folder.is_dir():
        raise ValueError(f"checkpoint: no folder {folder}; temperatures are saved where the model lies.")
    drawn = drawn_validation(folder) if arguments.validation_data is None else None
    data = {} if drawn is None else {"validation": drawn}
    wanted = ("no_context", *(f"{split}_data" for split in ("validation", "test") if split not in data))
    chosen = {name: as_in_finetuning(folder, name, getattr(arguments, name)) for name in wanted}
    options = {"use_context": not chosen.pop("no_context"), "batch_size": arguments.batch_size}
    classifier = open_classifier(arguments.checkpoint, arguments.device, **options)
    data |= {name.removesuffix("_data"): load_data(spec, name) for name, spec in chosen.items()}
    calibration = calibrate(classifier, data["validation"], data["test"], arguments.per_label)
    result = calibration.scores() | {
        "thresholds": calibration.thresholds(finetune_record(folder).get("thresholds")),
        "measured_on": measured_on(data["test"]),
    }
    save_temperatures(folder, calibration.temperatures)
    draw_calibration(calibration, data["test"], folder / "calibration.png")
    write_json(folder / "calibration.json", result)
    print(summary(result))
    return result


def summary(result: dict) -> str:
    found = sorted(set(result["temperatures"].values()))
    each = f"{found[0]:.3f}" if len(found) == 1 else f"{found[0]:.3f} to {found[-1]:.3f}"
    before, after = result["before"], result["after"]
    lines = [f"Measured on {result['measured_on']}", f"  temperature {each}", f"  {'':<32}{'before':>8}{'after':>8}"]
    for name, title in (
        ("ece", "calibration error, mean of labels"),
        ("ece_pooled", "calibration error, pooled"),
        ("nll", "negative log-likelihood"),
    ):
        lines.append(f"  {title:<33}{before[name]:>7.4f}{after[name]:>8.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Every evaluation that a checkpoint and a data set allow, beside the published numbers.

    cogaze evaluate --checkpoint outputs/demo/cogaze-tiny --data '{"name": "phantom", "split": "test"}'

What is measured follows from the checkpoint's architecture: alignment, gaze, grounding and the disease head of a dual
encoder; AUROC and F1 of a classifier; Dice of a segmentation model; report metrics of a generator. What cannot be
measured is listed with the reason. Writes `evaluation.json` and `evaluation.md`; published numbers
(training/configs/evaluation/published.yaml) are cited, never measured here.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.datasets.records import facts_of, label_names
from training.data.checking import keep_good_records
from training.data.loading import load_data
from training.downstream.classifiers import finetune_record
from training.downstream.subsets import check_patients_apart
from training.evaluation.kinds import KINDS, Evaluation, Score, phantom_gallery
from training.runs.command_line import mapping, parse_arguments
from training.runs.files import read_json, write_json, write_text
from training.runs.provenance import measured_on
from training.runs.tables import markdown_table, with_interval

CITED = (
    "Published numbers are cited from the papers named in training/configs/evaluation/published.yaml: other "
    "data, or other splits and protocols, than what was measured here."
)
# What stands in for data that are not given, where the phantom is evaluated.
PHANTOM_SPLITS = {"validation": {"split": "validation", "size": 200}, "train": {"split": "train", "size": 500}}


@dataclass
class EvaluateAllArguments:
    checkpoint: str = field(metadata={"help": "a checkpoint of any kind, with its processor: folder or Hub id"})
    data: str = field(metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}'})
    validation_data: str | None = field(
        default=None,
        metadata={
            "help": "JSON: thresholds of F1 are chosen on it; by default a classifier's own, of the phantom its split"
        },
    )
    train_data: str | None = field(
        default=None,
        metadata={"help": "JSON: a dual encoder's gaze baselines are averaged over it; of the phantom its split"},
    )
    gallery_per_class: int = field(default=40, metadata={"help": "studies of each class in the phantom's gallery"})
    no_context: bool | None = field(
        default=None,
        metadata={"help": "True: heads and generators read no indication and history; as in fine-tuning if absent"},
    )
    metrics: list[str] | None = field(
        default=None, metadata={"help": "families of report metrics; those of the checkpoint's kind if absent"}
    )
    batch_size: int = 32
    bootstrap: int = field(default=200, metadata={"help": "rounds of the bootstrap over patients"})
    device: str = "cpu"
    output_dir: str | None = field(default=None, metadata={"help": "of evaluation.json and .md; the model's if absent"})


def main(argv: list[str] | None = None) -> dict:
    """
    Raises:
        ValueError: a model that cannot be found or is of no known kind; data without usable records; a patient of
            theirs in validation or train; validation of other label names.
    """
    (arguments,) = parse_arguments((EvaluateAllArguments,), argv, __doc__)
    output = arguments.output_dir or arguments.checkpoint
    if arguments.output_dir is None and not Path(arguments.checkpoint).is_dir():
        raise ValueError(f"output_dir: missing; {arguments.checkpoint} is no folder to write into.")
    architecture = read_architecture(arguments.checkpoint)
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    kind = next(KINDS[ending] for ending in KINDS if architecture.endswith(ending))
    record = finetune_record(arguments.checkpoint)
    data, skipped = usable_records(arguments.data, "data", processor)
    facts = facts_of(data)
    on_phantom = facts.get("source") == "phantom"
    options = mapping(arguments.data, "data")
    others = {}
    for split in [name for name in kind.reads if name != "gallery"]:
        spec = getattr(arguments, f"{split}_data")
        own_thresholds = split == "validation" and record.get("thresholds")
        if spec is None and on_phantom and facts.get("split") != split and not own_thresholds:
            spec = options | PHANTOM_SPLITS[split]
        if spec is not None:
            others[split], _ = usable_records(spec, f"{split}_data", processor)
            check_patients_apart({"data": data["patient_id"], f"{split}_data": others[split]["patient_id"]})
    if "validation" in others and label_names(others["validation"]) != label_names(data):
        raise ValueError("validation_data: its label names differ from those of data.")
    if "gallery" in kind.reads and on_phantom:
        others["gallery"] = phantom_gallery(options, arguments.gallery_per_class)
    elif "gallery" in kind.reads and "classes" in facts:
        others |= {"gallery": data, "classes": facts["classes"]}

    recorded = record.get("settings", {}).get("no_context")
    evaluation = Evaluation(
        data,
        **others,
        use_context=not (recorded if arguments.no_context is None else arguments.no_context),
        metrics=arguments.metrics,
        rounds=arguments.bootstrap,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    if arguments.no_context is None and recorded is None:
        evaluation.notes.append("Heads and generators read indication and history: --no_context True leaves them out.")
    if facts.get("split") in (None, "train"):
        of = "the training split" if facts.get("split") else "no one split"
        evaluation.notes.append(f"The images are of {of}: the checkpoint may have been trained on these patients.")
    evaluation.notes += seen_before(arguments.checkpoint, record.get("settings", {}), facts)
    kind.measure(arguments.checkpoint, evaluation)
    result = {
        "model": Path(arguments.checkpoint).name if Path(arguments.checkpoint).is_dir() else arguments.checkpoint,
        "architecture": architecture,
        "test_data": {name: facts.get(name) for name in ("source", "split", "sample")},
        "images": len(data),
        "skipped_records": skipped,
        "bootstrap": arguments.bootstrap,
        "scores": {title: asdict(score) for title, score in evaluation.scores.items()},
        "not_measured": evaluation.not_measured,
        "notes": evaluation.notes,
        "measured_on": measured_on(data),
    }
    table = markdown(result, evaluation.scores)
    write_json(Path(output) / "evaluation.json", result)
    write_text(Path(output) / "evaluation.md", table)
    print(table)
    return result


def read_architecture(model: str) -> str:
    """The class that a checkpoint was saved from.

    Raises:
        ValueError: no such checkpoint, or one of a kind that is not known here.
    """
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(f"checkpoint: {model} cannot be opened; give its folder or Hub id ({error}).") from error
    architecture = (config.architectures or [""])[0]
    if config.model_type not in ("cogaze", "cogaze_prefix", "egma") or not architecture.endswith(tuple(KINDS)):
        raise ValueError(f"checkpoint: {model} is a {architecture or config.model_type}; give a CoGaze or an EGMA.")
    return architecture


def seen_before(model: str, settings: dict, facts: dict) -> list[str]:
    """What of the checkpoint's making is recorded to have been of the data's own source and split.

    Args:
        settings: of its fine-tuning. facts: of the data.
    """
    own = (facts.get("source"), facts.get("split"))
    if None in own:
        return []
    path = Path(model) / "training.json"
    step, trained = read_json(path) if path.is_file() else {}, []
    while step:
        trained.append(step.get("train_data") or {})
        step = step.get("started_from") or {}
    notes = []
    if own in [(data.get("source"), data.get("split")) for data in trained]:
        notes.append(f"The checkpoint was trained on the same split, {own[0]} {own[1]}.")
    validation = mapping(settings.get("validation_data"), "validation_data")
    if own == (validation.get("name"), validation.get("split")):
        notes.append(f"Its epoch and thresholds were chosen on the same split, {own[0]} {own[1]}.")
    return notes


def usable_records(spec: dict | str, argument: str, processor) -> tuple[Dataset, dict[str, int]]:
    """The records that the processor can read, and how often each reason left one out.

    Raises:
        ValueError: a stream, or nothing usable; names the argument.
    """
    dataset = load_data(spec, argument)
    if not isinstance(dataset, Dataset):
        raise ValueError(f"{argument}: shards are read as a stream; give the data set itself.")
    if not len(dataset):
        raise ValueError(f"{argument}: it has no records.")
    try:
        # What reads texts takes the records that have them; images need none.
        dataset, reasons = keep_good_records(dataset, processor, "skip", whole=("labels",))
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    return dataset, dict(reasons)


def markdown(result: dict, scores: dict[str, Score]) -> str:
    """The scores as a table, and below it what could not be measured."""
    rows = []
    for title, score in scores.items():
        beside = ", ".join(f"{said} {value:.3f}" for said, value in score.beside.items())
        value = with_interval(score.value, (score.low, score.high))
        rows.append([title, value, beside, score.on or "all images", _cited(score.published)])
    header = [result["architecture"], "value [95 % interval]", "beside it", "mean over", "published elsewhere"]
    said = f"Measured on {result['measured_on']} Intervals are over patients, where no other is named. {CITED}"
    lines = [markdown_table(header, rows), "", said, *(line for note in result["notes"] for line in ("", note))]
    skipped = result["skipped_records"]
    if skipped:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.items())
        lines += ["", f"Left out: {sum(skipped.values())} unusable records ({reasons})."]
    if result["not_measured"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {name}: {reason}" for name, reason in result["not_measured"].items()]
    return "\n".join(lines) + "\n"


def _cited(published: list[dict]) -> str:
    """Grouped by system and data set: "CoGaze: rsna 0.862, shenzhen 0.947"."""
    said: dict[str, dict[str, list[str]]] = {}
    for row in published:
        of = f" ({row['of']})" if "of" in row else ""
        said.setdefault(row["system"], {}).setdefault(row["data"], []).append(f"{row['value']:.3f}{of}")
    return "; ".join(
        f"{system}: " + ", ".join(f"{data} {' / '.join(values)}" for data, values in own.items())
        for system, own in said.items()
    )


if __name__ == "__main__":
    main()

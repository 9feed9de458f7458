"""Every evaluation that a checkpoint and a data set allow, beside the published numbers.

    cogaze evaluate --checkpoint outputs/demo/cogaze-tiny --data '{"name": "phantom", "split": "test"}'

What is measured follows from the checkpoint's architecture: alignment, gaze, grounding and the disease head of a dual
encoder; AUROC and F1 of a classifier; Dice of a segmentation model; report metrics of a generator. What cannot be
measured is listed with the reason; `--only alignment classes` and the like measures parts. Writes `evaluation.json` and
`evaluation.md`; published numbers (training/configs/evaluation/published.yaml) are cited, never measured here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset
from transformers import AutoConfig, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.datasets.overlaps import warn_of_overlaps
from processing.datasets.phantom.loading import load_phantom_gallery
from processing.datasets.records import facts_of, label_names
from training.data.checking import keep_good_records
from training.data.collation import Collator
from training.data.feature_cache import weights_fingerprint
from training.data.loading import load_data
from training.downstream.classifiers import finetune_record
from training.downstream.subsets import check_patients_apart
from training.evaluation.evaluation import Evaluation
from training.evaluation.parts import KNOWN, PARTS, chosen_parts, measure, reads
from training.evaluation.prompts import CLASS_PROMPTS, PROMPTS
from training.evaluation.titles import described
from training.metrics.scores import Score, to_json
from training.runs.command_line import is_list, mapping, mappings, parse_arguments
from training.runs.files import read_json, slug, write_json, write_text
from training.runs.provenance import measured_on
from training.runs.tables import markdown_table

CITED = (
    "Published numbers are cited from the papers named in training/configs/evaluation/published.yaml: other "
    "data, or other splits and protocols, than what was measured here."
)
# What stands in for data that are not given, where the phantom is evaluated.
PHANTOM_SPLITS = {"validation": {"split": "validation", "size": 200}, "train": {"split": "train", "size": 500}}


@dataclass
class EvaluateArguments:
    checkpoint: str = field(metadata={"help": "of any kind, with its processor: folder or Hub id"})
    data: str = field(
        metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}, or a list of such, each scored by itself'}
    )
    only: list[str] | None = field(
        default=None, metadata={"help": f"parts of {', '.join(PARTS)}; by default all but shortcuts"}
    )
    validation_data: str | None = field(
        default=None,
        metadata={
            "help": "JSON: thresholds of F1 are chosen on it; by default a classifier's own, of the phantom its split"
        },
    )
    train_data: str | None = field(
        default=None,
        metadata={
            "help": "JSON: gaze baselines are averaged over it, and shortcuts fitted on it; of the phantom its split"
        },
    )
    gallery_data: str | None = field(
        default=None, metadata={"help": "JSON: a balanced gallery of single findings; the phantom's own if absent"}
    )
    gallery_per_class: int = field(default=40, metadata={"help": "studies of each class in the phantom's gallery"})
    classes: list[str] | None = field(default=None, metadata={"help": "the gallery's, told apart; its own if absent"})
    prompts: str = field(default=str(PROMPTS), metadata={"help": "YAML file of prompts of findings"})
    class_prompts: str = field(
        default=str(CLASS_PROMPTS), metadata={"help": "YAML file of combinations and queries of exclusive classes"}
    )
    prompts_per_class: int = field(default=50, metadata={"help": "combinations drawn for each class; 0 = all"})
    ensembles: list[str] = field(
        default_factory=lambda: ["max", "mean"], metadata={"help": "over an EGMA class's prompts: max, mean"}
    )
    seed: int = field(default=0, metadata={"help": "of the combinations that are drawn"})
    no_context: bool | None = field(
        default=None,
        metadata={"help": "True: heads and generators read no indication and history; as in fine-tuning if absent"},
    )
    metrics: list[str] | None = field(
        default=None, metadata={"help": "families of report metrics; those of the checkpoint's kind if absent"}
    )
    batch_size: int = 32
    bootstrap: int = field(default=200, metadata={"help": "rounds of the bootstrap over patients; 0 = no intervals"})
    device: str = "cpu"
    output_dir: str | None = field(
        default=None, metadata={"help": "of evaluation.json and .md; the checkpoint's if absent"}
    )


def main(argv: list[str] | None = None) -> dict:
    """
    Raises:
        ValueError: a checkpoint that cannot be found or is of no known kind; data without usable records; a patient of
            theirs in validation or train; validation of other label names; an unknown part.
    """
    (arguments,) = parse_arguments((EvaluateArguments,), argv, __doc__)
    return evaluate_each(arguments) if is_list(arguments.data) else evaluate(arguments)


def evaluate_each(arguments: EvaluateArguments) -> dict[str, dict]:
    """`evaluate` of each of several data sets by itself, into folders of their names.

    Raises:
        ValueError: two of one name; data that go beside one set alone.
    """
    for name in ("validation_data", "train_data"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"{name}: it goes with one data set; evaluate them one by one.")
    found: dict[str, dict] = {}
    for place, spec in enumerate(mappings(arguments.data, "data")):
        name = spec.pop("as", None) or spec.get("name")
        if name in found:
            raise ValueError(f"data[{place}]: two are called {name!r}; give one another name by `as`.")
        folder = Path(arguments.output_dir or arguments.checkpoint) / slug(str(name))
        print(f"\n{name}")
        found[name] = evaluate(replace(arguments, data=spec, output_dir=str(folder)))
    return found


def evaluate(arguments: EvaluateArguments) -> dict:
    """Measure one data set, as `main` says."""
    output = arguments.output_dir or arguments.checkpoint
    if arguments.output_dir is None and not Path(arguments.checkpoint).is_dir():
        raise ValueError(f"output_dir: missing; {arguments.checkpoint} is no folder to write into.")
    parts = chosen_parts(arguments.only)
    architecture = read_architecture(arguments.checkpoint)
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    record = finetune_record(arguments.checkpoint)
    data, skipped = usable_records(arguments.data, "data", processor)
    others = other_data(arguments, data, reads(architecture, parts), processor, bool(record.get("thresholds")))
    recorded = record.get("settings", {}).get("no_context")
    no_context = recorded if arguments.no_context is None else arguments.no_context
    evaluation = Evaluation(
        arguments.checkpoint,
        data,
        **others,
        prompts=arguments.prompts,
        class_prompts=arguments.class_prompts,
        prompts_per_class=arguments.prompts_per_class or None,
        ensembles=arguments.ensembles,
        seed=arguments.seed,
        use_context=not no_context,
        metrics=arguments.metrics,
        rounds=arguments.bootstrap,
        batch_size=arguments.batch_size,
        device=arguments.device,
    )
    evaluation.notes += notes(arguments.checkpoint, record, facts_of(data), no_context is None)
    measure(evaluation, architecture, parts)
    result = summary(evaluation, architecture, skipped)
    table = markdown(result, evaluation.scores.values())
    write_json(Path(output) / "evaluation.json", result)
    write_text(Path(output) / "evaluation.md", table)
    print(table)
    return result


def other_data(arguments, data: Dataset, wanted: set[str], processor, own_thresholds: bool) -> dict:
    """Fields of an `Evaluation` beside the data: what is given, or goes with a phantom or a sample."""
    facts, options = facts_of(data), mapping(arguments.data, "data")
    on_phantom = facts.get("source") == "phantom"
    found: dict = {}
    for split in sorted(wanted - {"gallery"}):
        spec = getattr(arguments, f"{split}_data")
        kept = split == "validation" and own_thresholds
        if spec is None and on_phantom and facts.get("split") != split and not kept:
            spec = options | PHANTOM_SPLITS[split]
        if spec is not None:
            found[split], _ = usable_records(spec, f"{split}_data", processor)
            check_patients_apart({"data": data["patient_id"], f"{split}_data": found[split]["patient_id"]})
    if "validation" in found and label_names(found["validation"]) != label_names(data):
        raise ValueError("validation_data: its label names differ from those of data.")
    warn_of_overlaps({"data": data} | {f"{split}_data": dataset for split, dataset in found.items()})
    if "gallery" in wanted:
        if arguments.gallery_data:
            found["gallery"], _ = usable_records(arguments.gallery_data, "gallery_data", processor)
        elif on_phantom:
            own = {name: options[name] for name in ("seed", "image_size", "num_proc", "cache_dir") if name in options}
            found["gallery"] = load_phantom_gallery(arguments.gallery_per_class, **own)
        elif "classes" in facts:
            found["gallery"] = data
        classes = arguments.classes or facts_of(found["gallery"]).get("classes") if "gallery" in found else None
        if classes:
            found["classes"] = classes
    return found


def notes(checkpoint: str, record: dict, facts: dict, by_default: bool) -> list[str]:
    """What must be known of the scores: by_default, nobody said whether a context is read."""
    found = []
    if by_default:
        found.append("Heads and generators read indication and history: --no_context True leaves them out.")
    if facts.get("split") in (None, "train"):
        of = "the training split" if facts.get("split") else "no one split"
        found.append(f"The images are of {of}: the checkpoint may have been trained on these patients.")
    return found + seen_before(checkpoint, record.get("settings", {}), facts)


def summary(evaluation: Evaluation, architecture: str, skipped: dict[str, int]) -> dict:
    """What `evaluation.json` holds."""
    facts, model = facts_of(evaluation.data), evaluation.checkpoint
    result = {
        "model": Path(model).name if Path(model).is_dir() else model,
        "architecture": architecture,
        "test_data": {name: facts.get(name) for name in ("source", "split", "sample")},
        "images": len(evaluation.data),
        "skipped_records": skipped,
        "bootstrap": evaluation.rounds,
        "scores": to_json(evaluation.scores.values()),
        "notes": evaluation.notes,
        "measured_on": measured_on(evaluation.data),
    }
    if "scorer" in evaluation.__dict__:  # a dual encoder was opened
        result["weights"] = weights_fingerprint(evaluation.scorer.model)
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
    if config.model_type not in ("cogaze", "cogaze_prefix", "egma") or not architecture.endswith(KNOWN):
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
        data = step.get("train_data") or {}
        trained += (data.get("sources") or {"": data}).values()
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
        dataset, reasons = keep_good_records(dataset, Collator(processor), "skip", whole=("labels",))
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from error
    return dataset, dict(reasons)


def markdown(result: dict, scores: Iterable[Score]) -> str:
    """The scores with an interval (without a bootstrap, all) as a table, and below it what could not be measured."""
    scores = list(scores)
    rows = []
    for score in scores:
        if score.value is not None and (score.interval or not result["bootstrap"]):
            beside = ", ".join(f"{said} {value:.3f}" for said, value in score.beside.items())
            title = described(score.name)["title"]
            rows.append([title, score.shown(), beside, score.on or "all images", _cited(score.published)])
    header = [result["architecture"], "value [95 % interval]", "beside it", "mean over", "published elsewhere"]
    said = f"Measured on {result['measured_on']} Intervals are over patients, where no other is named. {CITED}"
    lines = [markdown_table(header, rows), "", said, *(line for note in result["notes"] for line in ("", note))]
    skipped = result["skipped_records"]
    if skipped:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in skipped.items())
        lines += ["", f"Left out: {sum(skipped.values())} unusable records ({reasons})."]
    missing = [score for score in scores if score.not_computed]
    if missing:
        lines += ["", "Not measured:", ""]
        lines += [f"- {described(score.name)['title']}: {score.not_computed}" for score in missing]
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

"""How findings have changed since an earlier study: scores of generated reports and of a pretrained encoder.

    cogaze evaluate_changes --data '{"name": "phantom", "split": "test", "priors": true, "views": true}' \\
        --predictions written/reports.jsonl --checkpoint outputs/pretrain-phantom-priors --output_dir changes

`--data` has `companions` and `changes`: the phantom with priors, or MS-CXR-T (`ms_cxr_t`), whose reports are not to be
had: there `--checkpoint` alone. Predictions are what `cogaze generate_reports` writes for the same data. Beside each
score stands what reports would get that always say "unchanged", and a copy of the prior report. Of the encoder's
disease head: what other views, and priors, add on the frontal images that have them, a paired difference of AUROC.
"""

from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoModelForPreTraining, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.comparisons import CHANGE_FINDINGS
from processing.datasets.records import label_names
from processing.datasets.sources.companions import FRONTAL
from training.data.loading import load_data
from training.evaluation.changes import predicted_changes
from training.evaluation.companions import gain_of_companions
from training.metrics.changes import change_scores, comparison_scores, stated_changes
from training.metrics.reports import read_predictions
from training.metrics.scores import Score, to_json
from training.runs.command_line import parse_arguments
from training.runs.files import write_json
from training.runs.tables import markdown_table


@dataclass
class ChangeArguments:
    data: str = field(metadata={"help": 'JSON: {"name": ..., "split": ..., "root": ...}, with priors'})
    predictions: str | None = field(default=None, metadata={"help": "CSV or JSONL of generated reports"})
    checkpoint: str | None = field(default=None, metadata={"help": "a CoGaze checkpoint of the pretraining"})
    bootstrap: int = 1000
    batch_size: int = 32
    device: str = "cpu"
    output_dir: str | None = field(default=None, metadata={"help": "folder of changes.json"})


def main(argv: list[str] | None = None) -> dict[str, Score]:
    (arguments,) = parse_arguments((ChangeArguments,), argv, __doc__)
    if arguments.predictions is None and arguments.checkpoint is None:
        raise ValueError("predictions and checkpoint: give one of them, or both.")
    dataset = load_data(arguments.data, "data")
    facts = ["image_id", "patient_id", "view_position", "changes", "prior_findings", "companions"]
    records = dataset.with_format("arrow").select_columns(facts)[:].to_pylist()
    truths = {record["image_id"]: truth_of(record) for record in records}
    if not any(truths.values()):
        raise ValueError("data: no record says how a finding has changed; give a set with priors.")
    scores = {}
    if arguments.predictions:
        scores |= score_reports(arguments, records, truths)
    if arguments.checkpoint:
        scores |= score_encoder(arguments, dataset, records, truths)
    print(
        markdown_table(["Score", "Value [95 % interval]", "Beside it", "On"], [_row(each) for each in scores.values()])
    )
    if arguments.output_dir:
        write_json(Path(arguments.output_dir) / "changes.json", {"scores": to_json(scores.values())})
    return scores


def truth_of(record: dict) -> dict[str, str] | None:
    """Finding -> change; None for a record without an earlier study."""
    if not any(each["role"] == "prior" for each in record["companions"]):
        return None
    return {each["label"]: each["change"] for each in record["changes"]}


def score_reports(arguments: ChangeArguments, records: list[dict], truths: dict) -> dict[str, Score]:
    """Generated reports of the studies with a prior, and whether those without one compare nothing.

    Raises:
        ValueError: a report of an image that is not in the data.
    """
    pairs = read_predictions(arguments.predictions, allow_empty=True)
    by_id = {record["image_id"]: record for record in records}
    unknown = [image for image in pairs.ids if image not in by_id]
    if unknown:
        raise ValueError(f"predictions: {unknown[0]} is no image of the data; give those that the reports are of.")
    own = [truths[image] for image in pairs.ids]
    patients = [by_id[image]["patient_id"] for image in pairs.ids]
    scores = comparison_scores(pairs.predictions, own, patients, arguments.bootstrap)
    later = [place for place, truth in enumerate(own) if truth is not None]
    groups, truth = [patients[place] for place in later], [own[place] for place in later]
    copies = [by_id[pairs.ids[place]]["prior_findings"] for place in later]
    said = {"": [pairs.predictions[place] for place in later], "_copied_prior": copies}
    for name, texts in said.items():
        found = [stated_changes(text) for text in texts]
        own_scores = change_scores(truth, found, groups, CHANGE_FINDINGS, arguments.bootstrap, f"reports{name}_change")
        scores |= {key: score for key, score in own_scores.items() if not name or "/" not in key}
    return scores


def score_encoder(arguments: ChangeArguments, dataset, records: list[dict], truths: dict) -> dict[str, Score]:
    model = AutoModelForPreTraining.from_pretrained(arguments.checkpoint).to(arguments.device)
    processor = AutoProcessor.from_pretrained(arguments.checkpoint)
    judged = [row for row, record in enumerate(records) if truths[record["image_id"]]]
    findings = [name for name in CHANGE_FINDINGS if any(name in (truths[records[row]["image_id"]]) for row in judged)]
    found = predicted_changes(model, processor, dataset.select(judged), findings, arguments.batch_size)
    truth = [truths[records[row]["image_id"]] for row in judged]
    groups = [records[row]["patient_id"] for row in judged]
    scores = {}
    for name, rows in found.items():
        scores |= change_scores(truth, rows, groups, findings, arguments.bootstrap, f"{name}_change")
    scores = {name: score for name, score in scores.items() if "given" not in name}
    names = label_names(dataset)
    if model.config.use_classification and set(names) <= set(model.config.label_names):
        for role in ("view", "prior"):
            rows = [
                row
                for row, record in enumerate(records)
                if record["view_position"] in FRONTAL and any(c["role"] == role for c in record["companions"])
            ]
            if rows:
                sizes = (arguments.bootstrap, arguments.batch_size)
                scores |= gain_of_companions(model, processor, dataset.select(rows), names, role, *sizes)
    return scores


def _row(score: Score) -> list[str]:
    beside = ", ".join(f"{name} {value:.3f}" for name, value in score.beside.items())
    return [score.name, score.shown(), beside, score.on or ""]


if __name__ == "__main__":
    main()

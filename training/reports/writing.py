"""Reports written by a trained generator of any kind, batch by batch, and their scores."""

import csv
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

import modeling_cogaze  # noqa: F401  (registers the Auto classes)
from processing.reports import join_sections, parse_structured, split_report_sections, structure_findings

from ..data.collation import Preparation
from ..metrics.reports import MetricOptions, ReportPairs, score_reports
from ..runs.files import write_text
from .prompt_hints import encode_images, predicted_diseases, similar_reports
from .similar_cases import SimilarCases

FRONTAL = ("PA", "AP")


@dataclass
class WritingArguments:
    """How reports are searched for; what is absent is as the checkpoint's generation config has it."""

    num_beams: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    do_sample: bool | None = field(default=None, metadata={"help": "draw tokens at random"})
    temperature: float | None = None
    top_p: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None

    def options(self) -> dict:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass
class ReportPreparation(Preparation):
    """A record as a generator of one kind of reports reads it.

    report_kind: "structured" puts free-text findings under SRRG's headers; those that have headers stay.
    sections: with "impression", findings become the text of both, as `join_sections` makes it.
    hints: image_id -> what a language model's prompt says of it.
    """

    report_kind: str = "free_text"
    sections: tuple[str, ...] = field(default=("findings",), repr=False)
    hints: dict[str, dict] = field(default_factory=dict, repr=False)
    gaze_fraction: float = 0.0

    @property
    def fingerprint(self) -> str:
        return super().fingerprint + (f" {self.sections}" if "impression" in self.sections else "")

    def __call__(self, record: dict) -> dict:
        record = super().__call__(record)
        findings = record["findings"] or ""
        if "impression" in self.sections:
            findings = join_sections({"findings": findings, "impression": record.get("impression") or ""})
        if self.report_kind == "structured" and not parse_structured(findings):
            findings = structure_findings(findings)
        return record | self.hints.get(record.get("image_id"), {}) | {"findings": findings}


class ReportWriter:
    """A report generator with its processor.

    Args:
        options: of `generate`.
        constrain: let nothing but valid structured reports through.
        prepare: what is done to a record first; by default, what the processor's kind of reports needs.
        use_context: False leaves indication and history out (ablation), unless `prepare` is given.
    """

    def __init__(
        self,
        model,
        processor,
        prepare=None,
        options: dict | None = None,
        constrain: bool = False,
        batch_size: int = 16,
        use_context: bool = True,
    ):
        self.model = model
        self.processor = processor
        self.prepare = prepare or ReportPreparation(
            use_context,
            report_kind=getattr(processor, "report_kind", "free_text"),
            sections=tuple(getattr(processor, "report_sections", ("findings",))),
        )
        self.options = dict(options or {})
        self.batch_size = batch_size
        if constrain:
            self.constrain()

    def constrain(self) -> None:
        """Let nothing but valid structured reports through."""
        length = self.options.get("max_new_tokens", self.model.generation_config.max_new_tokens)
        self.options["logits_processor"] = self.processor.structured_constraint(length)

    def inputs(self, records: Sequence[dict]) -> dict:
        """What `generate` is given for a batch of records."""
        batch = self.processor.collate([image_alone(self.prepare(record)) for record in records])
        return {name: tensor.to(self.model.device) for name, tensor in batch.items()}

    @torch.no_grad()
    def write(self, records: Sequence[dict], grounding: bool = False, min_support: float | None = None):
        """Reports of one batch of records, and with `grounding` what `generate` says of their sentences, else None."""
        batch = self.inputs(records)
        if grounding:
            options = self.options if min_support is None else self.options | {"min_support": min_support}
            grounded = self.model.generate(**batch, **options, return_grounding=True, processor=self.processor)
            return self.processor.decode_reports(grounded.sequences), grounded
        return self.processor.decode_reports(self.model.generate(**batch, **self.options)), None

    def rows(self, dataset, places: Sequence[int] | None = None) -> Iterator[dict]:
        """One row per record of `dataset` (those at `places`), as the prediction files have them."""
        places = range(len(dataset)) if places is None else places
        was_training = self.model.training
        self.model.eval()
        for start in tqdm(range(0, len(places), self.batch_size), desc="Writing reports", leave=False, disable=None):
            records = [dataset[place] for place in places[start : start + self.batch_size]]
            for record, report in zip(records, self.write(records)[0], strict=True):
                yield self.row(record, report)
        self.model.train(was_training)

    def row(self, record: dict, report: str) -> dict:
        """The row of a record's report; of both sections, each in columns of its own."""
        reference = self.prepare(record)["findings"]
        if "impression" not in self.prepare.sections:
            return prediction_row(record, reference, report)
        known, written = split_report_sections(reference), self.processor.split_report_sections(report)
        row = prediction_row(record, known["findings"], written["findings"])
        return row | {"reference_impression": known["impression"], "generated_impression": written["impression"]}


class PromptedReportWriter(ReportWriter):
    """A language model whose prompts say what the encoder finds: the report of a similar case, predicted diseases.

    Args:
        cases: the index beside the checkpoint; None leaves similar reports out.
    """

    def __init__(self, *args, cases: SimilarCases | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.cases = cases

    def inputs(self, records: Sequence[dict]) -> dict:
        encoded = encode_images(self.model, super().inputs(records))
        drafts = names = [None] * len(records)
        if self.cases is not None and "similar_report" in self.processor.prompt_parts:
            drafts = similar_reports(self.cases, self.model.get_image_features(encoded), records)
        if "diseases" in self.processor.prompt_parts:
            names = predicted_diseases(self.model, encoded)
        prompts = self.processor.prompts(drafts, names)
        return {name: tensor.to(self.model.device) for name, tensor in prompts.items()} | {"encoder_outputs": encoded}


def image_alone(record: dict) -> dict:
    """A record without what a report generator is not to read."""
    return record | {"findings": "", "labels": None, "gaze": []}


def prediction_row(record: dict, reference: str, report: str) -> dict:
    """What `cogaze evaluate_reports` reads."""
    return {
        "dicom_id": record["image_id"],
        "study_id": record["study_id"],
        "patient_id": record["patient_id"],
        "reference_report": reference,
        "generated_report": report,
        "labels": list(record["labels"] or []),
    }


def open_writer(checkpoint: str, device: str = "cpu", **options) -> ReportWriter:
    """The writer of a checkpoint of any report generator. `options` are `ReportWriter`'s."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint).eval().to(device)
    processor = AutoProcessor.from_pretrained(checkpoint)
    if model.config.model_type != "cogaze_prefix":
        return ReportWriter(model, processor, **options)
    cases = SimilarCases.of_checkpoint(checkpoint)
    if cases is not None:
        cases.check(model.encoder.cogaze)
    elif "similar_report" in processor.prompt_parts:
        warnings.warn(f"{checkpoint} comes without an index of similar cases: prompts have no draft.", stacklevel=2)
    return PromptedReportWriter(model, processor, cases=cases, **options)


def one_per_study(dataset) -> list[int]:
    """The place of each study's first frontal image, or of its first one."""
    chosen: dict[str, tuple[bool, int]] = {}
    views = zip(dataset["study_id"], dataset["view_position"], strict=True)
    for place, (study, view) in enumerate(views):
        candidate = (view not in FRONTAL, place)
        chosen[study] = min(chosen.get(study, candidate), candidate)
    return sorted(place for _, place in chosen.values())


def score_rows(rows: Sequence[dict], families: Sequence[str], bootstrap: int = 0, options: MetricOptions | None = None):
    """`ReportScores` of rows as `ReportWriter.rows` gives them; intervals are drawn by patient."""
    labels = [row["labels"] for row in rows]
    pairs = ReportPairs(
        [row["dicom_id"] for row in rows],
        [row["reference_report"] for row in rows],
        [row["generated_report"] for row in rows],
        [row["patient_id"] for row in rows],
        "patient_id",
        np.asarray(labels, dtype=np.int64) if all(labels) else None,
    )
    return score_reports(pairs, families, options, bootstrap)


def write_rows(path: str | Path, rows: list[dict]) -> None:
    """Rows as JSONL or, by the name's ending, CSV, lists as JSON."""
    if Path(path).suffix == ".jsonl":
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        return
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow({name: json.dumps(v) if isinstance(v, list) else v for name, v in row.items()})
    write_text(path, text.getvalue())

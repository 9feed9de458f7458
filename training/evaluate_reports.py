"""Scores of a file of generated reports, with 95 % bootstrap intervals, as JSON and as a Markdown table.

    cogaze evaluate_reports --predictions written/reports.jsonl --output_dir written
    cogaze evaluate_reports --predictions structured.csv --metrics structured

The file (CSV or JSONL) has an id, the reference and the prediction in each row: `dicom_id`, `reference_report` and
`generated_report`, or the names in `report_metrics.predictions`. Free text is scored in the papers' protocol. A metric
whose model or program is missing keeps its rows in the table, with the reason, and the exit code is then 3 unless
`--allow_missing` is given.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from training.evaluation.published import published_scores, report_note
from training.metrics.reports import (
    FREE_TEXT_FAMILIES,
    STRUCTURED_FAMILIES,
    MetricOptions,
    ReportScores,
    read_predictions,
    score_reports,
)
from training.metrics.scores import to_json
from training.runs.command_line import parse_arguments
from training.runs.files import write_json, write_text
from training.runs.tables import markdown_table

GROUPS = {"free_text": FREE_TEXT_FAMILIES, "structured": STRUCTURED_FAMILIES}
EXIT_MISSING = 3


@dataclass
class EvaluationArguments:
    predictions: str = field(metadata={"help": "CSV or JSONL file"})
    metrics: list[str] = field(
        default_factory=lambda: ["free_text"],
        metadata={"help": "free_text, structured, or any of report_metrics.FAMILIES, among them phantom"},
    )
    bootstrap: int = field(default=1000, metadata={"help": "resamples for the intervals; 0 = none"})
    seed: int = 0
    output_dir: str | None = field(default=None, metadata={"help": "folder of scores.json and scores.md"})
    published: bool = field(default=False, metadata={"help": "put the papers' scores beside, cited as published"})
    allow_missing: bool = field(default=False, metadata={"help": "exit with 0 though a metric could not be computed"})
    allow_empty: bool = field(default=False, metadata={"help": "score an empty prediction as an empty report"})


def main(argv: list[str] | None = None) -> dict:
    arguments, options = parse_arguments((EvaluationArguments, MetricOptions), argv, __doc__)
    pairs = read_predictions(arguments.predictions, arguments.allow_empty)
    families = list(dict.fromkeys(family for name in arguments.metrics for family in GROUPS.get(name, (name,))))
    scores = score_reports(pairs, families, options, arguments.bootstrap, arguments.seed)
    facts = {
        "predictions": arguments.predictions,
        "reports": len(pairs),
        "references": scores.references,
        "bootstrap": {"rounds": arguments.bootstrap, "by": pairs.grouped_by, "groups": len(set(pairs.groups))},
        "options": asdict(options),
    }
    result = facts | {"scores": to_json(scores.scores.values())}
    table = markdown(scores, facts, arguments.published)
    print(table)
    if arguments.output_dir:
        write_json(Path(arguments.output_dir) / "scores.json", result)
        write_text(Path(arguments.output_dir) / "scores.md", table)
    if scores.missing and not arguments.allow_missing:
        print(f"{len(scores.missing)} scores were not computed; see the table.", file=sys.stderr)
        raise SystemExit(EXIT_MISSING)
    return result


def markdown(scores: ReportScores, facts: dict, published: bool = False) -> str:
    """A row for each score, and below them what `facts` says of the reports; published scores only when asked."""
    systems = published_scores(set(scores.scores)) if published else {}
    header = ["Score", "Value [95 % interval]", *(f"{system} (published)" for system in systems)]
    rows, reason = [], None
    for name, score in scores.scores.items():
        value = "not computed: as above" if score.not_computed and score.not_computed == reason else score.shown()
        reason = score.not_computed
        cited = [f"{system[name]:.3f}" if name in system else "" for system in systems.values()]
        rows.append([name, value, *cited])
    lines = [markdown_table(header, rows)]
    resampled = facts["bootstrap"]
    lines += ["", f"{facts['reports']} reports. References of free text: {facts['references'].rstrip('.')}."]
    if resampled["rounds"]:
        lines.append(f"Intervals: {resampled['rounds']} resamples of {resampled['groups']} by {resampled['by']}.")
    if systems:
        lines.append(report_note())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

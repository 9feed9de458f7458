"""Scores of a file of generated reports, with 95 % bootstrap intervals, as JSON and as a Markdown table.

    cogaze evaluate_reports --predictions written/reports.jsonl --output_dir written
    cogaze evaluate_reports --predictions structured.csv --metrics structured
    cogaze evaluate_reports --compare one.csv another.csv --output_dir compared
    cogaze evaluate_reports --predictions written/reports.jsonl --rexrank submission.json

The file (CSV or JSONL) has an id, the reference and the prediction in each row: `dicom_id`, `reference_report` and
`generated_report`, or the names in `report_metrics.predictions`. Free text is scored in the papers' protocol;
`--protocol paper` insists on it, and the table says which. `--compare` tests every score's difference by paired
randomisation and bootstrap over patients, `--rexrank` writes the file that the ReXrank board takes, and
`--section impression` scores what a generator of both sections wrote there. A metric whose model or program is missing
keeps its rows in the table, with the reason, and the exit code is then 3 unless `--allow_missing` is given.
"""

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from training.evaluation.published import published_scores, report_note
from training.metrics.reports import (
    BOARD_FAMILIES,
    FREE_TEXT_FAMILIES,
    STRUCTURED_FAMILIES,
    MetricOptions,
    ReportScores,
    read_predictions,
    score_reports,
)
from training.metrics.reports.comparing import compare_reports, same_reports
from training.metrics.reports.rexrank import read_rows, rexrank_form
from training.metrics.scores import to_json
from training.runs.command_line import parse_arguments
from training.runs.files import write_json, write_text
from training.runs.tables import markdown_table

GROUPS = {"free_text": FREE_TEXT_FAMILIES, "structured": STRUCTURED_FAMILIES, "board": BOARD_FAMILIES}
EXIT_MISSING = 3


@dataclass
class EvaluationArguments:
    predictions: str | None = field(default=None, metadata={"help": "CSV or JSONL file"})
    compare: list[str] | None = field(default=None, metadata={"help": "two such files of the same reports"})
    section: Literal["findings", "impression"] = field(
        default="findings", metadata={"help": "which the files' reports are scored by"}
    )
    rexrank: str | None = field(default=None, metadata={"help": "a JSON file to write in ReXrank's form"})
    metrics: list[str] = field(
        default_factory=lambda: ["free_text"],
        metadata={"help": "free_text, structured, board (ReXrank's), or any of report_metrics.FAMILIES"},
    )
    bootstrap: int = field(default=1000, metadata={"help": "resamples for the intervals; 0 = none"})
    rounds: int = field(default=10000, metadata={"help": "exchanges and resamples of --compare"})
    seed: int = 0
    output_dir: str | None = field(default=None, metadata={"help": "folder of scores.json and scores.md"})
    published: bool = field(default=False, metadata={"help": "put the papers' scores beside, cited as published"})
    allow_missing: bool = field(default=False, metadata={"help": "exit with 0 though a metric could not be computed"})
    allow_empty: bool = field(default=False, metadata={"help": "score an empty prediction as an empty report"})


def main(argv: list[str] | None = None) -> dict:
    arguments, options = parse_arguments((EvaluationArguments, MetricOptions), argv, __doc__)
    families = list(dict.fromkeys(family for name in arguments.metrics for family in GROUPS.get(name, (name,))))
    if (arguments.predictions is None) == (arguments.compare is None):
        raise ValueError("predictions and compare: give one of them.")
    if arguments.compare is not None:
        return compare_files(arguments, families, options)
    pairs = read_predictions(arguments.predictions, arguments.allow_empty, arguments.section)
    if arguments.rexrank:
        write_json(arguments.rexrank, rexrank_form(read_rows(arguments.predictions)))
    scores = score_reports(pairs, families, options, arguments.bootstrap, arguments.seed)
    facts = {
        "predictions": arguments.predictions,
        "reports": len(pairs),
        "section": arguments.section,
        "protocol": options.protocol,
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


def compare_files(arguments: EvaluationArguments, families: list[str], options: MetricOptions) -> dict:
    """Both files' scores and the tests of their differences, as `comparison.json` and `comparison.md`.

    Raises:
        ValueError: not two files, or files of other reports.
    """
    if len(arguments.compare) != 2:
        raise ValueError(f"compare: {len(arguments.compare)} files; give two.")
    first, second = (read_predictions(path, arguments.allow_empty, arguments.section) for path in arguments.compare)
    second = same_reports(first, second, arguments.compare)
    found, missing = compare_reports(first, second, families, options, arguments.rounds, arguments.seed)
    header = ["Score", *arguments.compare, "Difference [95 % interval]", "p, randomisation", "p, bootstrap"]
    rows = [
        [
            each.name,
            f"{each.first:.4f}",
            f"{each.second:.4f}",
            f"{each.difference:+.4f} [{each.interval[0]:+.4f}, {each.interval[1]:+.4f}]",
            f"{each.p_randomisation:.4f}{' (exact)' if each.exact else ''}",
            f"{each.p_bootstrap:.4f}",
        ]
        for each in found
    ]
    rows += [[name, "", "", f"not computed: {reason}", "", ""] for name, reason in missing.items()]
    groups = len(set(first.groups))
    note = f"\n\n{len(first)} reports of {groups} by {first.grouped_by}, {arguments.rounds} exchanges and resamples.\n"
    table = markdown_table(header, rows) + note
    facts = {"files": arguments.compare, "reports": len(first), "groups": groups, "options": asdict(options)}
    result = facts | {"comparisons": [asdict(each) for each in found], "missing": missing}
    print(table)
    if arguments.output_dir:
        write_json(Path(arguments.output_dir) / "comparison.json", result)
        write_text(Path(arguments.output_dir) / "comparison.md", table)
    if missing and not arguments.allow_missing:
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
    protocol = f" Protocol {facts['protocol']}." if facts.get("protocol") else ""
    lines += ["", f"{facts['reports']} reports.{protocol} References of free text: {facts['references'].rstrip('.')}."]
    if resampled["rounds"]:
        lines.append(f"Intervals: {resampled['rounds']} resamples of {resampled['groups']} by {resampled['by']}.")
    if systems:
        lines.append(report_note())
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

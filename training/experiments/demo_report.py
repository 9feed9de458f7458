"""Reports in the demo: train a tiny decoder on the pretrained encoder, write reports of unseen patients, score them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from processing.datasets.phantom.labeler import phantom_labels
from processing.datasets.records import CHEXBERT_OBSERVATIONS, label_targets

from ..figures.drawing import grounding_figure
from ..metrics.reports import MetricOptions
from ..reports.training import train_report_generator
from ..reports.writing import FRONTAL, ReportWriter, one_per_study, open_writer, score_rows, write_rows
from ..runs.files import CONFIGS, write_json
from ..runs.provenance import ON_PHANTOM

CONFIG = CONFIGS / "report" / "demo.yaml"
SCORE = "Phantom labels micro F1"


def demo_reports(checkpoint: Path, train, test, output_dir: Path, step: Callable[[str], None], config=CONFIG) -> dict:
    """Train, write and score; saves `report.json`, `report.png`, `reports.jsonl` and the generator beside them.

    Args:
        checkpoint: of the pretraining.
        train, test: the demo's data sets.
        step: told what is done next.
    """
    folder = output_dir / "cogaze-tiny-report"
    step(f"Teaching a decoder to write reports, on {len(train)} radiographs")
    train_report_generator(["--config", str(config), "--checkpoint", str(checkpoint), "--output_dir", str(folder)])
    places = one_per_study(test)
    step(f"Writing reports of {len(places)} unseen studies")
    writer = open_writer(str(folder), batch_size=64)
    rows = list(writer.rows(test, places))
    write_rows(output_dir / "reports.jsonl", rows)
    result = {"measured_on": ON_PHANTOM, "studies": len(rows)} | scores(rows, "") | most_frequent_scores(rows, train)
    write_json(output_dir / "report.json", result)
    draw_report(writer, test, places, output_dir / "report.png")
    print(examples(test, places, rows))
    print(summary(result, output_dir))
    return result


def scores(rows: list[dict], prefix: str) -> dict:
    """Label F1 without No Finding, with intervals over patients, and BLEU-4."""
    options = MetricOptions(reference_tokens=0)
    found = score_rows(rows, ["phantom", "bleu"], bootstrap=1000, options=options).scores
    names = {"label_micro_f1": SCORE, "label_macro_f1": "Phantom labels macro F1", "bleu_4": "BLEU-4"}
    names |= {f"label_micro_{which}": f"Phantom labels micro {which}" for which in ("precision", "recall")}
    values = {}
    for name, score in names.items():
        values[prefix + name] = found[score].value
        values[f"{prefix}{name}_interval"] = found[score].interval
    return values


def most_frequent_scores(rows: list[dict], train) -> dict:
    """The same, had every study been given the most frequent report of `train`."""
    report, _ = Counter(train["findings"]).most_common(1)[0]
    return scores([row | {"generated_report": report} for row in rows], "most_frequent_report_")


def draw_report(writer: ReportWriter, test, places: list[int], path: Path) -> None:
    """Where each sentence looks of the first held-out frontal image with a finding whose report has three or more.

    Nothing where there is none.
    """
    for place in places:
        record = test[place]
        if record["view_position"] not in FRONTAL or not _positive(record["labels"]):
            continue
        _, grounded = writer.write([record], grounding=True)
        if len(grounded.sentences) >= 3:
            break
    else:
        return
    sentences = [
        {"text": text, "text_confidence": text_confidence, "map_confidence": map_confidence}
        for text, text_confidence, map_confidence in zip(
            grounded.sentences, grounded.text_confidence.tolist(), grounded.map_confidence.tolist(), strict=True
        )
    ]
    painted = [writer.processor.paint_gaze(record["image"], gaze_map) for gaze_map in grounded.gaze_maps]
    title = "A generated report of a rendered radiograph, unseen patient: where each sentence is predicted to look."
    grounding_figure(painted, sentences, path, title)


def examples(test, places: list[int], rows: list[dict], count: int = 3) -> str:
    """The first held-out studies with a finding: not chosen by how well they came out."""
    lines = []
    for place, row in zip(places, rows, strict=True):
        record = test[place]
        if len(lines) == count or not _positive(record["labels"]):
            continue
        lines.append(
            f"{record['image_id']}\n"
            f"  indication  {record['indication'] or '-'}\n"
            f"  reference   {row['reference_report']}\n"
            f"              [{', '.join(_positive(record['labels']))}]\n"
            f"  generated   {row['generated_report']}\n"
            f"              [{', '.join(_positive(phantom_labels(row['generated_report']))) or 'nothing'}]"
        )
    return "\n\n".join(lines)


def _positive(codes) -> list[str]:
    found = label_targets([codes])[0] > 0
    return [name for name, yes in zip(CHEXBERT_OBSERVATIONS, found, strict=True) if yes and name != "No Finding"]


def summary(result: dict, output_dir: Path) -> str:
    low, high = result["label_micro_f1_interval"]
    return (
        f"\nGenerated reports of {result['studies']} unseen studies. {result['measured_on']}\n"
        f"  label micro-F1, No Finding left out   {result['label_micro_f1']:.3f} [{low:.3f}, {high:.3f}]   "
        f"most frequent report {result['most_frequent_report_label_micro_f1']:.3f}\n"
        f"All numbers: {output_dir / 'report.json'}   Reports: {output_dir / 'reports.jsonl'}   "
        f"Picture: {output_dir / 'report.png'}\n"
    )

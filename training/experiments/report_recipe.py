"""Report generators of rendered radiographs, after `make pretrain-phantom`: what they say of unseen patients.

    python -m training.experiments.report_recipe --checkpoint outputs/recipe/pretrain/full

Free text, the same without the clinical context, structured reports with and without the constraint, and a language
model with the latents in its prompt; beside them the training data's most frequent report. Each is trained and scored
once; what is finished is not run again. Writes `table.md` and `metrics.json`.
"""

import argparse
import functools
from pathlib import Path

import torch

from ..data.loading import load_data
from ..reports.training import settings_of, train_report_generator
from ..reports.writing import one_per_study, open_writer, score_rows, write_rows
from ..runs.files import CONFIGS, slug
from ..runs.provenance import ON_PHANTOM, machine_facts
from ..runs.tables import markdown_table, with_interval, write_results
from .demo_report import most_frequent_scores, scores
from .variants import train_and_score

FREE_TEXT = "free text"
# Name -> config and flags. The structured generator goes on from the free-text one.
VARIANTS = {
    FREE_TEXT: ("report/phantom.yaml", []),
    "without context": ("report/phantom.yaml", ["--no_context", "True"]),
    "structured": ("report/phantom_structured.yaml", []),
    "prefix": ("report/prefix_phantom.yaml", []),
}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, default=Path("outputs/recipe/pretrain/full"), help="to start from")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/recipe/reports"))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--train_data", default='{"name": "phantom", "split": "train", "size": 10000}', help="JSON")
    parser.add_argument("--test_data", default='{"name": "phantom", "split": "test"}', help="JSON")
    arguments, overrides = parser.parse_known_args(argv)

    if not arguments.checkpoint.is_dir():
        raise ValueError(f"checkpoint: there is no folder {arguments.checkpoint}; `make pretrain-phantom` writes one.")
    train, test = (load_data(getattr(arguments, f"{split}_data"), f"{split}_data") for split in ("train", "test"))
    results = {}
    for name in arguments.variants:
        folder = arguments.output_dir / slug(name)
        flags = _flags(name, folder, arguments, overrides)
        settings = settings_of(flags)
        score = functools.partial(_score, name, folder, train, test)
        results[name] = train_and_score(
            folder, settings, lambda resume, flags=flags: train_report_generator([*flags, *resume]), score
        )
    write_results(arguments.output_dir, results, markdown(results))
    return results


def _flags(name: str, folder: Path, arguments, overrides: list[str]) -> list[str]:
    config, own = VARIANTS[name]
    start = arguments.checkpoint
    if name == "structured":
        start = arguments.output_dir / slug(FREE_TEXT)
        if not (start / "training.json").is_file():
            raise ValueError(f"variants: structured reports start from {start}; train {FREE_TEXT!r} first.")
    flags = [*own, "--config", str(CONFIGS / config), "--train_data", arguments.train_data]
    return [*flags, "--checkpoint", str(start), "--output_dir", str(folder), *overrides]


def _score(name: str, folder: Path, train, test) -> dict:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    writer = open_writer(str(folder), device, batch_size=64, use_context=name != "without context")
    places = one_per_study(test)
    rows = list(writer.rows(test, places))
    write_rows(folder / "reports.jsonl", rows)
    metrics = {"measured_on": ON_PHANTOM, "studies": len(rows)} | scores(rows, "")
    if name == FREE_TEXT:
        metrics |= most_frequent_scores(rows, train)
    if name == "structured":
        metrics["structure_validity"] = _validity(rows)
        writer.constrain()
        rows = list(writer.rows(test, places))
        write_rows(folder / "reports_constrained.jsonl", rows)
        metrics |= scores(rows, "constrained_") | {"constrained_structure_validity": _validity(rows)}
    return metrics


def _validity(rows: list[dict]) -> float:
    return score_rows(rows, ["structure"]).values["Structure validity"]


def markdown(results: dict) -> str:
    rows = []
    for name, metrics in results.items():
        rows.append(_row(name, metrics, "", f"{metrics['training_minutes']:.0f} min"))
        if "constrained_label_micro_f1" in metrics:
            rows.append(_row(f"{name}, constrained", metrics, "constrained_", ""))
        if "most_frequent_report_label_micro_f1" in metrics:
            rows.append(_row("most frequent report", metrics, "most_frequent_report_", ""))
    table = markdown_table(["", "label micro-F1", "precision", "recall", "BLEU-4", "valid structure", "training"], rows)
    machine = f"{machine_facts()['processor']}, {torch.get_num_threads()} threads"
    return f"{table}\n\nNo Finding left out of the labels. {ON_PHANTOM} {machine}.\n"


def _row(name: str, metrics: dict, prefix: str, training: str) -> list[str]:
    f1 = with_interval(metrics[f"{prefix}label_micro_f1"], metrics[f"{prefix}label_micro_f1_interval"])
    others = [f"{metrics[prefix + key]:.3f}" for key in ("label_micro_precision", "label_micro_recall", "bleu_4")]
    validity = metrics.get(f"{prefix}structure_validity")
    return [name, f1, *others, "" if validity is None else f"{validity:.3f}", training]


if __name__ == "__main__":
    main()

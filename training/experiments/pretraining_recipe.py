"""The longer recipe on rendered radiographs, and beside it the same without the gaze loss and without L_cls.

    python -m training.experiments.pretraining_recipe --output_dir outputs/recipe/pretrain

Each variant is trained and scored once; what is finished is not run again. Writes `table.md` and `metrics.json`.
"""

import argparse
from pathlib import Path

import torch

from processing.datasets.phantom.loading import load_phantom, load_phantom_gallery

from ..evaluation.alignment import PROMPTS, evaluate, read_prompts
from ..evaluation.scorers import Scorer
from ..runs.files import CONFIGS, slug
from ..runs.provenance import ON_PHANTOM, machine_facts
from ..runs.tables import markdown_table, with_interval, write_results
from .variants import pretrain_and_score

CONFIG = CONFIGS / "pretrain" / "phantom.yaml"
VARIANTS = {
    "full": [],
    "without gaze loss": ["--gaze_loss", "none"],
    "without L_cls": ["--no_classification"],
}
COLUMNS = {
    "zero_shot_macro_auroc": "zero-shot macro AUROC",
    "retrieval_image_to_report_p@1": "P@1, balanced gallery",
    "gaze_pointing_game": "gaze pointing game",
    "grounding_pointing_game": "phrase grounding",
}


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/recipe/pretrain"))
    parser.add_argument("--config", default=str(CONFIG))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments, overrides = parser.parse_known_args(argv)

    results = {}
    for name in arguments.variants:
        folder = arguments.output_dir / slug(name)
        flags = ["--config", arguments.config, *VARIANTS[name], *overrides]
        results[name] = pretrain_and_score(folder, flags, score)
    write_results(arguments.output_dir, results, markdown(results))
    return results


def score(scorer: Scorer) -> dict:
    return evaluate(
        scorer,
        train=load_phantom("train"),
        validation=load_phantom("validation"),
        test=load_phantom("test"),
        gallery=load_phantom_gallery(),
        prompts=read_prompts(PROMPTS),
    )


def markdown(results: dict) -> str:
    rows = []
    for name, metrics in results.items():
        cells = [with_interval(metrics[key], metrics[f"{key}_interval"]) for key in COLUMNS]
        rows.append([name, *cells, f"{metrics['training_minutes']:.0f} min"])
    best = next(iter(results.values()))
    baseline = [
        "0.500",
        f"{best['retrieval_image_to_report_p@1_chance']:.3f}",
        *(f"{max(best[f'{key}_mean_map'], best[f'{key}_sentence_type_map']):.3f}" for key in list(COLUMNS)[2:]),
    ]
    rows.append(["chance, or the better baseline map", *baseline, ""])
    table = markdown_table(["", *COLUMNS.values(), "training"], rows)
    machine = f"{machine_facts()['processor']}, {torch.get_num_threads()} threads"
    return f"{table}\n\n{ON_PHANTOM} {machine}.\n"


if __name__ == "__main__":
    main()

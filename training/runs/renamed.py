"""Names of before, and what they are called now: whoever gives an old one is told the new one.

Nothing here is imported but the standard library: `cogaze` looks in before anything else.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# Flags, and keys of a config. A command that has such a flag of its own takes it; for all others it is an old one.
FLAGS = {
    "init_from": "checkpoint",
    "model": "checkpoint",
    "out": "output_dir",
    "output": "output_dir",
    "to": "output_dir",
    "tables": "only",
    "variants": "only",
    "models": "only",
    "ablations": "only",
    "grounding_dir": "grounding (pictures are written into --output_dir)",
}

# Modules, by what was given to `python -m`; what is told is the command of now.
MODULES = {
    "training.evaluate_alignment": "cogaze evaluate --only alignment",
    "training.evaluate_all": "cogaze evaluate",
    "training.evaluate_classes": "cogaze evaluate --only classes",
    "training.run_ablations": "cogaze experiment ablations",
    "training.run_label_curves": "cogaze experiment label_curves",
    "training.run_recipe": "cogaze experiment recipe",
    "training.run_report_recipe": "cogaze experiment report_recipe",
    "training.demo_egma": "cogaze experiment demo_egma",
    "training.real": "cogaze experiment real",
    "training.similar_cases": "cogaze index_similar_cases",
    "training.reports.similar_cases": "cogaze index_similar_cases",
    "training.report_metrics.environment": "cogaze metrics_environment",
}

# Files of training/configs/.
CONFIGS = {
    "ablations.yaml": "experiments/ablations.yaml",
    "demo.yaml": "pretrain/demo.yaml",
    "demo_egma.yaml": "pretrain/demo_egma.yaml",
    "demo_report.yaml": "report/demo.yaml",
    "egma_prompts.yaml": "evaluation/egma_prompts.yaml",
    "prompts.yaml": "evaluation/prompts.yaml",
    "published.yaml": "evaluation/published.yaml",
}
# <prefix>_<name>.yaml of before is <folder>/<name>.yaml now.
_CONFIG_FOLDERS = {
    "pretrain": "pretrain",
    "report": "report",
    "finetune_classification": "classification",
    "finetune_segmentation": "segmentation",
}


def new_config(path: str) -> str | None:
    """Where a config of before lies now; None for what never was one."""
    name = Path(path).name
    moved = CONFIGS.get(name)
    for prefix, folder in _CONFIG_FOLDERS.items():
        if moved is None and name.startswith(f"{prefix}_"):
            moved = f"{folder}/{name.removeprefix(f'{prefix}_')}"
    return f"training/configs/{moved}" if moved else None


def refuse_old_flags(arguments: Iterable[str], known: Iterable[str] = ()) -> None:
    """
    Args:
        arguments: a command line. known: flags, such as "--checkpoint", that the command has.
    Raises:
        ValueError: one of them is an old flag; names the new one.
    """
    known = set(known)
    for argument in arguments:
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag not in known and flag[2:] in FLAGS:
            raise ValueError(f"{flag}: it is called --{FLAGS[flag[2:]]} now.")


def refuse_old_module(command_line: Sequence[str]) -> None:
    """Stop the process when `python -m` of this command line asks for a module of before, naming the new one."""
    for module in command_line[1 + command_line.index("-m") :][:1] if "-m" in command_line else []:
        if module in MODULES:
            sys.exit(f"{module}: it is called `{MODULES[module]}` now.")

"""Prompts of zero-shot classification: of findings, of exclusive classes, and of retrieval by class."""

import itertools
from pathlib import Path

import numpy as np
import yaml

from ..runs.files import CONFIGS

PROMPTS = CONFIGS / "evaluation" / "prompts.yaml"
FURTHER_PROMPTS = CONFIGS / "evaluation" / "further_prompts.yaml"
CLASS_PROMPTS = CONFIGS / "evaluation" / "egma_prompts.yaml"


def read_prompts(path: str | Path) -> dict:
    """Raises ValueError if a finding has no positive or no negative prompt."""
    prompts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    for name, sides in prompts.get("findings", {}).items():
        for side in ("positive", "negative"):
            if not sides.get(side):
                raise ValueError(f"prompts: {path} has no {side} prompts for {name!r}.")
    return prompts


def read_class_prompts(
    path: str | Path = CLASS_PROMPTS, per_class: int | None = 50, seed: int = 0
) -> tuple[dict, dict]:
    """(combinations, queries) of a file: class -> its prompts. See `combinatorial_prompts`."""
    prompts = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return combinatorial_prompts(prompts["combinations"], per_class, seed), prompts["queries"]


def combinatorial_prompts(table: dict, per_class: int | None = None, seed: int = 0) -> dict[str, list[str]]:
    """Every severity with every subtype and every location of a class, and its complete phrases.

    Args:
        table: class -> {"finding", "severities", "subtypes", "locations"} and/or {"phrases"}.
        per_class: so many are drawn without replacement; None: all, in the table's order.
        seed: of what is drawn; a class's draw does not depend on the other classes.
    Raises:
        ValueError: a class that yields no prompt.
    """
    prompts = {}
    for name, parts in table.items():
        lists = [parts.get(key) or [""] for key in ("severities", "subtypes")] + [[parts.get("finding", "")]]
        lists.append(parts.get("locations") or [""])
        combined = [" ".join(filter(None, words)) for words in itertools.product(*lists)] if "finding" in parts else []
        combined += parts.get("phrases", [])
        if not combined:
            raise ValueError(f"combinations: {name!r} has neither a finding nor phrases.")
        if per_class is not None and per_class < len(combined):
            drawn = np.random.default_rng([seed, *name.encode()]).choice(len(combined), per_class, replace=False)
            combined = [combined[index] for index in sorted(drawn)]
        prompts[name] = combined
    return prompts

"""What the names of scores are called in tables and on the Hub (training/configs/evaluation/scores.yaml)."""

import re
from functools import cache

import yaml

from ..runs.files import CONFIGS


@cache
def _known() -> dict[str, dict]:
    return yaml.safe_load((CONFIGS / "evaluation" / "scores.yaml").read_text(encoding="utf-8"))


def described(name: str) -> dict:
    """ "title", "task" and "metric" of a score, and "source" where it was measured on other data than its file says."""
    base, _, part = name.partition("/")
    at = re.fullmatch(r"(.*[pr]@)(\d+)", base)
    entry = dict(_known().get(f"{at[1]}k" if at else base, {}))
    title = entry.get("title", base.replace("_", " ")).replace("{k}", at[2] if at else "")
    usual = {"task": "image-text-to-text", "metric": base}
    return usual | entry | {"title": f"{title}: {part.replace('/', ' ')}" if part else title}

"""How findings have changed, as a task for a pretrained CoGaze: zero-shot by prompts, and by its head."""

from collections.abc import Sequence

import torch
from datasets import Dataset
from tqdm import tqdm

from processing.comparisons import COMPARED

from ..data.collation import Collator, Preparation

# What a report would say of each change; {} stands for the finding.
PROMPTS = {
    "better": ("{}, decreased from the prior study.", "{}, improved since the prior study.", "The {} has improved."),
    "same": ("{}, unchanged from the prior study.", "{}, similar to the prior study.", "The {} is unchanged."),
    "worse": ("{}, increased from the prior study.", "{}, progressed since the prior study.", "The {} has worsened."),
}
WORDS = {"Enlarged Cardiomediastinum": "widening of the mediastinum", "Lung Lesion": "nodule"}


@torch.no_grad()
def predicted_changes(
    model, processor, dataset: Dataset, findings: Sequence[str], batch_size: int = 32
) -> dict[str, list[dict[str, str]]]:
    """For each image finding -> change, by the nearest of the prompts and, where the model has one, by its head.

    Args:
        model: a CoGaze for pretraining, on its device.
        dataset: records with companions.
    """
    model.eval()
    prompts = torch.stack([_prompt_features(model, processor, finding) for finding in findings])
    names = list(model.config.label_names) if model.config.use_classification else []
    columns = (
        [[names.index(f"{finding} {change}") for change in COMPARED] for finding in findings]
        if ({f"{finding} {change}" for finding in findings for change in COMPARED} <= set(names))
        else None
    )
    collate, found = Collator(processor, Preparation(gaze_fraction=0.0)), {"prompts": [], "head": []}
    for start in tqdm(range(0, len(dataset), batch_size), desc="Reading changes", leave=False, disable=None):
        records = [dataset[row] for row in range(start, min(start + batch_size, len(dataset)))]
        batch = collate([record | {"findings": "", "labels": None} for record in records])
        batch = {name: value.to(model.device) for name, value in batch.items() if not name.startswith("transcript")}
        batch = {name: value for name, value in batch.items() if name not in ("gaze_targets", "study_ids")}
        features = model.cogaze.get_image_features(**batch).pooler_output
        scores = torch.einsum("bd,fcd->bfc", torch.nn.functional.normalize(features, dim=-1), prompts)
        found["prompts"] += _named(scores, findings)
        if columns:
            found["head"] += _named(model.vision_classifier(features)[:, columns], findings)
    return {name: rows for name, rows in found.items() if rows}


def _prompt_features(model, processor, finding: str) -> torch.Tensor:
    """(3, D) the mean direction of each change's prompts."""
    words = WORDS.get(finding, finding.lower())
    features = []
    for change in COMPARED:
        texts = [prompt.format(words) for prompt in PROMPTS[change]]
        inputs = processor(text=[text[:1].upper() + text[1:] for text in texts]).to(model.device)
        own = torch.nn.functional.normalize(model.cogaze.get_text_features(**inputs).pooler_output, dim=-1)
        features.append(torch.nn.functional.normalize(own.mean(dim=0), dim=-1))
    return torch.stack(features)


def _named(scores: torch.Tensor, findings: Sequence[str]) -> list[dict[str, str]]:
    best = scores.argmax(dim=-1).tolist()
    return [{name: COMPARED[code] for name, code in zip(findings, row, strict=True)} for row in best]

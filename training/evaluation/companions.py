"""What other views and earlier studies add to one model: its disease head on the same images, with and without them."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from processing.datasets.records import label_targets

from ..data.collation import Collator, Preparation
from ..metrics.alignment import auroc_per_label
from ..metrics.scores import Bootstrap, Score, mean

# What is read beside the image: other views, priors.
READ = {"alone": (False, False), "view": (True, False), "prior": (False, True)}


@torch.no_grad()
def head_scores(model, processor, dataset: Dataset, use_views: bool, use_priors: bool, batch_size: int) -> np.ndarray:
    """(N, C) logits of the vision head."""
    model.eval()
    prepare = Preparation(gaze_fraction=0.0, use_views=use_views, use_priors=use_priors)
    collate, logits = Collator(processor, prepare, model=model), []
    for start in tqdm(range(0, len(dataset), batch_size), desc="Reading images", leave=False, disable=None):
        records = [dataset[row] for row in range(start, min(start + batch_size, len(dataset)))]
        batch = collate([record | {"findings": "", "labels": None} for record in records])
        logits.append(model(**{name: value.to(model.device) for name, value in batch.items()}).vision_logits.cpu())
    return torch.cat(logits).numpy()


def gain_of_companions(
    model, processor, dataset: Dataset, names: Sequence[str], role: str, rounds: int, batch_size: int = 32
) -> dict[str, Score]:
    """Macro AUROC with the companions of a role ("view" or "prior"), and how far it lies above that without, paired.

    Args:
        dataset: images that have such a companion.
        names: labels of the records, all among the model's.
    """
    columns = [list(model.config.label_names).index(name) for name in names]
    targets = label_targets(np.array(dataset["labels"]))[:, : len(names)]
    kept = [index for index, name in enumerate(names) if name != "No Finding"]
    known = [names[index] for index in kept]
    scores = {
        kind: head_scores(model, processor, dataset, *READ[kind], batch_size)[:, columns][:, kept]
        for kind in ("alone", role)
    }

    def statistics(rows: np.ndarray) -> dict[str, float]:
        found = {kind: auroc_per_label(own[rows], targets[rows][:, kept], known) for kind, own in scores.items()}
        return {kind: mean(each.values()) for kind, each in found.items()}

    draws, on = Bootstrap(dataset["patient_id"], rounds), f"{len(dataset)} images"
    values = draws.scores(statistics, chance=0.5, on=on)
    gain = draws.differences(statistics, "alone", on=on)[role]
    gain.name = f"{role}s_macro_auroc_gain"
    values[role].name, values["alone"].name = f"{role}s_macro_auroc", f"{role}s_macro_auroc_without"
    result = {score.name: score for score in (values["alone"], values[role], gain)}
    alone, beside = (auroc_per_label(own, targets[:, kept], known) for own in (scores["alone"], scores[role]))
    for name in alone:
        label = f"{role}s_macro_auroc_gain/{name}"
        result[label] = Score(label, beside[name] - alone[name])
    return result

"""What a language model's prompt says beside the image: the report of a similar case, and predicted diseases."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from modeling_cogaze.calls import inputs_of

from ..data.feature_cache import weights_fingerprint
from .similar_cases import COLUMNS, SimilarCases


def encode_images(model, batch: dict[str, torch.Tensor]):
    """What a report generator's `encode` gives for a processor's batch."""
    wanted = inputs_of(model.encode)
    return model.encode(**{name: value.to(model.device) for name, value in batch.items() if name in wanted})


def predicted_diseases(model, encoded) -> list[list[str]]:
    """For each image the findings that the encoder's own classifier gives a probability of 0.5 or more."""
    names = model.config.encoder_config.label_names
    positive = (model.get_disease_logits(encoded) >= 0).tolist()
    return [[name for name, present in zip(names, row, strict=True) if present] for row in positive]


def similar_reports(cases: SimilarCases, features, records: Sequence[dict]) -> list[str]:
    """For each image the report of the nearest case of another study and another patient, "" where there is none."""
    own = ([record[name] for record in records] for name in ("study_id", "patient_id"))
    return [found[0].findings if found else "" for found in cases.search(features, 1, *own)]


def read_images(
    model, dataset: Dataset, collate: Callable, diseases: bool, batch_size: int, num_workers: int = 0
) -> tuple[np.ndarray, list[list[str]] | None]:
    """(N, D) mean vision latents of a data set's images, and with `diseases` what is predicted for each.

    Under `torch.distributed`, all processes share the work and get all of it.
    """
    rank, world = 0, 1
    if torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rows = list(range(rank, len(dataset), world))
    loader = DataLoader(dataset.select(rows), batch_size, collate_fn=collate, num_workers=num_workers)
    features, names = [], []
    was_training = model.training
    model.eval()
    for batch in tqdm(loader, desc="Reading images", leave=False, disable=None):
        encoded = encode_images(model, batch)
        features.append(model.get_image_features(encoded).float().cpu().numpy())
        names += predicted_diseases(model, encoded) if diseases else [None] * len(features[-1])
    model.train(was_training)
    share = list(zip(rows, np.concatenate(features), names, strict=True)) if rows else []
    everything = sorted(gather_object(share) if world > 1 else share, key=lambda item: item[0])
    latents = np.stack([feature for _, feature, _ in everything])
    return latents, [name for _, _, name in everything] if diseases else None


def hints_of_data(
    model,
    processor,
    collate: Callable,
    train: Dataset,
    validation: Dataset,
    index: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
) -> tuple[dict[str, dict], SimilarCases | None]:
    """What the prompts of all images say, by image_id, and the index that it was found with.

    Args:
        model: a prefix model on its device.
        processor: its `prompt_parts` say what is wanted.
        collate: records -> the processor's batch, without reports.
        index: folder of an index; by default one of the training images is made.

    Raises:
        ValueError: the index was made by another encoder; diseases are wanted of an encoder without disease heads.
    """
    parts = processor.prompt_parts
    if not parts:
        return {}, None
    read = {}
    for name, dataset in (("train", train), ("validation", validation)):
        read[name] = read_images(model, dataset, collate, "diseases" in parts, batch_size, num_workers)
    cases = None
    if "similar_report" in parts:
        encoder = model.encoder.cogaze
        if index is None:
            cases = SimilarCases(train.select_columns(list(COLUMNS)), read["train"][0], weights_fingerprint(encoder))
        else:
            cases = SimilarCases.load(index)
            cases.check(encoder)
    hints = {}
    for name, dataset in (("train", train), ("validation", validation)):
        features, diseases = read[name]
        records = list(dataset.select_columns(["image_id", "study_id", "patient_id"]))
        drafts = similar_reports(cases, features, records) if cases else [""] * len(records)
        for record, draft, names in zip(records, drafts, diseases or [[]] * len(records), strict=True):
            hints[record["image_id"]] = {"similar_report": draft, "diseases": names}
    return hints, cases

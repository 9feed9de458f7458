"""Reports drawn for rewards, and the pairs of preferred and other ones that are made of them."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from modeling_cogaze.report_generation import EncodedImages

from ..reports.prompt_hints import encode_images
from ..reports.writing import ReportWriter
from .gaze import PATCHES
from .rewards import Reward, checked, weighted


@torch.no_grad()
def write_reports(writer: ReportWriter, records: Sequence[dict], places: Sequence[int], options: dict) -> tuple:
    """Reports of images that are encoded once each.

    Args:
        places: for each report, its record's place in `records`.
        options: of `generate`.
    Returns:
        token ids (R, L); the prompts that a language model was given, by name, (R, T); the images as the decoder reads
        them (R, M, W); and the records as rewards see them, one each.
    """
    model = writer.model
    was_training = model.training
    model.eval()
    inputs = writer.inputs(records)
    encoded = inputs["encoder_outputs"] if "encoder_outputs" in inputs else encode_images(model, inputs)
    index = torch.tensor(places, device=model.device)
    prompts = {name: inputs[name][index] for name in ("input_ids", "attention_mask") if name in inputs}
    memory = encoded[0][index]
    sequences = model.generate(encoder_outputs=EncodedImages(last_hidden_state=memory), **prompts, **options)
    model.train(was_training)
    prepared = [
        writer.prepare(record) | {PATCHES: patches}
        for record, patches in zip(records, encoded.patch_features.cpu(), strict=True)
    ]
    return sequences, prompts, memory, prepared


def preference_pairs(
    writer: ReportWriter,
    dataset,
    rewards: dict[str, Reward],
    weights: dict[str, float],
    samples: int,
    options: dict,
    least_difference: float = 0.0,
) -> list[dict]:
    """For each image the best and the worst of several drawn reports, where their rewards differ by enough.

    Args:
        samples: reports of each image.
        options: of `generate`, such as temperature.
        least_difference: pairs that differ by no more are left out.
    Returns:
        rows of `row` (the image's number in `dataset`), `image` (its id), `prompt` (empty: the writer makes it),
        `chosen`, `rejected`, and the two's `rewards`.
    Raises:
        ValueError: from `checked`; fewer than two samples.
    """
    if samples < 2:
        raise ValueError(f"samples: {samples} make no pair; give two or more.")
    pairs = []
    for start in tqdm(range(0, len(dataset), writer.batch_size), desc="Drawing reports", leave=False, disable=None):
        rows = list(range(start, min(start + writer.batch_size, len(dataset))))
        places = [place for place in range(len(rows)) for _ in range(samples)]
        sequences, _, _, prepared = write_reports(
            writer, [dataset[row] for row in rows], places, {"do_sample": True, "num_beams": 1} | options
        )
        texts = writer.processor.decode_reports(sequences)
        records = [prepared[place] for place in places]
        values = weighted({name: checked(name, reward, texts, records) for name, reward in rewards.items()}, weights)
        for place, row in enumerate(rows):
            own = range(place * samples, (place + 1) * samples)
            drawn = [(values[each], texts[each]) for each in own if values[each] is not None and texts[each].strip()]
            if len(drawn) > 1 and max(drawn)[0] - min(drawn)[0] > least_difference:
                (best, chosen), (worst, rejected) = max(drawn), min(drawn)
                known = {"row": row, "image": prepared[place]["image_id"], "prompt": ""}
                pairs.append(known | {"chosen": chosen, "rejected": rejected, "rewards": [best, worst]})
    return pairs

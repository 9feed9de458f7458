"""Predicted masks on the radiographs, by hand and in the stock pipeline."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForSemanticSegmentation,
    EgmaConfig,
    EgmaForSemanticSegmentation,
)
from processing import CoGazeProcessor, EgmaProcessor
from processing.tokenization import build_tokenizer
from tests.small import COGAZE, EGMA

FAMILIES = {
    "cogaze": (CoGazeConfig, CoGazeForSemanticSegmentation, CoGazeProcessor, COGAZE),
    "egma": (EgmaConfig, EgmaForSemanticSegmentation, EgmaProcessor, EGMA),
}


def make(family, labels=2, **options):
    config_class, model_class, processor_class, small = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class.tiny(vocab_size=300, num_labels=labels, **small)
    processor = processor_class.for_model(build_tokenizer(["cough"], 300), config, **options)
    return model_class(config).eval(), processor


def masks_of(result) -> dict[int, np.ndarray]:
    return {each["label_id"]: (result["segmentation"] == each["id"]).numpy() for each in result["segments_info"]}


def test_labels_that_overlap_keep_their_whole_masks():
    _, processor = make("cogaze", labels=3)
    logits = torch.full((1, 3, 64, 64), -8.0)
    logits[0, 0, :, :40] = 8.0
    logits[0, 1, :, 20:] = 1.0
    result = processor.post_process_panoptic_segmentation(SimpleNamespace(logits=logits), target_sizes=[(64, 64)])[0]
    masks = masks_of(result)
    assert set(masks) == {0, 1}
    assert masks[0][:, :39].all() and not masks[0][:, 41:].any()
    assert masks[1][:, 21:].all() and not masks[1][:, :19].any()
    scores = {each["label_id"]: each["score"] for each in result["segments_info"]}
    assert scores[0] > 0.99 and scores[1] == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-4)
    none = processor.post_process_panoptic_segmentation(SimpleNamespace(logits=logits[:, 2:]), target_sizes=[(64, 64)])
    assert none[0]["segments_info"] == []


@pytest.mark.parametrize("mask_threshold", [0.5, 0.9])
def test_the_threshold_decides(mask_threshold):
    _, processor = make("cogaze", labels=1)
    logits = torch.linspace(-4, 4, 64).expand(1, 1, 64, 64)
    found = processor.post_process_panoptic_segmentation(
        SimpleNamespace(logits=logits), mask_threshold=mask_threshold, target_sizes=[(64, 64)]
    )
    torch.testing.assert_close(torch.from_numpy(masks_of(found[0])[0]), logits[0, 0].sigmoid() >= mask_threshold)


def test_exclusive_classes_share_what_was_shown_among_them():
    _, processor = make("cogaze", labels=3, exclusive_classes=True)
    logits = torch.zeros(1, 3, 64, 64)
    logits[0, 0] += 0.1
    logits[0, 2, :32] = 0.3
    result = processor.post_process_panoptic_segmentation(SimpleNamespace(logits=logits), target_sizes=[(64, 128)])[0]
    masks = masks_of(result)
    assert set(masks) == {0, 2} and not (masks[0] & masks[2]).any()
    assert masks[2][:31, 32:96].all() and masks[0][33:, 32:96].all()
    # The crop shows the middle of a wide picture; the rest belongs to no class.
    together = masks[0] | masks[2]
    assert together[:, 32:96].all() and not together[:, :32].any() and not together[:, 96:].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_gives_each_label_its_mask_on_the_picture(family, tmp_path):
    model, processor = make(family)
    torch.nn.init.constant_(model.decode_head.classifier.bias, 0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    segment = pipeline("image-segmentation", model=str(tmp_path), image_processor=processor)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 120), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert("RGB")
    with torch.no_grad():
        logits = segment.model(**processor(images=picture)).logits
    expected = processor.post_process_masks(logits, [picture.size])[0] >= 0.5
    names = segment.model.config.id2label
    found = {each["label"]: np.asarray(each["mask"]) for each in segment(picture)}
    assert set(found) == {names[label] for label, mask in enumerate(expected) if mask.any()} != set()
    for label, mask in enumerate(expected):
        if mask.any():
            assert (found[names[label]] == 255 * mask.numpy()).all()
    assert len(segment([picture] * 2)) == 2

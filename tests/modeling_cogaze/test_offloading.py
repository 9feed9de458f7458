"""Models whose weights lie in memory or on the disk until a layer runs, by accelerate."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload

import modeling_cogaze
from tests.small import COGAZE, EGMA

IDS = torch.randint(5, 300, (2, 6), generator=torch.Generator().manual_seed(0))
PIXELS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
HEADS = {
    "Model": {"input_ids": IDS},
    "ForPreTraining": {
        "transcript_input_ids": IDS,
        "transcript_image_index": torch.arange(2),
        "gaze_targets": torch.ones(2, 16),
    },
    "ForZeroShotImageClassification": {"input_ids": IDS},
    "ForImageClassification": {},
    "ForSemanticSegmentation": {},
}


def build(family, name, **fields):
    torch.manual_seed(0)
    if family == "cogaze":
        config = modeling_cogaze.CoGazeConfig.tiny(vocab_size=300, patch_positions=True, **COGAZE | fields)
        return getattr(modeling_cogaze, f"CoGaze{name}")(config).eval()
    return getattr(modeling_cogaze, f"Egma{name}")(
        modeling_cogaze.EgmaConfig.tiny(vocab_size=300, **EGMA | fields)
    ).eval()


def inputs_of(family, name):
    inputs = {"pixel_values": PIXELS} | HEADS[name]
    if family == "cogaze":
        mask = torch.ones_like(IDS)
        mask[1] = 0
        inputs |= {"context_input_ids": IDS, "context_attention_mask": mask}
        inputs |= {"report_input_ids": IDS} if name == "ForPreTraining" else {}
    return inputs


def offloaded(model, how, folder):
    if how == "memory":
        return cpu_offload(model, execution_device=torch.device("cpu"))
    if how == "disk":
        return disk_offload(model, str(folder), execution_device=torch.device("cpu"))
    model.save_pretrained(folder / "model")
    return type(model).from_pretrained(
        folder / "model", device_map={"": "disk"}, offload_folder=str(folder / "offloaded")
    )


@pytest.mark.parametrize("how", ["memory", "disk", "device_map"])
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("family", ["cogaze", "egma"])
def test_offloaded_models_give_the_same(family, name, how, tmp_path):
    fields = {"classifier_pooling": "attention"} if name == "ForImageClassification" else {}
    model, inputs = build(family, name, **fields), inputs_of(family, name)
    with torch.no_grad():
        expected = model(**inputs)
        model = offloaded(model, how, tmp_path)
        found = model(**inputs)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("how", ["memory", "disk"])
@pytest.mark.parametrize("family", ["cogaze", "egma"])
def test_feature_calls_of_offloaded_models_give_the_same(family, how, tmp_path):
    def features(model):
        with torch.no_grad():
            found = {
                "image": model.get_image_features(PIXELS).pooler_output,
                "text": model.get_text_features(IDS).pooler_output,
                "gaze": model.get_gaze_maps(PIXELS, IDS),
            }
            if family == "cogaze":
                return found | {"transcript": model.get_transcript_features(IDS)}
            patches = model.get_patch_features(PIXELS)
            similarity = model.similarity(found["image"], patches, found["text"])
            return found | {"patches": patches, "similarity": similarity, "scale": model.scale}

    model = build(family, "Model")
    expected = features(model)
    for key, value in features(offloaded(model, how, tmp_path)).items():
        torch.testing.assert_close(value, expected[key], msg=lambda text, key=key: f"{key}: {text}")

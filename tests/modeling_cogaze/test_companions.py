"""Other views and earlier studies beside an image."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.export import Dim, export
from transformers import AutoModel

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration, CoGazeForPreTraining, CoGazeModel
from modeling_cogaze.companions import PRIOR, VIEW, companion_block
from tests.small import COGAZE

ON = {"use_views": True, "use_priors": True, "max_companions": 2}


def make(model_class=CoGazeModel, **fields):
    torch.manual_seed(0)
    return model_class(CoGazeConfig.tiny(vocab_size=300, **COGAZE | fields)).eval()


def images(count=3):
    torch.manual_seed(1)
    mask = torch.ones(count, 5, dtype=torch.long)
    mask[1:2] = 0
    return {
        "pixel_values": torch.randn(count, 3, 64, 64),
        "view_position_ids": torch.arange(count),
        "context_input_ids": torch.randint(5, 300, (count, 5)),
        "context_attention_mask": mask,
    }


def companions(index=(0, 2, 2), roles=(PRIOR, VIEW, PRIOR), days=(30.0, 0.0, 400.0)):
    torch.manual_seed(2)
    return {
        "companion_pixel_values": torch.randn(len(index), 3, 64, 64),
        "companion_index": torch.tensor(index, dtype=torch.long),
        "companion_role_ids": torch.tensor(roles, dtype=torch.long),
        "companion_view_ids": torch.ones(len(index), dtype=torch.long),
        "companion_days": torch.tensor(days),
    }


def row(batch: dict, i: int) -> dict:
    """One image of a batch with its own companions."""
    mine = batch["companion_index"] == i
    cut = {name: value[mine] if name.startswith("companion") else value[i : i + 1] for name, value in batch.items()}
    return cut | {"companion_index": torch.zeros_like(cut["companion_index"])}


@torch.no_grad()
def latents(model, batch) -> torch.Tensor:
    return model.get_image_features(**batch).last_hidden_state


def test_a_checkpoint_without_companions_gives_its_outputs_bit_for_bit(tmp_path):
    old = make()
    assert not [name for name in old.state_dict() if "companion" in name]
    old.save_pretrained(tmp_path)
    again, info = CoGazeModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    new, info = CoGazeModel.from_pretrained(tmp_path, **ON, output_loading_info=True)
    assert info["missing_keys"] == {
        f"companion_embedding.{name}.weight" for name in ("role_embedding", "time_projection")
    }
    batch = images()
    expected = latents(old, batch)
    none = companions((), (), ())
    for model, given in ((again, batch), (again, batch | companions()), (new, batch), (new, batch | none)):
        assert latents(model.eval(), given).equal(expected)
    with_companions = latents(new, batch | companions())
    assert not torch.allclose(with_companions[0], expected[0]) and not torch.allclose(with_companions[2], expected[2])
    torch.testing.assert_close(with_companions[1], expected[1], rtol=1e-5, atol=1e-5)


def test_a_study_alone_is_as_in_a_batch_with_companions_of_others():
    model, batch = make(**ON), images() | companions()
    found = latents(model, batch)
    for i in range(3):
        torch.testing.assert_close(found[i : i + 1], latents(model, row(batch, i)), rtol=1e-5, atol=1e-5)


def test_the_order_of_companions_makes_no_difference():
    model, batch = make(**ON), images() | companions()
    order = torch.tensor([2, 0, 1])
    turned = batch | {name: value[order] for name, value in batch.items() if name.startswith("companion")}
    torch.testing.assert_close(latents(model, turned), latents(model, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("fields", "left"), [({"use_views": False}, PRIOR), ({"use_priors": False}, VIEW)])
def test_a_role_that_is_not_read_changes_nothing(fields, left):
    model, batch = make(**ON | fields), images() | companions()
    kept = batch["companion_role_ids"] == left
    alone = batch | {name: value[kept] for name, value in batch.items() if name.startswith("companion")}
    torch.testing.assert_close(latents(model, batch), latents(model, alone), rtol=1e-5, atol=1e-5)


def test_role_and_time_count_and_unknown_is_no_time():
    model, batch = make(**ON), images() | companions()
    found = latents(model, batch)
    for change in (
        {"companion_days": torch.tensor([3.0, 0.0, 400.0])},
        {"companion_role_ids": torch.tensor([0, 0, 1])},
    ):
        assert not torch.allclose(latents(model, batch | change)[0], found[0])
    unknown = latents(model, batch | {"companion_days": torch.full((3,), -1.0)})
    left_out = {name: value for name, value in batch.items() if name not in ("companion_days", "companion_view_ids")}
    plain = latents(model, left_out | {"companion_view_ids": batch["companion_view_ids"]})
    torch.testing.assert_close(unknown, plain)


def test_blocks_hold_each_companion_in_its_images_row():
    tokens = torch.arange(8.0).reshape(4, 2, 1)
    block, mask = companion_block(tokens, torch.tensor([1, 0, 1, 3]), torch.tensor([True, True, False, True]), 4, 2)
    assert block[..., 0].tolist() == [[2, 3, 0, 0], [0, 1, 4, 5], [0, 0, 0, 0], [6, 7, 0, 0]]
    assert mask.tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_stored_features_of_companions_are_as_their_pixels():
    model, batch = make(**ON, freeze_vision_encoder=True), images() | companions()
    stored = dict(batch)
    with torch.no_grad():
        stored["vision_features"] = model.get_vision_features(stored.pop("pixel_values"))[0]
        pixels = stored.pop("companion_pixel_values")
        stored["companion_vision_features"] = model.get_vision_features(pixels)[0]
    torch.testing.assert_close(latents(model, stored), latents(model, batch), rtol=1e-5, atol=1e-5)


def test_batches_with_and_without_companions_train_the_same_parameters():
    model = make(CoGazeForPreTraining, **ON).train()
    reports = {"report_input_ids": torch.randint(5, 300, (3, 6)), "labels": torch.ones(3, 14)}
    moved = []
    for batch in (images() | reports, images() | reports | companions()):
        model.zero_grad()
        model(**batch).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        moved.append(model.cogaze.companion_embedding.role_embedding.weight.grad.abs().sum().item())
    assert moved[0] == 0 < moved[1]


def test_reports_are_generated_with_companions(tmp_path):
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(vocab_size=300, **COGAZE, **ON)
    decoder = {"model_type": "gpt2", "vocab_size": 300, "n_embd": 32, "n_layer": 1, "n_head": 2, "bos_token_id": 1}
    config.decoder_config = type(config)(
        **config.to_dict()
        | {"decoder_config": decoder | {"eos_token_id": 2, "pad_token_id": 0, "add_cross_attention": True}}
    ).decoder_config
    model = CoGazeForConditionalGeneration(config).eval()
    batch = images() | companions()
    memory = model.encode(**batch)[0]
    assert not torch.allclose(memory, model.encode(**images())[0])
    options = {"max_new_tokens": 4, "num_beams": 2}
    found = model.generate(**batch, labels=torch.ones(3, 2), **options)
    assert found.equal(model.generate(encoder_outputs=model.encode(**batch), **options))
    loss = model(**batch, labels=torch.randint(5, 300, (3, 6))).loss
    assert loss != model(**images(), labels=torch.randint(5, 300, (3, 6))).loss


def test_bad_companions_are_named():
    model, batch = make(**ON), images()
    with pytest.raises(Exception, match="companion_index: an image has more than max_companions = 2"):
        latents(model, batch | companions((0, 0, 0)))
    lacking = companions()
    del lacking["companion_role_ids"]
    with pytest.raises(ValueError, match="companion_role_ids: missing"):
        latents(model, batch | lacking)
    features = companions()
    features["companion_vision_features"] = features.pop("companion_pixel_values").flatten(2)
    with pytest.raises(ValueError, match="companion_pixel_values"):
        latents(model, batch | features)
    with pytest.raises(StrictDataclassClassValidationError, match="max_companions"):
        CoGazeConfig.tiny(use_priors=True)


def test_reading_companions_is_exported_and_compiled():
    model, batch = make(**ON), images() | companions()

    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, **inputs):
            return self.model.get_image_features(**inputs).last_hidden_state

    sizes = {True: {0: Dim("companions", min=2, max=64)}, False: {0: Dim("images", min=2, max=64)}}
    shapes = {"inputs": {name: sizes[name.startswith("companion")] for name in batch}}
    exported = export(Features(), (), batch, dynamic_shapes=shapes).module(check_guards=False)
    other = images(5) | companions((4, 0, 1, 1), (0, 1, 1, 0), (0.0, 3.0, 9.0, 0.0))
    with torch.no_grad():
        torch.testing.assert_close(exported(**other), latents(model, other), rtol=1e-5, atol=1e-5)
        compiled = torch.compile(Features(), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(**batch), latents(model, batch), rtol=1e-5, atol=1e-5)


def test_a_saved_model_opens_by_its_auto_class(tmp_path):
    model, batch = make(**ON), images() | companions()
    model.save_pretrained(tmp_path)
    assert latents(AutoModel.from_pretrained(tmp_path).eval(), batch).equal(latents(model, batch))
    for name in ("companions.py", "image_reading.py"):
        assert (tmp_path / name).is_file()

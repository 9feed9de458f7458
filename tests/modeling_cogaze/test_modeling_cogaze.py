import copy

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForZeroShotImageClassification,
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining, CoGazeForZeroShotImageClassification, CoGazeModel
from modeling_cogaze.encoders import vision_tokens

VOCABULARY = 300
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BACKBONES = {
    "dinov2": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56},
    "dinov2_with_registers": {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    },
    "siglip_vision_model": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
    },
    "swin": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 64},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 64},
    "resnet": {"hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8, "image_size": 64},
}


def small_config(**overrides) -> CoGazeConfig:
    small = {"vocab_size": VOCABULARY, "vision_config": {"image_size": 64}, "text_config": WITHOUT_DROPOUT}
    return CoGazeConfig.tiny(**small | overrides)


def make_batch(config: CoGazeConfig, size: int = 4, seed: int = 0, **without) -> dict[str, torch.Tensor]:
    """Image 1 has no context, images 0 and 2 have gaze (three and two rows), images 2 and 3 are one study."""
    generator = torch.Generator().manual_seed(seed)

    def ids(rows, length):
        return torch.randint(1, VOCABULARY, (rows, length), generator=generator)

    def mask(lengths, length):
        return (torch.arange(length) < torch.tensor(lengths)[:, None]).long()

    batch = {
        "pixel_values": torch.randn(size, 3, *config.image_size, generator=generator),
        "view_position_ids": torch.randint(0, 4, (size,), generator=generator),
        "context_input_ids": ids(size, 7),
        "context_attention_mask": mask([7, 0, 3, 5][:size], 7),
        "report_input_ids": ids(size, 9),
        "report_attention_mask": mask([4, 9, 6, 5][:size], 9),
        "transcript_input_ids": ids(5, 6),
        "transcript_attention_mask": mask([3, 6, 2, 4, 5], 6),
        "transcript_image_index": torch.tensor([0, 0, 0, 2, 2]),
        "gaze_targets": torch.rand(5, config.grid_size[0] * config.grid_size[1], generator=generator),
        "labels": torch.randint(0, 2, (size, 14), generator=generator).float(),
        "study_ids": torch.tensor([11, 12, 13, 13][:size]),
    }
    return batch


@pytest.fixture(scope="module")
def config():
    return small_config()


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    return CoGazeForPreTraining(config).eval()


@pytest.fixture
def batch(config):
    return make_batch(config)


def test_shapes_and_embeddings(model, config, batch):
    batch = {name: value for name, value in batch.items() if name not in ("gaze_targets", "labels", "study_ids")}
    outputs = model.cogaze(**batch)
    width, latents = config.hidden_size, config.num_latents
    assert config.grid_size == (4, 4)
    assert outputs.vision_latents.shape == outputs.context_latents.shape == (4, latents, width)
    assert outputs.patch_features.shape == (4, 16, width)
    assert outputs.gaze_logits.shape == (5, 16)
    assert outputs.logits_per_image.shape == (4, 4)
    torch.testing.assert_close(outputs.image_embeds.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(outputs.image_features, outputs.vision_latents.mean(dim=1))
    cosines = torch.cosine_similarity(outputs.image_embeds[:, None], outputs.text_embeds[None], dim=-1)
    torch.testing.assert_close(outputs.logits_per_image, cosines / 0.07, rtol=1e-3, atol=1e-4)


def test_features_are_those_of_forward(model, batch):
    outputs = model.cogaze(**{name: batch[name] for name in batch if name not in ("gaze_targets", "labels")})
    image = model.cogaze.get_image_features(
        batch["pixel_values"],
        batch["view_position_ids"],
        batch["context_input_ids"],
        batch["context_attention_mask"],
    ).pooler_output
    torch.testing.assert_close(image, outputs.image_features)
    text = model.cogaze.get_text_features(batch["report_input_ids"], batch["report_attention_mask"]).pooler_output
    torch.testing.assert_close(text, outputs.text_features)
    maps = model.cogaze.get_gaze_maps(
        batch["pixel_values"],
        batch["transcript_input_ids"],
        batch["transcript_attention_mask"],
        batch["transcript_image_index"],
        batch["view_position_ids"],
    )
    torch.testing.assert_close(maps, outputs.gaze_logits.softmax(dim=-1))


def test_one_study_alone_and_in_a_padded_batch_are_equal(model, config):
    batch = make_batch(config)
    names = ("pixel_values", "view_position_ids", "context", "report")
    batch = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in batch.items() if name.startswith(names)}
    together = model.cogaze(**batch)
    for row in range(8):
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        for text in ("context", "report"):
            length = int(alone[f"{text}_attention_mask"].sum())
            for name in (f"{text}_input_ids", f"{text}_attention_mask"):
                alone[name] = alone[name][:, :length] if length else None
        alone = {name: value for name, value in alone.items() if value is not None}
        outputs = model.cogaze(**alone)
        for name in ("image_embeds", "text_embeds", "vision_latents", "context_latents"):
            torch.testing.assert_close(outputs[name][0], together[name][row], rtol=0, atol=1e-5)


def test_what_padding_holds_and_on_which_side_it_is_changes_nothing(model, config):
    batch = make_batch(config)
    changed = dict(batch)
    changed["report_input_ids"] = torch.where(batch["report_attention_mask"] > 0, batch["report_input_ids"], 3)
    for text in ("context", "transcript"):
        for name in (f"{text}_input_ids", f"{text}_attention_mask"):
            lengths = batch[f"{text}_attention_mask"].sum(dim=1)
            rolled = [row.roll(-int(n)) for row, n in zip(batch[name], lengths, strict=True)]
            changed[name] = torch.stack(rolled)
    for name, value in model(**batch).items():
        torch.testing.assert_close(model(**changed)[name], value, rtol=0, atol=2e-5)


def test_context_view_position_and_text_reach_the_outputs(model, batch):
    def features(*args, **kwargs):
        return model.cogaze.get_image_features(*args, **kwargs).pooler_output

    context = {name: batch[name] for name in ("context_input_ids", "context_attention_mask")}
    plain = features(batch["pixel_values"])
    moved = (features(batch["pixel_values"], **context) - plain).abs().amax(dim=1)
    assert (moved[[0, 2, 3]] > 1e-4).all()
    assert moved[1] < 1e-6
    assert (features(batch["pixel_values"], torch.ones(4, dtype=torch.long)) - plain).abs().max() > 1e-5
    maps = model.cogaze.get_gaze_maps(batch["pixel_values"][:1], batch["transcript_input_ids"])
    assert maps.shape == (5, 16)
    torch.testing.assert_close(maps.sum(dim=1), torch.ones(5))
    assert maps.std(dim=0).max() > 0


def test_use_context_false_ignores_context(batch):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(small_config(use_context=False)).eval()
    without = {name: value for name, value in batch.items() if not name.startswith("context")}
    assert model(**batch).loss == model(**without).loss


def test_the_loss_is_the_sum_of_its_scaled_parts(config, batch):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(
        small_config(contrastive_loss_scale=0.5, classification_loss_scale=2.0, gaze_loss_scale=3.0)
    ).eval()
    outputs = model(**batch)
    parts = 0.5 * outputs.loss_contrastive + 2 * outputs.loss_classification + 3 * outputs.loss_gaze
    torch.testing.assert_close(outputs.loss.detach(), parts)
    assert not outputs.loss_gaze.requires_grad


@pytest.mark.parametrize(
    ("overrides", "absent"),
    [
        ({"use_contrastive": False}, "loss_contrastive"),
        ({"use_classification": False}, "loss_classification"),
        ({"gaze_loss": None}, "loss_gaze"),
    ],
)
def test_losses_can_be_left_out(batch, overrides, absent):
    outputs = CoGazeForPreTraining(small_config(**overrides))(**batch)
    assert getattr(outputs, absent) is None
    assert outputs.loss.isfinite()


@pytest.mark.parametrize(
    "overrides",
    [
        {"gaze_loss": "mse"},
        {"gaze_loss": "iou"},
        {"gaze_loss": "mask"},
        {"gaze_patch_rows": "resharpen"},
        {"contrastive_targets": "single"},
        {"classification_loss": "bce"},
        {"positives_per_class": list(range(14))},
    ],
)
def test_each_variant_changes_the_loss(batch, overrides):
    losses = []
    for config in (small_config(), small_config(**overrides)):
        torch.manual_seed(0)
        losses.append(CoGazeForPreTraining(config).eval()(**batch).loss.item())
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "left_out",
    [
        (),
        ("context",),
        ("transcript", "gaze"),
        ("context", "transcript", "gaze"),
        ("report", "context", "transcript", "gaze"),
        ("labels",),
    ],
)
def test_every_parameter_gets_a_gradient_whatever_the_batch_lacks(config, batch, left_out):
    model = CoGazeForPreTraining(config).train()
    batch = {name: value for name, value in batch.items() if not (left_out and name.startswith(left_out))}
    model(**batch).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_no_gaze_is_a_zero_loss(model, config, batch):
    batch["gaze_targets"] = torch.zeros_like(batch["gaze_targets"])
    assert model(**batch).loss_gaze == 0
    for name in ("transcript_input_ids", "transcript_attention_mask", "transcript_image_index", "gaze_targets"):
        batch[name] = batch[name][:0]
    assert model(**batch).loss_gaze == 0


def test_training_lowers_every_loss(config, batch):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first = model(**batch)
    for _ in range(15):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    last = model(**batch)
    for part in ("loss_contrastive", "loss_classification", "loss_gaze"):
        assert last[part] < 0.9 * first[part], part


def test_a_frozen_vision_encoder_stays_as_it_is(batch):
    model = CoGazeForPreTraining(small_config(freeze_vision_encoder=True, vision_config={"drop_path_rate": 0.5}))
    before = copy.deepcopy(model.cogaze.vision_model.state_dict())
    model.train()
    assert not any(module.training for module in model.cogaze.vision_model.modules())
    assert model.cogaze.perceiver.training
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**batch).loss.backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in model.cogaze.vision_model.parameters())
    for name, value in model.cogaze.vision_model.state_dict().items():
        assert value.equal(before[name])


def test_freezing_survives_loading(tmp_path):
    CoGazeForPreTraining(small_config(freeze_vision_encoder=True)).save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in model.cogaze.vision_model.parameters())
    assert all(parameter.requires_grad for parameter in model.cogaze.perceiver.parameters())


@pytest.mark.parametrize("kind", BACKBONES)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_any_vision_backbone_gives_a_patch_grid(kind, implementation):
    config = small_config(vision_config={"model_type": kind} | BACKBONES[kind])
    model = CoGazeForPreTraining._from_config(config, attn_implementation=implementation).train()
    outputs = model.cogaze(torch.randn(2, 3, *config.image_size))
    assert outputs.patch_features.shape == (2, config.grid_size[0] * config.grid_size[1], config.hidden_size)
    assert config.grid_size[0] >= 4
    model(**make_batch(config)).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and "mask_token" not in name]
    assert idle == []


def test_vision_tokens_are_row_by_row_after_class_token_and_registers():
    grid = torch.arange(6.0).view(1, 1, 2, 3).expand(2, 5, 2, 3)
    pooled = torch.full((2, 5, 1, 1), 9.0)
    rows = grid.flatten(2).transpose(1, 2)
    assert rows[0, 4, 0] == grid[0, 0, 1, 1]
    class_token, registers = torch.full((2, 1, 5), 7.0), torch.full((2, 4, 5), 8.0)
    for hidden, pooler, expected in (
        (grid, pooled, 9.0),
        (grid, None, None),
        (rows, pooled[..., 0, 0], 9.0),
        (torch.cat([class_token, rows], dim=1), None, 7.0),
        (torch.cat([class_token, registers, rows], dim=1), class_token[:, 0], 7.0),
    ):
        outputs = BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooler)
        token, patches = vision_tokens(outputs, 6)
        assert patches.equal(rows)
        assert (token is None) if expected is None else (token.shape == (2, 1, 5) and (token == expected).all())
    with pytest.raises(ValueError, match="gave 6 tokens where its config promises 8"):
        vision_tokens(BaseModelOutputWithPooling(last_hidden_state=rows), 8)


def test_eager_and_sdpa_attention_agree(config, batch):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(config).train()
    results = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        results[implementation] = [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
    torch.testing.assert_close(results["eager"], results["sdpa"], rtol=1e-3, atol=2e-5)


def test_gradient_checkpointing_changes_nothing(config, batch):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(config).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model.zero_grad()
        model(**batch).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_is_near_float32(config, batch, autocast):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(config).train()
    expected = model(**batch)
    if not autocast:
        model = model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model(**batch)
    outputs.loss.backward()
    assert outputs.loss.dtype == torch.float32
    assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_compiled_step_has_no_graph_breaks_and_the_same_gradients(config, batch):
    torch.manual_seed(0)
    model = CoGazeForPreTraining(config).train()
    loss = model(**batch).loss
    loss.backward()
    expected = [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]
    model.zero_grad()
    loss = torch.compile(model, fullgraph=True, backend="aot_eager")(**batch).loss
    loss.backward()
    torch.testing.assert_close(
        [loss.detach(), *(parameter.grad for parameter in model.parameters())], expected, rtol=1e-3, atol=2e-5
    )


def test_saving_and_loading_gives_the_same_outputs(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert isinstance(loaded, CoGazeForPreTraining)
    assert loaded(**batch).loss == model(**batch).loss
    assert AutoConfig.from_pretrained(tmp_path).to_diff_dict() == model.config.to_diff_dict()
    for auto_class, kind in (
        (AutoModel, CoGazeModel),
        (AutoModelForZeroShotImageClassification, CoGazeForZeroShotImageClassification),
    ):
        loaded, report = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert isinstance(loaded, kind)
        assert not report["missing_keys"]
        base = getattr(loaded, "cogaze", loaded)
        expected = model.cogaze.get_image_features(batch["pixel_values"]).pooler_output
        assert base.get_image_features(batch["pixel_values"]).pooler_output.equal(expected)


def test_a_base_checkpoint_opens_for_pretraining(config, tmp_path):
    CoGazeModel(config).save_pretrained(tmp_path)
    _, report = CoGazeForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"vision_classifier", "report_classifier"}


def test_device_map(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = CoGazeForPreTraining.from_pretrained(tmp_path, device_map="cpu")
    assert loaded(**batch).loss == model(**batch).loss


def test_base_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        model = CoGazeForPreTraining(CoGazeConfig.base())
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (total, trained) == (224_937_246, 138_357_534)
    assert model.config.grid_size == (37, 37)


def test_the_default_config_is_the_base_size():
    default, base = CoGazeConfig().to_dict(), CoGazeConfig.base().to_dict()
    assert default == base


def test_named_sizes_take_nested_overrides():
    config = CoGazeConfig.tiny(vocab_size=500, text_config={"num_hidden_layers": 1}, hidden_size=64)
    assert config.text_config.vocab_size == 500
    assert config.text_config.num_hidden_layers == 1
    assert config.text_config.hidden_size == CoGazeConfig.tiny().text_config.hidden_size
    assert config.hidden_size == 64
    with pytest.raises(ValueError, match="size: 'huge'"):
        CoGazeConfig.named("huge")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"view_positions": ["PA", "AP"]}, "view_positions"),
        ({"positives_per_class": [1, 2]}, "positives_per_class: 2 counts for 14"),
        ({"gaze_top_fraction": 0.0}, "gaze_top_fraction"),
        ({"gaze_loss_weight": 1.5}, "gaze_loss_weight"),
        ({"vision_config": {"model_type": "no_such"}}, "vision_config: model_type 'no_such'"),
        ({"gaze_loss": "kl"}, "gaze_loss"),
    ],
)
def test_bad_configurations_are_refused(overrides, message):
    with pytest.raises(Exception, match=message):
        CoGazeConfig.tiny(**overrides)


def test_bad_inputs_are_refused(model, batch):
    with pytest.raises(ValueError, match="pixel_values: shape"):
        model.cogaze(batch["pixel_values"][0])
    with pytest.raises(ValueError, match="transcript_image_index: missing"):
        model(**{name: value for name, value in batch.items() if name != "transcript_image_index"})
    with pytest.raises(ValueError, match="image_index: 5 sentences for 4 images"):
        model.cogaze.get_gaze_maps(batch["pixel_values"], batch["transcript_input_ids"])
    with pytest.raises(ValueError, match="labels: shape"):
        model(**batch | {"labels": batch["labels"][:, :3]})
    with pytest.raises(ValueError, match="text_embeds: 3 rows for 4 images"):
        model(**batch | {name: batch[name][:3] for name in ("report_input_ids", "report_attention_mask")})


@pytest.fixture(scope="module")
def pretrained_encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(1)
    vision = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    )
    text = BertModel(
        BertConfig(vocab_size=77, hidden_size=48, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2)
    )
    vision.save_pretrained(folder / "vision")
    text.save_pretrained(folder / "text")
    return folder, vision.eval(), text.eval()


def test_pretrained_encoders_are_carried_over(pretrained_encoders):
    folder, vision, text = pretrained_encoders
    config = small_config()
    model = CoGazeForPreTraining.from_encoders(folder / "vision", folder / "text", config).eval().cogaze
    assert model.config.grid_size == (4, 4)
    pixels = torch.randn(2, 3, 56, 56)
    expected = vision(pixels).last_hidden_state
    torch.testing.assert_close(model.vision_model(pixels).last_hidden_state, expected)
    layers = model.text_model.encoder.layer
    assert len(layers) == config.text_config.num_hidden_layers == 2
    for mine, theirs in zip(layers, text.encoder.layer, strict=False):
        for name, value in mine.state_dict().items():
            assert value.equal(theirs.state_dict()[name])
    embeddings, original = model.text_model.embeddings, text.embeddings
    assert embeddings.word_embeddings.weight.shape == (VOCABULARY, 48)
    assert embeddings.position_embeddings.weight.equal(original.position_embeddings.weight)
    assert model(**{"pixel_values": pixels}).image_embeds.isfinite().all()


def test_word_embeddings_come_along_when_the_vocabulary_fits(pretrained_encoders):
    folder, _, text = pretrained_encoders
    model = CoGazeModel.from_encoders(text=folder / "text", config=small_config(vocab_size=77))
    assert model.text_model.embeddings.word_embeddings.weight.equal(text.embeddings.word_embeddings.weight)


def test_cxr_bert_loads_without_its_remote_code(pretrained_encoders, tmp_path):
    _, _, text = pretrained_encoders
    text.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"model_type": "bert"', '"model_type": "cxr-bert"'))
    model = CoGazeModel.from_encoders(text=tmp_path, config=small_config())
    weight = model.text_model.encoder.layer[0].attention.self.query.weight
    assert weight.equal(text.encoder.layer[0].attention.self.query.weight)


def test_patch_positions_tell_places_apart_on_any_grid():
    torch.manual_seed(0)
    model = CoGazeModel(small_config()).eval()
    tokens = torch.randn(1, 1, 128).expand(1, 16, 128)
    unknown = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        same_grid = model.image_projector(tokens, unknown, (4, 4))
        larger_grid = model.image_projector(tokens[:, :1].expand(1, 1 + 6 * 8, 128), unknown, (6, 8))
        model.image_projector.row_embedding = None
        without = model.image_projector(tokens, unknown, (4, 4))
    apart = torch.cdist(same_grid, same_grid)[0] + torch.eye(16)
    assert apart.min() > 1e-3
    torch.testing.assert_close(without, without[:, :1].expand_as(without))
    assert larger_grid.isfinite().all()
    # The global token, before the patches, has no place.
    torch.testing.assert_close(larger_grid[:, 0], without[:, 0])

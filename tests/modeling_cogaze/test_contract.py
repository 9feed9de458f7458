"""What the stock tools of transformers expect of a model."""

import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline

import modeling_cogaze
from modeling_cogaze.calls import BATCH_INPUTS
from processing import CoGazeProcessor, EgmaProcessor
from processing.tokenization import build_tokenizer
from tests.small import COGAZE, EGMA

TEXTS = ["no effusion", "a small effusion", "cough"]
WITH_ATTENTION = {
    "vision_config": {
        "model_type": "dinov2",
        "image_size": 56,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "use_mask_token": False,
    }
}


def config_of(family, **fields):
    kind, small = (modeling_cogaze.CoGazeConfig, COGAZE) if family == "cogaze" else (modeling_cogaze.EgmaConfig, EGMA)
    return kind.tiny(vocab_size=300, **small | fields)


def build(family, name, **fields):
    torch.manual_seed(0)
    prefix = "CoGaze" if family == "cogaze" else "Egma"
    return getattr(modeling_cogaze, f"{prefix}{name}")(config_of(family, **fields)).eval()


@pytest.fixture(scope="module", params=["cogaze", "egma"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def processor(family):
    kind = CoGazeProcessor if family == "cogaze" else EgmaProcessor
    return kind.for_model(build_tokenizer(["cough"], 300), config_of(family))


@pytest.fixture(scope="module")
def pictures():
    return list(
        torch.randint(0, 255, (2, 80, 80), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    )


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


NAMES = [
    "Model",
    "ForPreTraining",
    "ForZeroShotImageClassification",
    "ForImageClassification",
    "ForSemanticSegmentation",
]


def inputs_of(name, pixels):
    prompts = {"input_ids": torch.arange(1, 13).view(3, 4)} if "ZeroShot" in name else {}
    return {"pixel_values": pixels, **prompts}


def test_the_model_takes_what_the_processor_makes_of_text(family, processor, pictures):
    inputs = processor(images=pictures, text=TEXTS)
    with torch.no_grad():
        outputs = build(family, "Model")(**inputs)
        zero_shot = build(family, "ForZeroShotImageClassification")(**inputs)
    assert outputs.logits_per_image.shape == (2, 3)
    assert outputs.logits_per_text.equal(outputs.logits_per_image.T)
    torch.testing.assert_close(outputs.text_embeds.norm(dim=-1), torch.ones(3))
    for name in ("logits_per_image", "image_embeds", "text_embeds"):
        assert outputs[name].equal(zero_shot[name]), name
    assert outputs.logits_per_image.std(dim=1).min() > 1e-4


def test_feature_calls_take_a_processors_batch(family, processor, pictures):
    model = build(family, "Model")
    with torch.no_grad():
        inputs = processor(images=pictures, view_position=["PA"] * 2, indication=["cough"] * 2)
        image = model.get_image_features(**inputs)
        plain = model.get_image_features(**processor(images=pictures))
        text = model.get_text_features(**processor(text=TEXTS))
        outputs = model(**processor(images=pictures, text=TEXTS))
    assert image.pooler_output.shape == (2, 32) and image.last_hidden_state.ndim == 3
    assert text.pooler_output.shape == (3, 32) and text.last_hidden_state.ndim == 3
    assert (image.pooler_output != plain.pooler_output).any() == (family == "cogaze")
    unit = torch.nn.functional.normalize
    assert unit(plain.pooler_output, dim=-1).equal(outputs.image_embeds)
    assert unit(text.pooler_output, dim=-1).equal(outputs.text_embeds)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_keyword_is_refused(family, pixels, name):
    model, inputs = build(family, name), inputs_of(name, pixels)
    with pytest.raises(TypeError, match="unexpected keyword 'pixel_value'"):
        model(**inputs, pixel_value=pixels)
    if name not in ("Model", "ForZeroShotImageClassification"):
        with pytest.raises(TypeError, match="'input_ids'"):
            model(**inputs, input_ids=torch.ones(2, 3, dtype=torch.long))


def test_feature_calls_refuse_unknown_keywords(family, pixels):
    model = build(family, "Model")
    with pytest.raises(TypeError, match="get_image_features: unexpected keyword 'study_ids'"):
        model.get_image_features(pixels, study_ids=torch.arange(2))
    with pytest.raises(TypeError, match="get_text_features: unexpected keyword 'mask'"):
        model.get_text_features(torch.ones(2, 3, dtype=torch.long), mask=None)


def test_a_training_batch_goes_to_every_model(family, processor, pictures):
    """What a model has no use for is left aside, whoever made the batch."""
    reading = {
        "sentences": [{"text": "an effusion", "begin": 0.0, "end": 1.0}],
        "fixations": [{"x": 30, "y": 30, "begin": 0.2, "end": 0.8, "sigma_x": 5, "sigma_y": 5, "shown": []}],
    }
    batch = processor(
        images=pictures,
        view_position=["PA", "AP"],
        indication=["cough", ""],
        findings=["no effusion.", "an effusion."],
        gaze=[reading, None],
        study_id=["a", "b"],
    )
    assert set(batch) - {"pixel_values"} <= BATCH_INPUTS
    for name in ("Model", "ForPreTraining", "ForImageClassification", "ForSemanticSegmentation"):
        assert build(family, name)(**batch)[0].isfinite().all(), name


def test_two_kinds_of_text_at_once_are_refused(family, pixels):
    ids = torch.ones(2, 3, dtype=torch.long)
    other = "report_input_ids" if family == "cogaze" else "transcript_input_ids"
    with pytest.raises(ValueError, match=f"input_ids and {other}"):
        build(family, "Model")(pixels, input_ids=ids, **{other: ids})


@pytest.mark.parametrize("name", NAMES)
def test_tuples_hidden_states_and_attentions(family, name):
    pixels = torch.randn(2, 3, 56, 56)
    model = build(family, name, attn_implementation="eager", **WITH_ATTENTION)
    model.set_attn_implementation("eager")
    inputs = inputs_of(name, pixels)
    with torch.no_grad():
        plain = model(**inputs)
        asked = model(**inputs, output_hidden_states=True, output_attentions=True)
        as_tuple = model(**inputs, return_dict=False)
        model.config.output_hidden_states = model.config.output_attentions = True
        model.config.return_dict = False
        configured = model(**inputs)
    assert "hidden_states" not in plain and "attentions" not in plain
    assert len(asked.hidden_states) == 3 and asked.hidden_states[0].shape == (2, 17, 32)
    assert len(asked.attentions) == 2 and asked.attentions[0].shape == (2, 2, 17, 17)
    assert isinstance(as_tuple, tuple) and all(a.equal(b) for a, b in zip(as_tuple, plain.to_tuple(), strict=True))
    assert isinstance(configured, tuple) and len(configured) == len(asked.to_tuple())
    assert all(a.equal(b) for a, b in zip(configured[-1], asked.attentions, strict=True)) or "Model" == name


def test_feature_calls_give_layers_and_tuples(family):
    model = build(family, "Model", **WITH_ATTENTION)
    pixels, ids = torch.randn(2, 3, 56, 56), torch.arange(1, 7).view(2, 3)
    assert len(model.get_image_features(pixels, output_hidden_states=True).hidden_states) == 3
    assert len(model.get_text_features(ids, output_hidden_states=True).hidden_states) == 2
    assert isinstance(model.get_text_features(ids, return_dict=False), tuple)
    assert model.get_image_features(pixels, return_dict=False)[1].shape == (2, 32)


def test_attention_pooling_comes_last_of_the_attentions(family):
    model = build(family, "ForImageClassification", classifier_pooling="attention", **WITH_ATTENTION)
    model.set_attn_implementation("eager")
    attentions = model(torch.randn(2, 3, 56, 56), output_attentions=True).attentions
    assert len(attentions) == 3 and attentions[-1].shape[:2] == (2, 2)
    torch.testing.assert_close(attentions[-1].sum(dim=-1), torch.ones(2, 2))


def test_the_feature_extraction_pipeline_pools(family, processor, pictures, tmp_path):
    model = build(family, "Model")
    model.save_pretrained(tmp_path)
    processor.image_processor.save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    extract = pipeline("image-feature-extraction", model=model, image_processor=str(tmp_path))
    picture = Image.fromarray(pictures[0]).convert("RGB")
    pooled = extract(picture, pool=True, return_tensors=True)
    expected = model.get_image_features(**processor(images=picture)).pooler_output
    torch.testing.assert_close(pooled, expected)


def test_a_head_for_other_classes_lets_go_of_per_class_fields(family, tmp_path):
    fields = {"num_labels": 2, "examples_per_class": [3, 4], "logit_temperature": [1.0, 2.0]}
    model = build(family, "ForImageClassification", **fields)
    model.save_pretrained(tmp_path)
    kind = type(model)
    other = kind.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    assert other(torch.randn(1, 3, 64, 64)).logits.shape == (1, 3)
    assert other.config.examples_per_class is None and other.config.logit_temperature is None
    same = kind.from_pretrained(tmp_path, id2label={0: "a", 1: "b"})
    assert same.config.examples_per_class == [3, 4] and same.config.logit_temperature == [1.0, 2.0]
    given = kind.from_pretrained(tmp_path, num_labels=3, examples_per_class=[1, 2, 3], ignore_mismatched_sizes=True)
    assert given.config.examples_per_class == [1, 2, 3] and given.config.logit_temperature is None


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"num_latents": 0}, "num_latents"),
        ({"perceiver_depth": 10**7}, "perceiver_depth"),
        ({"vision_config": {"model_type": "dinov2", "num_hidden_layers": 10**7}}, "vision_config.num_hidden_layers"),
        ({"vision_config": {"hidden_sizes": [16, 10**9]}}, "vision_config.hidden_sizes"),
        ({"text_config": {"vocab_size": 10**10}}, "text_config.vocab_size"),
        ({"text_config": {"num_hidden_layers": -1}}, "text_config.num_hidden_layers"),
        ({"decoder_config": {"model_type": "gpt2", "n_layer": 10**7}}, "decoder_config.num_hidden_layers"),
        ({"projection_dim": 10**8}, "projection_dim"),
        ({"num_labels": 10**8}, "num_labels"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_built(fields, name):
    family = "egma" if "projection_dim" in fields else "cogaze"
    with pytest.raises(ValueError, match=rf"{name}: "):
        config_of(family, **fields)

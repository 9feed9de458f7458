"""What report generators give of their layers, as tuples, and by what their config says."""

import inspect

import pytest
import torch

import modeling_cogaze
from modeling_cogaze import CoGazePrefixConfig, CoGazePrefixForConditionalGeneration
from processing.tokenization import build_tokenizer
from tests.modeling_cogaze import test_prefix
from tests.modeling_cogaze.test_contract import WITH_ATTENTION, config_of

PATCHES = 16  # of 56 pixels by 14
LAYERS = 2


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["cough"], 300)


@pytest.fixture(scope="module", params=["cogaze", "egma"])
def generator(request, tokenizer):
    torch.manual_seed(0)
    config = config_of(request.param, **WITH_ATTENTION).add_decoder(tokenizer, n_layer=3, initializer_range=0.3)
    kind = getattr(modeling_cogaze, f"{'CoGaze' if request.param == 'cogaze' else 'Egma'}ForConditionalGeneration")
    model = kind(config).eval()
    model.set_attn_implementation("eager")
    return model


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(2, 3, 56, 56, generator=generator),
        "labels": torch.randint(5, 290, (2, 6), generator=generator),
    }


@torch.no_grad()
def test_a_generator_gives_the_layers_of_both_halves(generator, inputs):
    plain = generator(**inputs)
    asked = generator(**inputs, output_hidden_states=True, output_attentions=True)
    vision = generator.base_model.vision_model(inputs["pixel_values"], output_hidden_states=True).hidden_states
    assert not any("hidden_states" in name or "attentions" in name for name in plain)
    torch.testing.assert_close(asked.encoder_hidden_states, vision)
    assert [each.shape for each in asked.encoder_attentions] == [(2, 2, 1 + PATCHES, 1 + PATCHES)] * LAYERS
    assert [each.shape for each in asked.decoder_hidden_states] == [(2, 5, 32)] * 4
    memory = asked.encoder_last_hidden_state.shape[1]
    for each in asked.cross_attentions:
        assert each.shape[2:] == (5, memory)
        torch.testing.assert_close(each.sum(dim=-1), torch.ones(each.shape[:3]))
    # The last one is what the words are read from.
    torch.testing.assert_close(generator.get_output_embeddings()(asked.decoder_hidden_states[-1]), plain.logits)
    torch.testing.assert_close(asked.logits, plain.logits)


@torch.no_grad()
def test_a_generators_config_asks_and_names_tuples(generator, inputs):
    plain, config = generator(**inputs), generator.config
    as_tuple = generator(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(plain.to_tuple())
    assert as_tuple[0].equal(plain.loss) and as_tuple[1].equal(plain.logits)
    try:
        config.output_hidden_states = config.output_attentions = True
        config.return_dict = False
        configured = generator(**inputs)
        asked = generator(**inputs, return_dict=True)
        assert isinstance(configured, tuple) and len(configured) == len(asked.to_tuple())
        assert asked.cross_attentions and asked.encoder_hidden_states
        written = generator.generate(inputs["pixel_values"], max_new_tokens=4)
    finally:
        config.output_hidden_states = config.output_attentions = False
        config.return_dict = True
    assert written.equal(generator.generate(inputs["pixel_values"], max_new_tokens=4))


@torch.no_grad()
def test_the_encoder_called_alone_may_be_handed_over(generator, inputs):
    encoder = generator.get_encoder()
    encoded = encoder(inputs["pixel_values"], output_hidden_states=True)
    assert len(encoded.hidden_states) == LAYERS + 1
    expected = generator(**inputs).logits
    for outputs in (encoded, encoder(inputs["pixel_values"], return_dict=False)):
        assert generator(encoder_outputs=outputs, labels=inputs["labels"]).logits.equal(expected)
    options = {"max_new_tokens": 4, "num_beams": 2}
    written = generator.generate(encoder_outputs=encoder(inputs["pixel_values"], return_dict=False), **options)
    assert written.equal(generator.generate(inputs["pixel_values"], **options))


def test_generation_gives_the_layers_of_both_halves(generator, inputs):
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True}
    found = generator.generate(
        inputs["pixel_values"], output_hidden_states=True, output_attentions=True, num_beams=2, **options
    )
    assert [each.shape[0] for each in found.encoder_hidden_states] == [2] * (LAYERS + 1)
    assert len(found.encoder_attentions) == LAYERS
    memory = generator.encode(inputs["pixel_values"]).last_hidden_state.shape[1]
    assert len(found.cross_attentions) == 3 and found.cross_attentions[0][0].shape[-1] == memory


def test_labels_beside_what_the_decoder_reads(generator, inputs):
    labels = inputs["labels"]
    expected = generator(**inputs)
    for own in (labels, labels[:, 1:]):
        found = generator(inputs["pixel_values"], decoder_input_ids=labels[:, :-1], labels=own)
        assert found.loss.equal(expected.loss) and found.logits.equal(expected.logits)
    with pytest.raises(ValueError, match="labels: "):
        generator(inputs["pixel_values"], decoder_input_ids=labels[:, :2], labels=labels)


def test_an_unknown_keyword_is_refused_by_generators(generator, inputs):
    with pytest.raises(TypeError, match="unexpected keyword 'context_input_id'"):
        generator(**inputs, context_input_id=torch.ones(2, 3))
    with pytest.raises(TypeError, match="unexpected keyword 'pixels'"):
        test_prefix.make_model()(**test_prefix.make_batch(), pixels=None)


@torch.no_grad()
def test_a_prefix_model_gives_the_language_models_layers():
    model, batch = test_prefix.make_model(), test_prefix.make_batch()
    model.set_attn_implementation("eager")
    plain = model(**batch)
    asked = model(**batch, output_hidden_states=True, output_attentions=True)
    length = batch["input_ids"].shape[1] + batch["labels"].shape[1] - 2
    assert [each.shape for each in asked.hidden_states] == [(3, length, 24)] * 3
    assert [each.shape for each in asked.attentions] == [(3, 4, length, length)] * 2
    assert plain.hidden_states is plain.attentions is None and asked.logits.equal(plain.logits)
    # What stands at the placeholders is what the language model reads there.
    placeholders = torch.nn.functional.pad(batch["input_ids"] == test_prefix.IMAGE, (0, batch["labels"].shape[1] - 2))
    assert asked.hidden_states[0][placeholders].equal(plain.image_hidden_states.flatten(0, 1))

    prompts = test_prefix.prompts_of(batch)
    alone = model(**prompts)
    assert alone.hidden_states is None and "hidden_states" not in alone
    assert model(**prompts, output_hidden_states=True).hidden_states[-1].equal(alone.last_hidden_state)
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple) and as_tuple[0].equal(plain.loss) and as_tuple[1].equal(plain.logits)
    written = model.generate(**test_prefix.prompts_of(batch), max_new_tokens=4)
    model.config.output_hidden_states, model.config.return_dict = True, False
    assert len(model(**batch)[2]) == 3
    assert model.generate(**test_prefix.prompts_of(batch), max_new_tokens=4).equal(written)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_of_a_prefix_model_changes_no_gradient(reentrant):
    batch = test_prefix.make_batch()

    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        config = CoGazePrefixConfig(
            encoder_config=test_prefix.encoder_config(), text_config=test_prefix.llama_config(), image_token_id=120
        )
        model = test_prefix.with_lora(CoGazePrefixForConditionalGeneration(config)).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert model.is_gradient_checkpointing
        model(**batch).loss.backward()
        return {name: each.grad for name, each in model.named_parameters() if each.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert all(each is not None and each.any() for name, each in plain.items() if "lora" in name)
    torch.testing.assert_close(checkpointed, plain)


@pytest.mark.parametrize(
    "name", [name for name in modeling_cogaze.__all__ if hasattr(getattr(modeling_cogaze, name), "forward")]
)
def test_the_main_input_is_the_first(name):
    kind = getattr(modeling_cogaze, name)
    assert kind.main_input_name == list(inspect.signature(kind.forward).parameters)[1]

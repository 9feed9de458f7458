"""The models in the hands of the stock tools: transformers' loading and generation, peft, bitsandbytes, accelerate.

`make stock-tools` prints each row as passed or failed.
"""

import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    GenerationConfig,
)

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazeForImageClassification,
    CoGazeForPreTraining,
    CoGazePrefixForConditionalGeneration,
    EgmaConfig,
    EgmaForConditionalGeneration,
)
from processing.tokenization import build_tokenizer
from tests import small
from tests.modeling_cogaze.test_prefix import (
    IMAGE,
    VOCABULARY,
    encoder_config,
    llama_config,
    make_batch,
    prompts_of,
    with_lora,
)

peft = pytest.importorskip("peft")

GENERATORS = {
    "cogaze": (CoGazeConfig, CoGazeForConditionalGeneration, small.COGAZE),
    "egma": (EgmaConfig, EgmaForConditionalGeneration, small.EGMA),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of an encoder and of a language model, whose configs say that they are float32."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(1)
    encoder = CoGazeForPreTraining(encoder_config())
    encoder.config.vision_config.dtype = encoder.config.text_config.dtype = torch.float32
    encoder.save_pretrained(folder / "encoder")
    AutoModelForCausalLM.from_config(llama_config()).save_pretrained(folder / "llama")
    return folder


@pytest.fixture(scope="module")
def on_bases(bases):
    torch.manual_seed(2)
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        bases / "encoder", bases / "llama", image_token_id=IMAGE
    )
    return with_lora(model)


@pytest.fixture(scope="module")
def saved(on_bases, tmp_path_factory):
    """Adapter and LoRA alone, as they are trained."""
    folder = tmp_path_factory.mktemp("saved")
    on_bases.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def merged(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("merged")
    AutoModelForImageTextToText.from_pretrained(saved).merge_and_unload().save_pretrained(folder)
    return folder


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["There is a small left pleural effusion."] * 3, 330)


def make_generator(family, tokenizer, text_vocabulary=None, seed=0, **overrides):
    config_class, model_class, sizes = GENERATORS[family]
    config = config_class.tiny(**sizes | {"vocab_size": text_vocabulary or len(tokenizer)} | overrides)
    torch.manual_seed(seed)
    return model_class(config.add_decoder(tokenizer, initializer_range=0.4)).eval()


def pictures(count=2) -> torch.Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def turned(batch) -> dict:
    return batch | {"pixel_values": batch["pixel_values"].flip(0)}


QUANTISED = {"4 bit": {"load_in_4bit": True}, "8 bit": {"load_in_8bit": True}}


@pytest.mark.parametrize("bits", QUANTISED)
def test_a_merged_prefix_model_sees_the_image_when_it_is_quantised(merged, batch, bits):
    pytest.importorskip("bitsandbytes")
    with torch.no_grad():
        exact = AutoModelForImageTextToText.from_pretrained(merged)
        model = AutoModelForImageTextToText.from_pretrained(
            merged, quantization_config=BitsAndBytesConfig(**QUANTISED[bits])
        )
        assert {parameter.dtype for parameter in model.parameters()} & {torch.uint8, torch.int8}
        logits, others = model(**batch).logits, model(**turned(batch)).logits
        change, expected = (others - logits).flatten(), exact(**turned(batch)).logits - exact(**batch).logits
    similarity = torch.nn.functional.cosine_similarity(change, expected.flatten(), dim=0)
    assert similarity > (0.3 if bits == "4 bit" else 0.9)
    assert model.generate(**prompts_of(batch), max_new_tokens=4).shape[0] == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_merged_prefix_model_has_the_dtype_that_is_asked_for(merged, batch, dtype):
    model = AutoModelForImageTextToText.from_pretrained(merged, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert {buffer.dtype for buffer in model.encoder.buffers() if buffer.is_floating_point()} <= {dtype}
    exact = AutoModelForImageTextToText.from_pretrained(merged)
    with torch.no_grad():
        error = (model(**batch).logits.float() - exact(**batch).logits).abs().mean()
        assert error < 0.05 * exact(**batch).logits.abs().mean()
    assert model.generate(**prompts_of(batch), max_new_tokens=4).shape[0] == 3


@pytest.mark.parametrize("family", GENERATORS)
def test_a_generator_has_the_dtype_that_is_asked_for(family, tokenizer, tmp_path):
    model = make_generator(family, tokenizer)
    for part in ("vision_config", "text_config", "decoder_config"):
        getattr(model.config, part).dtype = torch.float32
    model.save_pretrained(tmp_path)
    half = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.generate(pictures(), max_new_tokens=4).shape[0] == 2


@pytest.mark.parametrize("family", GENERATORS)
def test_a_generators_vocabulary_is_the_decoders(family, tokenizer, tmp_path):
    model = make_generator(family, tokenizer, text_vocabulary=400)
    base = getattr(model, family)
    vocabulary = len(tokenizer)
    inputs = {"pixel_values": pictures(), "max_new_tokens": 12}
    expected = model.generate(**inputs)
    before = base.get_input_embeddings().weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        embeddings = model.resize_token_embeddings(vocabulary + 7)
    assert embeddings is model.get_input_embeddings() is model.decoder.get_input_embeddings()
    assert model.get_output_embeddings().weight.shape[0] == vocabulary + 7
    assert model.get_output_embeddings().weight is embeddings.weight
    assert torch.equal(base.get_input_embeddings().weight, before)
    assert (model.config.decoder_config.vocab_size, model.config.text_config.vocab_size) == (vocabulary + 7, 400)
    never = list(range(vocabulary, vocabulary + 7))
    assert torch.equal(model.generate(**inputs, suppress_tokens=never), expected)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert torch.equal(again.generate(**inputs), model.generate(**inputs))

    decoder = torch.nn.Embedding(vocabulary + 7, embeddings.embedding_dim)
    model.set_input_embeddings(decoder)
    head = torch.nn.Linear(embeddings.embedding_dim, vocabulary + 7, bias=False)
    model.set_output_embeddings(head)
    assert model.decoder.get_input_embeddings() is decoder and model.decoder.get_output_embeddings() is head
    assert torch.equal(base.get_input_embeddings().weight, before)
    assert model.config.get_text_config(decoder=True) is model.config.decoder_config
    assert model.config.get_text_config(encoder=True) is model.config.text_config


@pytest.mark.parametrize("family", GENERATORS)
def test_base_models_resize_their_text_encoder(family, tokenizer):
    model = make_generator(family, tokenizer, text_vocabulary=400)
    base = getattr(model, family)
    base.resize_token_embeddings(405)
    assert base.get_input_embeddings().num_embeddings == model.config.text_config.vocab_size == 405
    assert model.config.decoder_config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings


def test_a_resized_prefix_model_is_saved_with_its_vocabulary(on_bases, saved, batch, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(saved)
    with torch.no_grad():
        expected = model(**batch).logits
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.resize_token_embeddings(VOCABULARY + 6)
        assert model.config.text_config.vocab_size == model.vocab_size == VOCABULARY + 6
        logits = model(**batch).logits
        torch.testing.assert_close(logits[..., :VOCABULARY], expected)
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(AutoModelForImageTextToText.from_pretrained(tmp_path)(**batch).logits, logits)
    head = torch.nn.Linear(24, VOCABULARY + 6, bias=False)
    model.set_output_embeddings(head)
    assert model.language_model.get_output_embeddings() is head


@pytest.mark.parametrize("family", GENERATORS)
def test_prompt_lookup_and_transition_scores_where_vocabularies_differ(family, tokenizer):
    model = make_generator(family, tokenizer, text_vocabulary=900)
    one = {"pixel_values": pictures(1), "max_new_tokens": 12}
    looked_up = model.generate(**one, prompt_lookup_num_tokens=3)
    assert torch.equal(looked_up, model.generate(**one))
    beams = model.generate(
        pixel_values=pictures(), max_new_tokens=6, num_beams=3, return_dict_in_generate=True, output_scores=True
    )
    scores = model.compute_transition_scores(beams.sequences, beams.scores, beams.beam_indices)
    length = (scores < 0).sum(dim=1)
    penalty = model.generation_config.length_penalty or 1.0
    torch.testing.assert_close(scores.sum(dim=1) / length**penalty, beams.sequences_scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", GENERATORS)
def test_assisted_decoding_by_the_same_class_finds_the_same(family, tokenizer):
    model, assistant = make_generator(family, tokenizer), make_generator(family, tokenizer, seed=5)
    inputs = {"pixel_values": pictures(1)}
    if family == "cogaze":
        inputs |= {"context_input_ids": torch.tensor([[5, 6, 7]]), "context_attention_mask": torch.ones(1, 3).long()}
    expected = model.generate(**inputs, max_new_tokens=12)
    seen = []
    hook = getattr(assistant, family).vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args or tuple(kwargs.values()))[0]), with_kwargs=True
    )
    assert torch.equal(model.generate(**inputs, max_new_tokens=12, assistant_model=assistant), expected)
    hook.remove()
    assert len(seen) == 1 and torch.equal(seen[0], inputs["pixel_values"])


@pytest.mark.parametrize("family", GENERATORS)
def test_get_encoder_gives_what_the_decoder_reads(family, tokenizer):
    model = make_generator(family, tokenizer)
    assert model.main_input_name == model.get_encoder().main_input_name == "pixel_values"
    encoded = model.get_encoder()(pixel_values=pictures(), return_dict=True, output_attentions=None)
    torch.testing.assert_close(encoded.last_hidden_state, model.encode(pictures()).last_hidden_state)
    names = {id(parameter) for parameter in getattr(model, family).parameters()}
    assert {id(parameter) for parameter in model.get_encoder().parameters()} == names
    start = model.config.decoder_config.bos_token_id
    logits = model(encoder_outputs=encoded, decoder_input_ids=torch.full((2, 1), start)).logits
    torch.testing.assert_close(
        logits, model(pixel_values=pictures(), decoder_input_ids=torch.full((2, 1), start)).logits
    )


@pytest.mark.parametrize("family", GENERATORS)
def test_labels_may_come_with_decoder_input_ids(family, tokenizer):
    model = make_generator(family, tokenizer)
    begin, end = model.config.decoder_config.bos_token_id, model.config.decoder_config.eos_token_id
    labels = torch.tensor([[begin, 5, 6, 7, end], [begin, 8, end, -100, -100]])
    inputs = model.prepare_decoder_input_ids_from_labels(labels)
    expected = model(pixel_values=pictures(), labels=labels)
    for given in (labels, labels[:, 1:]):
        outputs = model(pixel_values=pictures(), labels=given, decoder_input_ids=inputs)
        torch.testing.assert_close(outputs.loss, expected.loss)
        torch.testing.assert_close(outputs.logits, expected.logits)
    with pytest.raises(ValueError, match=r"labels: \(2, 3\) for decoder_input_ids \(2, 4\)"):
        model(pixel_values=pictures(), labels=labels[:, :3], decoder_input_ids=inputs)
    with pytest.raises(ValueError, match="labels and decoder_input_ids"):
        model(pixel_values=pictures())


def test_prompts_of_a_prefix_model_may_be_named_as_inputs(on_bases, batch):
    prompts = prompts_of(batch)
    ids = prompts.pop("input_ids")
    expected = on_bases.generate(input_ids=ids, **prompts, max_new_tokens=4)
    assert torch.equal(on_bases.generate(ids, **prompts, max_new_tokens=4), expected)
    with pytest.raises(ValueError, match="input_ids: give the prompts"):
        on_bases.generate(**prompts)
    with pytest.raises(ValueError, match="assistant_model"):
        on_bases.generate(ids, **prompts, assistant_model=on_bases)


LORA = {"r": 2, "target_modules": ["query", "value", "q_proj", "v_proj"], "lora_dropout": 0.5}


def adapters_of(model) -> dict:
    return {name: parameter for name, parameter in model.named_parameters() if ".lora_" in name}


def trains(model, batch) -> None:
    """One step reaches all adapters and nothing else that is frozen."""
    lora = adapters_of(model)
    assert lora and all(parameter.requires_grad for parameter in lora.values())
    model.train()
    assert all(parameter.requires_grad for parameter in lora.values())
    model.zero_grad(set_to_none=True)
    model(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in lora.values())
    assert any(parameter.grad.any() for parameter in lora.values())
    model.eval()


VISION = {
    "vision_config": {
        "model_type": "vit",
        "image_size": 64,
        "patch_size": 16,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
}


@pytest.mark.parametrize("family", GENERATORS)
@pytest.mark.parametrize("frozen", ["freeze_vision_encoder", "freeze_encoder"])
def test_lora_in_a_frozen_encoder_of_a_generator_trains(family, frozen, tokenizer):
    model = make_generator(family, tokenizer, **VISION, **{"freeze_vision_encoder": False, frozen: True})
    names = [name for name, _ in getattr(model, family).vision_model.named_modules() if name.endswith("q_proj")]
    targets = names or ["query"]
    encoder = getattr(model, family).vision_model
    wrapped = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=targets, lora_dropout=0.5), encoder)
    assert wrapped is encoder
    labels = torch.tensor([[1, 5, 6, 2]] * 2)
    trains(model, {"pixel_values": pictures(), "labels": labels})
    model.train()
    dropouts = [part for name, part in encoder.named_modules() if isinstance(part, torch.nn.Dropout) and "lora" in name]
    assert dropouts and all(part.training for part in dropouts)
    assert not encoder.training
    base = [parameter for name, parameter in encoder.named_parameters() if ".lora_" not in name]
    assert not any(parameter.requires_grad for parameter in base)
    assert all(parameter.grad is None for parameter in base)


def test_lora_in_the_frozen_encoder_of_a_classifier_trains():
    config = CoGazeConfig.tiny(vocab_size=300, num_labels=2, **small.COGAZE | VISION, freeze_encoder=True)
    model = CoGazeForImageClassification(config)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r".*vision_model.*(query|q_proj)"))
    trains(model, {"pixel_values": pictures(), "labels": torch.tensor([[1.0, 0.0], [0.0, 1.0]])})
    assert not any(parameter.requires_grad for name, parameter in model.named_parameters() if ".lora_" not in name)


def test_lora_in_the_frozen_encoder_of_a_prefix_model_trains_and_is_saved(bases, saved, batch, tmp_path):
    model = AutoModelForImageTextToText.from_pretrained(saved)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["query", "value"]), model.encoder)
    trains(model, batch)
    model.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("encoder.") and ".lora_" in name for name in names)


def test_what_peft_has_frozen_stays_frozen(saved):
    model = AutoModelForImageTextToText.from_pretrained(saved)
    model.language_model.disable_adapters()
    frozen = [parameter for parameter in adapters_of(model).values() if not parameter.requires_grad]
    model.train()
    assert all(not parameter.requires_grad for parameter in frozen)


def test_stored_features_are_refused_where_an_adapter_changes_them(tokenizer):
    model = make_generator("cogaze", tokenizer, **VISION, freeze_vision_encoder=True)
    tokens, _ = model.cogaze.get_vision_features(pictures())
    model.encode(vision_features=tokens)
    vision_model = model.cogaze.vision_model
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=r".*(query|q_proj)"), vision_model)
    with pytest.raises(ValueError, match="vision_features: the vision encoder is trained"):
        model.encode(vision_features=tokens)


def load(folder, **arguments):
    return AutoModelForImageTextToText.from_pretrained(folder, **arguments)


def test_attention_and_dtype_reach_the_named_base_model(saved, batch):
    model = load(saved, attn_implementation="eager", torch_dtype=torch.bfloat16)
    parts = (model.language_model, model.encoder.cogaze.text_model)
    assert [part.config._attn_implementation for part in parts] == ["eager", "eager"]
    assert model.language_model.dtype == torch.bfloat16
    assert model(**batch).loss.isfinite()


def test_memory_and_offload_reach_the_named_base_model(saved, batch, on_bases, tmp_path):
    layers = {f"model.layers.{i}": "cpu" if i else "disk" for i in range(2)}
    rest = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = load(saved, device_map=layers | rest, offload_folder=str(tmp_path / "weights"))
    offloaded = model.language_model.model.layers[0].mlp.up_proj.weight
    assert offloaded.device.type == "meta"
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, on_bases(**batch).logits, rtol=1e-4, atol=1e-4)
    model = load(saved, device_map="auto", max_memory={"cpu": "30KB"}, offload_folder=str(tmp_path / "auto"))
    assert "disk" in model.language_model.hf_device_map.values()


def test_arguments_of_loading_are_kept_or_refused(saved):
    model, info = load(saved, output_loading_info=True)
    assert isinstance(model, CoGazePrefixForConditionalGeneration)
    assert not any(info.values()) and {"missing_keys", "unexpected_keys", "mismatched_keys"} <= info.keys()
    assert load(saved, generation_config=GenerationConfig(max_new_tokens=3)).generation_config.max_new_tokens == 3
    with pytest.raises(TypeError, match="'attention_implementation' is no argument"):
        load(saved, attention_implementation="eager")
    with pytest.raises(TypeError, match="'ignore_mismatched_sizes' is no argument"):
        load(saved, ignore_mismatched_sizes=True)
    with pytest.raises(ValueError, match="use_safetensors"):
        load(saved, use_safetensors=False)


def test_variants_and_shards_of_adapters_are_read(on_bases, batch, tmp_path):
    on_bases.save_pretrained(tmp_path / "one", variant="fp32")
    on_bases.save_pretrained(tmp_path / "many", variant="fp32", max_shard_size="2KB")
    on_bases.save_pretrained(tmp_path / "plain", max_shard_size="2KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    expected = on_bases(**batch).logits
    for folder, variant in (("one", "fp32"), ("many", "fp32"), ("plain", None)):
        model = load(tmp_path / folder, variant=variant)
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=0)
    with pytest.raises(OSError, match="model.safetensors"):
        load(tmp_path / "one")


def test_a_language_model_that_was_saved_along_takes_the_arguments_of_loading(bases, batch, tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        bases / "encoder", AutoModelForCausalLM.from_pretrained(bases / "llama"), image_token_id=IMAGE
    )
    with_lora(model).save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(**batch).logits, model(**batch).logits, rtol=0, atol=0)
        half = load(tmp_path, dtype=torch.bfloat16)
        assert half.language_model.get_input_embeddings().weight.dtype == torch.bfloat16
        quantised = load(tmp_path, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
        assert torch.int8 in {parameter.dtype for parameter in quantised.language_model.parameters()}
        assert (quantised(**batch).logits - model(**batch).logits).abs().mean() < 0.5

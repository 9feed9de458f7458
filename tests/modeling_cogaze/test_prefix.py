import json
import math
import os
import subprocess
import sys
from threading import Thread

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
    TextIteratorStreamer,
    pipeline,
)

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForPreTraining,
    CoGazeModel,
    CoGazePrefixConfig,
    CoGazePrefixForConditionalGeneration,
)
from processing import CoGazePrefixProcessor, CoGazeProcessor
from processing.datasets.phantom.loading import load_phantom
from processing.prompts import report_messages
from processing.tokenization import build_tokenizer

VOCABULARY, BEGIN, END, PAD, IMAGE = 120, 1, 2, 0, 120
LATENTS = 4
SMALL = {"vocab_size": VOCABULARY, "bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
LLAMA = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
PICTURES = ("pixel_values", "view_position_ids", "context_input_ids", "context_attention_mask")


def encoder_config(**overrides) -> CoGazeConfig:
    small = {
        "vocab_size": 90,
        "vision_config": {"image_size": 32, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "text_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
        "hidden_size": 20,
        "intermediate_size": 24,
        "perceiver_depth": 1,
        "num_latents": LATENTS,
    }
    return CoGazeConfig.tiny(**small | overrides)


def llama_config(**overrides) -> LlamaConfig:
    return LlamaConfig(**LLAMA | SMALL | overrides)


def with_lora(model):
    """LoRA begins at zero: let it do something."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def make_model(text_config=None, **fields) -> CoGazePrefixForConditionalGeneration:
    torch.manual_seed(0)
    config = CoGazePrefixConfig(
        encoder_config=encoder_config(), text_config=text_config or llama_config(), image_token_id=IMAGE, **fields
    )
    return with_lora(CoGazePrefixForConditionalGeneration(config)).eval()


def make_batch(image_tokens: int = 2 * LATENTS, seed: int = 0) -> dict[str, torch.Tensor]:
    """Prompts of 12, 9 and 5 tokens beside the image's, reports of 5, 3 and 7; the second has no context."""
    generator = torch.Generator().manual_seed(seed)
    batch = {
        "pixel_values": torch.randn(3, 3, 32, 32, generator=generator),
        "view_position_ids": torch.tensor([0, 2, 1]),
        "context_input_ids": torch.randint(1, 90, (3, 6), generator=generator),
        "context_attention_mask": torch.tensor([[1] * 6, [0] * 6, [1] * 4 + [0] * 2]),
    }
    length = image_tokens + 12
    ids = torch.full((3, length), PAD)
    labels = torch.full((3, 9), -100)
    for row, (prompt, report) in enumerate(((12, 5), (9, 3), (5, 7))):
        words = torch.randint(3, VOCABULARY, (prompt,), generator=generator)
        ids[row, length - prompt - image_tokens :] = torch.cat(
            [words[:3], torch.full((image_tokens,), IMAGE), words[3:]]
        )
        words = torch.randint(3, VOCABULARY, (report,), generator=generator)
        labels[row, : report + 2] = torch.tensor([BEGIN, *words, END])
    return batch | {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": labels}


def alone(batch: dict, row: int) -> dict[str, torch.Tensor]:
    one = {name: value[row : row + 1] for name, value in batch.items()}
    for name in ("input_ids", "attention_mask"):
        one[name] = one[name][:, one["attention_mask"][0].bool()] if name == "input_ids" else one[name]
    one["attention_mask"] = torch.ones_like(one["input_ids"])
    one["labels"] = one["labels"][:, one["labels"][0] != -100]
    return one


def prompts_of(batch: dict) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def batch():
    return make_batch()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of an encoder and of a language model."""
    folder = tmp_path_factory.mktemp("bases")
    torch.manual_seed(1)
    CoGazeForPreTraining(encoder_config()).save_pretrained(folder / "encoder")
    AutoModelForCausalLM.from_config(llama_config()).save_pretrained(folder / "llama")
    return folder


@pytest.fixture(scope="module")
def on_bases(bases):
    torch.manual_seed(2)
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        bases / "encoder", bases / "llama", image_token_id=IMAGE
    )
    return with_lora(model)


def test_only_adapter_and_lora_are_trained(model, batch):
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if ".lora_" in name or name.startswith("adapter.")}
    assert {name.split(".")[5] for name in trained if ".lora_" in name} == {"q_proj", "v_proj"}
    model.train()
    assert not any(module.training for module in model.encoder.modules())
    assert model.language_model.training
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        assert name not in trained or parameter.grad.abs().sum() > 0, name
    model.zero_grad(set_to_none=True)
    model.eval()


def test_lora_begins_as_the_base_model():
    torch.manual_seed(0)
    config = {"encoder_config": encoder_config(), "text_config": llama_config(), "image_token_id": IMAGE}
    model = CoGazePrefixForConditionalGeneration(CoGazePrefixConfig(**config)).eval()
    batch = make_batch()
    with_adapters = model(**batch).logits
    assert all(not b.any() for name, b in model.named_parameters() if "lora_B" in name)
    torch.testing.assert_close(model.merge_and_unload()(**batch).logits, with_adapters)


def test_logits_and_loss_are_those_of_the_language_model_behind_the_prompt(model, batch):
    outputs = model(**batch)
    assert outputs.logits.shape == (3, 8, VOCABULARY)
    embed, total, count = model.get_input_embeddings(), 0.0, 0
    latents = model.encode(**{name: batch[name] for name in PICTURES}).last_hidden_state
    for row in range(3):
        one = alone(batch, row)
        ids, report = one["input_ids"][0], one["labels"][0, 1:]
        before, after = ids[: (ids == IMAGE).nonzero()[0]], ids[(ids == IMAGE).nonzero()[-1] + 1 :]
        prefix = latents[row] @ model.adapter.weight.T + model.adapter.bias
        sequence = torch.cat([embed(before), prefix, embed(after), embed(report[:-1])])
        logits = model.language_model(inputs_embeds=sequence[None]).logits[0, len(ids) - 1 :]
        torch.testing.assert_close(outputs.logits[row, : len(report)], logits, rtol=1e-4, atol=1e-4)
        total += -logits.log_softmax(-1)[torch.arange(len(report)), report].sum()
        count += len(report)
    torch.testing.assert_close(outputs.loss, total / count)
    without = model(**prompts_of(batch)).logits
    torch.testing.assert_close(without[:, -1], outputs.logits[:, 0], rtol=1e-4, atol=1e-4)


OTHERS = {
    "gpt2": (GPT2Config(n_embd=24, n_layer=2, n_head=4, **SMALL), ["c_attn"]),
    "qwen2": (Qwen2Config(**LLAMA, **SMALL), ["q_proj", "v_proj"]),
    "gemma2": (Gemma2Config(**LLAMA, **SMALL, head_dim=6, sliding_window=8), ["q_proj", "v_proj"]),
}


@pytest.mark.parametrize("kind", ["llama", *OTHERS])
def test_any_causal_language_model_gives_an_image_the_same_report_in_any_batch(model, batch, kind):
    if kind != "llama":
        text_config, targets = OTHERS[kind]
        model = make_model(text_config, lora_target_modules=targets)
    together = model(**batch)
    generated = model.generate(**prompts_of(batch), max_new_tokens=6, min_new_tokens=6)
    assert generated.shape == (3, 7)
    for row in range(3):
        one = alone(batch, row)
        length = one["labels"].shape[1] - 1
        torch.testing.assert_close(model(**one).logits[0], together.logits[row, :length], rtol=1e-3, atol=1e-4)
        own = model.generate(**prompts_of(one), max_new_tokens=6, min_new_tokens=6)
        assert own[0].tolist() == generated[row].tolist()


def test_image_view_and_context_reach_the_report(model, batch):
    plain = model(**batch).logits
    changes = {
        "pixel_values": torch.flip(batch["pixel_values"], (0,)),
        "view_position_ids": torch.tensor([3, 3, 3]),
        "context_input_ids": batch["context_input_ids"].flip(1),
    }
    for name, value in changes.items():
        assert (model(**batch | {name: value}).logits - plain).abs().max() > 1e-4, name


def test_prompt_without_its_placeholders_is_refused(model, batch):
    batch["input_ids"][1, -1] = IMAGE
    with pytest.raises(ValueError, match=r"\[8, 9, 8\] image placeholders \(id 120\); each needs 8"):
        model(**batch)
    with pytest.raises(ValueError, match="each needs 4"):
        make_model(prefix_latents=["vision"])(**make_batch())


def test_prefix_latents_choose_what_the_language_model_sees(batch):
    vision = make_model(prefix_latents=["vision"])
    assert vision.config.num_image_tokens == LATENTS
    assert vision(**make_batch(LATENTS)).loss.isfinite()
    swapped = make_model(prefix_latents=["context", "vision"])
    latents = swapped.encode(**{name: batch[name] for name in PICTURES})[0]
    turned = torch.cat(latents.chunk(2, dim=1)[::-1], dim=1)
    prompt = make_model().embed_prompt(batch["input_ids"], turned)
    torch.testing.assert_close(swapped.embed_prompt(batch["input_ids"], latents), prompt)


def test_encoded_images_stand_for_the_images(model, batch):
    encoded = model.encode(**{name: batch[name] for name in PICTURES})
    rest = {name: value for name, value in batch.items() if name not in PICTURES}
    torch.testing.assert_close(model(**rest, encoder_outputs=encoded).loss, model(**batch).loss)
    prompts = {name: rest[name] for name in ("input_ids", "attention_mask")}
    again = model.generate(**prompts, encoder_outputs=encoded, max_new_tokens=5)
    assert again.tolist() == model.generate(**prompts_of(batch), max_new_tokens=5).tolist()


def test_steps_of_generation_have_the_teacher_forced_logits(model, batch):
    result = model.generate(
        **prompts_of(batch), max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True, output_logits=True
    )
    assert (result.sequences[:, 0] == BEGIN).all()
    forced = model(**prompts_of(batch), labels=result.sequences).logits
    torch.testing.assert_close(torch.stack(result.logits, dim=1), forced, rtol=1e-3, atol=1e-4)


def test_beams_are_the_same_without_a_cache_and_encode_once(model, batch):
    runs = []
    handle = model.encoder.cogaze.vision_model.register_forward_hook(lambda *args: runs.append(1))
    options = {"num_beams": 4, "max_new_tokens": 7, "num_return_sequences": 2}
    cached = model.generate(**prompts_of(batch), **options)
    handle.remove()
    assert len(runs) == 1
    assert cached.shape[0] == 6
    plain = model.generate(**prompts_of(batch), **options, use_cache=False)
    assert plain.tolist() == cached.tolist()


def test_neither_reference_nor_labels_reach_generation(model, batch):
    expected = model.generate(**prompts_of(batch), max_new_tokens=4)
    more = {"study_ids": torch.arange(3), "report_input_ids": batch["labels"]}
    assert model.generate(**batch, **more, max_new_tokens=4).tolist() == expected.tolist()


def test_default_generation_does_not_sample_whatever_the_base_model_does(bases, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(bases / "llama")
    base.generation_config.update(do_sample=True, temperature=5.0, top_p=0.9, eos_token_id=[END, 7])
    base.save_pretrained(tmp_path / "base")
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        bases / "encoder", tmp_path / "base", image_token_id=IMAGE
    )
    first, second = (model.generate(**prompts_of(make_batch()), max_new_tokens=20) for _ in range(2))
    assert first.tolist() == second.tolist()
    assert model.generation_config.eos_token_id == [END, 7]
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    assert again.generation_config.eos_token_id == [END, 7]
    assert again.generation_config.max_new_tokens == 100


def test_disease_logits_are_the_pretraining_models(bases, on_bases, batch, tmp_path):
    pretrained = CoGazeForPreTraining.from_pretrained(bases / "encoder").eval()
    inputs = {name: batch[name] for name in PICTURES}
    with torch.no_grad():
        expected = pretrained(**inputs).vision_logits
        features = pretrained.cogaze.get_image_features(*inputs.values())
    encoded = on_bases.encode(**inputs)
    torch.testing.assert_close(on_bases.get_disease_logits(encoded), expected)
    torch.testing.assert_close(on_bases.get_image_features(encoded), features.pooler_output)

    CoGazeModel(encoder_config()).save_pretrained(tmp_path / "headless")
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        tmp_path / "headless", bases / "llama", image_token_id=IMAGE
    )
    with pytest.raises(ValueError, match="no disease head"):
        model.get_disease_logits(encoded)


def test_only_adapter_and_lora_are_saved_and_load_onto_the_base_models(on_bases, batch, tmp_path):
    on_bases.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(".lora_" in name or name.startswith("adapter.") for name in saved)
    assert len(saved) == 2 + 2 * 2 * 2
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is CoGazePrefixForConditionalGeneration
    assert not loaded.training
    torch.testing.assert_close(loaded(**batch).logits, on_bases(**batch).logits, rtol=0, atol=0)
    assert all(
        parameter.requires_grad == (".lora_" in name or name.startswith("adapter."))
        for name, parameter in loaded.named_parameters()
    )
    fields = json.loads((tmp_path / "config.json").read_text())
    assert not fields["encoder_config"]["_name_or_path"]
    assert not fields["text_config"]["_name_or_path"]


def test_lora_and_adapter_stay_float32_on_a_bfloat16_base(bases, on_bases, tmp_path):
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        bases / "encoder", bases / "llama", dtype=torch.bfloat16, image_token_id=IMAGE
    )
    assert model.language_model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert model.train()(**make_batch()).loss.isfinite()
    on_bases.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.language_model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in loaded.parameters() if parameter.requires_grad} == {torch.float32}


def test_a_base_model_that_does_not_fit_is_named(bases, on_bases, tmp_path):
    on_bases.save_pretrained(tmp_path / "saved")
    for name, config in {
        "wide": llama_config(hidden_size=32),
        "deep": llama_config(num_hidden_layers=1),
        "heads": llama_config(num_key_value_heads=4),
    }.items():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)

    def load(**elsewhere):
        return AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", **elsewhere)

    with pytest.raises(ValueError, match=r"wide has hidden size 32, the saved adapter is for 24"):
        load(base_model_name_or_path=str(tmp_path / "wide"))
    with pytest.raises(ValueError, match=r"layers\.1\..* and missing in .*deep"):
        load(base_model_name_or_path=str(tmp_path / "deep"))
    with pytest.raises(ValueError, match=r"v_proj.*lora_B.* is \(12, 16\) in the saved weights and \(24, 16\) in"):
        load(base_model_name_or_path=str(tmp_path / "heads"))
    CoGazeForPreTraining(encoder_config(hidden_size=24)).save_pretrained(tmp_path / "encoder")
    with pytest.raises(ValueError, match=r"encoder_name_or_path: .*has hidden size 24, the saved adapter is for 20"):
        load(encoder_name_or_path=str(tmp_path / "encoder"))
    with pytest.raises(ValueError, match=r"is no CoGaze, but 'llama'"):
        load(encoder_name_or_path=str(bases / "llama"))


def test_a_model_without_named_bases_is_saved_in_full(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    assert any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_language_model_that_is_trained_is_saved_along(bases, batch, tmp_path):
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        bases / "encoder", bases / "llama", image_token_id=IMAGE, lora_rank=0, freeze_language_model=False
    ).train()
    assert all(parameter.requires_grad for parameter in model.language_model.parameters())
    model(**batch).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    model.eval().save_pretrained(tmp_path)
    assert not any(name.startswith("encoder.") for name in load_file(tmp_path / "model.safetensors"))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    with pytest.raises(StrictDataclassError, match="base_model_name_or_path: a language model that is trained"):
        CoGazePrefixConfig(base_model_name_or_path="x", freeze_language_model=False)


def test_merged_model_is_a_plain_checkpoint(on_bases, batch, tmp_path):
    on_bases.save_pretrained(tmp_path / "adapters")
    expected = on_bases(**batch).logits
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "adapters").merge_and_unload()
    torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    names = load_file(tmp_path / "merged" / "model.safetensors").keys()
    assert not any("lora" in name or "base_layer" in name for name in names)
    assert any(name.startswith("encoder.cogaze.vision_model.") for name in names)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(loaded(**batch).logits, merged(**batch).logits, rtol=0, atol=0)
    with pytest.raises(ValueError, match="lora_rank: the checkpoint has no LoRA"):
        AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", lora_rank=4)


def test_adapter_and_lora_of_llama_3b_take_less_than_15_megabytes():
    with torch.device("meta"):
        names = {"encoder_name_or_path": "encoder", "base_model_name_or_path": "meta-llama/Llama-3.2-3B-Instruct"}
        model = CoGazePrefixForConditionalGeneration(CoGazePrefixConfig(**names)).to(torch.bfloat16)
    saved = [tensor for name, tensor in model.state_dict().items() if not model._comes_from_elsewhere(name)]
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == sum(tensor.numel() for tensor in saved)
    # Adapter: 768 x 3072 + 3072. LoRA: 28 layers, rank 16, q 3072 -> 3072, v 3072 -> 8 heads of 128.
    assert trained == 769 * 3072 + 28 * 16 * (3072 + 3072 + 3072 + 1024)
    assert sum(tensor.nbytes for tensor in saved) < 15e6
    assert model.config.num_image_tokens == 256


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefix_latents": ["image"]}, "prefix_latents"),
        ({"prefix_latents": []}, "prefix_latents"),
        ({"lora_rank": -1}, "lora_rank: -1 is negative"),
        ({"text_config": {"model_type": "gtp2"}}, "text_config: model_type 'gtp2'"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        CoGazePrefixConfig(**fields)


# Blocks the package, so that an installed one does not count.
CHILD = """
import sys
sys.modules["modeling_cogaze"] = None
sys.modules["processing"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

folder, inputs, results = sys.argv[1:]
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "cogaze_prefix"
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules."), type(processor).__module__
sequences = model.generate(**load_file(inputs), max_new_tokens=6)
prompt = processor(similar_report="clear lungs", diseases=["Edema"])
save_file({"sequences": sequences, "prompt": prompt["input_ids"]}, results)
"""


def test_checkpoint_opens_without_the_package(on_bases, batch, processor, tmp_path):
    folder = tmp_path / "saved"
    on_bases.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file(prompts_of(batch), tmp_path / "inputs.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder, tmp_path / "inputs.safetensors", tmp_path / "results"],
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    results = load_file(tmp_path / "results")
    assert results["sequences"].tolist() == on_bases.generate(**prompts_of(batch), max_new_tokens=6).tolist()
    expected = processor(similar_report="clear lungs", diseases=["Edema"])["input_ids"]
    assert results["prompt"].tolist() == expected.tolist()


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    dataset = load_phantom("train", size=16, image_size=64, num_proc=1, cache_dir=tmp_path_factory.mktemp("phantom"))
    first = {study: row for row, study in reversed(list(enumerate(dataset["study_id"])))}
    return dataset.select(sorted(first.values()))


@pytest.fixture(scope="module")
def processor(studies):
    """Of the prefix model that overfits below."""
    prompts = [message["content"] for message in report_messages("free_text", "<image>", "draft", ["disease"])]
    encoder_processor = CoGazeProcessor.for_model(
        build_tokenizer(studies["findings"], 400), CoGazeConfig.tiny(vision_config={"image_size": 64})
    )
    tokenizer = build_tokenizer([*studies["findings"], *prompts * 10], 1000)
    return CoGazePrefixProcessor.for_language_model(tokenizer, encoder_processor, num_image_tokens=16)


@pytest.fixture(scope="module")
def overfitted(studies, processor):
    """Adapter and LoRA alone, on a random encoder and a random Llama that stay as they are.

    LoRA is on all linear layers, rank 32; the frozen output weights are drawn wide enough to be sure of a token.
    """
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.1}
    vocabulary = len(processor.context_tokenizer)
    config = CoGazePrefixConfig(
        encoder_config=CoGazeConfig.tiny(vocab_size=vocabulary, vision_config={"image_size": 64}, num_latents=8),
        text_config=LlamaConfig(**LLAMA | sizes | special, vocab_size=processor.image_token_id),
        image_token_id=processor.image_token_id,
        lora_rank=32,
        lora_alpha=64,
        lora_dropout=0.0,
        lora_target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )
    model = CoGazePrefixForConditionalGeneration(config).train()
    batch = processor.collate(list(studies), report_labels=True)
    encoded = model.encode(**{name: batch[name] for name in PICTURES})
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    lora = [parameter for name, parameter in model.named_parameters() if ".lora_" in name]
    steps, rate = 110, 5e-3
    groups = [{"params": lora}, {"params": model.adapter.parameters(), "lr": rate / 5}]
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 10) * (1 - 0.9 * s / steps))
    for _ in range(steps):
        loss = model(**inputs, encoder_outputs=encoded).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval(), batch


def test_adapter_and_lora_overfit_sixteen_studies(overfitted, processor, studies):
    model, batch = overfitted
    assert len(studies) == len(set(studies["study_id"])) == 16
    assert model(**batch).loss < 0.3
    reports = processor.decode_reports(model.generate(**batch))
    assert reports == [" ".join(findings.split()) for findings in studies["findings"]]
    beams = processor.decode_reports(model.generate(**batch, num_beams=3))
    assert sum(beam == report for beam, report in zip(beams, reports, strict=True)) >= 14
    # Another image, another report: it is not read off the prompt, which is the same for all.
    assert len({tuple(row) for row in batch["input_ids"].tolist()}) == 1
    assert len(set(reports)) > 10


def test_reports_are_streamed(overfitted, processor):
    model, batch = overfitted
    one = {name: value[:1] for name, value in batch.items()}
    streamer = TextIteratorStreamer(processor.tokenizer, skip_special_tokens=True)
    thread = Thread(target=model.generate, kwargs={**one, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert len([piece for piece in pieces if piece]) > 5
    assert "".join(pieces).strip() == processor.decode_reports(model.generate(**one))[0]


def test_the_pipeline_writes_a_report(overfitted, processor, studies):
    model, _ = overfitted
    write = pipeline("image-text-to-text", model=model, processor=processor)
    options = {"indication": studies[0]["indication"], "max_new_tokens": 20}
    found = write(studies[0]["image"], text="", **options)[0]["generated_text"]
    inputs = processor(images=studies[0]["image"], indication=studies[0]["indication"])
    assert found == processor.decode_reports(model.generate(**inputs, max_new_tokens=20))[0]


def test_sentences_are_grounded_where_the_encoder_says(overfitted, processor):
    model, batch = overfitted
    grounded = model.generate(**batch, return_grounding=True, processor=processor)
    rows = grounded.sentence_report_index
    assert rows.tolist() == sorted(rows.tolist())
    assert set(rows.tolist()) == set(range(16))
    tokens = processor.tokenize_sentences(grounded.sentences)
    with torch.no_grad():
        maps = model.encoder.cogaze.get_gaze_maps(
            batch["pixel_values"], tokens["input_ids"], tokens["attention_mask"], rows, batch["view_position_ids"]
        )
    torch.testing.assert_close(grounded.gaze_maps, maps)
    report = model.generate(**batch, return_dict_in_generate=True, output_logits=True)
    assert report.sequences.tolist() == grounded.sequences.tolist()
    chosen = torch.stack(report.logits, dim=1).softmax(-1).gather(-1, report.sequences[:, 1:, None])[..., 0]
    text, begin, end = processor.locate_sentences(report.sequences)[0][0]
    assert text == grounded.sentences[0]
    assert grounded.text_confidence[0] == pytest.approx(chosen[0, begin - 1 : end - 1].mean().item(), abs=1e-4)
    assert not math.isclose(grounded.text_confidence.min(), grounded.text_confidence.max(), abs_tol=1e-6)
    with pytest.raises(ValueError, match="processor: missing"):
        model.generate(**batch, return_grounding=True)

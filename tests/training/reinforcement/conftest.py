"""Untrained report generators of both kinds, as small as they come."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazeForPreTraining,
    CoGazePrefixForConditionalGeneration,
)
from processing import CoGazePrefixProcessor, CoGazeProcessor
from processing.prompts import report_messages
from processing.tokenization import build_tokenizer
from tests.small import GENERATOR, LLAMA


@pytest.fixture(scope="package")
def generators(small_phantom, tmp_path_factory):
    """Kind of decoder -> folder."""
    folder = tmp_path_factory.mktemp("generators")
    torch.manual_seed(0)
    tokenizer = build_tokenizer(small_phantom["findings"], 400)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **GENERATOR)
    processor = CoGazeProcessor.for_model(tokenizer, config)
    CoGazeForPreTraining(config).save_pretrained(folder / "pretrained")
    processor.save_pretrained(folder / "pretrained")
    CoGazeForConditionalGeneration.from_pretraining(folder / "pretrained", tokenizer).save_pretrained(folder / "cross")
    processor.save_pretrained(folder / "cross")

    prompts = [message["content"] for message in report_messages("free_text", "", "-", "-")]
    words = build_tokenizer([*small_phantom["findings"], *prompts * 10], 600)
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # Weights so far from zero that LoRA has something to turn.
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **special, **LLAMA, initializer_range=0.3))
    prefix = CoGazePrefixProcessor.for_language_model(words, processor, num_image_tokens=8, prompt_parts=["diseases"])
    model = CoGazePrefixForConditionalGeneration.from_base_models(
        folder / "pretrained",
        llama,
        image_token_id=prefix.image_token_id,
        lora_target_modules=["v_proj", "o_proj", "up_proj", "down_proj"],
    )
    model.save_pretrained(folder / "prefix")
    prefix.save_pretrained(folder / "prefix")
    return {"cross_attention": folder / "cross", "prefix": folder / "prefix"}

"""Beam search finds what transformers' own search finds, and reads each image once for all its beams."""

import pytest
import torch

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration, EgmaConfig, EgmaForConditionalGeneration
from modeling_cogaze.beam_search import SharedCrossAttention, TokenProbabilities
from modeling_cogaze.report_generation import EncodedImages
from tests import small

SIZES = {
    "cogaze": (CoGazeConfig, CoGazeForConditionalGeneration, small.COGAZE),
    "egma": (EgmaConfig, EgmaForConditionalGeneration, small.EGMA),
}
WORDS = 330


class Tokens:
    """As much of a tokenizer as a decoder's config asks for."""

    cls_token_id = sep_token_id = None
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self):
        return WORDS


@pytest.fixture(scope="module", params=SIZES)
def model(request):
    config, kind, size = SIZES[request.param]
    torch.manual_seed(1)
    # Wide weights: else all random decoders repeat one token.
    made = config.tiny(**size | {"vocab_size": WORDS}).add_decoder(Tokens(), initializer_range=0.4)
    return kind(made).eval()


@pytest.fixture(scope="module")
def encoded(model):
    """Five encoded images that differ more than random pictures under random weights do."""
    memory = model.encode(pixel_values=torch.zeros(5, 3, 64, 64))[0]
    return EncodedImages(last_hidden_state=2 * torch.randn(memory.shape, generator=torch.Generator().manual_seed(0)))


# Many tokens end a report, so that images are done at different steps.
ENDS = list(range(2, 40))
SEARCHES = [
    {},
    {"eos_token_id": ENDS},
    {"eos_token_id": ENDS, "early_stopping": True, "num_return_sequences": 4},
    {"eos_token_id": ENDS, "early_stopping": "never", "length_penalty": 2.0},
    {"eos_token_id": ENDS, "length_penalty": 0.0, "num_return_sequences": 2},
    {"eos_token_id": ENDS, "min_new_tokens": 6, "no_repeat_ngram_size": 2, "num_return_sequences": 4},
    {"eos_token_id": ENDS, "pad_token_id": 5, "repetition_penalty": 1.3, "decoder_input_ids": torch.full((5, 3), 9)},
]


@pytest.mark.parametrize("options", SEARCHES)
def test_it_finds_what_transformers_search_finds(model, encoded, options):
    search = {"num_beams": 4, "max_length": 20} | options
    found = model.generate(encoder_outputs=encoded, **search)
    theirs = model.generate(encoder_outputs=encoded, **search, return_dict_in_generate=True).sequences
    assert torch.equal(found, theirs)
    lengths = (found != found[:, -1:]).sum(dim=1)
    assert "eos_token_id" not in options or len(set(lengths.tolist())) > 1


def test_an_image_is_read_once_for_all_beams_and_steps(model, encoded):
    rows = []
    cross = [each for each in model.decoder.modules() if isinstance(each, SharedCrossAttention)]
    hooks = [
        each.c_attn.register_forward_hook(lambda module, inputs, outputs: rows.append(len(inputs[0]))) for each in cross
    ]
    try:
        model.generate(encoder_outputs=encoded, num_beams=4, max_new_tokens=6)
    finally:
        for hook in hooks:
            hook.remove()
    assert cross and rows == [len(encoded[0])] * len(cross)


def test_beams_that_share_an_image_get_its_attention(model, encoded):
    two = encoded[0][:2]
    tokens = torch.randint(3, WORDS, (6, 7), generator=torch.Generator().manual_seed(0))
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            shared, each = (
                model(decoder_input_ids=tokens, encoder_outputs=(memory,), output_attentions=True, use_cache=False)
                for memory in (two, two.repeat_interleave(3, dim=0))
            )
    finally:
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(shared.logits, each.logits, rtol=1e-4, atol=1e-5)
    for own, other in zip(shared.cross_attentions, each.cross_attentions, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 4},
        {
            "num_beams": 4,
            "eos_token_id": ENDS,
            "num_return_sequences": 2,
            "min_new_tokens": 4,
            "repetition_penalty": 2.0,
        },
        {"eos_token_id": ENDS, "repetition_penalty": 2.0},
        {"do_sample": True, "temperature": 3.0, "num_return_sequences": 2},
    ],
)
def test_the_search_tells_the_probability_of_each_token(model, encoded, options):
    told = TokenProbabilities()
    sequences = model.generate(encoder_outputs=encoded, max_new_tokens=12, logits_processor=[told], **options)
    image_of = torch.arange(len(sequences)) // (len(sequences) // len(encoded[0]))
    expected = model._token_probabilities(sequences, encoded[0], image_of)
    ends = torch.isin(sequences, torch.tensor(options.get("eos_token_id", [2]))).long()
    written = ends.cumsum(dim=1) - ends == 0  # up to the first token that ends a report
    torch.testing.assert_close(told.values[written], expected[written].detach(), rtol=1e-4, atol=1e-6)

"""Constrained generation: whatever a model wants to write, a valid structured report comes out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

from processing.reports import STRUCTURED_HEADERS, parse_structured, structured_validity, write_structured
from processing.structured_generation import StructuredReportLogitsProcessor
from processing.tokenization import build_tokenizer

TEXTS = [
    "There is a small left pleural effusion. No pneumothorax.",
    "Pleura:\n- No effusion.\n- Other",
    "Heart: normal",
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEXTS * 3, 330)


@pytest.fixture(scope="module")
def endless(tokenizer):
    return StructuredReportLogitsProcessor(tokenizer)


def written(tokenizer, constraint, length, seed, likes_breaks, likes_end):
    """Reports drawn from random scores."""
    generator = torch.Generator().manual_seed(seed)
    ids, done = torch.full((2, 1), tokenizer.bos_token_id), torch.zeros(2, dtype=torch.bool)
    while ids.shape[1] < length and not done.all():
        scores = 3 * torch.randn(2, len(tokenizer) + 5, generator=generator)
        scores[:, tokenizer.convert_tokens_to_ids("Ċ")] += likes_breaks
        scores[:, tokenizer.eos_token_id] += likes_end
        chosen = torch.multinomial(constraint(ids, scores).softmax(dim=-1), 1, generator=generator)[:, 0]
        chosen[done] = tokenizer.pad_token_id
        done |= chosen == tokenizer.eos_token_id
        ids = torch.cat([ids, chosen[:, None]], dim=1)
    return [tokenizer.decode(row, skip_special_tokens=True) for row in ids]


@given(st.integers(0, 10_000), st.integers(30, 90), st.floats(-5, 15), st.floats(-20, 5))
@settings(max_examples=12, deadline=None)
def test_any_scores_give_a_valid_report_of_any_length(tokenizer, seed, length, likes_breaks, likes_end):
    constraint = StructuredReportLogitsProcessor(tokenizer, max_length=length)
    for report in written(tokenizer, constraint, length, seed, likes_breaks, likes_end):
        assert structured_validity(report) == 1.0, report
        sections = parse_structured(report)
        assert sections and all(sections.values())


def allowed(constraint, tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    scores = constraint(torch.tensor([[tokenizer.bos_token_id, *ids]]), torch.zeros(1, len(tokenizer)))
    return {tokenizer.decode([token]) for token in scores[0].isfinite().nonzero()[:, 0].tolist()}


def test_what_may_follow(tokenizer, endless):
    end = tokenizer.eos_token
    begins = {header[0] for header in STRUCTURED_HEADERS}
    assert {token.strip()[:1] for token in allowed(endless, tokenizer, "")} <= begins | {""}
    assert end not in allowed(endless, tokenizer, "Pleura:\n-")
    assert "\n" not in allowed(endless, tokenizer, "Pleura:\n-")
    assert {end, "\n", " No"} <= allowed(endless, tokenizer, "Pleura:\n- No effusion.")
    # Another bullet, or an empty line and one of the headers that come later.
    assert allowed(endless, tokenizer, "Pleura:\n- No effusion.\n") == {"-", "\n"}
    after = allowed(endless, tokenizer, "Hila and Mediastinum:\n- Normal.\n\n")
    assert {token[0] for token in after} == {"T", "M", "A", "O"}
    assert allowed(endless, tokenizer, "Other:\n- Normal.\n") == {"-"}


@given(
    st.dictionaries(
        st.sampled_from(STRUCTURED_HEADERS),
        st.lists(st.sampled_from(["No effusion.", "small nodule", "1.2 cm, left - stable"]), min_size=1, max_size=3),
        min_size=1,
    )
)
@settings(max_examples=20, deadline=None)
def test_every_written_report_can_be_generated(tokenizer, endless, sections):
    ids = tokenizer(write_structured(sections), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    for place, token in enumerate(ids):
        scores = endless(torch.tensor([[tokenizer.bos_token_id, *ids[:place]]]), torch.zeros(1, len(tokenizer)))
        assert scores[0, token].isfinite(), tokenizer.decode(ids[: place + 1])


def test_a_prompt_of_any_length_may_stand_before(tokenizer, endless):
    behind = StructuredReportLogitsProcessor(tokenizer, begin_index=4)
    report = tokenizer("Pleura:\n- No", add_special_tokens=False)["input_ids"]
    scores = torch.zeros(1, len(tokenizer))
    after_prompt = behind(torch.tensor([[5, 6, 7, 8, *report]]), scores)
    assert torch.equal(after_prompt, endless(torch.tensor([[tokenizer.bos_token_id, *report]]), scores))


def test_what_cannot_be_done_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="max_length: 4"):
        StructuredReportLogitsProcessor(tokenizer, max_length=4)
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "pleura", ":", "-", "no"]))
    with pytest.raises(ValueError, match="line breaks"):
        StructuredReportLogitsProcessor(BertTokenizer(str(vocabulary)))

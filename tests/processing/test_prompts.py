import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processing.prompts import encode_prompt, last_tokens, render_prompt, report_messages
from processing.reports import STRUCTURED_HEADERS
from processing.tokenization import build_tokenizer

IMAGE = "<image>"
LONG = " ".join(f"The lungs are clear at level {level}." for level in range(80))
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WITHOUT_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
# Llama 3's templates date every prompt like this.
DATED = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y %f') %}{% endif %}" + (
    "{{ date_string }}" + TEMPLATE
)


def make_tokenizer(template=None):
    messages = [report_messages(kind, IMAGE, LONG, ["Edema"]) for kind in ("free_text", "structured")]
    texts = [message["content"] for pair in messages for message in pair]
    tokenizer = build_tokenizer(texts * 3, 1000)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.mark.parametrize("kind", ["free_text", "structured"])
def test_what_is_missing_is_left_out_with_its_instructions(kind):
    system, user = report_messages(kind, IMAGE, "A draft.", ["Edema", "Fracture"])
    assert system["role"] == "system"
    assert user["role"] == "user"
    for text in (IMAGE, "similar case: A draft.", "Edema, Fracture", "Revise the draft", "only if the image supports"):
        assert user["content"].count(text) == 1
    without_draft = report_messages(kind, IMAGE, "", ["Edema"])[1]["content"]
    assert "draft" not in without_draft.lower()
    assert "Edema" in without_draft
    bare = report_messages(kind, IMAGE)[1]["content"]
    assert "disease" not in bare
    assert "None" not in bare
    assert "\n\n" not in bare


def test_structured_prompt_lists_the_headers_and_free_text_does_not():
    structured, free = (report_messages(kind, IMAGE)[0]["content"] for kind in ("structured", "free_text"))
    places = [structured.index(f"{header}:") for header in STRUCTURED_HEADERS]
    assert places == sorted(places)
    assert "bullet" in structured
    assert not any(f"{header}:" in free for header in STRUCTURED_HEADERS)
    with pytest.raises(ValueError, match="report_kind: 'long' is none of"):
        report_messages("long", IMAGE)


def test_the_tokenizers_own_template_is_used():
    tokenizer = make_tokenizer(TEMPLATE)
    system, user = (message["content"] for message in report_messages("free_text", IMAGE))
    expected = f"{tokenizer.bos_token}<system>{system}\n<user>{user}\n<assistant>"
    assert render_prompt(tokenizer, report_messages("free_text", IMAGE)) == expected


def test_a_template_without_system_messages_gets_one_user_message():
    tokenizer = make_tokenizer(WITHOUT_SYSTEM)
    system, user = (message["content"] for message in report_messages("free_text", IMAGE))
    expected = f"{tokenizer.bos_token}<user>{system}\n\n{user}\n<assistant>"
    assert render_prompt(tokenizer, report_messages("free_text", IMAGE)) == expected


def test_a_prompt_does_not_depend_on_the_day():
    tokenizer = make_tokenizer(DATED)
    assert len({render_prompt(tokenizer, report_messages("free_text", IMAGE)) for _ in range(3)}) == 1


def test_without_a_template_the_plain_form_ends_where_the_findings_begin(tokenizer):
    system, user = (message["content"] for message in report_messages("free_text", IMAGE))
    text = render_prompt(tokenizer, report_messages("free_text", IMAGE))
    assert text == f"{tokenizer.bos_token}{system}\n\n{user}\n\nFindings:\n"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60), st.integers(0, 20))
def test_last_tokens_are_the_end_of_the_text(tokenizer, text, count):
    cut = last_tokens(tokenizer, text, count)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) <= count:
        assert cut == text
    else:
        assert len(tokenizer(cut, add_special_tokens=False)["input_ids"]) <= count
        assert cut.lstrip("\ufffd").strip() in text


def test_similar_report_is_cut_from_the_left_to_its_length_and_to_the_prompts(tokenizer):
    def draft_in(prompt):
        text = tokenizer.decode(prompt)
        return text.partition("similar case: ")[2].partition("\nPredicted")[0].partition("\nRevise")[0]

    def size(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    whole = encode_prompt(tokenizer, "free_text", IMAGE, "The lungs are clear.", ["Edema"])
    assert draft_in(whole) == "The lungs are clear."
    cut = draft_in(encode_prompt(tokenizer, "free_text", IMAGE, LONG, ["Edema"]))
    assert LONG.endswith(cut)
    assert 95 <= size(cut) <= 100
    bare = len(encode_prompt(tokenizer, "free_text", IMAGE))
    prompt = encode_prompt(tokenizer, "free_text", IMAGE, LONG, max_prompt_length=bare + 60)
    assert len(prompt) <= bare + 60
    assert LONG.endswith(draft_in(prompt))
    assert 0 < size(draft_in(prompt)) < 60
    # No room for any of it: as if there were none.
    assert encode_prompt(tokenizer, "free_text", IMAGE, LONG, max_prompt_length=bare) == encode_prompt(
        tokenizer, "free_text", IMAGE
    )
    with pytest.raises(ValueError, match=f"max_prompt_length: the prompt takes {bare} tokens"):
        encode_prompt(tokenizer, "free_text", IMAGE, LONG, max_prompt_length=bare - 1)


def test_a_template_that_loses_the_image_is_named():
    with pytest.raises(ValueError, match="chat template does not leave one <image>"):
        encode_prompt(make_tokenizer("{{ bos_token }}Hello"), "free_text", IMAGE)

"""Prompts for a language model that reads an image's latents: a draft from a similar case, predicted diseases."""

import re
from collections.abc import Sequence

from jinja2 import TemplateError

from .reports import STRUCTURED_HEADERS

REPORT_KINDS = ("free_text", "structured")
# What a prompt may have beside the image.
PROMPT_PARTS = ("similar_report", "diseases")

_SYSTEM = {
    "free_text": "You are a radiologist. Generate a concise, accurate Findings section for a chest X-ray.",
    "structured": (
        "You are a radiologist. Generate a concise, accurate Findings section for a chest X-ray, structured by these "
        "headers:\n"
        + "\n".join(f"{header}:" for header in STRUCTURED_HEADERS)
        + "\nUse a header only where there is something to report, and write each finding under it as a bullet point."
    ),
}
# Prompts in the layout of the released code (its `conv_gazerg_v0904` and `conv_srrg_v1001`): Llama 3's tokens without
# the chat template's dates, numbered inputs, instructions as a list; no answer's header is preceded by an end of turn
# where the prompt is the image alone. The sentences are this project's: the authors' come without a licence. To have
# theirs, give them as `prompt_template`.
_SYSTEM_TURN = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>"
_USER_TURN = "<|start_header_id|>user<|end_header_id|>\n\n"
_ANSWER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
RELEASED_PROMPTS = {
    "free_text": (
        _SYSTEM_TURN.format(_SYSTEM["free_text"] + "\n\n")
        + _USER_TURN
        + "Input:\n1. Image: {image}\n2. Similar report: {similar_report}\n3. Predicted diseases: {diseases}\n"
        "Instructions:\n"
        "- Begin with the similar report.\n"
        "- Correct it until it agrees with the image.\n"
        "- Mention a predicted disease only where the image shows it.\n"
        "Write the Findings section and nothing else.<|eot_id|>\n" + _ANSWER
    ),
    "structured": _SYSTEM_TURN.format(_SYSTEM["structured"]) + _USER_TURN + "Image: {image}" + _ANSWER,
}
# Llama 3's template writes the day's date into every prompt unless it is given one.
_TEMPLATE_ARGUMENTS = {"date_string": "26 Jul 2024", "enable_thinking": False}

# What a chat's contents become before the tokenizer's own template: texts, with the placeholder for an image.
_CONTENTS = """
{%- if date_string is not defined -%}{%- set date_string = "DATE" -%}{%- endif -%}
{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}
{%- set flat = namespace(messages=[], lines=[]) -%}
{%- for message in messages -%}
{%- if message["content"] is string -%}
{%- set flat.lines = [message["content"]] -%}
{%- else -%}
{%- set flat.lines = [] -%}
{%- for part in message["content"] -%}
{%- set flat.lines = flat.lines + ["Chest X-ray: IMAGE" if part["type"] == "image" else part["text"]] -%}
{%- endfor -%}
{%- endif -%}
{%- set flat.messages = flat.messages + [{"role": message["role"], "content": flat.lines | join("\n")}] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""
_PLAIN = """
{%- if bos_token is defined and bos_token -%}{{ bos_token }}{%- endif -%}
{%- for message in messages -%}{{ message["content"] + "\n\n" }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ "Findings:\n" }}{%- endif -%}
"""


def image_chat_template(tokenizer, image_token: str) -> str:
    """A template for chats whose contents are texts or lists of texts and images, behind the tokenizer's own.

    An image is "Chest X-ray: " and the placeholder, so that a chat with the messages of `report_messages` is the prompt
    of `render_prompt`.
    """
    contents = _CONTENTS.replace("DATE", _TEMPLATE_ARGUMENTS["date_string"]).replace("IMAGE", image_token)
    own = tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own is None:
        own = _PLAIN
    # A tokenizer that was saved with a processor comes back with the processor's.
    return own if own.startswith(contents.strip()) else contents.strip() + own


def report_messages(
    kind: str, image_token: str, similar_report: str = "", diseases: Sequence[str] = ()
) -> list[dict[str, str]]:
    """A system and a user message that ask for a report; what is empty is left out, with the instructions for it.

    Args:
        kind: "free_text" or "structured" (SRRG's eight headers).
        image_token: stands where the image is.
        similar_report: findings of the most similar training case, as a draft.
        diseases: names of the predicted diseases.

    Raises:
        ValueError: unknown kind.
    """
    if kind not in REPORT_KINDS:
        raise ValueError(f"report_kind: {kind!r} is none of {REPORT_KINDS}.")
    lines = [f"Chest X-ray: {image_token}"]
    instructions = []
    if similar_report:
        lines.append(f"Draft, from a similar case: {similar_report}")
        instructions.append(
            "Revise the draft by the image: keep what it shows, correct what differs, remove what is absent, add what "
            "is missing."
        )
    if diseases:
        lines.append(f"Predicted diseases: {', '.join(diseases)}")
        instructions.append("Use a predicted disease only if the image supports it.")
    instructions.append("Write the Findings section and nothing else.")
    user = "\n".join([*lines, " ".join(instructions)])
    return [{"role": "system", "content": _SYSTEM[kind]}, {"role": "user", "content": user}]


def render_prompt(tokenizer, messages: Sequence[dict[str, str]]) -> str:
    """The messages as text, in the tokenizer's own chat template, up to where the answer begins.

    Where a template knows no system message, its text stands before the user's. A tokenizer without a template gets a
    plain form: its beginning-of-text token if it has one, the messages' texts one below the other, and "Findings:".
    """
    if tokenizer.chat_template is None:
        texts = [message["content"] for message in messages]
        return (tokenizer.bos_token or "") + "\n\n".join([*texts, "Findings:\n"])
    arguments = {"tokenize": False, "add_generation_prompt": True} | _TEMPLATE_ARGUMENTS
    try:
        return tokenizer.apply_chat_template(messages, **arguments)
    except TemplateError:
        joined = "\n\n".join(message["content"] for message in messages)
        return tokenizer.apply_chat_template([{"role": "user", "content": joined}], **arguments)


def last_tokens(tokenizer, text: str, count: int) -> str:
    """The end of a text, of at most `count` tokens: cut from the left."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    keep = count
    # What is left may take more tokens by itself, where the cut goes through a word.
    while len(ids) > count:
        text = tokenizer.decode(ids[-keep:]).strip() if keep > 0 else ""
        ids, keep = tokenizer(text, add_special_tokens=False)["input_ids"], keep - 1
    return text


def encode_prompt(
    tokenizer,
    kind: str,
    image_token: str,
    similar_report: str = "",
    diseases: Sequence[str] = (),
    max_similar_report_length: int = 100,
    max_prompt_length: int = 400,
    template: str | None = None,
) -> list[int]:
    """Token ids of a prompt with the image's placeholder in it once.

    The similar report is cut from the left to `max_similar_report_length` tokens, and further where the prompt would
    have more than `max_prompt_length`; a chat template must stay whole.

    Args:
        template: the whole prompt, as `prompt_template` of `CoGazePrefixProcessor`; then `kind` says nothing.

    Raises:
        ValueError: all else has more tokens than `max_prompt_length`; the chat template loses the placeholder.
    """

    def encode(draft: str) -> list[int]:
        if template is None:
            prompt = render_prompt(tokenizer, report_messages(kind, image_token, draft, diseases))
        else:
            parts = {"image": image_token, "similar_report": draft, "diseases": ", ".join(diseases)}
            prompt = re.sub(r"\{(image|similar_report|diseases)\}", lambda match: parts[match[1]], template)
        return tokenizer(prompt, add_special_tokens=False)["input_ids"]

    kept = max_similar_report_length
    ids = encode(last_tokens(tokenizer, similar_report, kept))
    while len(ids) > max_prompt_length and kept > 0:
        kept = max(0, kept - (len(ids) - max_prompt_length))
        ids = encode(last_tokens(tokenizer, similar_report, kept))
    if len(ids) > max_prompt_length:
        raise ValueError(
            f"max_prompt_length: the prompt takes {len(ids)} tokens of this tokenizer without any similar report; "
            f"{max_prompt_length} are too few."
        )
    if ids.count(tokenizer.convert_tokens_to_ids(image_token)) != 1:
        raise ValueError(f"tokenizer: its chat template does not leave one {image_token} where the image stands.")
    return ids

"""Report text as the papers' scoring protocol takes it."""

import re
from collections.abc import Sequence

from ..scores import MetricUnavailable


def protocol_text(text: str) -> str:
    """One line of printable ASCII in which every "." stands alone; case stays, and there is no other tokenization.

    White space of any kind counts as a space, runs of it as one, and characters outside printable ASCII are deleted
    (the protocol of CoGaze's released evaluation).
    """
    text = re.sub(r"[^\x20-\x7e]", "", re.sub(r"\s+", " ", text))
    return re.sub(" +", " ", text.replace(".", " .")).strip()


def load_tokenizer(name: str, argument: str):
    """A tokenizer by folder or Hub id; raises MetricUnavailable that names `argument`."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MetricUnavailable(
            f"no tokenizer at {name!r}, neither as a folder nor on the Hub ({reason}); give one with --{argument}."
        ) from error


def cut_to_tokens(texts: Sequence[str], tokenizer, max_tokens: int = 100) -> list[str]:
    """Texts cut to `max_tokens` tokens, of which the beginning-of-sequence token is one, and decoded again.

    The first word is tokenized as one that follows a space, as in the report generator's `<|endoftext|> {report}`.
    """
    cut = []
    for text in texts:
        ids = tokenizer(" " + text.strip(), add_special_tokens=False)["input_ids"][: max_tokens - 1]
        cut.append(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip())
    return cut

"""Generation that can write nothing but valid structured reports."""

import re
from bisect import bisect_left
from typing import Any

import torch
from transformers import LogitsProcessor

from .reports import STRUCTURED_HEADERS

_BULLET = "- "
_WORD = re.compile(r"\w")


class StructuredReportLogitsProcessor(LogitsProcessor):
    """Lets through only tokens that lead to a report as `write_structured` writes them.

    Headers are the template's, in its order, each with a bullet at least; a bullet has a word at least, and the report
    ends behind one. What is generated so has `structured_validity` 1. Takes part in any search of `generate`.

    Args:
        tokenizer: writes line breaks (GPT-2's and Llama 3's do, BERT's do not).
        begin_index: how many tokens stand before the report: 1 for a decoder's start, a prompt's length otherwise.
        max_length: of a whole sequence, what stands before the report included. Sections are begun only where they
            can be finished within it; None leaves a report that is cut off as it is.
        end_token_id: ends the report; by default the tokenizer's end, or BERT's [SEP].

    Raises:
        ValueError: the tokenizer cannot write the template; max_length leaves no room for the shortest report.
    """

    def __init__(self, tokenizer, begin_index: int = 1, max_length: int | None = None, end_token_id: int | None = None):
        self.begin_index = begin_index
        self.max_length = max_length
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        self.end = end if end_token_id is None else end_token_id
        self.texts = _token_texts(tokenizer)
        self._ids: dict[str, list[int]] = {}
        for token, text in self.texts.items():
            self._ids.setdefault(text, []).append(token)
        self._sorted = sorted(self._ids)
        # States: ("literal", ((what is still to be written, the header's rank), ...)), ("text", rank, has a word),
        # ("end",). The token before a report may bring the tokenizer's leading space.
        self._start = ("literal", tuple((space + text, rank) for space in ("", " ") for text, rank in _sections(-1)))
        self._states: dict[tuple[int, ...], tuple] = {}
        self._masks: dict[tuple, torch.Tensor] = {}
        self._allowed: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}
        self._spellings: dict[str, float] = {"": 0}
        needed = self._cost(self._start)
        if needed == float("inf"):
            raise ValueError("tokenizer: it cannot write line breaks and the template's headers; take GPT-2's.")
        # Above this many tokens left, any section can be finished.
        self._ample = 2 + max(self._spelled("\n\n" + text) for text, _ in _sections(-1))
        if max_length is not None and max_length - begin_index < needed:
            raise ValueError(f"max_length: {max_length} leaves no room for the shortest report, {needed} tokens.")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        left = self._ample
        if self.max_length is not None:
            left = min(left, self.max_length - input_ids.shape[1])
        states = {}
        for row in input_ids[:, self.begin_index :].tolist():
            key = tuple(row)
            if key not in states:
                states[key] = self._state_after(key)
        self._states = states
        masks = [self._mask(states[tuple(row)], left, scores) for row in input_ids[:, self.begin_index :].tolist()]
        return scores.masked_fill(~torch.stack(masks), -float("inf"))

    def _state_after(self, tokens: tuple[int, ...]) -> tuple:
        if not tokens:
            return self._start
        known = self._states.get(tokens[:-1])
        state, rest = (self._start, tokens) if known is None else (known, tokens[-1:])
        for token in rest:
            # What was never allowed (a beam without a way out) can only end.
            state = self._next(state, token) or ("end",)
        return state

    def _next(self, state: tuple, token: int) -> tuple | None:
        """The state behind a token; None where it is not allowed."""
        if token == self.end or state == ("end",):
            return ("end",) if state == ("end",) or (state[0] == "text" and state[2]) else None
        text = self.texts.get(token)
        if text is None:
            return None
        if state[0] == "literal":
            return _written(state[1], text)
        _, rank, has_word = state
        before, line_break, after = text.partition("\n")
        if not _is_text(before):
            return None
        has_word = has_word or bool(_WORD.search(before))
        if not line_break:
            return ("text", rank, has_word)
        below = ((_BULLET, rank), *(("\n" + section, own) for section, own in _sections(rank)))
        return _written(below, after) if has_word else None

    def _mask(self, state: tuple, left: float, scores: torch.Tensor) -> torch.Tensor:
        """(V,) bool: tokens that are allowed and, with `left` tokens to go, leave enough of them."""
        key = (state, left, scores.shape[-1], scores.device)
        if key not in self._masks:
            tokens, costs = self._transitions(state)
            mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
            mask[tokens[costs < left]] = True
            self._masks[key] = mask.to(scores.device)
        return self._masks[key]

    def _transitions(self, state: tuple) -> tuple[torch.Tensor, torch.Tensor]:
        """Allowed tokens, and the fewest tokens that are needed behind each."""
        if state not in self._allowed:
            tokens = [self.end]
            if state[0] != "end":
                tokens += self.texts if state[0] == "text" else self._spelling(text for text, _ in state[1])
            then = {token: behind for token in tokens if (behind := self._next(state, token)) is not None}
            costs = torch.tensor([self._cost(behind) for behind in then.values()])
            self._allowed[state] = torch.tensor(list(then), dtype=torch.long), costs
        return self._allowed[state]

    def _spelling(self, texts) -> set[int]:
        """Tokens that begin one of the texts, or that one of them begins."""
        found = set()
        for text in texts:
            for length in range(1, len(text)):
                found.update(self._ids.get(text[:length], ()))
            place = bisect_left(self._sorted, text)
            while place < len(self._sorted) and self._sorted[place].startswith(text):
                found.update(self._ids[self._sorted[place]])
                place += 1
        return found

    def _cost(self, state: tuple) -> float:
        """The fewest tokens that complete the report, its end left aside."""
        if state[0] == "literal":
            return 1 + min(self._spelled(text) for text, _ in state[1])
        return float(state[0] == "text" and not state[2])

    def _spelled(self, text: str) -> float:
        """The fewest tokens that write a text."""
        if text not in self._spellings:
            begun = (self._spelled(text[end:]) for end in range(1, len(text) + 1) if text[:end] in self._ids)
            self._spellings[text] = 1 + min(begun, default=float("inf"))
        return self._spellings[text]


def _sections(rank: int) -> list[tuple[str, int]]:
    """What may begin behind the section of that rank: header and bullet, and the header's rank."""
    return [(f"{header}:\n{_BULLET}", own) for own, header in enumerate(STRUCTURED_HEADERS) if own > rank]


def _written(literals: tuple[tuple[str, int], ...], text: str) -> tuple | None:
    """The state after `text`, where one of the literals was to come."""
    for literal, rank in literals:
        if text.startswith(literal):
            rest = text[len(literal) :]
            return ("text", rank, bool(_WORD.search(rest))) if _is_text(rest) else None
    left = tuple((literal[len(text) :], rank) for literal, rank in literals if literal.startswith(text))
    return ("literal", left) if left else None


def _is_text(text: str) -> bool:
    """Whether a bullet may hold it: whole characters, no line break of any kind."""
    return "\ufffd" not in text and len(f"a{text}a".splitlines()) == 1


def _token_texts(tokenizer) -> dict[int, str]:
    """What each token writes behind another one; special tokens left out."""
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    before = len(tokenizer.decode(anchor))
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ids = [token for token in range(len(tokenizer)) if token not in special]
    texts = tokenizer.batch_decode([anchor + [token] for token in ids])
    return {token: text[before:] for token, text in zip(ids, texts, strict=True) if len(text) > before}

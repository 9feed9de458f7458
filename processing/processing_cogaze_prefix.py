"""The processor of CoGaze before a language model: its pictures and context, and prompts."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, LogitsProcessorList
from transformers.processing_utils import ProcessingKwargs, Unpack

from .processing_cogaze import VIEW_POSITIONS, CoGazeProcessor
from .prompts import PROMPT_PARTS, RELEASED_PROMPTS, REPORT_KINDS, encode_prompt, image_chat_template
from .structured_generation import StructuredReportLogitsProcessor


class CoGazePrefixProcessor(CoGazeProcessor):
    """Turns a radiograph, its context, a similar report and predicted diseases into a language model's inputs.

    The prompt is in the tokenizer's own chat template, or, where it has none, in the plain form of `render_prompt`.

    Args:
        image_processor, view_positions, grid_size, max_context_length, max_characters, context_format,
            scaled_decoding, max_companions: as in the encoder's own `CoGazeProcessor`.
        tokenizer: the language model's. A copy of it learns the placeholder where it is not among its tokens.
        context_tokenizer: the encoder's, for indication and history.
        num_image_tokens: placeholders of an image in the prompt.
        report_kind: "free_text" or "structured" (SRRG's headers).
        prompt_parts: which of "similar_report" and "diseases" the prompt has; the other is left out where it is given.
        image_token: the placeholder.
        max_similar_report_length: tokens of the similar report that are kept, the last ones.
        max_prompt_length: tokens of a prompt, the image's apart; the similar report is cut further to keep to it.
        max_report_length, max_transcript_length: as in `CoGazeProcessor`.
        chat_template: of `apply_chat_template`; by default the tokenizer's own, for contents that hold an image.
        prompt_template: the whole prompt, with the language model's own special tokens and with `{image}`,
            `{similar_report}` and `{diseases}` where these stand; "released" is `RELEASED_PROMPTS`', for Llama 3; None:
            `report_messages` in the tokenizer's chat template.

    Raises:
        ValueError: unknown report_kind, a prompt_template without `{image}`, or a tokenizer without a token that ends a
            text.
    """

    def __init__(
        self,
        image_processor,
        tokenizer,
        context_tokenizer,
        num_image_tokens: int = 256,
        report_kind: str = "free_text",
        prompt_parts: Sequence[str] = PROMPT_PARTS,
        image_token: str = "<image>",
        max_similar_report_length: int = 100,
        max_prompt_length: int = 400,
        view_positions: Sequence[str] = VIEW_POSITIONS,
        grid_size: Sequence[int] = (37, 37),
        max_context_length: int = 300,
        max_report_length: int = 200,
        max_transcript_length: int = 100,
        max_characters: int = 20_000,
        context_format: str = "sections",
        chat_template: str | None = None,
        prompt_template: str | None = None,
        scaled_decoding: bool = False,
        max_companions: int = 0,
    ):
        if report_kind not in REPORT_KINDS:
            raise ValueError(f"report_kind: {report_kind!r} is none of {REPORT_KINDS}.")
        if not set(prompt_parts) <= set(PROMPT_PARTS):
            raise ValueError(f"prompt_parts: {list(prompt_parts)} is not made of {list(PROMPT_PARTS)}.")
        if prompt_template not in (None, "released") and prompt_template.count("{image}") != 1:
            raise ValueError("prompt_template: it must have {image} once, where the image stands.")
        if tokenizer.eos_token_id is None:
            raise ValueError("tokenizer: it has no token that ends a report; set its eos_token.")
        if image_token not in tokenizer.get_vocab():
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.add_tokens([image_token], special_tokens=True)
        super().__init__(
            image_processor,
            tokenizer,
            view_positions,
            grid_size,
            max_context_length,
            max_report_length,
            max_transcript_length,
            max_characters,
            context_format,
            scaled_decoding=scaled_decoding,
            max_companions=max_companions,
            context_tokenizer=context_tokenizer,
            chat_template=chat_template or image_chat_template(tokenizer, image_token),
        )
        self.num_image_tokens = num_image_tokens
        self.report_kind = report_kind
        self.prompt_parts = list(prompt_parts)
        self.image_token = image_token
        self.prompt_template = prompt_template
        self.max_similar_report_length = max_similar_report_length
        self.max_prompt_length = max_prompt_length
        # Llama's tokenizer counts few of its reserved tokens among `all_special_tokens`.
        special = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        special |= {*self.tokenizer.all_special_tokens, *context_tokenizer.all_special_tokens}
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))

    @classmethod
    def for_language_model(cls, tokenizer, encoder_processor: CoGazeProcessor, **options) -> "CoGazePrefixProcessor":
        """The processor of a language model behind an encoder.

        Args:
            tokenizer: the language model's.
            encoder_processor: the encoder's own.
            options: of the class, such as `num_image_tokens` and `report_kind`.
        """
        lengths = ("max_context_length", "max_report_length", "max_transcript_length", "max_characters")
        names = ("view_positions", "grid_size", "context_format", "max_companions", *lengths)
        own = {name: getattr(encoder_processor, name) for name in names}
        return cls(encoder_processor.image_processor, tokenizer, encoder_processor.tokenizer, **own | options)

    context_tokenizer: Any  # set by `ProcessorMixin`

    @property
    def image_token_id(self) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    @property
    def text_tokenizer(self):
        return self.context_tokenizer

    @property
    def report_tokens(self) -> tuple[int, int]:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        return (end if begin is None else begin), end

    def __call__(
        self,
        images: Any = None,
        view_position: str | Sequence[str] | None = None,
        indication: str | Sequence[str] | None = None,
        history: str | Sequence[str] | None = None,
        findings: str | Sequence[str] | None = None,
        gaze: Any = None,
        image_size: Sequence | None = None,
        study_id: str | Sequence[str] | None = None,
        labels: Any = None,
        masks: Any = None,
        picture_size: Sequence | None = None,
        similar_report: str | Sequence[str] | None = None,
        diseases: Sequence | None = None,
        text: str | Sequence[str | None] | None = None,
        other_images: Any = None,
        other_views: Any = None,
        prior_images: Any = None,
        prior_view_position: Any = None,
        prior_days: Any = None,
        prior_report: str | Sequence[str | None] | None = None,
        report_labels: bool = False,
        return_tensors: str = "pt",
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """One study or a list of them; every argument has one entry per image.

        Args:
            findings: the report, read only for `report_labels`: it never gets into a prompt.
            gaze, labels, masks: taken and left aside.
            similar_report: findings of a similar case; "" or None where there is none.
            diseases: names of the predicted diseases of each image; [] or None where there are none.
            text: prompts of one's own, with `image_token` once, such as `apply_chat_template` writes; "" or None where
                the processor's is wanted.
            report_labels: also give the reports as `labels` (B, L) int64, `[begin] report [end]`, padding -100.
            kwargs: as for `CoGazeProcessor`; those of texts are for prompts. With `truncation`, `max_length` is the
                most tokens of a prompt, its image included, and the similar report is cut to keep to it.

        The rest as for `CoGazeProcessor`.

        Returns:
            pixel_values, view_position_ids, context_ tensors and study_ids as from `CoGazeProcessor`; input_ids and
            attention_mask (B, T) of the prompts, padded on the left, with `num_image_tokens` placeholders each.

        Raises:
            ValueError: names the argument, the item's index or file, and what to do.
            TypeError: an unknown argument.
        """
        kwargs.pop("add_special_tokens", None)  # A chat template has written them, or has none.
        own, return_tensors = self.adjusted(return_tensors, kwargs)
        arguments = {
            "images": images,
            "view_position": view_position,
            "indication": indication,
            "history": history,
            "findings": findings if report_labels else None,
            "image_size": image_size,
            "study_id": study_id,
            "picture_size": picture_size,
            "other_images": other_images,
            "other_views": other_views,
            "prior_images": prior_images,
            "prior_view_position": prior_view_position,
            "prior_days": prior_days,
            "prior_report": prior_report,
        }
        given: dict[str, Any] = {name: value for name, value in arguments.items() if value is not None}
        encoders = copy.copy(own)
        encoders.text_arguments = {}
        data = {}
        if given or report_labels:
            data |= CoGazeProcessor.__call__(encoders, **given, report_labels=report_labels)
        drafts = [similar_report] if isinstance(similar_report, str) else similar_report
        named = [diseases] if diseases and isinstance(diseases[0], str) else diseases
        written = [text] if isinstance(text, str) else text
        counted = next((value for value in (*data.values(), drafts, named, written) if value is not None), None)
        count = 0 if counted is None else len(counted)
        for name, values in (("similar_report", drafts), ("diseases", named), ("text", written)):
            if values is not None and (not isinstance(values, Sequence) or len(values) != count):
                what = f"{len(values)} entries" if isinstance(values, Sequence) else repr(values)
                raise ValueError(f"{name}: {what} for {count} images; give one per image.")
        data |= own.prompts(drafts or [None] * count, named or [None] * count, written or [None] * count)
        if return_tensors == "np":
            data = {name: tensor.numpy() for name, tensor in data.items()}
        return BatchFeature(data)

    def prompts(
        self,
        similar_report: Sequence[str | None],
        diseases: Sequence[Sequence[str] | None],
        text: Sequence[str | None] | None = None,
    ) -> dict[str, torch.Tensor]:
        """input_ids and attention_mask (B, T) of the prompts alone, for images that are encoded already.

        Raises:
            ValueError: a report or name is no text or too long; the prompt does not fit; names the item's index.
        """
        if not similar_report:
            raise ValueError("images: give at least one input.")
        drafts = self._texts(similar_report, "similar_report")
        rows = []
        for i, (draft, names) in enumerate(zip(drafts, diseases, strict=True)):
            if isinstance(names, str | Mapping):
                raise ValueError(f"diseases[{i}]: {names!r}; give a list of names for each image.")
            names = self._texts(names or [], f"diseases[{i}]")
            written = text[i] if text else None
            ids = self._written(written, i, draft or names) if written else self._prompt(draft, names)
            place = ids.index(self.image_token_id)
            ids[place : place + 1] = [self.image_token_id] * self.num_image_tokens
            rows.append(torch.tensor(ids))
        masks = [torch.ones_like(row) for row in rows]
        padding = self.tokenizer.pad_token_id
        padding = self.tokenizer.eos_token_id if padding is None else padding
        return {"input_ids": self._padded(rows, padding), "attention_mask": self._padded(masks, 0)}

    @property
    def _most_tokens(self) -> int | None:
        """Of a prompt that has its placeholder once, where the call sets a limit."""
        asked = self.text_arguments
        limited = asked.get("truncation") and asked.get("max_length") is not None
        return asked["max_length"] - self.num_image_tokens + 1 if limited else None

    def _prompt(self, draft: str, names: Sequence[str]) -> list[int]:
        most = self._most_tokens
        return encode_prompt(
            self.tokenizer,
            self.report_kind,
            self.image_token,
            draft if "similar_report" in self.prompt_parts else "",
            names if "diseases" in self.prompt_parts else (),
            self.max_similar_report_length,
            self.max_prompt_length if most is None else min(most, self.max_prompt_length),
            RELEASED_PROMPTS[self.report_kind] if self.prompt_template == "released" else self.prompt_template,
        )

    def _written(self, text: str, index: int, parts) -> list[int]:
        """Token ids of a prompt of the caller's own."""
        if not isinstance(text, str):
            raise ValueError(f"text[{index}]: {text!r} is no text.")
        if (found := text.count(self.image_token)) != 1:
            raise ValueError(
                f"text[{index}]: {found} times {self.image_token}, which stands where the image is; give it once, or "
                'leave the text "" for the processor\'s own prompt.'
            )
        if parts:
            raise ValueError(f"text[{index}]: it is the whole prompt; write similar_report and diseases into it.")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._most_tokens is not None and len(ids) > self._most_tokens:
            raise ValueError(
                f"max_length: {self.text_arguments['max_length']} tokens would cut text[{index}], which takes "
                f"{len(ids) - 1 + self.num_image_tokens}; give more."
            )
        return ids

    def _padded(self, rows: list[torch.Tensor], value: int) -> torch.Tensor:
        asked = self.text_arguments
        side, padding = asked.get("padding_side", "left"), asked.get("padding", True)
        length = max(map(len, rows))
        if padding in (False, None, "do_not_pad") and any(len(row) < length for row in rows):
            raise ValueError("padding: prompts of different lengths make no tensor; leave it True.")
        if padding == "max_length":
            length = max(length, asked.get("max_length") or self.max_prompt_length - 1 + self.num_image_tokens)
        multiple = asked.get("pad_to_multiple_of") or 1
        length = -(-length // multiple) * multiple
        padded = pad_sequence(rows, batch_first=True, padding_value=value, padding_side=side)
        more = length - padded.shape[1]
        return torch.nn.functional.pad(padded, (more, 0) if side == "left" else (0, more), value=value)

    def structured_constraint(self, max_new_tokens: int | None = None) -> LogitsProcessorList:
        """As in `CoGazeProcessor`; what the language model's `generate` begins with is empty."""
        return LogitsProcessorList([StructuredReportLogitsProcessor(self.tokenizer, 0, max_new_tokens)])

    def _collate(self, records: Sequence[Mapping], optional: list[str], asked: dict[str, bool]) -> BatchFeature:
        own = [name for name in PROMPT_PARTS if any(record.get(name) for record in records)]
        return super()._collate(records, [*optional, *own], asked)

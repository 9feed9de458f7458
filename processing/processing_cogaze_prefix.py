"""The processor of CoGaze before a language model: its pictures and context, and prompts."""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, LogitsProcessorList

from .processing_cogaze import VIEW_POSITIONS, CoGazeProcessor
from .prompts import PROMPT_PARTS, REPORT_KINDS, encode_prompt
from .structured_generation import StructuredReportLogitsProcessor


class CoGazePrefixProcessor(CoGazeProcessor):
    """Turns a radiograph, its context, a similar report and predicted diseases into a language model's inputs.

    The prompt is in the tokenizer's own chat template, or, where it has none, in the plain form of `render_prompt`.

    Args:
        image_processor, view_positions, grid_size, max_context_length, max_characters, context_format: as in the
            encoder's own `CoGazeProcessor`.
        tokenizer: the language model's. A copy of it learns the placeholder where it is not among its tokens.
        context_tokenizer: the encoder's, for indication and history.
        num_image_tokens: placeholders of an image in the prompt.
        report_kind: "free_text" or "structured" (SRRG's headers).
        prompt_parts: which of "similar_report" and "diseases" the prompt has; the other is left out where it is given.
        image_token: the placeholder.
        max_similar_report_length: tokens of the similar report that are kept, the last ones.
        max_prompt_length: tokens of a prompt, the image's apart; the similar report is cut further to keep to it.
        max_report_length, max_transcript_length: as in `CoGazeProcessor`.

    Raises:
        ValueError: unknown report_kind, or a tokenizer without a token that ends a text.
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
    ):
        if report_kind not in REPORT_KINDS:
            raise ValueError(f"report_kind: {report_kind!r} is none of {REPORT_KINDS}.")
        if not set(prompt_parts) <= set(PROMPT_PARTS):
            raise ValueError(f"prompt_parts: {list(prompt_parts)} is not made of {list(PROMPT_PARTS)}.")
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
            context_tokenizer=context_tokenizer,
        )
        self.num_image_tokens = num_image_tokens
        self.report_kind = report_kind
        self.prompt_parts = list(prompt_parts)
        self.image_token = image_token
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
        names = ("view_positions", "grid_size", "context_format", *lengths)
        own = {name: getattr(encoder_processor, name) for name in names}
        return cls(encoder_processor.image_processor, tokenizer, encoder_processor.tokenizer, **own | options)

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
        text: Any = None,
        report_labels: bool = False,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """One study or a list of them; every argument has one entry per image.

        Args:
            findings: the report, read only for `report_labels`: it never gets into a prompt.
            gaze, labels, masks, text: taken and left aside (the image-text-to-text pipeline asks for a text).
            similar_report: findings of a similar case; "" or None where there is none.
            diseases: names of the predicted diseases of each image; [] or None where there are none.
            report_labels: also give the reports as `labels` (B, L) int64, `[begin] report [end]`, padding -100.

        The rest as for `CoGazeProcessor`.

        Returns:
            pixel_values, view_position_ids, context_ tensors and study_ids as from `CoGazeProcessor`; input_ids and
            attention_mask (B, T) of the prompts, padded on the left, with `num_image_tokens` placeholders each.

        Raises:
            ValueError: names the argument, the item's index or file, and what to do.
        """
        arguments = {
            "images": images,
            "view_position": view_position,
            "indication": indication,
            "history": history,
            "findings": findings if report_labels else None,
            "image_size": image_size,
            "study_id": study_id,
            "picture_size": picture_size,
        }
        given = {name: value for name, value in arguments.items() if value is not None}
        data = dict(super().__call__(**given, report_labels=report_labels)) if given or report_labels else {}
        drafts = [similar_report] if isinstance(similar_report, str) else similar_report
        named = [diseases] if diseases and isinstance(diseases[0], str) else diseases
        counted = next((value for value in (*data.values(), drafts, named) if value is not None), None)
        count = 0 if counted is None else len(counted)
        for name, values in (("similar_report", drafts), ("diseases", named)):
            if values is not None and (not isinstance(values, Sequence) or len(values) != count):
                given = f"{len(values)} entries" if isinstance(values, Sequence) else repr(values)
                raise ValueError(f"{name}: {given} for {count} images; give one per image.")
        data |= self.prompts(drafts or [None] * count, named or [None] * count)
        if return_tensors == "np":
            data = {name: tensor.numpy() for name, tensor in data.items()}
        return BatchFeature(data)

    def prompts(
        self, similar_report: Sequence[str | None], diseases: Sequence[Sequence[str] | None]
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
            ids = encode_prompt(
                self.tokenizer,
                self.report_kind,
                self.image_token,
                draft if "similar_report" in self.prompt_parts else "",
                names if "diseases" in self.prompt_parts else (),
                self.max_similar_report_length,
                self.max_prompt_length,
            )
            place = ids.index(self.image_token_id)
            ids[place : place + 1] = [self.image_token_id] * self.num_image_tokens
            rows.append(torch.tensor(ids))
        masks = [torch.ones_like(row) for row in rows]
        padding = self.tokenizer.pad_token_id
        padding = self.tokenizer.eos_token_id if padding is None else padding
        return {
            "input_ids": pad_sequence(rows, batch_first=True, padding_value=padding, padding_side="left"),
            "attention_mask": pad_sequence(masks, batch_first=True, padding_side="left"),
        }

    def structured_constraint(self, max_new_tokens: int | None = None) -> LogitsProcessorList:
        """As in `CoGazeProcessor`; what the language model's `generate` begins with is empty."""
        return LogitsProcessorList([StructuredReportLogitsProcessor(self.tokenizer, 0, max_new_tokens)])

    def _collate(self, records: Sequence[Mapping], optional: list[str], report_labels: bool) -> BatchFeature:
        own = [name for name in PROMPT_PARTS if any(record.get(name) for record in records)]
        return super()._collate(records, [*optional, *own], report_labels)

"""Reports as a decoder writes them: to its labels, and from its tokens back to text and sentences."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchFeature, LogitsProcessorList

from .gaze_pictures import paint_gaze
from .processor_parts import ProcessorPart
from .radiographs import read_radiograph
from .reports import sentence_spans, split_report_sections, without_sentences, without_title
from .statements import affirms, agreement, topic
from .structured_generation import StructuredReportLogitsProcessor

IGNORED = -100


class ReportTextMixin(ProcessorPart):
    """What a processor with a `tokenizer` needs for report generation."""

    @property
    def report_tokens(self) -> tuple[int, int]:
        """The ids that begin and end a report; BERT's [CLS] and [SEP] where there are no others."""
        tokenizer = self.tokenizer
        begin = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        end = tokenizer.sep_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id
        return begin, end

    def encode_reports(self, findings: Sequence[str]) -> torch.Tensor:
        """(B, L) int64 `[begin] report [end]`, padded with -100 on the right; `report_ending` stands before the end.

        A report of more tokens than `max_report_length` is cut, and then has no end.

        Raises:
            ValueError: a report is empty or no text; names its index.
        """
        texts = self._texts(findings, "findings")
        if not all(texts):
            raise ValueError(f"findings[{texts.index('')}]: the report is empty; leave the study out.")
        begin, end = self.report_tokens
        rows = self.tokenizer([text + self.report_ending for text in texts], add_special_tokens=False)["input_ids"]
        rows = [torch.tensor([begin, *row, end][: self.max_report_length]) for row in rows]
        return pad_sequence(rows, batch_first=True, padding_value=IGNORED)

    def decode_reports(self, sequences: torch.Tensor) -> list[str]:
        """The texts of generated sequences or of labels (R, L), without special tokens."""
        return [self._decode(row).strip() for row in self._report_rows(sequences)]

    def locate_sentences(self, sequences: torch.Tensor) -> list[list[tuple[str, int, int]]]:
        """The sentences of each of (R, L) generated sequences: text, first token, one past the last one.

        Headers of structured reports are no sentences. Places count from the sequence's beginning.
        """
        return [self._sentences_of(row) for row in self._report_rows(sequences)]

    def _sentences_of(self, row: list[int]) -> list[tuple[str, int, int]]:
        @cache
        def written(place: int) -> int:
            """Characters that are there after the token at that place."""
            return len(self._decode(row[: place + 1]))

        # Where a sentence's characters lie, there lie its tokens; a text grows by each token, so its borders are
        # searched for by halves.
        spans, last, places = [], 0, range(len(row))
        for sentence, begin, end in sentence_spans(self._decode(row)):
            first = bisect_right(places, begin, lo=last, key=written)
            last = bisect_left(places, end, lo=first, key=written)
            titled = "impression" in getattr(self, "report_sections", ())
            spans.append((without_title(sentence) if titled else sentence, first + 1, last + 2))
        return spans

    def tokenize_sentences(self, sentences: Sequence[str]) -> BatchFeature:
        """`input_ids` and `attention_mask` (N, L) of sentences as transcripts are read, for gaze maps."""
        texts = self._texts(sentences, "sentences")
        return BatchFeature(self._tokenize([self._TRANSCRIPT.format(t) for t in texts], self.max_transcript_length))

    def split_report_sections(self, text: str) -> dict[str, str]:
        """ "findings" and "impression" of a decoded report; all is findings where the generator writes nothing else."""
        if "impression" in getattr(self, "report_sections", ()):
            return split_report_sections(text)
        return {"findings": text, "impression": ""}

    def tokenize_reports(self, texts: Sequence[str]) -> BatchFeature:
        """`input_ids` and `attention_mask` (N, L) of texts as reports are read, for comparison with images."""
        texts = self._texts(texts, "texts")
        return BatchFeature(self._tokenize([self._REPORT.format(t) for t in texts], self.max_report_length))

    @staticmethod
    def affirms(sentences: Sequence[str]) -> list[bool]:
        """`statements.affirms` of each sentence."""
        return [affirms(sentence) for sentence in sentences]

    @staticmethod
    def topics(sentences: Sequence[str]) -> list[str]:
        """`statements.topic` of each sentence."""
        return [topic(sentence) for sentence in sentences]

    def sample_agreement(
        self, sentences: Sequence[str], images: Sequence[int], sequences: torch.Tensor, count: int
    ) -> list[float]:
        """How much of each sentence the sampled reports of its image say, 0 to 1: the mean of `statements.agreement`.

        Args:
            images: (N,) each sentence's image. sequences: (B * count, L) of `sample_reports`.
        """
        said = [[text for text, *_ in found] for found in self.locate_sentences(sequences)]
        return [
            sum(agreement(sentence, said[row]) for row in range(image * count, (image + 1) * count)) / count
            for sentence, image in zip(sentences, images, strict=True)
        ]

    def reports_without(self, sequences: torch.Tensor, rows: Sequence[int], left_out: Sequence[bool]) -> list[str]:
        """The reports' texts without some of their sentences.

        Args:
            rows: (N,) each sentence's report, in `locate_sentences`' order. left_out: (N,) which to leave out.
        """
        gone: list[list[bool]] = [[] for _ in range(len(sequences))]
        for row, out in zip(rows, left_out, strict=True):
            gone[row].append(out)
        return [without_sentences(text, own) for text, own in zip(self.decode_reports(sequences), gone, strict=True)]

    def structured_constraint(self, max_new_tokens: int | None = None) -> LogitsProcessorList:
        """The `logits_processor` with which `generate` writes nothing but valid structured reports.

        Give it the `max_new_tokens` of `generate`, so that no section is begun that cannot be finished. Raises as
        `StructuredReportLogitsProcessor`.
        """
        length = None if max_new_tokens is None else 1 + max_new_tokens
        return LogitsProcessorList([StructuredReportLogitsProcessor(self.tokenizer, 1, length)])

    def paint_gaze(self, image, gaze_map) -> Image.Image:
        """A radiograph (whatever `read_radiograph` takes) with a map (P,) over the patches of what the model saw."""
        picture = read_radiograph(image, "image")
        values = np.asarray(torch.as_tensor(gaze_map).detach().float().cpu()).reshape(self.grid_size)
        return paint_gaze(picture, values, self.crop_box(picture.size, picture.size))

    def post_process_image_text_to_text(self, generated_outputs, **kwargs) -> list[str]:
        """Part of the pipeline, which looks for the decoded prompt in what was generated: a space is no prompt."""
        return [text.strip() for text in super().post_process_image_text_to_text(generated_outputs, **kwargs)]

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def _report_rows(self, sequences: torch.Tensor) -> list[list[int]]:
        """The tokens between beginning and end."""
        _, end = self.report_tokens
        rows = [[token for token in row[1:] if token != IGNORED] for row in sequences.tolist()]
        return [row[: row.index(end)] if end in row else row for row in rows]

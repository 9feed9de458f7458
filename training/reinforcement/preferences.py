"""Direct preference optimisation (DPO, arXiv 2305.18290) of a language model behind CoGaze, by trl's trainer (1.16)."""

from collections.abc import Sequence

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from modeling_cogaze import CoGazePrefixForConditionalGeneration

from ..reports.prompt_hints import encode_images
from ..reports.writing import ReportWriter
from .trainer import ScoredReports, frozen_copy


class PreferenceCollator:
    """Pairs to what `trl.DPOTrainer` gives a language model: prompts with preferred, then with other reports.

    Args:
        dataset: the images that the pairs' `row` counts in.
    """

    def __init__(self, writer: ReportWriter, dataset):
        self.writer = writer
        self.dataset = dataset

    @torch.no_grad()
    def __call__(self, pairs: Sequence[dict]) -> dict:
        """
        Returns:
            input_ids, attention_mask, completion_mask (2 B, T + L), the preferred reports first; encoder_outputs: the
            images as the language model reads them, (2 B, M, D).
        """
        model, processor = self.writer.model, self.writer.processor
        inputs = self.writer.inputs([self.dataset[pair["row"]] for pair in pairs])
        encoded = inputs["encoder_outputs"] if "encoder_outputs" in inputs else encode_images(model, inputs)
        texts = [pair[side] for side in ("chosen", "rejected") for pair in pairs]
        reports = processor.encode_reports(texts)[:, 1:].to(model.device)
        there = (reports != -100).long()
        prompts, asked = (inputs[name].repeat(2, 1) for name in ("input_ids", "attention_mask"))
        return {
            "input_ids": torch.cat([prompts, reports.masked_fill(there == 0, processor.report_tokens[1])], dim=1),
            "attention_mask": torch.cat([asked, there], dim=1),
            "completion_mask": torch.cat([torch.zeros_like(asked), there], dim=1),
            "encoder_outputs": (encoded[0].repeat(2, 1, 1),),
        }


class PreferenceTrainer(ScoredReports, DPOTrainer):
    """`trl.DPOTrainer` of a prefix model; what it began as is the reference. Set `score` to what evaluation gives.

    Args:
        pairs: of `preference_pairs`, of images of `dataset`.
        validation: the held-out records, whose number trl wants to know.

    Raises:
        ValueError: no pairs, or a generator of another kind.
    """

    def __init__(
        self,
        writer: ReportWriter,
        args: DPOConfig,
        dataset,
        pairs: Sequence[dict],
        validation: Sequence = (),
        **options,
    ):
        if not isinstance(writer.model, CoGazePrefixForConditionalGeneration):
            raise ValueError("objective: dpo is for language models behind CoGaze; reinforce this decoder by grpo.")
        if not pairs:
            raise ValueError("rewards: no image has reports of different reward, so there is nothing to prefer.")
        self.writer = writer
        args.remove_unused_columns = False
        super().__init__(
            writer.model,
            frozen_copy(writer.model),
            args,
            PreferenceCollator(writer, dataset),
            Dataset.from_list(list(pairs)),
            Dataset.from_list(list(pairs[: len(validation)])) if len(validation) else None,
            processing_class=writer.processor,
            **options,
        )

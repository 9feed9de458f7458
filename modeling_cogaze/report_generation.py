"""What the report generators of both families share: a decoder that reads an encoded image by cross-attention."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.utils import ModelOutput

from .beam_search import BeamSearchMixin, TokenProbabilities, share_images
from .calls import COMPANION_INPUTS, LAYER_FLAGS, inputs_of, layers_of
from .distributed import mean_over_processes
from .dual_encoder import Mixed, freeze, spare_idle_parameters, zero_through
from .encoders import build_part, copy_weights
from .support import SupportMixin, check_min_support

# What a processor's batch holds beside the inputs of an encoder (companions, where it takes none). `generate` reads
# none of it: no reference can leak.
NOT_FOR_GENERATION = (
    "input_ids",
    "attention_mask",
    "report_input_ids",
    "report_attention_mask",
    "transcript_input_ids",
    "transcript_attention_mask",
    "transcript_image_index",
    "transcript_is_full",
    "gaze_targets",
    "labels",
    "study_ids",
    *sorted(COMPANION_INPUTS),
)


@dataclass
class EncodedImages(ModelOutput):
    """What a decoder reads, (B, M, W), and the projected patches (B, P, D) that sentences are grounded in.

    `hidden_states` and `attentions` are those of the vision encoder, where asked for; attention weights by the eager
    implementation alone.
    """

    last_hidden_state: torch.Tensor | None = None
    patch_features: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class GroundedReports(ModelOutput):
    """Generated reports with their sentences' gaze.

    Args:
        sequences (R, L): token ids, as without grounding.
        sentences: N texts, report by report.
        sentence_report_index (N,): each sentence's row in `sequences`.
        gaze_maps (N, P): where a radiologist who says the sentence is predicted to look, a distribution over the
            patches, row by row.
        map_confidence (N,): 1 - H(map) / log P, within 0 and 1: 0 for a map that is alike everywhere, 1 for a single
            patch.
        text_confidence (N,): mean over the sentence's tokens of the probability that the decoder gives them, whatever
            search has found them.
        boxes: N tensors (K, 4), none, one or several boxes of what each sentence is about: x0, y0, x1, y1 in shares of
            what the pixel values show. `processor.post_process_grounding` gives them in the original's pixels.
        box_scores: N tensors (K,), best first.
        text_least (N,): the least of those probabilities.
        support (N,): the calibrated probability that the picture supports the sentence, where the checkpoint has a
            support model.
        left_out (N,), reports: with `min_support`, which sentences have less of it, and the texts without them.
    """

    sequences: torch.Tensor | None = None
    sentences: list[str] | None = None
    sentence_report_index: torch.Tensor | None = None
    gaze_maps: torch.Tensor | None = None
    map_confidence: torch.Tensor | None = None
    text_confidence: torch.Tensor | None = None
    boxes: list[torch.Tensor] | None = None
    box_scores: list[torch.Tensor] | None = None
    text_least: torch.Tensor | None = None
    support: torch.Tensor | None = None
    left_out: torch.Tensor | None = None
    reports: list[str] | None = None


def as_encoded(outputs: Any) -> EncodedImages:
    """What `encode` gave; a tuple is (memory,) or (memory, patches)."""
    if isinstance(outputs, ModelOutput):
        return cast(EncodedImages, outputs)
    return EncodedImages(**dict(zip(("last_hidden_state", "patch_features"), outputs, strict=False)))


def report_loss(logits: torch.Tensor, targets: torch.Tensor, over_processes: bool) -> torch.Tensor:
    """Mean cross-entropy over the tokens of the batch, or of all processes' batches; targets of -100 do not count."""
    total = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    count = (targets != -100).sum().float()
    return total / (mean_over_processes(count) if over_processes else count)


def probabilities_of(logits: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    """(R, L) the probability of each token of `sequences` by the logits (R, L - 1, V) before it; 1 for the first."""
    logits = logits.float()
    chosen = logits.gather(-1, sequences[:, 1:, None])[..., 0]
    return nn.functional.pad((chosen - logits.logsumexp(dim=-1)).exp(), (1, 0), value=1.0)


class GroundingMixin(Mixed):
    """Where the sentences of written reports look.

    A class has `predict_gaze(patch_features, input_ids, attention_mask, image_index)` -> (N, P), and
    `_token_probabilities(sequences, memory, image_index, **prompts)` -> (R, L): the probability of each token after
    those before it, 1 for the first.
    """

    predict_gaze: Callable[..., torch.Tensor]
    _token_probabilities: Callable[..., torch.Tensor]

    @torch.no_grad()
    def ground(
        self,
        sequences: torch.Tensor,
        encoded: EncodedImages,
        processor,
        probabilities: torch.Tensor | None = None,
        **prompts: torch.Tensor,
    ) -> GroundedReports:
        """Where each sentence of reports looks, and how sure the model is of both.

        Args:
            sequences: (R, L) token ids, the same number of reports for each of the B encoded images, image by image.
            encoded: what `encode` gave.
            processor: has `locate_sentences`, `tokenize_sentences` and `sentence_boxes`.
            probabilities: (R, L) of the tokens, where the search has told them; else the decoder reads the reports.
            prompts: what the reports were written behind, for each image, where there was anything.
        """
        located = [(row, *each) for row, found in enumerate(processor.locate_sentences(sequences)) for each in found]
        device = sequences.device
        rows = torch.tensor([row for row, *_ in located], dtype=torch.long, device=device)
        image_of = torch.arange(len(sequences), device=device) // (len(sequences) // len(encoded[0]))
        result = GroundedReports(
            sequences=sequences, sentences=[text for _, text, _, _ in located], sentence_report_index=rows
        )
        patches: Any = encoded.patch_features
        if not located:
            result.gaze_maps = patches.new_zeros(0, patches.shape[1])
            result.map_confidence = result.text_confidence = result.text_least = patches.new_zeros(0)
            result.boxes = result.box_scores = []
            return result
        tokens = processor.tokenize_sentences(result.sentences).to(device)
        maps = self.predict_gaze(patches, tokens["input_ids"], tokens["attention_mask"], image_of[rows]).float()
        entropy = -torch.special.xlogy(maps, maps).sum(dim=-1)
        result.gaze_maps = maps
        result.map_confidence = 1 - entropy / torch.tensor(maps.shape[1]).log()
        settings = self.config.box_settings or {}
        result.boxes, result.box_scores = processor.sentence_boxes(maps, result.sentences, **settings)
        begin, end = (torch.tensor(side, device=device) for side in zip(*((b, e) for *_, b, e in located), strict=True))
        if probabilities is None:
            probabilities = self._token_probabilities(sequences, encoded[0], image_of, **prompts)
        places = torch.arange(sequences.shape[1], device=device)
        inside = (places >= begin[:, None]) & (places < end[:, None])
        own = probabilities[rows]
        result.text_confidence = (own * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)
        result.text_least = own.masked_fill(~inside, 1).amin(dim=1)
        return result


class ReportEncoder(nn.Module):
    """The encoding half of a report generator: `forward` is its `encode`, and other arguments are left aside."""

    main_input_name = "pixel_values"

    def __init__(self, generator: "ReportGenerationMixin"):
        super().__init__()
        self.model = generator.base_model
        self.encode: Callable[..., EncodedImages] = generator.encode

    def forward(self, pixel_values: torch.Tensor | None = None, **kwargs) -> EncodedImages:
        known = inputs_of(self.encode) | {"return_dict"}
        return self.encode(pixel_values=pixel_values, **{name: kwargs[name] for name in known & kwargs.keys()})


class ReportGenerationMixin(SupportMixin, GroundingMixin, BeamSearchMixin):
    """Encoder-decoder report generation for a `PreTrainedModel` whose base model is a dual encoder.

    A class has `encode(...) -> EncodedImages`, which runs once per image, and `predict_gaze(patch_features, input_ids,
    attention_mask, image_index)`.
    """

    encode: Callable[..., EncodedImages]
    decoder: PreTrainedModel

    def build_decoder(self, memory_width: int) -> None:
        """Make `decoder` from `config.decoder_config`, and bring encoded images (B, M, memory_width) to its width.

        Raises:
            ValueError: the config has no decoder, or one without cross-attention.
        """
        decoder_config = self.config.decoder_config
        if decoder_config is None:
            raise ValueError(
                "decoder_config: missing; call config.add_decoder(tokenizer), or open a pretraining checkpoint by "
                f"{type(self).__name__}.from_pretraining(checkpoint, tokenizer)."
            )
        if not getattr(decoder_config, "add_cross_attention", False):
            raise ValueError(
                f"decoder_config: a {decoder_config.model_type} without cross-attention cannot read an image; set "
                "add_cross_attention=True, where this kind of model has it, or take GPT-2."
            )
        # Beams, caches and special tokens are then those of an encoder and a decoder.
        self.config.is_encoder_decoder = True
        self.decoder = build_part(AutoModelForCausalLM, decoder_config)
        if not any("cross" in name for name, _ in self.decoder.named_modules()):
            raise ValueError(f"decoder_config: transformers' {decoder_config.model_type} has no cross-attention.")
        self.shares_images = share_images(self.decoder)
        same_width = memory_width == decoder_config.hidden_size
        self.memory_projection = nn.Identity() if same_width else nn.Linear(memory_width, decoder_config.hidden_size)
        self.build_support()

    @classmethod
    def from_pretraining(
        cls,
        checkpoint: str | os.PathLike,
        tokenizer,
        decoder: str | os.PathLike | None = None,
        config: Any = None,
        **decoder_fields,
    ):
        """A report generator on a pretrained encoder.

        Args:
            checkpoint: folder or Hub id of a pretraining checkpoint.
            tokenizer: what reports are written in; CoGaze's own reads the context as well.
            decoder: folder or Hub id of a pretrained causal language model, such as "distilgpt2"; its cross-attention
                and the embeddings of tokens that it lacks are new. None: random weights.
            config: of the encoder; the checkpoint's by default.
            decoder_fields: of the decoder's config, as for `config.add_decoder`.
        """
        kind: Any = cls.config_class
        config = kind.from_pretrained(checkpoint) if config is None else config
        pretrained = None
        if decoder is not None:
            pretrained = AutoModelForCausalLM.from_pretrained(decoder)
            pretrained.resize_token_embeddings(len(tokenizer))
            special = ("bos_token_id", "eos_token_id", "pad_token_id", "add_cross_attention", "is_decoder")
            fields = {name: value for name, value in pretrained.config.to_dict().items() if name not in special}
            decoder_fields = fields | decoder_fields
        model = cls(config.add_decoder(tokenizer, **decoder_fields))
        base: Any = type(model.base_model)
        encoder = base.from_pretrained(checkpoint, config=config)
        model.base_model.load_state_dict(encoder.state_dict())
        if pretrained is not None:
            lacking = [name for name in copy_weights(model.decoder, pretrained) if "cross" not in name]
            if lacking:
                raise ValueError(f"decoder: {decoder} lacks {lacking[:3]} in the shape of the decoder's config.")
        return model

    def adjust_generation_fn(self, *args, **kwargs) -> None:
        """Part of `from_pretrained`; a checkpoint that comes without a decoder says nothing of its special tokens."""
        # transformers declares its `self` to be a class of its own.
        super().adjust_generation_fn(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(self.config.decoder_config, name))

    def train(self, mode: bool = True):
        super().train(mode)
        spare_idle_parameters(self.base_model)
        if self.config.freeze_encoder:
            freeze(self.base_model)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.decoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.decoder.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.decoder.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As `PreTrainedModel.resize_token_embeddings`, of the decoder: the text encoder keeps its vocabulary."""
        embeddings = self.decoder.resize_token_embeddings(*args, **kwargs)
        self.vocab_size = self.config.decoder_config.vocab_size = self.decoder.config.vocab_size
        return embeddings

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """What is called with images, and gives what the decoder reads; a modality's own encoder where one is named."""
        return ReportEncoder(self) if modality is None else super().get_encoder(modality)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, L - 1) what the decoder reads where it is to write `labels` (B, L): all but the last token."""
        inputs = labels[:, :-1]
        return inputs.masked_fill(inputs == -100, self.config.decoder_config.pad_token_id)

    def run_decoder(
        self,
        encoded: Any,
        labels: torch.Tensor | None,
        decoder_input_ids: torch.Tensor | None,
        decoder_attention_mask: torch.Tensor | None,
        past_key_values,
        use_cache: bool | None,
        logits_to_keep: int,
        idle: list[nn.Parameter],
        **asked: bool | None,
    ) -> Seq2SeqLMOutput:
        """The second half of `forward`.

        Args:
            encoded: what `encode` gave, or (memory,).
            idle: parameters that this batch leaves out, which DDP waits for.
            asked: `LAYER_FLAGS`, for the decoder.
        """
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("labels and decoder_input_ids: give one of them.")
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        encoded = as_encoded(encoded)
        memory: Any = encoded.last_hidden_state
        if labels is not None:
            targets = labels if labels.shape[1] == decoder_input_ids.shape[1] else labels[:, 1:]
            if targets.shape != decoder_input_ids.shape:
                raise ValueError(
                    f"labels: {tuple(labels.shape)} for decoder_input_ids {tuple(decoder_input_ids.shape)}; give one "
                    "label per token, or one more, the first of which is what a report begins with."
                )
            use_cache = False
        if decoder_attention_mask is None:
            # Padding lies on the right, behind the causal mask, and has no target: all tokens may be attended to.
            past = 0 if past_key_values is None else past_key_values.get_seq_length()
            decoder_attention_mask = decoder_input_ids.new_ones(
                len(decoder_input_ids), past + decoder_input_ids.shape[1]
            )
        outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=self.memory_projection(memory.to(self.decoder.dtype)),
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            return_dict=True,
            **asked,
        )
        loss = None
        if labels is not None:
            loss = report_loss(outputs.logits, targets, over_processes=self.training)
            if self.training and idle:
                loss = loss + zero_through(idle)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=outputs.logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=memory,
            **{f"encoder_{name}": value for name, value in layers_of(encoded).items()},
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config=None,
        return_grounding: bool = False,
        processor=None,
        min_support: float | None = None,
        **kwargs,
    ):
        """`GenerationMixin.generate`; images are encoded once, however many beams and steps there are.

        Args:
            inputs: (B, 3, H, W), as `pixel_values`.
            return_grounding: also say where each sentence looks.
            processor: the model's own, which splits reports into sentences; for `return_grounding`.
            min_support: with it, also say which sentences have less support, and give the reports without them.
            kwargs: the inputs of `encode`, or its result as `encoder_outputs`, and all that the stock `generate` takes.
                What else a processor's batch holds (reports, transcripts, gaze, labels) is left aside.

        Returns:
            What the stock `generate` does; with `return_grounding`, `GroundedReports`.

        Raises:
            ValueError: grounding is asked for without a processor, or from `encoder_outputs` without patches; support
                without grounding, or as `add_support` says.
        """
        check_min_support(min_support, return_grounding)
        if return_grounding and processor is None:
            raise ValueError("processor: missing; return_grounding needs it to split reports into sentences.")
        if inputs is not None:
            kwargs["pixel_values"] = inputs
        asked = {
            name: kwargs.get(name, getattr(generation_config or self.generation_config, name)) for name in LAYER_FLAGS
        }
        own = {name: kwargs.pop(name) for name in (inputs_of(self.encode) - set(LAYER_FLAGS)) & kwargs.keys()}
        for name in NOT_FOR_GENERATION:
            kwargs.pop(name, None)
        encoded = kwargs.pop("encoder_outputs", None)
        encoded = self.encode(**own, **asked, return_dict=True) if encoded is None else as_encoded(encoded)
        if return_grounding and encoded.get("patch_features") is None:
            raise ValueError("encoder_outputs: patch_features are missing, which sentences are grounded in.")
        # Without the patches: beams multiply what is handed over.
        memory = EncodedImages(last_hidden_state=encoded[0], **layers_of(encoded))
        if kwargs.get("assistant_model") is not None:
            kwargs |= own  # An assistant encodes the images itself.
        told = TokenProbabilities()
        if return_grounding:
            kwargs["logits_processor"] = [*(kwargs.get("logits_processor") or []), told]
        kwargs |= {"generation_config": generation_config, "encoder_outputs": memory}
        stock: Any = super()  # transformers declares the `self` of these to be a class of its own
        outputs = stock.generate(**kwargs)
        if not return_grounding:
            return outputs
        sequences = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
        grounded = self.ground(sequences, encoded, processor, told.values)
        return self.with_support(grounded, encoded, processor, min_support)

    def sample_reports(self, encoded: EncodedImages, count: int) -> torch.Tensor:
        """(B * count, L) reports drawn token by token, image by image."""
        memory = EncodedImages(last_hidden_state=encoded[0])
        options = {"do_sample": True, "num_beams": 1, "num_return_sequences": count}
        stock: Any = super()
        outputs = stock.generate(encoder_outputs=memory, **options)
        return outputs if isinstance(outputs, torch.Tensor) else outputs.sequences

    def _token_probabilities(
        self, sequences: torch.Tensor, memory: torch.Tensor, image_index: torch.Tensor
    ) -> torch.Tensor:
        outputs = self(
            decoder_input_ids=sequences[:, :-1],
            encoder_outputs=(memory[image_index],),
            use_cache=False,
            return_dict=True,
        )
        return probabilities_of(outputs.logits, sequences)


__all__ = [
    "NOT_FOR_GENERATION",
    "EncodedImages",
    "GroundedReports",
    "GroundingMixin",
    "ReportGenerationMixin",
    "as_encoded",
    "probabilities_of",
    "report_loss",
]

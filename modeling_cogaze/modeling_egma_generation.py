"""EGMA writes reports: a decoder reads the projected image and patches by cross-attention."""

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput

from .calls import standard_call
from .configuration_egma import EgmaConfig
from .dual_encoder import grad_unless_frozen
from .modeling_egma import EgmaModel, EgmaPreTrainedModel
from .report_generation import EncodedImages, ReportGenerationMixin


class EgmaForConditionalGeneration(ReportGenerationMixin, EgmaPreTrainedModel):
    """EGMA with a report decoder over [pooled image; patches].

    Starts from a pretraining checkpoint by `from_pretraining`. Its text encoder, which no report's loss reaches, stays
    as it is.
    """

    def __init__(self, config: EgmaConfig):
        super().__init__(config)
        self.egma = EgmaModel(config)
        self.build_decoder(config.projection_dim)
        self.post_init()
        self.train()

    @standard_call
    def encode(
        self,
        pixel_values: torch.Tensor,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> EncodedImages:
        """The projected pooled image, then its patches (B, 1 + P, D), and the patches alone."""
        with grad_unless_frozen(self.base_model, self.config.freeze_encoder):
            pooled, patches, layers = self.egma._encode(
                pixel_values, output_hidden_states, output_attentions=output_attentions
            )
        memory = torch.cat([pooled[:, None], patches], dim=1)
        return EncodedImages(last_hidden_state=memory, patch_features=patches, **layers)

    def predict_gaze(
        self,
        patch_features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
    ) -> torch.Tensor:
        """(N, P) distributions over the patches (B, P, D) for sentences (N, L), as `EgmaModel.get_gaze_maps`."""
        sentences = self.egma.sentence_features(input_ids, attention_mask)
        return self.egma.gaze_logits(patch_features, sentences, image_index).softmax(dim=-1)

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: EncodedImages | tuple | None = None,
        past_key_values=None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Next-token logits, and with `labels` the loss.

        Args:
            pixel_values: (B, 3, H, W).
            labels: (B, L) `[bos] report [eos]`, padding -100; shifted here.
            decoder_input_ids: (B, L) in place of `labels`; or beside them what the decoder reads, with one label (B, L)
                per token, or labels (B, L + 1) as above.
            encoder_outputs: what `encode` gave, or (memory,) with memory (B, M, D), in place of the image.
            output_hidden_states, output_attentions: give those of the vision encoder and of the decoder, the weights
                of its cross-attention among them; attention weights by the eager implementation alone.
        """
        idle = []
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if encoder_outputs is None:
            encoder_outputs = self.encode(pixel_values, return_dict=True, **asked)
        else:
            idle = list(self.egma.parameters())
        return self.run_decoder(
            encoder_outputs,
            labels,
            decoder_input_ids,
            decoder_attention_mask,
            past_key_values,
            use_cache,
            logits_to_keep,
            idle,
            **asked,
        )


__all__ = ["EgmaForConditionalGeneration"]

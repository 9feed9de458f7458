"""CoGaze writes reports: a decoder reads the vision and context latents by cross-attention."""

from typing import Unpack

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput

from .calls import standard_call
from .companions import CompanionInputs
from .configuration_cogaze import CoGazeConfig
from .dual_encoder import grad_unless_frozen
from .modeling_cogaze import CoGazeModel, CoGazePreTrainedModel
from .report_generation import EncodedImages, ReportGenerationMixin


class CoGazeForConditionalGeneration(ReportGenerationMixin, CoGazePreTrainedModel):
    """CoGaze with a report decoder over [vision latents; context latents].

    Starts from a pretraining checkpoint by `from_pretraining`. With `config.freeze_encoder` the decoder alone is
    trained, so that gaze maps and scores stay those of the pretraining.
    """

    def __init__(self, config: CoGazeConfig):
        super().__init__(config)
        self.cogaze = CoGazeModel(config)
        self.build_decoder(config.hidden_size)
        self.post_init()
        self.train()

    @standard_call
    def encode(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> EncodedImages:
        """Vision latents, then context latents (B, 2Q, D), and patches (B, P, D).

        Arguments as in `CoGazeModel.forward`.
        """
        with grad_unless_frozen(self.base_model, self.config.freeze_encoder):
            *latents, patches, layers = self.cogaze.read_images(
                pixel_values,
                view_position_ids,
                context_input_ids,
                context_attention_mask,
                vision_features,
                companions,
                output_hidden_states=output_hidden_states,
                output_attentions=output_attentions,
            )
        return EncodedImages(last_hidden_state=torch.cat(latents, dim=1), patch_features=patches, **layers)

    def image_and_text(
        self, encoded: EncodedImages, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the encoded images (B, D) and of texts (N, D), which the contrast compares; not normalised."""
        vision_latents, _ = encoded[0].chunk(2, dim=1)
        texts = self.cogaze.get_text_features(input_ids, attention_mask, return_dict=True).pooler_output
        return vision_latents.mean(dim=1), texts

    def predict_gaze(
        self,
        patch_features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
    ) -> torch.Tensor:
        """(N, P) distributions over the patches (B, P, D) for sentences (N, L), as `CoGazeModel.get_gaze_maps`."""
        sentences = self.cogaze.get_transcript_features(input_ids, attention_mask)
        return self.cogaze.gaze_logits(patch_features, sentences, image_index).softmax(dim=-1)

    @standard_call
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: EncodedImages | tuple | None = None,
        past_key_values=None,
        use_cache: bool | None = None,
        vision_features: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> Seq2SeqLMOutput:
        """Next-token logits, and with `labels` the loss.

        Args:
            pixel_values: (B, 3, H, W).
            view_position_ids: (B,); unknown (0) by default.
            context_input_ids, context_attention_mask: (B, Lc) indication and history; a row of zeros has none.
            labels: (B, L) `[bos] report [eos]`, padding -100; shifted here.
            decoder_input_ids: (B, L) in place of `labels`; or beside them what the decoder reads, with one label (B, L)
                per token, or labels (B, L + 1) as above.
            encoder_outputs: what `encode` gave, or (memory,) with memory (B, M, D), in place of the image.
            vision_features: (B, P or 1 + P, W) stored tokens of the frozen vision encoder, in place of `pixel_values`.
            output_hidden_states, output_attentions: give those of the vision encoder and of the decoder, the weights
                of its cross-attention among them; attention weights by the eager implementation alone.
            companions: `CompanionInputs`.
        """
        idle = []
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if encoder_outputs is None:
            encoder_outputs = self.encode(
                pixel_values,
                view_position_ids,
                context_input_ids,
                context_attention_mask,
                vision_features,
                return_dict=True,
                **asked,
                **companions,
            )
        else:
            idle = list(self.cogaze.parameters())
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


__all__ = ["CoGazeForConditionalGeneration"]

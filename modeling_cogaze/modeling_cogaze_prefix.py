"""Reports from any causal language model that reads CoGaze's latents as a prefix (arXiv 2603.26049)."""

import inspect
import os
from typing import Any, Unpack, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.utils import is_peft_available, torch_compilable_check

from .calls import asked_for, inputs_of, layers_of, standard_call
from .companions import CompanionInputs
from .configuration_cogaze_prefix import PREFIX_LATENTS, CoGazePrefixConfig
from .dual_encoder import adapters, freeze, grad_unless_frozen
from .encoders import build_part
from .modeling_cogaze import CoGazeForPreTraining
from .outputs import PrefixOutput
from .prefix_loading import (
    HUB_ARGUMENTS,
    LEFT_ASIDE,
    LOADING_ARGUMENTS,
    is_lora,
    load_encoder,
    load_parts,
    model_fields,
    saved_weights,
    take,
)
from .report_generation import (
    NOT_FOR_GENERATION,
    EncodedImages,
    GroundingMixin,
    as_encoded,
    probabilities_of,
    report_loss,
)

if is_peft_available():
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer


class CoGazePrefixForConditionalGeneration(GroundingMixin, PreTrainedModel, GenerationMixin):
    """A frozen CoGaze, one linear adapter, and a causal language model with LoRA.

    The latents of an image, brought to the language model's width, stand where the prompt has placeholders. Adapter and
    LoRA are trained. Frozen weights whose checkpoint the config names are not saved with the model: `from_pretrained`
    takes them from there, or from `base_model_name_or_path=...` and `encoder_name_or_path=...` if it is given these.

    Args:
        encoder, language_model: built from the config if not given.

    Raises:
        ImportError: LoRA is asked for, and peft is not installed.
    """

    config: CoGazePrefixConfig
    base_model_prefix = ""
    input_modalities = ["image", "text"]
    accepts_loss_kwargs = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: CoGazePrefixConfig,
        encoder: CoGazeForPreTraining | None = None,
        language_model: PreTrainedModel | None = None,
    ):
        super().__init__(config)
        if config.lora_rank and not is_peft_available():
            raise ImportError("lora_rank: LoRA needs peft; `pip install peft`, or set it to 0.")
        self.encoder = CoGazeForPreTraining(config.encoder_config) if encoder is None else encoder
        if language_model is None:
            language_model = build_part(AutoModelForCausalLM, config.text_config)
        self.language_model = language_model
        self.adapter = nn.Linear(config.encoder_config.hidden_size, config.text_config.hidden_size)
        self.post_init()
        if config.lora_rank:  # after the weights' initialisation, which would not leave LoRA's B at zero
            settings = LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType] (any number does)
                lora_dropout=config.lora_dropout,
                target_modules=list(config.lora_target_modules),
            )
            self.language_model.add_adapter(settings)
            for name, parameter in self.language_model.named_parameters():
                parameter.data = parameter.data.float() if is_lora(name) else parameter.data
        self.generation_config = _without_sampling(self.language_model.generation_config)
        begin, pad = self.generation_config.bos_token_id, self.generation_config.pad_token_id
        self._begin_token_id = pad if begin is None else begin
        self._forward_arguments = frozenset(inspect.signature(self.language_model.forward).parameters)
        self.train()

    @classmethod
    def register_for_auto_class(cls, auto_class="AutoModelForImageTextToText"):
        """Does nothing: saving the config writes the map of all Auto classes."""

    @classmethod
    def from_base_models(
        cls, encoder: str | os.PathLike, base_model: str | os.PathLike | PreTrainedModel, dtype=None, **fields
    ):
        """A model to be trained: pretrained encoder and language model, new adapter and LoRA, in float32.

        Args:
            encoder: folder or Hub id of a CoGaze checkpoint.
            base_model: folder or Hub id of a causal language model; or one that has neither, and is then saved along.
            dtype: the language model's, such as torch.bfloat16; by default as it is stored.
            fields: of the config.
        """
        encoder_model = load_encoder(encoder)
        named: dict[str, Any] = {"encoder_name_or_path": os.fspath(encoder)}
        if isinstance(base_model, PreTrainedModel):
            language_model = base_model
        else:
            language_model = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype or "auto")
            if fields.get("freeze_language_model", True):
                named["base_model_name_or_path"] = os.fspath(base_model)
        config = CoGazePrefixConfig(
            encoder_config=model_fields(encoder_model.config),
            text_config=model_fields(language_model.config),
            **named | fields,
        )
        return cls(config, encoder_model, language_model).eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config: Any = None, **kwargs):
        """As `PreTrainedModel.from_pretrained`; frozen weights that were not saved come from where the config says.

        In that case `dtype`, `device_map` with `max_memory` and what is offloaded, and `quantization_config` are for
        the language model, `attn_implementation` for the encoder as well, and adapter and LoRA are float32.

        Raises:
            ValueError: the base model is not as wide as the saved adapter, or is of another shape; names both.
            TypeError: an argument that is none of `PreTrainedModel.from_pretrained`'s, or none that can be kept here.
        """
        if (torch_dtype := kwargs.pop("torch_dtype", None)) is not None:
            kwargs.setdefault("dtype", torch_dtype)
        hub, loading = take(HUB_ARGUMENTS, kwargs), take(LOADING_ARGUMENTS, kwargs)
        if not isinstance(config, PreTrainedConfig):
            kind: Any = cls.config_class
            config, kwargs = kind.from_pretrained(
                config or pretrained_model_name_or_path, return_unused_kwargs=True, **hub, **kwargs
            )
        config = cast(CoGazePrefixConfig, config)
        wants_info = kwargs.pop("output_loading_info", False)
        if config.encoder_name_or_path is None and config.base_model_name_or_path is None:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                config=config,
                output_loading_info=True,
                **hub,
                **loading,
                **kwargs,
            )
            model, info = loaded
            if any(is_lora(name) for name in info["missing_keys"]):
                raise ValueError("lora_rank: the checkpoint has no LoRA, or LoRA of other layers; leave it out.")
            return (model, info) if wants_info else model
        take(LEFT_ASIDE, kwargs)
        own = take(("variant", "generation_config", "use_safetensors"), kwargs)
        if own.get("use_safetensors") is False:
            raise ValueError("use_safetensors: this model is saved as safetensors alone; leave it out.")
        if args or kwargs:
            raise TypeError(f"from_pretrained: {min(kwargs, default=args)!r} is no argument of {cls.__name__}'s.")
        weights = saved_weights(pretrained_model_name_or_path, own.get("variant"), hub)
        model = cls(config, *load_parts(config, weights, hub, loading))
        model._take(weights)
        model.generation_config = own.get("generation_config") or GenerationConfig.from_pretrained(
            pretrained_model_name_or_path, **hub
        )
        model.eval()
        # What is missing or of another shape has raised by now.
        nothing = ("missing_keys", "unexpected_keys", "mismatched_keys")
        return (model, {name: set() for name in nothing} | {"error_msgs": []}) if wants_info else model

    def _take(self, weights: dict[str, torch.Tensor]) -> None:
        """Adapter and LoRA out of a checkpoint's weights; encoder and language model have theirs."""
        expected = self.state_dict()
        for name, tensor in weights.items():
            if name not in expected or expected[name].shape != tensor.shape:
                shape = tuple(expected[name].shape) if name in expected else "missing"
                raise ValueError(
                    f"base_model_name_or_path: {name} is {tuple(tensor.shape)} in the saved weights and {shape} in "
                    f"{self.config.base_model_name_or_path}; give the checkpoint that they were trained on."
                )
        lacking = [name for name in expected.keys() - weights.keys() if name.startswith("adapter.") or is_lora(name)]
        if lacking:
            raise ValueError(f"pretrained_model_name_or_path: the checkpoint lacks {min(lacking)}.")
        embeddings: Any = self.get_input_embeddings()
        hook = getattr(embeddings, "_hf_hook", None)  # accelerate's, where weights are elsewhere until they are needed
        device = getattr(hook, "execution_device", None) or embeddings.weight.device
        for part in adapters(self.language_model):
            if any(parameter.is_meta for parameter in part.parameters()):  # beside a layer that is offloaded
                part.to_empty(device=device)
        self.load_state_dict(weights, strict=False)
        self.encoder.to(device)
        self.adapter.to(device)

    @property
    def _keys_to_ignore_on_save(self) -> set[str]:
        """Asked for by `save_pretrained` and by the Trainer; what the config says now, whatever it said before."""
        return {name for name in self.state_dict() if self._comes_from_elsewhere(name)}

    @_keys_to_ignore_on_save.setter
    def _keys_to_ignore_on_save(self, value):
        pass

    def _comes_from_elsewhere(self, name: str) -> bool:
        if is_lora(name):
            return False
        if name.startswith("encoder."):
            return self.config.encoder_name_or_path is not None
        return name.startswith("language_model.") and self.config.base_model_name_or_path is not None

    def merge_and_unload(self):
        """Adds LoRA to the language model's weights, in place: a plain checkpoint, saved in full; returns the model."""
        layers: list[tuple[str, Any]] = list(self.language_model.named_modules())
        for name, layer in layers:
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                self.language_model.set_submodule(name, layer.get_base_layer())
        self.language_model._hf_peft_config_loaded = False
        self.config.lora_rank = 0
        self.config.encoder_name_or_path = self.config.base_model_name_or_path = None
        return self

    def train(self, mode: bool = True):
        super().train(mode)
        # Here, since loading makes new parameters, and ends with a call of this method.
        freeze(self.encoder)
        lora = {id(parameter) for part in adapters(self.language_model) for parameter in part.parameters()}
        for parameter in self.language_model.parameters():
            if id(parameter) not in lora and parameter.is_floating_point():
                parameter.requires_grad_(not self.config.freeze_language_model)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.language_model.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, *args, **kwargs) -> nn.Embedding:
        """As `PreTrainedModel.resize_token_embeddings`, of the language model, which is then saved with the model."""
        before = self.get_input_embeddings().num_embeddings
        embeddings = self.language_model.resize_token_embeddings(*args, **kwargs)
        self.vocab_size = self.config.text_config.vocab_size = self.language_model.config.vocab_size
        if embeddings.num_embeddings != before:
            self.config.base_model_name_or_path = None
        return embeddings

    def encode(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> EncodedImages:
        """Vision latents, then context latents (B, 2Q, D), and patches (B, P, D).

        Arguments as in `CoGazeModel.forward`.
        """
        cogaze = self.encoder.cogaze
        with grad_unless_frozen(self.encoder, frozen=True):
            *latents, patches, _ = cogaze.read_images(
                pixel_values,
                view_position_ids,
                context_input_ids,
                context_attention_mask,
                vision_features,
                companions,
            )
        return EncodedImages(last_hidden_state=torch.cat(latents, dim=1), patch_features=patches)

    @torch.no_grad()
    def get_image_features(self, encoder_outputs: EncodedImages) -> torch.Tensor:
        """(B, D) mean vision latents, from what `encode` gave: what similar cases are found by."""
        vision_latents, _ = encoder_outputs[0].chunk(2, dim=1)
        return vision_latents.mean(dim=1)

    @torch.no_grad()
    def get_disease_logits(self, encoder_outputs: EncodedImages) -> torch.Tensor:
        """(B, C) the encoder's own prediction of `config.encoder_config.label_names`, from what `encode` gave.

        Raises:
            ValueError: the encoder was pretrained without disease heads.
        """
        if not self.encoder.config.use_classification:
            raise ValueError("encoder_name_or_path: this encoder has no disease head, so it predicts no diseases.")
        return self.encoder.vision_classifier(self.get_image_features(encoder_outputs))

    def embed_prompt(self, input_ids: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """(B, T, W) embeddings of prompts (B, T), with the adapted latents (B, 2Q, D) at their placeholders.

        Raises:
            ValueError: a prompt has not `config.num_image_tokens` placeholders.
        """
        return self._put_in_place(input_ids, self._prefix(latents))

    def _prefix(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, N, W) the adapted latents that `config.prefix_latents` names."""
        parts: dict[str, torch.Tensor] = dict(zip(PREFIX_LATENTS, latents.chunk(2, dim=1), strict=True))
        prefix = torch.cat([parts[name] for name in self.config.prefix_latents], dim=1)
        # The bias, since a quantised weight's dtype is that of its storage.
        return self.adapter(prefix.to(self.adapter.bias.dtype))

    def _put_in_place(self, input_ids: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        placeholder = input_ids == self.config.image_token_id
        torch_compilable_check(
            (placeholder.sum(dim=1) == prefix.shape[1]).all(),
            lambda: (
                f"input_ids: the prompts have {placeholder.sum(dim=1).tolist()} image placeholders "
                f"(id {self.config.image_token_id}); each needs {prefix.shape[1]}."
            ),
        )
        # The placeholder's id may lie beyond the vocabulary.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(placeholder, 0))
        return embeds.masked_scatter(placeholder[..., None], prefix.to(embeds.dtype))

    @standard_call
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_outputs: EncodedImages | tuple | None = None,
        vision_features: torch.Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        use_cache: bool | None = None,
        **companions: Unpack[CompanionInputs],
    ) -> PrefixOutput:
        """Loss and logits of reports behind their prompts; without `labels`, the logits (B, T, V) of the prompts.

        Args:
            input_ids, attention_mask: (B, T) prompts alone, padded on the left.
            pixel_values: (B, 3, H, W), with view position and context as in `CoGazeModel.forward`.
            labels: (B, L) `[begin] report [end]`, padding -100 on the right. The report is read behind the prompt,
                without its beginning token; logits (B, L - 1, V) predict the rest, and the loss is the mean over it.
            encoder_outputs: what `encode` gave, in place of the image.
            vision_features: stored tokens of the frozen vision encoder, in place of `pixel_values`.
            output_hidden_states, output_attentions: give those of the language model.
            use_cache: left aside; a forward pass keeps no cache.
            companions: `CompanionInputs`.
        """
        if encoder_outputs is None:
            inputs = (pixel_values, view_position_ids, context_input_ids, context_attention_mask, vision_features)
            encoder_outputs = self.encode(*inputs, **companions)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prefix = self._prefix(encoder_outputs[0])
        embeds = self._put_in_place(input_ids, prefix)
        asked: dict[str, Any] = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        loss = last = None
        if labels is None:
            outputs = self._run_language_model(embeds, mask, **asked | {"output_hidden_states": True})
            last = outputs.hidden_states[-1]
        else:
            targets = labels[:, 1:]
            # The prompt's last position predicts the report's first token.
            outputs = self._read_report(embeds, mask, targets[:, :-1], **asked)
            loss = report_loss(outputs.logits, targets, over_processes=self.training)
        layers = layers_of(outputs)
        if not output_hidden_states:
            layers.pop("hidden_states", None)
        return PrefixOutput(
            loss=loss, logits=outputs.logits, image_hidden_states=prefix, last_hidden_state=last, **layers
        )

    def _read_report(self, prompt: torch.Tensor, prompt_mask: torch.Tensor, report: torch.Tensor, **asked: Any):
        """Logits (B, L + 1, V) for the tokens (B, L) of a report, and for what follows, behind prompts (B, T, W)."""
        present = report != -100
        embeds = torch.cat([prompt, self.get_input_embeddings()(report.masked_fill(~present, 0))], dim=1)
        mask = torch.cat([prompt_mask, present.to(prompt_mask.dtype)], dim=1)
        return self._run_language_model(embeds, mask, keep=report.shape[1] + 1, **asked)

    def _run_language_model(self, embeds: torch.Tensor, mask: torch.Tensor, keep: int = 0, **asked: Any):
        """Its outputs, with the logits of the last `keep` positions; 0: of all."""
        optional = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0), "logits_to_keep": keep, "use_cache": False}
        optional = {name: value for name, value in optional.items() if name in self._forward_arguments}
        outputs = self.language_model(
            inputs_embeds=embeds, attention_mask=mask, return_dict=True, **optional, **asked_for(asked)
        )
        outputs.logits = outputs.logits[:, -keep:]
        return outputs

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_grounding: bool = False,
        processor=None,
        input_ids: torch.Tensor | None = None,
        **kwargs,
    ):
        """Reports behind prompts: (R, L) token ids that begin with the beginning token and go without the prompt.

        Images are encoded once, whatever the number of beams. The rest is the language model's own `generate`: beams,
        sampling, `streamer`, caches ... By default greedy, up to 100 tokens.

        Args:
            inputs, attention_mask: (B, T) prompts, padded on the left. `input_ids`: the same as `inputs`.
            return_grounding: also say where each sentence looks.
            processor: the model's own, which splits reports into sentences; for `return_grounding`.
            kwargs: the inputs of `encode`, or its result as `encoder_outputs`, and all that the stock `generate` takes.
                What else a processor's batch holds (labels, study ids) is left aside. With `return_prompt` (here or in
                the generation config) token ids are those of the prompt (T), then of the report, without a beginning
                token between them: as stock models give them, and trl's trainers take them.

        Returns:
            What the stock `generate` does; with `return_grounding`, `GroundedReports`.
        """
        if return_grounding and processor is None:
            raise ValueError("processor: missing; return_grounding needs it to split reports into sentences.")
        prompts = inputs if input_ids is None else input_ids
        if prompts is None or (inputs is not None and input_ids is not None):
            raise ValueError("input_ids: give the prompts, once.")
        if kwargs.get("assistant_model") is not None:
            raise ValueError("assistant_model: an assistant would not see the image; leave it out.")
        own = {name: kwargs.pop(name) for name in inputs_of(self.encode) & kwargs.keys()}
        for name in NOT_FOR_GENERATION:
            kwargs.pop(name, None)
        encoded = kwargs.pop("encoder_outputs", None)
        encoded = self.encode(**own) if encoded is None else as_encoded(encoded)
        mask = torch.ones_like(prompts) if attention_mask is None else attention_mask
        writer: Any = self.language_model
        writer.generation_config = self.generation_config
        with_prompt = kwargs.pop("return_prompt", getattr(kwargs.get("generation_config"), "return_prompt", False))
        outputs = writer.generate(inputs_embeds=self.embed_prompt(prompts, encoded[0]), attention_mask=mask, **kwargs)
        sequences = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
        sequences = nn.functional.pad(sequences, (1, 0), value=self._begin_token_id)
        if return_grounding:
            return self.ground(sequences, encoded, processor, input_ids=prompts, attention_mask=mask)
        if with_prompt:
            prompts = prompts.repeat_interleave(len(sequences) // len(prompts), dim=0)
            sequences = torch.cat([prompts, sequences[:, 1:]], dim=1)
        if isinstance(outputs, torch.Tensor):
            return sequences
        outputs.sequences = sequences
        return outputs

    def predict_gaze(
        self,
        patch_features: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        image_index: torch.Tensor,
    ) -> torch.Tensor:
        """(N, P) distributions over the patches (B, P, D) for sentences (N, L), as `CoGazeModel.get_gaze_maps`."""
        cogaze = self.encoder.cogaze
        sentences = cogaze.get_transcript_features(input_ids, attention_mask)
        return cogaze.gaze_logits(patch_features, sentences, image_index).softmax(dim=-1)

    def _token_probabilities(
        self,
        sequences: torch.Tensor,
        memory: torch.Tensor,
        image_index: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        prompts = self.embed_prompt(input_ids, memory)[image_index]
        outputs = self._read_report(prompts, attention_mask[image_index], sequences[:, 1:-1])
        return probabilities_of(outputs.logits, sequences)


def _without_sampling(given: GenerationConfig) -> GenerationConfig:
    """The special tokens of a language model's generation config; reports are not drawn at random unless asked for."""
    end = given.eos_token_id[0] if isinstance(given.eos_token_id, list) else given.eos_token_id
    return GenerationConfig(
        bos_token_id=given.bos_token_id,
        eos_token_id=given.eos_token_id,
        pad_token_id=end if given.pad_token_id is None else given.pad_token_id,
        do_sample=False,
        max_new_tokens=100,
    )


__all__ = ["CoGazePrefixForConditionalGeneration"]

"""Reports from any causal language model that reads CoGaze's latents as a prefix (arXiv 2603.26049)."""

import inspect
import os

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file, is_peft_available, torch_compilable_check

from .configuration_cogaze_prefix import PREFIX_LATENTS, CoGazePrefixConfig
from .modeling_cogaze import CoGazeForPreTraining
from .report_generation import NOT_FOR_GENERATION, EncodedImages, GroundingMixin, probabilities_of, report_loss

if is_peft_available():
    from peft import LoraConfig
    from peft.tuners.tuners_utils import BaseTunerLayer

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
_LOADING_ARGUMENTS = ("dtype", "device_map", "quantization_config", "attn_implementation", "trust_remote_code")


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
    input_modalities = ("image", "text")
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
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.language_model = language_model
        self.adapter = nn.Linear(config.encoder_config.hidden_size, config.text_config.hidden_size)
        self.post_init()
        if config.lora_rank:  # after the weights' initialisation, which would not leave LoRA's B at zero
            settings = LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                lora_dropout=config.lora_dropout,
                target_modules=config.lora_target_modules,
            )
            self.language_model.add_adapter(settings)
            for name, parameter in self.language_model.named_parameters():
                parameter.data = parameter.data.float() if _is_lora(name) else parameter.data
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
        encoder_model = _load_encoder(encoder)
        named = {"encoder_name_or_path": os.fspath(encoder)}
        if isinstance(base_model, PreTrainedModel):
            language_model = base_model
        else:
            language_model = AutoModelForCausalLM.from_pretrained(base_model, dtype=dtype or "auto")
            if fields.get("freeze_language_model", True):
                named["base_model_name_or_path"] = os.fspath(base_model)
        config = cls.config_class(
            encoder_config=_fields(encoder_model.config), text_config=_fields(language_model.config), **named | fields
        )
        return cls(config, encoder_model, language_model).eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, **kwargs):
        """As `PreTrainedModel.from_pretrained`; frozen weights that were not saved come from where the config says.

        In that case `dtype`, `device_map`, `quantization_config` and `attn_implementation` are for the language model,
        and adapter and LoRA are float32.

        Raises:
            ValueError: the base model is not as wide as the saved adapter, or is of another shape; names both.
        """
        hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        loading = {name: kwargs.pop(name) for name in _LOADING_ARGUMENTS if kwargs.get(name) is not None}
        if config is None:
            config, kwargs = cls.config_class.from_pretrained(
                pretrained_model_name_or_path, return_unused_kwargs=True, **hub, **kwargs
            )
        if config.encoder_name_or_path is None and config.base_model_name_or_path is None:
            wants_info = kwargs.pop("output_loading_info", False)
            model, info = super().from_pretrained(
                pretrained_model_name_or_path,
                *args,
                config=config,
                output_loading_info=True,
                **hub,
                **loading,
                **kwargs,
            )
            if any(_is_lora(name) for name in info["missing_keys"]):
                raise ValueError("lora_rank: the checkpoint has no LoRA, or LoRA of other layers; leave it out.")
            return (model, info) if wants_info else model
        weights = load_file(cached_file(pretrained_model_name_or_path, SAFE_WEIGHTS_NAME, **hub))
        access = {name: hub[name] for name in ("cache_dir", "local_files_only", "token") if name in hub}
        model = cls._on_base_models(config, weights, access, loading)
        model.generation_config = GenerationConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        return model.eval()

    @classmethod
    def _on_base_models(cls, config: CoGazePrefixConfig, weights: dict[str, torch.Tensor], access: dict, loading: dict):
        """The model with `weights`, and for those that are not among them the ones of the named checkpoints."""
        encoder, language_model = config.encoder_name_or_path, config.base_model_name_or_path
        if encoder is None:
            # By `from_pretrained`, which knows the names that vision encoders' tensors have in files.
            saved = {name: weights.pop(name) for name in list(weights) if name.startswith("encoder.")}
            saved = {name.removeprefix("encoder."): tensor for name, tensor in saved.items()}
            encoder, info = CoGazeForPreTraining.from_pretrained(
                None, config=config.encoder_config, state_dict=saved, output_loading_info=True
            )
            if info["missing_keys"]:
                raise ValueError(f"encoder_config: the checkpoint lacks encoder.{min(info['missing_keys'])}.")
        else:
            encoder = _load_encoder(encoder, **access)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(config.text_config)
        else:
            loading = {"dtype": "auto"} | access | loading
            language_model = AutoModelForCausalLM.from_pretrained(language_model, **loading)
        for argument, found, saved in (
            ("encoder_name_or_path", encoder.config.hidden_size, config.encoder_config.hidden_size),
            ("base_model_name_or_path", language_model.config.hidden_size, config.text_config.hidden_size),
        ):
            if found != saved:
                raise ValueError(
                    f"{argument}: {getattr(config, argument)} has hidden size {found}, the saved adapter is for "
                    f"{saved}; give the checkpoint that it was trained on."
                )
        model = cls(config, encoder, language_model)
        expected = model.state_dict()
        for name, tensor in weights.items():
            if name not in expected or expected[name].shape != tensor.shape:
                shape = tuple(expected[name].shape) if name in expected else "missing"
                raise ValueError(
                    f"base_model_name_or_path: {name} is {tuple(tensor.shape)} in the saved weights and {shape} in "
                    f"{config.base_model_name_or_path}; give the checkpoint that they were trained on."
                )
        lacking = [name for name in expected.keys() - weights.keys() if not name.startswith("encoder.")]
        lacking = [name for name in lacking if not model._comes_from_elsewhere(name)]
        lacking = [name for name in lacking if name not in model.all_tied_weights_keys]
        if lacking:
            raise ValueError(f"pretrained_model_name_or_path: the checkpoint lacks {min(lacking)}.")
        model.load_state_dict(weights, strict=False)
        device = language_model.get_input_embeddings().weight.device
        model.encoder.to(device)
        model.adapter.to(device)
        return model

    @property
    def _keys_to_ignore_on_save(self) -> set[str]:
        """Asked for by `save_pretrained` and by the Trainer; what the config says now, whatever it said before."""
        return {name for name in self.state_dict() if self._comes_from_elsewhere(name)}

    @_keys_to_ignore_on_save.setter
    def _keys_to_ignore_on_save(self, value):
        pass

    def _comes_from_elsewhere(self, name: str) -> bool:
        if name.startswith("encoder."):
            return self.config.encoder_name_or_path is not None
        frozen = name.startswith("language_model.") and not _is_lora(name)
        return frozen and self.config.base_model_name_or_path is not None

    def merge_and_unload(self):
        """Adds LoRA to the language model's weights, in place: a plain checkpoint, saved in full; returns the model."""
        for name, module in list(self.language_model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                self.language_model.set_submodule(name, module.get_base_layer())
        self.language_model._hf_peft_config_loaded = False
        self.config.lora_rank = 0
        self.config.encoder_name_or_path = self.config.base_model_name_or_path = None
        return self

    def train(self, mode: bool = True):
        super().train(mode)
        # Here, since loading makes new parameters, and ends with a call of this method.
        self.encoder.requires_grad_(False).eval()
        for name, parameter in self.language_model.named_parameters():
            parameter.requires_grad_(_is_lora(name) or not self.config.freeze_language_model)
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @torch.no_grad()
    def encode(
        self,
        pixel_values: torch.Tensor | None = None,
        view_position_ids: torch.Tensor | None = None,
        context_input_ids: torch.Tensor | None = None,
        context_attention_mask: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
    ) -> EncodedImages:
        """Vision latents, then context latents (B, 2Q, D), and patches (B, P, D).

        Arguments as in `CoGazeModel.forward`.
        """
        cogaze = self.encoder.cogaze
        tokens, patches = cogaze.encode_patches(pixel_values, view_position_ids, vision_features)
        latents = cogaze.encode_image(tokens, context_input_ids, context_attention_mask)
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
        placeholder = input_ids == self.config.image_token_id
        parts = dict(zip(PREFIX_LATENTS, latents.chunk(2, dim=1), strict=True))
        prefix = torch.cat([parts[name] for name in self.config.prefix_latents], dim=1)
        torch_compilable_check(
            (placeholder.sum(dim=1) == prefix.shape[1]).all(),
            lambda: (
                f"input_ids: the prompts have {placeholder.sum(dim=1).tolist()} image placeholders "
                f"(id {self.config.image_token_id}); each needs {prefix.shape[1]}."
            ),
        )
        # The placeholder's id may lie beyond the vocabulary.
        embeds = self.get_input_embeddings()(input_ids.masked_fill(placeholder, 0))
        prefix = self.adapter(prefix.to(self.adapter.weight.dtype)).to(embeds.dtype)
        return embeds.masked_scatter(placeholder[..., None], prefix)

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
        **kwargs,
    ) -> CausalLMOutput:
        """Loss and logits of reports behind their prompts; without `labels`, the logits (B, T, V) of the prompts.

        Args:
            input_ids, attention_mask: (B, T) prompts alone, padded on the left.
            pixel_values: (B, 3, H, W), with view position and context as in `CoGazeModel.forward`.
            labels: (B, L) `[begin] report [end]`, padding -100 on the right. The report is read behind the prompt,
                without its beginning token; logits (B, L - 1, V) predict the rest, and the loss is the mean over it.
            encoder_outputs: what `encode` gave, in place of the image.
            vision_features: stored tokens of the frozen vision encoder, in place of `pixel_values`.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encode(
                pixel_values, view_position_ids, context_input_ids, context_attention_mask, vision_features
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        embeds = self.embed_prompt(input_ids, encoder_outputs[0])
        if labels is None:
            return CausalLMOutput(logits=self._run_language_model(embeds, mask))
        targets = labels[:, 1:]
        # The prompt's last position predicts the report's first token.
        logits = self._report_logits(embeds, mask, targets[:, :-1])
        return CausalLMOutput(loss=report_loss(logits, targets, over_processes=self.training), logits=logits)

    def _report_logits(self, prompt: torch.Tensor, prompt_mask: torch.Tensor, report: torch.Tensor) -> torch.Tensor:
        """Logits (B, L + 1, V) for the tokens (B, L) of a report, and for what follows, behind prompts (B, T, W)."""
        present = report != -100
        embeds = torch.cat([prompt, self.get_input_embeddings()(report.masked_fill(~present, 0))], dim=1)
        mask = torch.cat([prompt_mask, present.to(prompt_mask.dtype)], dim=1)
        return self._run_language_model(embeds, mask, keep=report.shape[1] + 1)

    def _run_language_model(self, embeds: torch.Tensor, mask: torch.Tensor, keep: int = 0) -> torch.Tensor:
        """Logits of the last `keep` positions; 0: of all."""
        optional = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0), "logits_to_keep": keep, "use_cache": False}
        optional = {name: value for name, value in optional.items() if name in self._forward_arguments}
        return self.language_model(inputs_embeds=embeds, attention_mask=mask, **optional).logits[:, -keep:]

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        return_grounding: bool = False,
        processor=None,
        **kwargs,
    ):
        """Reports behind prompts: (R, L) token ids that begin with the beginning token and go without the prompt.

        Images are encoded once, whatever the number of beams. The rest is the language model's own `generate`: beams,
        sampling, `streamer`, caches ... By default greedy, up to 100 tokens.

        Args:
            input_ids, attention_mask: (B, T) prompts, padded on the left.
            return_grounding: also say where each sentence looks.
            processor: the model's own, which splits reports into sentences; for `return_grounding`.
            kwargs: the inputs of `encode`, or its result as `encoder_outputs`, and all that the stock `generate` takes.
                What else a processor's batch holds (labels, study ids) is left aside.

        Returns:
            What the stock `generate` does; with `return_grounding`, `GroundedReports`.
        """
        if return_grounding and processor is None:
            raise ValueError("processor: missing; return_grounding needs it to split reports into sentences.")
        for name in NOT_FOR_GENERATION:
            kwargs.pop(name, None)
        own = {name: kwargs.pop(name) for name in inspect.signature(self.encode).parameters if name in kwargs}
        encoded = kwargs.pop("encoder_outputs", None)
        encoded = self.encode(**own) if encoded is None else encoded
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self.language_model.generation_config = self.generation_config
        outputs = self.language_model.generate(
            inputs_embeds=self.embed_prompt(input_ids, encoded[0]), attention_mask=mask, **kwargs
        )
        sequences = outputs if isinstance(outputs, torch.Tensor) else outputs.sequences
        sequences = nn.functional.pad(sequences, (1, 0), value=self._begin_token_id)
        if return_grounding:
            return self.ground(sequences, encoded, processor, input_ids=input_ids, attention_mask=mask)
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
        logits = self._report_logits(prompts, attention_mask[image_index], sequences[:, 1:-1])
        return probabilities_of(logits, sequences)


def _fields(config: PreTrainedConfig) -> dict:
    """A copy, since a config takes hold of its sub-configs, of what says how a model is built."""
    left_out = ("architectures", "auto_map", "transformers_version")
    fields = config.to_dict().items()
    return {name: value for name, value in fields if name not in left_out and not name.startswith("_")}


def _is_lora(name: str) -> bool:
    return ".lora_" in name


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


def _load_encoder(name_or_path: str | os.PathLike, **access) -> CoGazeForPreTraining:
    """A CoGaze checkpoint of any kind; its disease heads are left out where it has none."""
    fields, _ = PreTrainedConfig.get_config_dict(name_or_path, **access)
    if fields.get("model_type") != "cogaze":
        raise ValueError(f"encoder_name_or_path: {name_or_path} is no CoGaze, but {fields.get('model_type')!r}.")
    encoder, info = CoGazeForPreTraining.from_pretrained(name_or_path, output_loading_info=True, **access)
    if any("_classifier." in name for name in info["missing_keys"]):
        del encoder.vision_classifier, encoder.report_classifier
        encoder.config.use_classification = False
    return encoder


__all__ = ["CoGazePrefixForConditionalGeneration"]

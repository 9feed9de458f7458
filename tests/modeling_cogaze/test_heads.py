"""The downstream heads of both families."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    BitImageProcessor,
    MobileNetV2ImageProcessor,
    pipeline,
)

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForImageClassification,
    CoGazeForPreTraining,
    CoGazeForSemanticSegmentation,
    EgmaConfig,
    EgmaForImageClassification,
    EgmaForPreTraining,
    EgmaForSemanticSegmentation,
)
from modeling_cogaze.heads import ClassificationHead, SegmentationHead
from tests import small

FAMILIES = {
    "cogaze": {
        "config": lambda **fields: CoGazeConfig.tiny(**{"vocab_size": 300} | small.COGAZE | fields),
        "pretraining": CoGazeForPreTraining,
        "classification": CoGazeForImageClassification,
        "segmentation": CoGazeForSemanticSegmentation,
    },
    "egma": {
        "config": lambda **fields: EgmaConfig.tiny(**{"vocab_size": 300} | small.EGMA | fields),
        "pretraining": EgmaForPreTraining,
        "classification": EgmaForImageClassification,
        "segmentation": EgmaForSemanticSegmentation,
    },
}
CONTEXT = {"context_input_ids": torch.tensor([[5, 6, 7], [0, 0, 0]]), "context_attention_mask": torch.ones(2, 3).long()}
CONTEXT["context_attention_mask"][1] = 0


@pytest.fixture(params=FAMILIES, scope="module")
def family(request):
    return FAMILIES[request.param]


def build(family, task, **fields):
    torch.manual_seed(0)
    return family[task](family["config"](**fields)).eval()


@pytest.fixture(scope="module")
def pretrained(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    build(family, "pretraining").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pooling", ["mean", "attention", "token"])
@pytest.mark.parametrize("loss", ["focal", "cross_entropy"])
@pytest.mark.parametrize("problem", ["single", "multi"])
def test_classification_learns(family, pixels, pooling, loss, problem):
    fields = {"classifier_pooling": pooling, "classifier_loss": loss, "examples_per_class": [5, 9, 2]}
    model = build(family, "classification", num_labels=3, **fields).train()
    labels = torch.tensor([2, 0]) if problem == "single" else torch.tensor([[1.0, 0, 1], [0, 1, torch.nan]])
    first = model(pixels, labels=labels).loss
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(10):
        optimizer.zero_grad()
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
    assert model(pixels, labels=labels).loss < 0.7 * first
    assert model.config.problem_type == f"{problem}_label_classification"


def test_without_balance_the_losses_are_the_stock_ones(family, pixels):
    model = build(family, "classification", num_labels=3, classifier_loss="cross_entropy")
    for labels, stock in (
        (torch.tensor([2, 0]), torch.nn.functional.cross_entropy),
        (torch.tensor([[1.0, 0, 1], [0, 1, 0]]), torch.nn.functional.binary_cross_entropy_with_logits),
    ):
        model.config.problem_type = None
        outputs = model(pixels, labels=labels)
        torch.testing.assert_close(outputs.loss, stock(outputs.logits, labels))


def test_binary_labels_come_in_a_row_or_in_a_column(family, pixels):
    model = build(family, "classification", num_labels=1)
    labels = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(model(pixels, labels=labels).loss, model(pixels, labels=labels[:, None]).loss)
    assert model.config.problem_type == "multi_label_classification"


def test_mean_pooling_is_linear_in_the_global_feature(family, pixels):
    model = build(family, "classification", num_labels=5)
    features = model.base_model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(model(pixels).logits, model.classifier.linear(features))


def test_attention_weighs_tokens_for_each_label(family, pixels):
    model = build(family, "classification", num_labels=5, classifier_pooling="attention")
    with torch.no_grad():
        model.classifier.score.weight.mul_(20)
    outputs = model(pixels, output_attentions=True)
    (weights,) = outputs.attentions
    others = 4 if model.base_model_prefix == "cogaze" else 1
    assert weights.shape == (2, 5, others + 16)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 5))
    assert weights.std(dim=1).max() > 1e-3
    with pytest.raises(ValueError, match="output_attentions"):
        build(family, "classification")(pixels, output_attentions=True)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_one_image_alone_and_in_a_batch_are_equal(family, pixels, task):
    model = build(family, task, num_labels=2, classifier_pooling="attention")
    together = model(pixels, **CONTEXT).logits
    for row in range(2):
        context = {name: value[row : row + 1] for name, value in CONTEXT.items()}
        torch.testing.assert_close(
            model(pixels[row : row + 1], **context).logits, together[row : row + 1], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_cogaze_uses_the_context_where_there_is_one(pixels, task):
    model = build(FAMILIES["cogaze"], task)
    moved = (model(pixels, **CONTEXT).logits - model(pixels).logits).abs().flatten(1).amax(dim=1)
    assert moved[0] > 1e-5 and moved[1] < 1e-6


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_pretraining_checkpoint_lacks_the_head_alone(family, pretrained, pixels, task):
    auto = {"classification": AutoModelForImageClassification, "segmentation": AutoModelForSemanticSegmentation}[task]
    model, report = auto.from_pretrained(pretrained, num_labels=3, output_loading_info=True)
    assert isinstance(model, family[task]) and model.config.num_labels == 3
    head = "classifier" if task == "classification" else "decode_head"
    assert {name.split(".")[0] for name in report["missing_keys"]} == {head}
    assert not report["unexpected_keys"] and not report["mismatched_keys"]
    expected = build(family, "pretraining").base_model.get_image_features(pixels).pooler_output
    torch.testing.assert_close(model.base_model.get_image_features(pixels).pooler_output, expected)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_saving_and_loading_gives_the_same_outputs(family, pixels, task, tmp_path):
    names = {"id2label": {0: "edema", 1: "mass"}, "label2id": {"edema": 0, "mass": 1}}
    model = build(family, task, classifier_pooling="attention", examples_per_class=[1, 2], **names)
    model.save_pretrained(tmp_path)
    loaded = family[task].from_pretrained(tmp_path)
    assert loaded.config.id2label == names["id2label"] and loaded.config.examples_per_class == [1, 2]
    torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits, rtol=0, atol=0)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_frozen_vision_encoder_stays_frozen(family, pretrained, pixels, task):
    model = family[task].from_pretrained(pretrained, freeze_vision_encoder=True, num_labels=1).train()
    labels = torch.zeros(2, 1) if task == "classification" else torch.zeros(2, 64, 64)
    model(pixels, labels=labels).loss.backward()
    for name, parameter in model.base_model.vision_model.named_parameters():
        assert not parameter.requires_grad, name
    head = model.classifier if task == "classification" else model.decode_head
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_a_linear_probe_trains_the_head_alone(family, pretrained, task):
    for model in (
        build(family, task, freeze_encoder=True),
        family[task].from_pretrained(pretrained, freeze_encoder=True),
    ):
        trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
        assert trained == {"classifier" if task == "classification" else "decode_head"}
        model.train()
        assert not any(module.training for module in model.base_model.modules())


def test_stored_features_give_the_same_as_pixels(pixels):
    for task in ("classification", "segmentation"):
        model = build(FAMILIES["cogaze"], task, freeze_vision_encoder=True)
        stored, _ = model.cogaze.get_vision_features(pixels)
        torch.testing.assert_close(model(vision_features=stored).logits, model(pixels).logits)


@pytest.mark.parametrize(
    ("channels", "labels"),
    [
        (1, torch.randint(0, 2, (2, 64, 64))),
        (3, torch.randint(0, 3, (2, 64, 64))),
        (3, torch.randint(0, 2, (2, 3, 64, 64)).float()),
    ],
)
def test_segmentation_learns(family, pixels, channels, labels):
    model = build(family, "segmentation", num_labels=channels).train()
    outputs = model(pixels, labels=labels)
    assert outputs.logits.shape == (2, channels, 64, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        optimizer.zero_grad()
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
    assert model(pixels, labels=labels).loss < outputs.loss
    assert (
        model.config.problem_type
        == f"{'single' if labels.ndim == 3 and channels > 1 else 'multi'}_label_classification"
    )


def test_the_mask_of_a_marked_corner_is_found_in_that_corner(family):
    """Patches keep their place on the way through the decoder, whichever corner it is."""
    torch.manual_seed(0)
    model = build(family, "segmentation", num_labels=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images, masks = torch.zeros(4, 3, 64, 64), torch.zeros(4, 64, 64)
    for corner, (row, column) in enumerate(((0, 0), (0, 32), (32, 0), (32, 32))):
        images[corner, :, row : row + 32, column : column + 32] = 2.0
        masks[corner, row : row + 32, column : column + 32] = 1
    for _ in range(30):
        optimizer.zero_grad()
        model(images, labels=masks).loss.backward()
        optimizer.step()
    found = model.eval()(images).logits[:, 0] > 0
    assert (found == masks.bool()).float().mean() > 0.85


def test_base_decoder_has_the_papers_widths():
    with torch.device("meta"):
        model = CoGazeForSemanticSegmentation(CoGazeConfig(num_labels=1))
    head = model.decode_head
    assert head.expand.weight.shape == (1369, 128, 1)
    assert [block[0].out_channels for block in head.blocks] == [512, 256, 128, 64]


def test_the_disease_head_starts_the_classifier(pixels):
    family = FAMILIES["cogaze"]
    pretrained = build(family, "pretraining")
    names = {0: "pleural_effusion", 1: "Hernia", 2: "Edema"}
    model = build(family, "classification", id2label=names, label2id={name: i for i, name in names.items()})
    before = model(pixels).logits
    assert model.take_disease_head(pretrained) == ["pleural_effusion", "Edema"]
    after, expected = model(pixels).logits, pretrained(pixels).vision_logits
    torch.testing.assert_close(after[:, [0, 2]], expected[:, [9, 4]])
    torch.testing.assert_close(after[:, 1], before[:, 1])
    for fields, message in (
        ({"classifier_pooling": "attention"}, "classifier_pooling"),
        ({"classifier_context": True}, "classifier_context"),
        ({"id2label": {0: "a", 1: "b"}}, "id2label"),
    ):
        with pytest.raises(ValueError, match=message):
            build(family, "classification", **fields).take_disease_head(pretrained)
    with pytest.raises(ValueError, match="L_cls"):
        model.take_disease_head(build(family, "pretraining", use_classification=False))


@pytest.mark.parametrize("context", [False, True])
def test_a_token_reads_the_latents_as_in_the_released_code(pixels, context):
    fields = {"num_labels": 3, "classifier_pooling": "token", "classifier_context": context}
    model = build(FAMILIES["cogaze"], "classification", **fields)
    pool, linear = model.classifier.pool, model.classifier.linear
    assert 0.5 < pool.token.std() < 2  # of unit variance at the start
    outputs = model.cogaze(pixels, **CONTEXT)
    latents = [outputs.vision_latents, *([outputs.context_latents] if context else [])]
    width = linear.in_features
    attention = torch.nn.MultiheadAttention(width, 8, batch_first=True).eval()
    with torch.no_grad():
        projections = (pool.q_proj, pool.k_proj, pool.v_proj)
        attention.in_proj_weight.copy_(torch.cat([each.weight for each in projections]))
        attention.in_proj_bias.copy_(torch.cat([each.bias for each in projections]))
        attention.out_proj.load_state_dict(pool.out_proj.state_dict())
    states = pool.norm(torch.cat([pool.token.expand(2, 1, -1), *latents], dim=1))
    attended, weights = attention(states[:, :1], states, states)
    token = pool.norm_attended(attended + states[:, :1])
    expected = linear(pool.norm_out(token + pool.feed_forward(token)).squeeze(1))
    found = model(pixels, **CONTEXT, output_attentions=True)
    torch.testing.assert_close(found.logits, expected)
    torch.testing.assert_close(found.attentions[-1], weights[:, :, 1:])


def test_context_latents_are_further_features_where_asked_for(pixels):
    model = build(FAMILIES["cogaze"], "classification", num_labels=3)
    plain = model(pixels, **CONTEXT).logits
    outputs = model.cogaze(pixels, **CONTEXT)
    torch.testing.assert_close(plain, model.classifier.linear(outputs.vision_latents.mean(dim=1)))
    model.config.classifier_context = True
    latents = torch.cat([outputs.vision_latents, outputs.context_latents], dim=1)
    found = model(pixels, **CONTEXT).logits
    torch.testing.assert_close(found, model.classifier.linear(latents.mean(dim=1)))
    assert (found - plain).abs().max() > 1e-4


def test_compiled_heads_have_no_graph_breaks():
    config = FAMILIES["egma"]["config"](
        num_labels=2, classifier_pooling="attention", problem_type="multi_label_classification"
    )
    tokens = torch.randn(2, 17, 32)
    for head, inputs in (
        (ClassificationHead(config, 32), (tokens[:, 0], tokens, torch.ones(2, 2))),
        (SegmentationHead(config, 1, 32), (tokens[:, :1], tokens[:, 1:], (64, 64), torch.ones(2, 2, 64, 64))),
    ):
        compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*inputs).loss, head(*inputs).loss, rtol=1e-4, atol=1e-5)


def test_bad_input_is_refused(family, pixels):
    with pytest.raises(ValueError, match="examples_per_class: 2 counts for 3 labels"):
        build(family, "classification", num_labels=3, examples_per_class=[1, 2])
    with pytest.raises(ValueError, match="labels: shape"):
        build(family, "classification", num_labels=3)(pixels, labels=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="problem_type"):
        build(family, "classification", problem_type="regression")(pixels, labels=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="made for 4 x 4"):
        build(family, "segmentation")(torch.zeros(1, 3, 96, 64))
    with pytest.raises(ValueError, match=r"labels: shape .*32, 32"):
        build(family, "segmentation", num_labels=1)(pixels, labels=torch.zeros(2, 32, 32))


@pytest.mark.parametrize("problem", ["single", "multi"])
def test_the_image_classification_pipeline(family, tmp_path, problem):
    names = {"id2label": {0: "edema", 1: "mass", 2: "fracture"}, "problem_type": f"{problem}_label_classification"}
    model = build(family, "classification", **names)
    model.save_pretrained(tmp_path)
    size = {"height": 64, "width": 64}
    BitImageProcessor(size=size, do_center_crop=False).save_pretrained(tmp_path)
    classify = pipeline("image-classification", model=str(tmp_path))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 70), np.uint8)).convert("RGB")
    scores = {each["label"]: each["score"] for each in classify(image)}
    logits = model(classify.image_processor(images=image, return_tensors="pt")["pixel_values"]).logits[0]
    expected = logits.softmax(dim=0) if problem == "single" else logits.sigmoid()
    assert [scores[name] for name in names["id2label"].values()] == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_image_segmentation_pipeline_with_exclusive_classes(family, tmp_path):
    """It takes the most likely class of each pixel, and needs an image processor that brings maps to a size."""
    names = {"id2label": {0: "background", 1: "mass"}, "problem_type": "single_label_classification"}
    model = build(family, "segmentation", **names)
    model.save_pretrained(tmp_path)
    size = {"height": 64, "width": 64}
    processor = MobileNetV2ImageProcessor(size=size, do_center_crop=False)
    processor.save_pretrained(tmp_path)
    segment = pipeline("image-segmentation", model=str(tmp_path))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).convert("RGB")
    found = {each["label"]: np.asarray(each["mask"]) > 0 for each in segment(image)}
    classes = model(segment.image_processor(images=image, return_tensors="pt")["pixel_values"]).logits[0].argmax(dim=0)
    assert set(found) == {names["id2label"][index] for index in classes.unique().tolist()}
    for index, name in names["id2label"].items():
        if name in found:
            np.testing.assert_array_equal(found[name], classes.numpy() == index)


def test_temperatures_divide_the_logits_and_leave_the_loss(family, pixels):
    plain = build(family, "classification", num_labels=3)
    scaled = build(family, "classification", num_labels=3, logit_temperature=[0.5, 1.0, 4.0])
    labels = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    for mode in (True, False):
        before, after = plain.train(mode)(pixels, labels=labels), scaled.train(mode)(pixels, labels=labels)
        torch.testing.assert_close(after.logits, before.logits / torch.tensor([0.5, 1.0, 4.0]))
        torch.testing.assert_close(after.loss, before.loss)
    for wrong in ([1.0, 2.0], [1.0, 0.0, 1.0]):
        with pytest.raises(ValueError, match="logit_temperature"):
            build(family, "classification", num_labels=3, logit_temperature=wrong)

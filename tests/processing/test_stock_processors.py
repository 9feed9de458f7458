"""The processors in the hands of the stock tools: `ProcessorMixin`'s keyword arguments, chats and pipelines."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, pipeline

from modeling_cogaze import (
    CoGazeConfig,
    CoGazeForConditionalGeneration,
    CoGazePrefixConfig,
    CoGazePrefixForConditionalGeneration,
    EgmaConfig,
    EgmaForConditionalGeneration,
)
from processing import CoGazePrefixProcessor, CoGazeProcessor, EgmaProcessor
from processing.prompts import report_messages
from processing.tokenization import build_tokenizer
from tests import small
from tests.modeling_cogaze.test_prefix import LLAMA, SMALL

FAMILIES = {
    "cogaze": (CoGazeConfig, CoGazeForConditionalGeneration, CoGazeProcessor, small.COGAZE),
    "egma": (EgmaConfig, EgmaForConditionalGeneration, EgmaProcessor, small.EGMA),
}
REPORTS = ["The lungs are clear.", "There is a small left pleural effusion, and the heart is enlarged."]
READING = {
    "sentences": [{"text": "Clear.", "begin": 0.0, "end": 2.0}],
    "fixations": [{"x": 30.0, "y": 40.0, "begin": 0.2, "end": 1.5}],
}


@pytest.fixture(scope="module")
def tokenizer():
    prompts = [message["content"] for message in report_messages("free_text", "<image>", "draft", ["disease"])]
    return build_tokenizer(REPORTS * 3 + prompts, 500)


@pytest.fixture(scope="module")
def processors(tokenizer):
    made = {
        family: processor.for_model(tokenizer, config.tiny(vocab_size=len(tokenizer), **sizes))
        for family, (config, _, processor, sizes) in FAMILIES.items()
    }
    made["prefix"] = CoGazePrefixProcessor.for_language_model(tokenizer, made["cogaze"], num_image_tokens=8)
    return made


@pytest.fixture(params=["cogaze", "egma"])
def processor(request, processors):
    return processors[request.param]


def picture(seed=0, size=(70, 90)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8))


def test_padding_and_length_are_those_that_are_asked_for(processor):
    plain = processor(text=REPORTS)
    longest = plain["input_ids"].shape[1]
    for arguments in (
        {"padding": "max_length", "max_length": 48},
        {"text_kwargs": {"padding": "max_length", "max_length": 48}},
    ):
        padded = processor(text=REPORTS, **arguments)
        assert padded["input_ids"].shape == padded["attention_mask"].shape == (2, 48)
        assert torch.equal(padded["input_ids"][:, :longest], plain["input_ids"])
        assert torch.equal(padded["attention_mask"].sum(dim=1), plain["attention_mask"].sum(dim=1))
    assert processor(text=REPORTS, truncation=True, max_length=5)["input_ids"].shape == (2, 5)
    assert processor(text=REPORTS, pad_to_multiple_of=32)["input_ids"].shape[1] % 32 == 0
    left = processor(text=REPORTS, padding_side="left")
    assert left["attention_mask"][:, -1].all() and not left["attention_mask"].all()
    one = processor(text=REPORTS[:1], padding=False)
    assert one["attention_mask"].all()
    with pytest.raises(ValueError, match="padding: texts of different lengths"):
        processor(text=REPORTS, padding=False)
    # A call leaves nothing behind.
    assert torch.equal(processor(text=REPORTS)["input_ids"], plain["input_ids"])


def test_every_text_keeps_to_the_arguments(processors):
    batch = processors["cogaze"](
        indication=["cough", "a much longer indication"],
        findings=REPORTS,
        gaze=[READING, None],
        image_size=[(100, 100)] * 2,
        padding="max_length",
        max_length=32,
    )
    for part in ("context", "report", "transcript"):
        assert batch[f"{part}_input_ids"].shape[1] == batch[f"{part}_attention_mask"].shape[1] == 32


def test_image_arguments_reach_the_pixels_and_what_follows_them(processors):
    cogaze, image = processors["cogaze"], picture()
    plain = cogaze(images=image, gaze=[READING])
    raw = cogaze(images=image, images_kwargs={"do_normalize": False})["pixel_values"]
    assert raw.min() >= 0 and raw.max() <= 1
    mean, std = (
        torch.tensor(getattr(cogaze.image_processor, f"image_{name}"))[:, None, None] for name in ("mean", "std")
    )
    torch.testing.assert_close(plain["pixel_values"], (raw - mean) / std, rtol=1e-4, atol=1e-5)
    size = {"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}}
    assert cogaze(images=image, **size)["pixel_values"].shape == (1, 3, 96, 96)
    # Not resized, the middle of the picture alone is shown, and gaze outside it is gone.
    whole = cogaze(images=image, do_resize=False, gaze=[READING])
    middle = np.asarray(image.crop((13, 3, 77, 67)))
    shown = cogaze(images=image, do_resize=False, do_normalize=False)["pixel_values"][0, 0]
    torch.testing.assert_close(shown, torch.from_numpy(middle / 255).float(), rtol=0, atol=1e-6)
    assert not torch.equal(whole["gaze_targets"], plain["gaze_targets"])
    masks = [np.eye(70, 90, dtype=np.uint8) * 255]
    labels = cogaze(images=image, do_resize=False, masks=masks)["labels"]
    assert labels.shape[-2:] == (64, 64)
    expected = torch.from_numpy(masks[0][3:67, 13:77] > 0)
    assert torch.equal(labels[0].bool().reshape(64, 64), expected)


def test_pictures_keep_one_size(processors):
    with pytest.raises(ValueError, match="image_processor: pictures would keep different sizes"):
        processors["cogaze"](images=picture(), do_center_crop=False)
    with pytest.raises(ValueError, match="image_processor: pictures would keep different sizes"):
        processors["egma"](images=picture(), do_resize=False)
    with pytest.raises(ValueError, match="turn off do_center_crop"):
        processors["egma"](images=picture(), do_center_crop=True, crop_size={"height": 32, "width": 32})


def test_kinds_of_tensors_and_wrong_arguments(processor):
    for arguments in ({"text_kwargs": {"return_tensors": "np"}}, {"common_kwargs": {"return_tensors": "np"}}):
        assert isinstance(processor(text=REPORTS, **arguments)["input_ids"], np.ndarray)
    assert isinstance(processor(text=REPORTS, videos=None, audio=None)["input_ids"], torch.Tensor)
    for arguments, name in (
        ({"paddign": True}, "paddign"),
        ({"text_kwargs": {"stride": 3}}, "stride"),
        ({"images_kwargs": {"do_resise": False}}, "do_resise"),
    ):
        with pytest.raises(TypeError, match=f"{name}: .* knows no such argument"):
            processor(text=REPORTS, **arguments)
    with pytest.raises(ValueError, match="add_special_tokens"):
        processor(text=REPORTS, add_special_tokens=not processor._ADD_SPECIAL_TOKENS)
    with pytest.raises(ValueError, match="videos"):
        processor(text=REPORTS, videos=[1])
    with pytest.raises(ValueError, match="max_length"):
        processor(text=REPORTS, max_length=-1)
    with pytest.raises(ValueError, match=r"images\[1\]: 2 images"):
        processor(images=[[picture()], [picture(), picture()]])


@pytest.fixture(scope="module")
def writers(processors, tokenizer):
    """A report generator of each kind, with its processor."""
    made = {}
    for family, (config, model, _, sizes) in FAMILIES.items():
        torch.manual_seed(0)
        config = config.tiny(vocab_size=len(tokenizer), **sizes).add_decoder(tokenizer, initializer_range=0.4)
        made[family] = (model(config).eval(), processors[family])
    prefix = processors["prefix"]
    special = {name: getattr(prefix.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    config = CoGazePrefixConfig(
        encoder_config=CoGazeConfig.tiny(vocab_size=len(tokenizer), **small.COGAZE),
        text_config={"model_type": "llama"} | LLAMA | SMALL | special | {"vocab_size": prefix.image_token_id},
        image_token_id=prefix.image_token_id,
    )
    return made | {"prefix": (CoGazePrefixForConditionalGeneration(config).eval(), prefix)}


@pytest.mark.parametrize("kind", ["cogaze", "egma", "prefix"])
def test_the_pipeline_takes_lists(writers, kind):
    model, processor = writers[kind]
    write = pipeline("image-text-to-text", model=model, processor=processor)
    images = [picture(i, (64 + i, 80)).convert("RGB") for i in range(3)]
    expected = [
        processor.decode_reports(model.generate(**processor(images=image), max_new_tokens=8))[0] for image in images
    ]
    assert len(set(expected)) > 1
    found = write(images, text=[""] * 3, max_new_tokens=8)
    assert [each["generated_text"].strip() for each in found] == expected
    found = list(write(({"images": image, "text": ""} for image in images), batch_size=2, max_new_tokens=8))
    assert [each[0]["generated_text"].strip() for each in found] == expected


def test_a_chat_is_the_prompt_of_the_processor(processors, writers, tmp_path):
    prefix, image = processors["prefix"], picture()
    system, user = report_messages("free_text", "<image>")
    first, rest = user["content"].split("\n", 1)
    assert first.endswith("<image>")
    picture_path = tmp_path / "picture.png"
    image.save(picture_path)
    chat = [
        {"role": "system", "content": [{"type": "text", "text": system["content"]}]},
        {"role": "user", "content": [{"type": "image", "path": str(picture_path)}, {"type": "text", "text": rest}]},
    ]
    prefix.save_pretrained(tmp_path / "saved")
    model, _ = writers["prefix"]
    for processor in (prefix, AutoProcessor.from_pretrained(tmp_path / "saved")):
        own = processor(images=image)
        assert own["input_ids"].tolist() == prefix(images=image)["input_ids"].tolist()
        batch = processor.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert {name: value.tolist() for name, value in batch.items()} == {
            name: value.tolist() for name, value in own.items()
        }
    write = pipeline("image-text-to-text", model=model, processor=prefix)
    answer = write(text=chat, max_new_tokens=6)[0]["generated_text"][-1]
    assert answer["role"] == "assistant"
    assert answer["content"].strip() == prefix.decode_reports(model.generate(**own, max_new_tokens=6))[0]


LLAMA_LIKE = (
    "{{- bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}\n{% endfor %}"
    "{{ date_string }}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_tokenizers_own_template_gets_chats_with_images(processors, tokenizer, tmp_path):
    own = build_tokenizer(REPORTS, 400)
    own.chat_template = LLAMA_LIKE
    prefix = CoGazePrefixProcessor.for_language_model(own, processors["cogaze"], num_image_tokens=8)
    content = [{"type": "image"}, {"type": "text", "text": "What is seen?"}]
    text = prefix.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == f"{own.bos_token}<user>Chest X-ray: <image>\nWhat is seen?\n26 Jul 2024<assistant>"
    plain = prefix.apply_chat_template([{"role": "user", "content": "Hello"}], date_string="today")
    assert plain == f"{own.bos_token}<user>Hello\ntoday"
    expected = prefix(images=picture())["input_ids"].tolist()
    for _ in range(2):
        prefix.save_pretrained(tmp_path)
        prefix = CoGazePrefixProcessor.from_pretrained(tmp_path)
    assert prefix(images=picture())["input_ids"].tolist() == expected
    assert prefix.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True) == text
    assert prefix.chat_template.count("26 Jul 2024") == 1


def test_prompts_of_ones_own_keep_their_image(processors):
    prefix = processors["prefix"]
    text = ["Look: <image> What is seen?", "<image> Report."]
    batch = prefix(images=[[picture()], [picture(1)]], text=text, add_special_tokens=False)
    assert (batch["input_ids"] == prefix.image_token_id).sum(dim=1).tolist() == [8, 8]
    first = prefix.tokenizer("Look: <image> What is seen?", add_special_tokens=False)["input_ids"]
    assert batch["attention_mask"][0].sum() == len(first) + 7
    own = prefix(images=picture(), text="")
    assert own["input_ids"].tolist() == prefix(images=picture())["input_ids"].tolist()
    for wrong, message in (
        ({"text": "no image"}, r"text\[0\]: 0 times <image>"),
        ({"text": "<image><image>"}, r"text\[0\]: 2 times <image>"),
        ({"text": ["<image>"] * 2}, "text: 2 entries for 1 images"),
        ({"text": "<image>", "similar_report": "clear"}, r"text\[0\]: .*similar_report"),
        ({"text": "<image> words", "truncation": True, "max_length": 9}, r"max_length: .*text\[0\]"),
        ({"text": 3}, "text"),
    ):
        with pytest.raises(ValueError, match=message):
            prefix(images=picture(), **wrong)


def test_prompts_of_the_processor_keep_to_the_arguments(processors):
    prefix = processors["prefix"]
    plain = prefix(images=picture(), similar_report="clear lungs and a normal heart " * 5)
    length = plain["input_ids"].shape[1]
    padded = prefix(images=picture(), padding="max_length", max_length=length + 20)
    assert padded["input_ids"].shape[1] == length + 20
    assert not padded["attention_mask"][0, 0] and padded["attention_mask"][0, -1]
    assert prefix(images=picture(), pad_to_multiple_of=64)["input_ids"].shape[1] % 64 == 0
    cut = prefix(
        images=picture(), similar_report="clear lungs and a normal heart " * 5, truncation=True, max_length=length - 10
    )
    assert cut["input_ids"].shape[1] <= length - 10
    assert (cut["input_ids"] == prefix.image_token_id).sum() == 8
    with pytest.raises(ValueError, match="5 are too few"):
        prefix(images=picture(), truncation=True, max_length=12)
    assert prefix(images=picture(), do_normalize=False)["pixel_values"].min() >= 0

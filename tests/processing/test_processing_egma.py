import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoProcessor

from modeling_cogaze import EgmaConfig, EgmaForPreTraining
from modeling_cogaze.losses_egma import fill_empty_targets
from processing import EgmaProcessor
from processing.gaze import gaze_targets
from processing.processing_egma import IMAGE_MEAN, IMAGE_STD
from processing.tokenization import build_tokenizer

REPORT = "The lungs are clear. There is no pleural effusion. Heart size is 1.5 times normal."
READING = {
    "sentences": [{"text": "Left apex is clear.", "begin": 0.0, "end": 1.0}, {"text": "Done.", "begin": 2.0, "end": 3}],
    "fixations": [
        {"x": 30.0, "y": 20.0, "begin": 0.0, "end": 0.6, "sigma_x": 4.0, "sigma_y": 4.0},
        {"x": 70.0, "y": 150.0, "begin": 1.2, "end": 1.8, "sigma_x": 4.0, "sigma_y": 4.0},
    ],
}


@pytest.fixture(scope="module")
def processor():
    tokenizer = build_tokenizer([REPORT, READING["sentences"][0]["text"]] * 3, vocab_size=300)
    return EgmaProcessor.for_model(tokenizer, EgmaConfig.tiny(vocab_size=300))


def picture(width=100, height=200, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width), dtype=np.uint8))


def test_transcripts_and_reports_share_a_batch(processor):
    batch = processor(
        images=[picture(), picture(200, 200), picture(seed=2)],
        gaze=[READING, None, [READING, READING]],
        findings=[REPORT, REPORT, ""],
        view_position=["PA", "", "AP"],
        indication=["cough", "", ""],
        study_id=["a", "b", "c"],
    )
    assert batch["pixel_values"].shape == (3, 3, 224, 224)
    assert batch["transcript_image_index"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]
    full = [False, False, True, False, False, False] + [False, False, True] * 2
    assert batch["transcript_is_full"].tolist() == full
    assert len(batch["transcript_input_ids"]) == 12
    # What was written, nobody looked at; what was said while looking elsewhere has no target of its own.
    assert (batch["gaze_targets"].sum(dim=1) > 0).tolist() == [True, False, True] + [False] * 3 + [
        True,
        False,
        True,
    ] * 2
    assert not any(name.startswith(("context_", "report_", "view_")) for name in batch)
    texts = processor.tokenizer.batch_decode(batch["transcript_input_ids"], skip_special_tokens=True)
    assert [t.strip() for t in texts[3:6]] == [
        "The lungs are clear.",
        "There is no pleural effusion.",
        "Heart size is 1.5 times normal.",
    ]


def test_targets_follow_the_padding(processor):
    batch = processor(images=picture(100, 200), gaze=READING)
    expected = gaze_targets(READING, (100, 200), processor.grid_size, crop=(-50, 0, 150, 200))
    np.testing.assert_array_equal(batch["gaze_targets"].numpy(), expected)
    # A portrait in the middle of a square: nothing in the outer quarters.
    columns = batch["gaze_targets"][2].reshape(processor.grid_size).sum(dim=0)
    width = len(columns)
    assert columns[: width // 4].sum() == 0 and columns[-(width // 4) :].sum() == 0
    assert columns.sum().item() == pytest.approx(1.2, rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 300), st.integers(20, 300), st.floats(0.5, 4))
def test_the_frame_is_a_centred_square(processor, width, height, scale):
    framed = processor._framed(picture(width, height))
    assert framed.size == (max(width, height),) * 2
    x0, y0, x1, y1 = processor.crop_box((width, height), (width * scale, height * scale))
    assert x1 - x0 == pytest.approx(max(width, height) * scale) and y1 - y0 == pytest.approx(x1 - x0)
    # Centred, to the pixel.
    assert abs((x0 + x1) - width * scale) <= scale + 1e-6 and abs((y0 + y1) - height * scale) <= scale + 1e-6


def test_pixels_are_normalised_and_padded_with_black(processor):
    white = Image.new("L", (100, 200), 255)
    white.putpixel((0, 0), 0)
    pixels = processor(images=white)["pixel_values"][0]
    torch.testing.assert_close(pixels[0], pixels[1])
    assert pixels[0, 112, 112].item() == pytest.approx((1 - IMAGE_MEAN) / IMAGE_STD, abs=1e-4)
    assert pixels[0, 112, 5].item() == pytest.approx(-IMAGE_MEAN / IMAGE_STD, abs=1e-4)


def test_masks_follow_the_padding(processor):
    mask = np.zeros((200, 100), np.uint8)
    mask[:, :50] = 255
    labels = processor(images=picture(), masks=mask)["labels"][0].numpy()
    assert labels[:, 56:112].all() and not labels[:, :56].any() and not labels[:, 112:].any()


def test_texts_alone(processor):
    batch = processor(findings=[REPORT, "One sentence"])
    assert batch["transcript_image_index"].tolist() == [0, 0, 0, 1]
    assert batch["gaze_targets"].shape == (4, 196) and not batch["gaze_targets"].any()
    prompts = processor(text=["pneumonia", "no finding"])
    sentence = processor(findings=["pneumonia"])["transcript_input_ids"]
    length = int(prompts["attention_mask"][0].sum())
    assert prompts["input_ids"][0, :length].tolist() == sentence[0].tolist()


def test_images_without_any_text(processor):
    batch = processor(images=[picture()], gaze=[None])
    assert len(batch["transcript_input_ids"]) == 0 and batch["gaze_targets"].shape == (0, 196)
    with pytest.raises(ValueError, match=r"findings\[1\].*leave the study out"):
        processor(images=[picture(), picture()], gaze=[None, None], findings=[REPORT, " . "])


def test_sentences_are_cut_at_77_tokens(processor):
    batch = processor(findings=["opacity " * 200])
    assert batch["transcript_input_ids"].shape == (1, 77)


def test_saved_processor_gives_the_same(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is EgmaProcessor
    arguments = {"images": picture(), "gaze": READING, "findings": REPORT}
    for name, tensor in processor(**arguments).items():
        torch.testing.assert_close(loaded(**arguments)[name], tensor, rtol=0, atol=0)


def test_processor_opens_without_the_project(processor, tmp_path):
    processor.save_pretrained(tmp_path / "checkpoint")
    script = (
        "import json, sys; from transformers import AutoProcessor; "
        f"p = AutoProcessor.from_pretrained({str(tmp_path / 'checkpoint')!r}, trust_remote_code=True); "
        f"b = p(findings=[{REPORT!r}]); "
        "assert 'processing' not in sys.modules; print(json.dumps(b['transcript_input_ids'].tolist()))"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == processor(findings=[REPORT])["transcript_input_ids"].tolist()


def test_gaze_without_speech_is_the_full_map_of_the_report_s_sentences(processor):
    silent = READING | {"sentences": []}
    batch = processor(images=[picture(), picture(seed=2)], gaze=[[silent], [READING, silent]], findings=[REPORT] * 2)
    assert batch["transcript_image_index"].tolist() == [0] * 4 + [1] * 7
    full = [False] * 3 + [True]
    assert batch["transcript_is_full"].tolist() == [*full, False, False, True, *full]
    assert (batch["gaze_targets"].sum(dim=1) > 0).tolist()[:4] == full
    assert torch.equal(batch["gaze_targets"][3], batch["gaze_targets"][6])
    filled = fill_empty_targets(batch["gaze_targets"], batch["transcript_image_index"], batch["transcript_is_full"])
    assert all(torch.equal(row, batch["gaze_targets"][3]) for row in filled[:4])
    model = EgmaForPreTraining(EgmaConfig.tiny(vocab_size=300)).eval()
    losses = model(**batch)
    assert torch.isfinite(losses.loss) and losses.loss_egf > 0 and losses.loss_egm > 0
    # Without a report there is a map and no sentence to align; the image's text is none, and nothing breaks.
    alone = processor(images=[picture(), picture(seed=2)], gaze=[[silent], [READING]])
    assert alone["transcript_is_full"].tolist() == [True, False, False, True]
    assert torch.isfinite(model(**alone).loss)

import io
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoProcessor, BitImageProcessor

from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining
from processing import CoGazeProcessor
from processing.datasets.records import label_targets
from processing.gaze import clean_fixations, gaze_targets
from processing.tokenization import build_tokenizer
from tests import small

TEXTS = ["The lungs are clear. No pleural effusion or pneumothorax. Heart size is normal. Cough and fever for a week."]


def make_processor(size=32, crop=None, **options) -> CoGazeProcessor:
    crop = crop or size
    image_processor = BitImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": crop, "width": crop},
        image_mean=[0.5307] * 3,
        image_std=[0.2583] * 3,
    )
    return CoGazeProcessor(image_processor, build_tokenizer(TEXTS * 5, 320), **{"grid_size": (4, 4)} | options)


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def picture(seed=0, width=48, height=40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8))


def reading(offset=0.0, sentences=2):
    fixations = [
        {
            "x": 300.0 + 90 * k + offset,
            "y": 700.0 - 80 * k,
            "begin": float(k),
            "end": k + 0.75,
            "sigma_x": 60.0,
            "sigma_y": 50.0,
            "shown": [0.0, 0.0, 960.0, 800.0],
        }
        for k in range(6)
    ]
    spoken = [{"text": f"Lungs are clear {s}.", "begin": 2.0 * s, "end": 2.0 * s + 2} for s in range(sentences)]
    return {"reader": "r", "sentences": spoken, "fixations": fixations}


def record(seed=0, **fields):
    return {
        "image": picture(seed),
        "image_width": 960,
        "image_height": 800,
        "image_id": f"image-{seed}",
        "study_id": f"study-{seed // 2}",
        "patient_id": f"patient-{seed // 2}",
        "view_position": ["PA", "AP", "LATERAL", ""][seed % 4],
        "indication": "Cough." if seed % 3 else "",
        "history": "Fever for a week." if seed % 2 else "",
        "findings": "The lungs are clear. " + "No pleural effusion. " * (1 + seed % 3),
        "impression": "",
        "labels": [1, 0, 2, -1],
        "gaze": [reading(seed), reading(seed + 5, sentences=1 + seed % 3)][: seed % 3],
        "regions": [],
    } | fields


RECORDS = [record(seed) for seed in range(6)]

ROWS = (
    "transcript_input_ids",
    "transcript_attention_mask",
    "transcript_image_index",
    "transcript_is_full",
    "gaze_targets",
)


def unpadded(batch, name, row):
    """Tokens of one row; nothing for an absent one."""
    mask = batch[f"{name}attention_mask"][row].bool()
    return batch[f"{name}input_ids"][row][mask].tolist()


def item(batch, i):
    """What a batch says about image i, padding left out."""
    rows = (batch["transcript_image_index"] == i).nonzero()[:, 0].tolist()
    return {
        "pixels": batch["pixel_values"][i],
        "view": batch["view_position_ids"][i],
        "context": unpadded(batch, "context_", i),
        "report": unpadded(batch, "report_", i),
        "study": batch["study_ids"][i],
        "labels": batch["labels"][i],
        "transcripts": [unpadded(batch, "transcript_", row) for row in rows],
        "full": batch["transcript_is_full"][rows].tolist(),
        "targets": batch["gaze_targets"][rows],
    }


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        if isinstance(a[name], torch.Tensor):
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)
        else:
            assert a[name] == b[name], name


def test_gaze_without_speech_is_a_full_map_for_the_report(processor):
    spoken = reading()
    silent = spoken | {"sentences": []}
    batch = processor.collate([record(0, gaze=[silent]), record(1, gaze=[spoken, silent]), record(2, gaze=[])])
    assert batch["transcript_image_index"].tolist() == [0, 1, 1, 1, 1]
    assert batch["transcript_is_full"].tolist() == [True, False, False, True, True]
    assert torch.equal(batch["gaze_targets"][0], batch["gaze_targets"][3]) and batch["gaze_targets"][0].sum() > 0
    texts = processor.tokenizer.batch_decode(batch["transcript_input_ids"], skip_special_tokens=True)
    assert "The lungs are clear. No pleural effusion." in texts[0] and "Lungs are clear 0." in texts[3]
    # No report either: the map stays, beside an empty text.
    alone = processor.collate([record(0, gaze=[silent], findings="")])
    assert torch.equal(alone["gaze_targets"], batch["gaze_targets"][:1])
    config = CoGazeConfig.tiny(vocab_size=len(processor.tokenizer), label_names=list("abcd"), **small.COGAZE)
    own = CoGazeProcessor.for_model(processor.tokenizer, config)
    losses = CoGazeForPreTraining(config).eval()(**own.collate([record(0, gaze=[silent]), record(1, gaze=[])]))
    assert torch.isfinite(losses.loss) and losses.loss_gaze > 0


# Tensors


def test_names_shapes_and_types(processor):
    batch = processor.collate(RECORDS)
    rows = sum(len(r["sentences"]) + 1 for record in RECORDS for r in record["gaze"])
    expected = {
        "pixel_values": ((6, 3, 32, 32), torch.float32),
        "view_position_ids": ((6,), torch.int64),
        "transcript_image_index": ((rows,), torch.int64),
        "transcript_is_full": ((rows,), torch.bool),
        "gaze_targets": ((rows, 16), torch.float32),
        "study_ids": ((6,), torch.int64),
        "labels": ((6, 4), torch.float32),
    }
    for name, (shape, dtype) in expected.items():
        assert (tuple(batch[name].shape), batch[name].dtype) == (shape, dtype), name
    for name, count in (("context", 6), ("report", 6), ("transcript", rows)):
        ids, mask = batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"]
        assert ids.shape == mask.shape and len(ids) == count and ids.dtype == mask.dtype == torch.int64
    tokens = {
        f"{name}_{kind}" for name in ("context", "report", "transcript") for kind in ("input_ids", "attention_mask")
    }
    assert set(batch) == set(expected) | tokens


def test_texts_follow_the_templates(processor):
    batch = processor.collate([record(1), record(2), record(3), record(0)])
    read = processor.tokenizer.decode
    contexts = [read(unpadded(batch, "context_", i)) for i in range(4)]
    assert contexts == [
        "[CLS] [INDICATION] Cough. [SEP] [HISTORY] Fever for a week.",
        "[CLS] [INDICATION] Cough. [SEP] [HISTORY]",
        "[CLS] [INDICATION] [SEP] [HISTORY] Fever for a week.",
        "",
    ]
    assert read(unpadded(batch, "report_", 0)) == "[CLS] [FINDINGS] " + record(1)["findings"].strip()
    transcripts = [read(unpadded(batch, "transcript_", row)) for row in range(len(batch["transcript_input_ids"]))]
    assert transcripts[:3] == [
        "[CLS] [TRANSCRIPT] Lungs are clear 0.",
        "[CLS] [TRANSCRIPT] Lungs are clear 1.",
        "[CLS] [TRANSCRIPT] Lungs are clear 0. Lungs are clear 1.",
    ]
    assert batch["transcript_image_index"].tolist() == [0] * 3 + [1] * 3 + [1] * 4
    assert batch["transcript_is_full"].tolist() == [False, False, True] * 2 + [False] * 3 + [True]


def test_gaze_targets_are_in_the_geometry_of_the_pixels():
    processor = make_processor(size=32, crop=24)
    one = record(1)
    batch = processor.collate([one])
    # 48 x 40 -> 38 x 32, cropped to 24 x 24: columns 7 to 31, rows 4 to 28.
    box = (7 / 38 * 960, 4 / 32 * 800, 31 / 38 * 960, 28 / 32 * 800)
    assert processor.crop_box((48, 40), (960, 800)) == pytest.approx(box)
    np.testing.assert_allclose(batch["gaze_targets"], gaze_targets(one["gaze"][0], (960, 800), 4, box), atol=1e-7)


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 150), st.integers(20, 150), st.sampled_from([(32, 32), (32, 24), (24, 40)]))
def test_crop_box_is_what_the_pixels_show(width, height, edges):
    """Ramps across and down: each pixel tells where it comes from."""
    processor = PROCESSORS[edges]
    across = np.tile((np.arange(width) + 0.5) / width, (height, 1))
    down = np.tile(((np.arange(height) + 0.5) / height)[:, None], (1, width))
    x0, y0, x1, y1 = processor.crop_box((width, height), (1.0, 1.0))
    size = edges[1]
    centres = (np.arange(size) + 0.5) / size
    for ramp, start, end, axis in ((across, x0, x1, 0), (down, y0, y1, 1)):
        pixels = processor(images=ramp)["pixel_values"][0, 0] * 0.2583 + 0.5307
        expected = start + centres * (end - start)
        inside = (expected > 0.1) & (expected < 0.9)
        shown = pixels.numpy().max(axis=axis)  # padding, where the crop reaches beyond, is black
        np.testing.assert_allclose(shown[inside], expected[inside], atol=0.012)


PROCESSORS = {edges: make_processor(*edges) for edges in ((32, 32), (32, 24), (24, 40))}


def test_gaze_follows_the_original_whatever_size_is_stored(processor):
    small = processor.collate([record(2)])
    large = processor.collate([record(2, image=picture(2, 480, 400))])
    torch.testing.assert_close(small["gaze_targets"], large["gaze_targets"], atol=1e-6, rtol=0)


def test_masks_are_cropped_like_the_pixels():
    processor = make_processor(size=32, crop=24)
    mask = np.zeros((400, 480), np.uint8)
    mask[100:300, 200:400] = 255
    x0, y0, x1, y1 = processor.crop_box((48, 40), (960, 800))
    masks = [Image.fromarray(mask), None, (mask > 0) * np.uint8(3)]
    labels = processor(images=[picture(k) for k in range(3)], image_size=[(960, 800)] * 3, masks=masks)["labels"]
    assert labels.shape == (3, 24, 24) and labels.dtype == torch.int64
    x = x0 + (np.arange(24) + 0.5) * (x1 - x0) / 24
    y = y0 + (np.arange(24) + 0.5) * (y1 - y0) / 24
    expected = ((y > 200) & (y < 600))[:, None] & ((x > 400) & (x < 800))
    np.testing.assert_array_equal(labels[0], expected)
    assert not labels[1].any()
    np.testing.assert_array_equal(labels[2], 3 * expected)


def test_predicted_masks_come_back_on_the_original():
    processor = make_processor(size=32, crop=24)
    mask = np.zeros((400, 480), np.uint8)
    mask[100:300, 200:400] = 1
    labels = processor(images=picture(), image_size=(960, 800), masks=mask[None])["labels"]
    (found,) = processor.post_process_masks((labels - 0.5) * 100, [(960, 800)])
    assert found.shape == (1, 800, 960)
    original = mask.repeat(2, axis=0).repeat(2, axis=1).astype(bool)
    x0, y0, x1, y1 = map(round, processor.crop_box((48, 40), (960, 800)))
    agree = ((found[0] > 0.5).numpy() == original)[max(y0, 0) : y1, max(x0, 0) : x1]
    assert agree.mean() > 0.97
    assert not found[0, :, : max(x0, 0)].any()


def test_masks_of_records_take_the_place_of_labels(processor):
    records = [record(k, masks=np.full((1, 40, 48), k % 2, np.uint8)) for k in range(3)]
    labels = processor.collate(records)["labels"]
    assert labels.shape[:2] == (3, 1) and labels.ndim == 4
    assert labels[1].any() and not labels[[0, 2]].any()
    records[2]["masks"] = np.zeros((40, 40), np.uint8)
    with pytest.raises(ValueError, match=r"records\[2\] \(image_id image-2\): masks"):
        processor.collate(records)


def test_masks_beyond_the_picture_are_background():
    processor = make_processor(size=24, crop=40)
    labels = processor(images=picture(), masks=np.ones((40, 48), np.uint8))["labels"][0]
    assert labels[8:32, 6:34].all() and labels.sum() == 24 * 28


# Invariance


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_neither_order_nor_company_matters(order, count):
    whole = PROCESSOR.collate(RECORDS)
    some = PROCESSOR.collate([RECORDS[i] for i in order[:count]])
    for place, i in enumerate(order[:count]):
        same(item(some, place), item(whole, i))


PROCESSOR = make_processor()


def test_one_study_needs_no_lists(processor):
    one = record(1)
    single = processor(
        images=one["image"],
        view_position="pa ",
        indication="Cough.",
        history="Fever.",
        findings="Clear lungs.",
        gaze=one["gaze"][0],
        image_size=(960, 800),
        study_id="study",
        labels=[1, 0, 2, -1],
    )
    listed = processor(
        images=[one["image"]],
        view_position=["PA"],
        indication=["Cough."],
        history=["Fever."],
        findings=["Clear lungs."],
        gaze=[one["gaze"]],
        image_size=[(960, 800)],
        study_id=["study"],
        labels=[[1, 0, 2, -1]],
    )
    assert set(single) == set(listed)
    for name in single:
        torch.testing.assert_close(single[name], listed[name], rtol=0, atol=0)


@pytest.mark.parametrize("absent", ["gaze", "findings", "labels", "indication", "study_id", "view_position"])
def test_what_is_not_given_is_not_returned(processor, absent):
    arguments = {
        "gaze": [reading()],
        "findings": "Clear.",
        "labels": [1, 0],
        "indication": "Cough.",
        "study_id": "s",
        "view_position": "PA",
    }
    gives = {
        "gaze": {"gaze_targets", *ROWS},
        "findings": {"report_input_ids", "report_attention_mask"},
        "labels": {"labels"},
        "indication": {"context_input_ids", "context_attention_mask"},
        "study_id": {"study_ids"},
        "view_position": {"view_position_ids"},
    }
    del arguments[absent]
    batch = processor(images=picture(), image_size=(960, 800), **arguments)
    present = set().union(*(gives[name] for name in arguments))
    assert set(batch) == present | {"pixel_values"}


def test_a_batch_without_any_context_or_gaze_keeps_its_tensors(processor):
    batch = processor.collate([record(0), record(6)])
    assert not batch["context_attention_mask"].any()
    assert batch["context_input_ids"].shape == batch["context_attention_mask"].shape
    assert batch["gaze_targets"].shape == (0, 16)
    assert all(len(batch[name]) == 0 for name in ROWS)


def test_every_kind_of_image_gives_the_same_pixels(processor, tmp_path):
    grey = picture(3)
    grey.save(tmp_path / "a.png")
    file = (tmp_path / "a.png").read_bytes()
    images = [grey, grey.convert("RGB"), np.asarray(grey), torch.from_numpy(np.array(grey)), tmp_path / "a.png"]
    images += [str(tmp_path / "a.png"), file, io.BytesIO(file), {"bytes": file, "path": None}]
    pixels = processor(images=images)["pixel_values"]
    assert (pixels == pixels[:1]).all()
    stack = processor(images=np.stack([np.asarray(grey)] * 2)[:, None])["pixel_values"]
    torch.testing.assert_close(stack, pixels[:2], rtol=0, atol=0)


def test_numpy_tensors(processor):
    batch = processor(images=picture(), findings="Clear.", return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in batch.values())


# Targets


def test_label_codes_become_the_papers_targets(processor):
    codes = [[1, 0, 2, -1], [-1, -1, 1, 0]]
    batch = processor(images=[picture(0), picture(1)], labels=codes)
    np.testing.assert_array_equal(batch["labels"], label_targets(codes))


def test_class_indices_stay(processor):
    batch = processor(images=[picture(0), picture(1)], labels=[3, 0])
    assert batch["labels"].tolist() == [3, 0] and batch["labels"].dtype == torch.int64


def test_study_numbers_are_equal_for_equal_names_everywhere(processor):
    batch = processor(images=[picture(k) for k in range(4)], study_id=["s1", "s2", "s1", "50414267"])
    first, second, third, fourth = batch["study_ids"].tolist()
    assert first == third and len({first, second, fourth}) == 3 and min(first, second, fourth) >= 0
    assert first == 4958643428320449706  # whatever the process, the machine or the run


# Text


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40), st.sampled_from(["", "[SEP]", "<|endoftext|>", "[PAD][CLS]", "[FIND[SEP]INGS]"]))
def test_no_text_can_smuggle_in_special_tokens(text, smuggled):
    batch = PROCESSOR(images=picture(), indication=text + smuggled + text, history="known")
    ids = batch["context_input_ids"][0]
    names = ["[CLS]", "[INDICATION]", "[SEP]", "[HISTORY]"]
    special = [i for i in ids.tolist() if i in PROCESSOR.tokenizer.all_special_ids]
    assert special == PROCESSOR.tokenizer.convert_tokens_to_ids(names)


def test_long_texts_are_cut_to_their_lengths():
    processor = make_processor(max_context_length=12, max_report_length=9, max_transcript_length=7)
    long = "effusion " * 50
    spoken = reading() | {"sentences": [{"text": long, "begin": 0.0, "end": 3.0}]}
    batch = processor(images=picture(), indication=long, findings=long, gaze=spoken, text=[long])
    assert batch["context_input_ids"].shape[1] == 12
    assert batch["report_input_ids"].shape[1] == batch["input_ids"].shape[1] == 9
    assert batch["transcript_input_ids"].shape[1] == 7


def test_prompts_are_read_as_reports_by_processor_and_tokenizer_alike(processor):
    prompts = ["a chest X-ray showing pneumonia", "no pleural effusion"]
    batch = processor(text=prompts)
    alone = processor.tokenizer(prompts, padding=True, return_tensors="pt")
    reports = processor(images=[picture(0), picture(1)], findings=prompts)
    for kind in ("input_ids", "attention_mask"):
        assert torch.equal(batch[kind], alone[kind]) and torch.equal(batch[kind], reports[f"report_{kind}"])
    assert set(batch) == {"input_ids", "attention_mask"}


# Gaze


def test_fixations_outside_are_left_out(processor):
    stray = reading()
    stray["fixations"][0] = stray["fixations"][0] | {"x": -30.0}
    batch = processor.collate([record(0, gaze=[stray])])
    box = processor.crop_box((48, 40), (960, 800))
    expected = gaze_targets(clean_fixations(stray, (960, 800))[0], (960, 800), 4, box)
    np.testing.assert_allclose(batch["gaze_targets"], expected, atol=1e-7)
    kept = stray | {"fixations": stray["fixations"][1:]}
    np.testing.assert_array_equal(batch["gaze_targets"], processor.collate([record(0, gaze=[kept])])["gaze_targets"])


def test_rendered_heatmaps_are_a_second_way_in(processor):
    heatmaps = []
    for x, y in ((9, 35), (29, 15), (19, 25)):
        values = np.full((40, 48), 30, np.uint8)
        values[y - 2 : y + 3, x - 2 : x + 3] = 220
        heatmaps.append(Image.fromarray(values))
    rendered = {"sentences": [{"text": "one"}, {"text": "two"}], "heatmaps": heatmaps}
    batch = processor(images=[picture(0), picture(1)], gaze=[rendered, [reading()]])
    assert batch["transcript_image_index"].tolist() == [0, 0, 0, 1, 1, 1]
    targets = batch["gaze_targets"][:3].reshape(3, 4, 4)
    peaks = [np.unravel_index(int(row.argmax()), (4, 4)) for row in targets]
    assert peaks == [(3, 0), (1, 2), (2, 1)]
    with pytest.raises(ValueError, match=r"gaze\[0\]\[0\].heatmaps: 2 pictures for 2 sentences"):
        processor(images=picture(0), gaze=rendered | {"heatmaps": heatmaps[:2]})


# Bad input


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image": b"not a file"}, r"images\[0\]"),
        ({"image": {"bytes": b"", "path": "files/broken.png"}}, r"broken.png.*empty"),
        ({"image": np.full((40, 48), 7, np.uint8)}, "same value"),
        ({"image": np.zeros((4, 4), np.uint8)}, "too small"),
        ({"view_position": "SIDEWAYS"}, r"view_position\[0\].*PA, AP"),
        ({"indication": "a" * 100_000}, r"indication\[0\]: 100000 characters.*20000"),
        ({"history": float("nan")}, r"history\[0\]"),
        ({"findings": "   "}, r"findings\[0\].*empty"),
        ({"labels": [1, 0, 7, 0]}, r"labels\[0\].*outside the set"),
        ({"labels": []}, r"labels\[0\]"),
        ({"image_width": 0}, r"image_size\[0\]"),
        ({"study_id": None}, r"study_id\[0\]"),
        ({"gaze": [reading(), reading() | {"fixations": []}]}, r"gaze\[0\]\[1\].*fixations"),
        ({"gaze": [reading(float("nan"))]}, r"gaze\[0\]\[0\].fixations\[0\].*not finite"),
        ({"gaze": [reading() | {"fixations": reading()["fixations"][::-1]}]}, r"gaze\[0\]\[0\].fixations\[1\].*sort"),
        ({"gaze": [reading() | {"sentences": [{"text": "", "begin": 0.0, "end": 1.0}]}]}, r"text.*empty"),
    ],
)
def test_bad_records_are_named_skipped_and_counted(fields, message):
    processor = make_processor()
    records = [record(1), record(2, **fields), record(3)]
    with pytest.raises(ValueError, match=message) as caught:
        processor.collate(records)
    assert "records[1] (image_id image-2)" in str(caught.value)
    assert processor.bad_records == 0
    batch = processor.collate(records, on_bad_record="skip")
    assert processor.bad_records == 1
    good = processor.collate([records[0], records[2]])
    for i in range(2):
        same(item(batch, i), item(good, i))
    with pytest.raises(ValueError, match="so are all others"):
        processor.collate([record(2, **fields | {"image": b"x"})], on_bad_record="skip")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"view_position": ["PA"]}, "view_position: 1 entries for 2 images"),
        ({"indication": "Cough."}, "indication: images is a list"),
        ({"image_size": (960, 800)}, r"image_size\[0\]"),
        ({"labels": [[1, 0], [1]]}, r"labels\[1\]: 1 entries"),
        ({"labels": [-1, 0]}, r"labels\[0\].*class indices"),
        ({"labels": [1, 0], "masks": [None, None]}, "labels and masks"),
        ({"masks": [np.zeros((4, 4, 3)), None]}, r"masks\[0\]"),
        ({"findings": ["Clear.", ""]}, r"findings\[1\].*empty"),
        ({"return_tensors": "tf"}, "return_tensors"),
    ],
)
def test_bad_arguments_are_named(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(images=[picture(0), picture(1)], **arguments)


def test_nothing_to_process(processor):
    with pytest.raises(ValueError, match="at least one"):
        processor()
    with pytest.raises(ValueError, match="at least one"):
        processor(images=[])
    with pytest.raises(ValueError, match="image_size"):
        processor(gaze=[reading()], findings=["Clear."])
    with pytest.raises(ValueError, match="on_bad_record"):
        processor.collate([record(1)], on_bad_record="ignore")


def test_views_begin_with_unknown():
    with pytest.raises(ValueError, match="view_positions"):
        make_processor(view_positions=["PA", "AP"])


class Skipping:
    def __init__(self, processor):
        self.processor = processor

    def __call__(self, records):
        return self.processor.collate(records, on_bad_record="skip")


def test_workers_count_bad_records_together():
    processor = make_processor()
    records = [record(k) if k % 4 else record(k, view_position="SIDEWAYS") for k in range(16)]
    loader = DataLoader(records, batch_size=4, num_workers=2, collate_fn=Skipping(processor))
    assert [len(batch["pixel_values"]) for batch in loader] == [3] * 4
    assert processor.bad_records == 4


# Checkpoints


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is CoGazeProcessor
    assert loaded.to_dict().items() <= processor.to_dict().items()  # saving adds auto_map
    before, after = processor.collate(RECORDS), loaded.collate(RECORDS)
    assert set(before) == set(after)
    for name in before:
        torch.testing.assert_close(before[name], after[name], rtol=0, atol=0)
    alone = AutoImageProcessor.from_pretrained(tmp_path)(picture(1).convert("RGB"), return_tensors="pt")
    torch.testing.assert_close(alone["pixel_values"][0], before["pixel_values"][1], rtol=0, atol=0)


def test_remote_code_gives_the_same_without_the_package(processor, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    processor.save_pretrained(checkpoint)
    picture(1).save(tmp_path / "a.png")
    expected = processor(images=tmp_path / "a.png", findings="Clear.", gaze=reading(), image_size=(960, 800))
    np.savez(tmp_path / "expected.npz", **{name: tensor.numpy() for name, tensor in expected.items()})
    script = f"""
        import sys
        sys.modules["processing"] = sys.modules["pydicom"] = sys.modules["pylibjpeg"] = None
        import numpy as np
        from transformers import AutoProcessor
        processor = AutoProcessor.from_pretrained("checkpoint", trust_remote_code=True)
        assert type(processor).__module__.startswith("transformers_modules."), type(processor)
        reading = {reading()!r}
        batch = processor(images="a.png", findings="Clear.", gaze=reading, image_size=(960, 800), return_tensors="np")
        expected = np.load("expected.npz")
        assert set(batch) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])
        processor.save_pretrained("again")
        again = AutoProcessor.from_pretrained("again", trust_remote_code=True)
        assert again.to_dict().items() <= processor.to_dict().items()
    """
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-2000:]


class TinyConfig:
    image_size = (32, 40)
    grid_size = (4, 5)
    view_positions = ["", "PA"]
    max_companions = 2


def test_for_model_takes_sizes_and_views_from_its_config(processor):
    sized = CoGazeProcessor.for_model(processor.tokenizer, TinyConfig(), max_report_length=50)
    batch = sized(images=picture(), view_position="PA", gaze=reading(), image_size=(960, 800))
    assert batch["pixel_values"].shape == (1, 3, 32, 40)
    assert batch["gaze_targets"].shape[1] == 20
    assert (sized.view_positions, sized.max_report_length, sized.max_companions) == (["", "PA"], 50, 2)

"""Report labels, generated text and its sentences, gaze over pictures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import BitImageProcessor

from processing import CoGazeProcessor, EgmaProcessor
from processing.gaze_pictures import gaze_layer, paint_gaze
from processing.reports import sentence_spans, split_sentences
from processing.tokenization import build_tokenizer

STRUCTURED = "Lungs and Airways:\n- No edema.\n- Mild left lower lobe opacity, 1.2 cm.\n\nPleura:\n- No effusion."
REPORTS = ["The lungs are clear. No effusion. Discussed with Dr. Smith.", "Heart size is normal.", STRUCTURED]
PICTURE = Image.fromarray(np.arange(60 * 80, dtype=np.uint8).reshape(60, 80))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(REPORTS * 2, 400)


@pytest.fixture(scope="module")
def processor(tokenizer):
    size = {"shortest_edge": 32}, {"height": 32, "width": 32}
    pictures = BitImageProcessor(size=size[0], crop_size=size[1])
    return CoGazeProcessor(pictures, tokenizer, grid_size=(4, 4), max_report_length=48)


def record(findings, **fields):
    values = {"image": PICTURE, "image_width": 80, "image_height": 60, "image_id": "a", "study_id": "s"}
    empty = {"view_position": "PA", "indication": "Cough.", "history": "", "gaze": [], "labels": [1, 0]}
    return values | empty | {"findings": findings} | fields


def test_labels_begin_and_end_and_come_back_as_text(processor, tokenizer):
    labels = processor.encode_reports(REPORTS)
    assert labels.dtype == torch.int64
    for row, report in zip(labels.tolist(), REPORTS, strict=True):
        tokens = [token for token in row if token != -100]
        assert row[: len(tokens)] == tokens
        assert tokens[0] == tokens[-1] == tokenizer.eos_token_id
        assert tokens[1:-1] == tokenizer(report, add_special_tokens=False)["input_ids"]
    assert processor.decode_reports(labels) == REPORTS
    padded = labels.masked_fill(labels == -100, tokenizer.pad_token_id)
    assert processor.decode_reports(padded) == REPORTS


def test_a_report_that_is_cut_has_no_end(processor, tokenizer):
    labels = processor.encode_reports(["No effusion. " * 40, "No effusion."])
    assert labels.shape == (2, 48)
    assert tokenizer.eos_token_id not in labels[0, 1:].tolist()
    assert labels[1].tolist().count(tokenizer.eos_token_id) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 320), min_size=1, max_size=60), st.sampled_from(REPORTS))
def test_sentences_are_located_where_their_characters_are_written(processor, tokenizer, noise, report):
    end = tokenizer.eos_token_id
    row = [token for token in [*tokenizer(report, add_special_tokens=False)["input_ids"], *noise] if token != end]
    ends = [len(tokenizer.decode(row[: place + 1], skip_special_tokens=True)) for place in range(len(row))]
    expected = []
    for sentence, first, last in sentence_spans(tokenizer.decode(row, skip_special_tokens=True)):
        starts = zip([0, *ends[:-1]], ends, strict=True)
        inside = [place for place, (start, stop) in enumerate(starts) if start < last and stop > first]
        expected.append((sentence, inside[0] + 1, inside[-1] + 2))
    assert processor.locate_sentences(torch.tensor([[end, *row]])) == [expected]


def test_few_prefixes_are_decoded(processor, tokenizer, monkeypatch):
    row = tokenizer("No effusion is seen in the left lung. " * 20, add_special_tokens=False)["input_ids"]
    decoded, decode = [], processor._decode
    monkeypatch.setattr(processor, "_decode", lambda tokens: decoded.append(1) or decode(tokens))
    found = processor.locate_sentences(torch.tensor([[tokenizer.eos_token_id, *row]]))[0]
    assert len(found) == 20 and len(row) > 200
    assert len(decoded) < len(row) / 2


def test_report_labels_take_the_place_of_reports_and_codes(processor):
    batch = processor.collate([record(REPORTS[0]), record(REPORTS[1])], report_labels=True)
    assert torch.equal(batch["labels"], processor.encode_reports(REPORTS[:2]))
    assert not any(name.startswith(("report_", "transcript_", "gaze")) for name in batch)
    assert "context_input_ids" in batch and "pixel_values" in batch


def test_empty_and_missing_reports_are_named(processor):
    with pytest.raises(ValueError, match=r"findings\[1\]: the report is empty"):
        processor(images=[PICTURE] * 2, findings=["No effusion.", " "], report_labels=True)
    with pytest.raises(ValueError, match="report_labels"):
        processor(images=PICTURE, report_labels=True)
    with pytest.raises(ValueError, match="report_labels"):
        processor(images=PICTURE, findings="Clear.", labels=[1, 0], report_labels=True)
    records = [record(REPORTS[0]), record("", image_id="b")]
    with pytest.raises(ValueError, match=r"records\[1\] \(image_id b\)"):
        processor.collate(records, report_labels=True)
    batch = processor.collate(records, on_bad_record="skip", report_labels=True)
    assert len(batch["labels"]) == 1


def test_sentences_are_located_by_token(processor, tokenizer):
    found = processor.locate_sentences(processor.encode_reports(REPORTS))
    for report, sentences, row in zip(REPORTS, found, processor.encode_reports(REPORTS), strict=True):
        assert [text for text, _, _ in sentences] == split_sentences(report)
        for text, begin, end in sentences:
            assert tokenizer.decode(row[begin:end]).strip() == text
    assert [text for text, _, _ in found[2]] == ["No edema.", "Mild left lower lobe opacity, 1.2 cm.", "No effusion."]


@given(st.lists(st.integers(0, 399), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_tokens_can_be_located(processor, tokens):
    row = torch.tensor([[tokens[0] if tokens else 0, *tokens]])
    text = processor.decode_reports(row)[0]
    for sentence, begin, end in processor.locate_sentences(row)[0]:
        assert 1 <= begin < end <= row.shape[1]
        assert "".join(sentence.split()) in "".join(text.split())


def test_transcripts_are_tokenized_as_in_training(processor, tokenizer):
    size = (80, 60)
    reading = {
        "sentences": [{"text": "No effusion.", "begin": 0.0, "end": 1.0}],
        "fixations": [{"x": 9, "y": 9, "begin": 0.0, "end": 1.0, "sigma_x": 4, "sigma_y": 4, "shown": []}],
    }
    spoken = processor(images=PICTURE, gaze=reading, image_size=size)
    tokens = processor.tokenize_sentences(["No effusion."])
    assert torch.equal(tokens["input_ids"][0], spoken["transcript_input_ids"][0])


def test_the_plain_context_has_no_section_names(tokenizer, processor):
    plain = CoGazeProcessor(processor.image_processor, tokenizer, context_format="plain")
    ids = plain(images=PICTURE, history="Smoker.", indication="Cough.")["context_input_ids"][0]
    assert tokenizer.decode(ids) == tokenizer.decode(
        tokenizer("[CLS] Cough. Smoker.", add_special_tokens=False)["input_ids"]
    )
    with pytest.raises(ValueError, match="context_format"):
        CoGazeProcessor(processor.image_processor, tokenizer, context_format="none")


def test_paint_is_where_the_map_is():
    values = np.zeros((4, 4))
    values[0, 3] = 1.0
    painted = np.asarray(paint_gaze(PICTURE.convert("L"), values)).astype(int)
    assert painted.shape == (60, 80, 3)
    colour = painted.max(axis=2) - painted.min(axis=2)
    row, column = np.unravel_index(colour.argmax(), colour.shape)
    assert row < 20 and column >= 55
    # A map over a part leaves the rest of the picture as it is.
    part = np.asarray(paint_gaze(PICTURE, values, box=(10, 0, 70, 60)))
    grey = np.asarray(PICTURE)
    assert (part[:, :10] == grey[:, :10, None]).all() and (part[:, 70:] == grey[:, 70:, None]).all()
    assert (part[:, 55:70] != grey[:, 55:70, None]).any()
    for wrong in (values[0], values - 1, values * np.nan):
        with pytest.raises(ValueError, match="gaze_map"):
            paint_gaze(PICTURE, wrong)


def test_the_processor_paints_what_the_model_saw(processor, tokenizer):
    flat = np.full(16, 1 / 16)
    seen = np.asarray(processor.paint_gaze(PICTURE, torch.tensor(flat))).astype(int)
    coloured = (seen.max(axis=2) != seen.min(axis=2)).any(axis=0)
    x0, _, x1, _ = processor.crop_box(PICTURE.size, PICTURE.size)
    assert np.flatnonzero(coloured)[[0, -1]].tolist() == [round(x0), round(x1) - 1]
    square = EgmaProcessor(
        BitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False), tokenizer, grid_size=(4, 4)
    )
    assert square.paint_gaze(PICTURE, flat).size == PICTURE.size
    # A map as a model gives it outside of no_grad, in the precision it was made in.
    learned = torch.tensor(flat, dtype=torch.bfloat16, requires_grad=True)
    assert np.array_equal(processor.paint_gaze(PICTURE, learned), seen)


def test_the_layer_is_what_paint_gaze_lays_over_a_radiograph():
    values = np.random.default_rng(0).random((4, 4))
    layer = gaze_layer(values, PICTURE.size)
    over = Image.alpha_composite(PICTURE.convert("L").convert("RGBA"), layer).convert("RGB")
    painted = paint_gaze(PICTURE, values)
    assert np.abs(np.asarray(over).astype(int) - np.asarray(painted)).max() <= 2

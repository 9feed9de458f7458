"""JPEGs decoded at the least scale that is as large as needed: geometry exact, grey levels nearly so."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_cogaze import CoGazeConfig, EgmaConfig
from processing import CoGazeProcessor, EgmaProcessor
from processing.radiographs import picture_size, read_radiograph, stored_size
from processing.tokenization import build_tokenizer

EXAMPLES = Path(__file__).parents[2] / "spaces/report_generation/examples"
READING = {
    "sentences": [{"text": "Clear.", "begin": 0.0, "end": 2.0}],
    "fixations": [{"x": 500.0, "y": 900.0, "begin": 0.0, "end": 1.5, "sigma_x": 90.0, "sigma_y": 110.0, "shown": None}],
}


def jpeg(width: int, height: int, turned: int = 1, mode: str = "L", **options) -> bytes:
    picture = Image.open(EXAMPLES / "03-pa.jpg").convert(mode).resize((width, height), Image.Resampling.LANCZOS)
    exif = Image.Exif()
    exif[0x0112] = turned
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, exif=exif, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module", params=["cogaze", "egma"])
def processor(request):
    config, kind = {"cogaze": (CoGazeConfig, CoGazeProcessor), "egma": (EgmaConfig, EgmaProcessor)}[request.param]
    return kind.for_model(build_tokenizer(["clear"], 300), config.tiny())


@pytest.mark.parametrize(("width", "height", "mode"), [(1272, 1528, "L"), (1003, 1277, "RGB"), (1301, 999, "L")])
def test_targets_are_the_same_and_grey_levels_nearly(processor, width, height, mode):
    record = {"image": {"bytes": jpeg(width, height, mode=mode), "path": None}, "image_width": 2 * width}
    record |= {"image_height": 2 * height, "study_id": "s", "view_position": "PA", "gaze": [READING], "image_id": "i"}
    whole = processor.collate([record])
    processor.scaled_decoding = True
    try:
        scaled = processor.collate([record])
    finally:
        processor.scaled_decoding = False
    assert torch.equal(scaled["gaze_targets"], whole["gaze_targets"]) and whole["gaze_targets"].sum() > 0.5
    levels = 255 * np.mean(processor.image_processor.image_std)
    off = levels * (scaled["pixel_values"] - whole["pixel_values"]).abs()
    assert 0 < off.mean() < 2


def test_no_jpeg_is_decoded_smaller_than_needed():
    data = jpeg(1003, 1277)
    for least, expected in (((1003, 1277), (1003, 1277)), ((502, 100), (1003, 1277)), ((501, 638), (502, 639))):
        picture = read_radiograph(data, needed=lambda size, least=least: least)
        assert picture.size == expected and stored_size(picture) == (1003, 1277)
    assert read_radiograph(data).size == stored_size(read_radiograph(data)) == (1003, 1277)


def test_a_turned_picture_keeps_its_upright_size():
    data = jpeg(1200, 800, turned=6)
    picture = read_radiograph(data, needed=lambda size: (size[0] // 4, size[1] // 4))
    assert picture.size == (200, 300) and stored_size(picture) == picture_size(data) == (800, 1200)


def test_the_header_tells_the_size_without_the_pixels(tmp_path):
    data = jpeg(640, 480)
    assert picture_size(data[:4000]) == picture_size({"bytes": None, "path": _written(tmp_path, data)}) == (640, 480)
    for wrong, said in ((b"no picture", "not a PNG"), (jpeg(12, 400), "too small"), (tmp_path / "none.jpg", "opened")):
        with pytest.raises(ValueError, match=said):
            picture_size(wrong, "this one")
    with pytest.raises(ValueError, match="more than 1000 pixels"):
        picture_size(data, max_pixels=1000)


def _written(folder: Path, data: bytes) -> str:
    (folder / "one.jpg").write_bytes(data)
    return str(folder / "one.jpg")


def test_a_processor_keeps_the_setting(tmp_path):
    tokenizer = build_tokenizer(["clear"], 300)
    CoGazeProcessor.for_model(tokenizer, CoGazeConfig.tiny(), scaled_decoding=True).save_pretrained(tmp_path)
    assert CoGazeProcessor.from_pretrained(tmp_path).scaled_decoding

"""EGMA's processor: the records and tensors of CoGaze's, in EGMA's geometry and sentence by sentence."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from transformers import BitImageProcessor

from .processing_cogaze import CoGazeProcessor
from .reports import split_sentences

# MedCLIP's grey levels, which EGMA takes over.
IMAGE_MEAN, IMAGE_STD = 0.5862785803043838, 0.27950088968644304


class EgmaProcessor(CoGazeProcessor):
    """Turns radiographs, reports, transcripts and gaze into EGMA's inputs.

    Called like `CoGazeProcessor`, with these differences:

    - Pictures are padded with black to a square, and then resized; gaze and masks follow.
    - An image's text is the transcript of its readings, or, where it has none, its `findings`, split into sentences,
      with gaze targets of zero and no full transcript. So there are transcript_ tensors wherever there are gaze or
      findings, and no report_ tensors. A reading without sentences takes those of the findings, and its map is their
      full transcript's, which the losses give to each of them.
    - View position, indication and history are taken and left aside.
    - Sentences and prompts get the special tokens that the tokenizer puts by itself.

    Args:
        image_processor: resizes to a fixed height and width, and normalises.
        tokenizer: any; for the paper's text encoder, BioClinicalBERT's.

    The rest as for `CoGazeProcessor`; `for_model` sets the paper's 77 tokens.
    """

    _REPORT = _TRANSCRIPT = "{}"
    _ADD_SPECIAL_TOKENS = True
    variants = {"paper": {}, "released": {"gaze_maps": "rendered"}}

    @classmethod
    def for_model(cls, tokenizer, config, **options) -> "EgmaProcessor":
        """The processor that a model's config asks for: its image size (pixels) and patch grid."""
        height, width = config.image_size
        image_processor = BitImageProcessor(
            size={"height": height, "width": width},
            do_center_crop=False,
            image_mean=[IMAGE_MEAN] * 3,
            image_std=[IMAGE_STD] * 3,
        )
        asked = {"max_report_length": 77, "max_transcript_length": 77, "grid_size": config.grid_size} | options
        return cls(image_processor, tokenizer, **asked)

    @staticmethod
    def check_image_processor(image_processor) -> None:
        """Part of the constructor; a crop would cut off what `crop_box` takes for shown."""
        CoGazeProcessor.check_image_processor(image_processor)
        if image_processor.do_center_crop:
            raise ValueError("image_processor: the whole square is what the model sees; turn off do_center_crop.")

    def crop_box(self, picture_size: tuple[int, int], image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """As in `CoGazeProcessor`: the padded square, so that it reaches beyond the original."""
        (width, height), side = picture_size, max(picture_size)
        left, top = _margins(picture_size)
        across, down = image_size[0] / width, image_size[1] / height
        return -left * across, -top * down, (side - left) * across, (side - top) * down

    def _framed(self, picture: Image.Image) -> Image.Image:
        side = max(picture.size)
        square = Image.new(picture.mode, (side, side))
        square.paste(picture, _margins(picture.size))
        return square

    def _reading_room(self, given: dict[str, list], sizes, boxes, reports_optional: bool) -> dict[str, torch.Tensor]:
        if "gaze" not in given and "findings" not in given:
            return {}
        count = len(given["gaze"] if "gaze" in given else given["findings"])
        readings = given.get("gaze", [[]] * count)
        if "findings" in given:
            reports = self._texts(given["findings"], "findings")
            readings = [
                self._with_words(own, reports[i]) if own else self._written(reports[i], i, reports_optional)
                for i, own in enumerate(readings)
            ]
        return self._gaze(readings, sizes or [None] * count, boxes or [None] * count)

    def _written(self, report: str, index: int, optional: bool) -> list[dict]:
        """A report as one reading of sentences that nobody looked anywhere for; none of an optional one, if empty."""
        sentences = split_sentences(report)
        if not sentences and optional:
            return []
        if not sentences:
            raise ValueError(f"findings[{index}]: it has no sentence, and there is no transcript; leave the study out.")
        return [{"sentences": [{"text": sentence} for sentence in sentences], "written": True}]

    def _with_words(self, readings: Sequence[Mapping], report: str) -> list[Mapping]:
        """The readings, those without sentences (and without heatmaps) with the report's."""
        written = {"sentences": [{"text": sentence} for sentence in split_sentences(report)], "written": True}
        return [
            reading if reading.get("sentences") or "heatmaps" in reading else {**reading, **written}
            for reading in readings
        ]

    def _targets(self, reading: Mapping, sentences: int, size, box, name: str) -> np.ndarray:
        if not reading.get("written"):
            return super()._targets(reading, sentences, size, box, name)
        rows = np.zeros((sentences, self.grid_size[0] * self.grid_size[1]), np.float32)
        if "fixations" not in reading:
            return rows
        return np.concatenate([rows, super()._targets({**reading, "sentences": []}, 0, size, box, name)])


def _margins(size: tuple[int, int]) -> tuple[int, int]:
    """Pixels of padding to the left and on top that centre a picture of that size in a square."""
    width, height = size
    return max(0, height - width) // 2, max(0, width - height) // 2

"""Readings to the tensors that a model compares with its patches."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from .gaze import clean_fixations, gaze_targets, heatmap_targets, rendered_targets, validate_reading
from .processor_parts import ProcessorPart


class GazeInputs(ProcessorPart):
    """What a processor with a patch grid makes of gaze."""

    def _gaze(self, gaze, sizes, boxes, reports: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        texts, targets, image_index, is_full = [], [], [], []
        for i, readings in enumerate(gaze):
            for j, reading in enumerate(readings):
                name = f"gaze[{i}][{j}]"
                sentences = reading.get("sentences") or []
                spoken = self._texts([sentence.get("text") for sentence in sentences], f"{name}.text")
                rows = self._targets(reading, len(spoken), sizes[i], boxes[i], name)
                targets.append(rows)
                whole = " ".join(spoken) or (reports[i] if reports else "")
                texts += [*spoken, whole][: len(rows)]
                image_index += [i] * len(rows)
                is_full += [row == len(spoken) for row in range(len(rows))]
        patches = self.grid_size[0] * self.grid_size[1]
        encoded = self._tokenize([self._TRANSCRIPT.format(t) for t in texts], self.max_transcript_length, "transcript_")
        return encoded | {
            "transcript_image_index": torch.tensor(image_index, dtype=torch.int64),
            "transcript_is_full": torch.tensor(is_full, dtype=torch.bool),
            "gaze_targets": torch.from_numpy(np.concatenate([*targets, np.zeros((0, patches), np.float32)])),
        }

    def _targets(self, reading: Mapping, sentences: int, size, box, name: str) -> np.ndarray:
        """(sentences + 1, P): one row per sentence, then the full transcript's."""
        if "heatmaps" in reading:
            return self._rendered(reading, sentences, size, box, name)
        validate_reading(reading, name)
        reading, _ = clean_fixations(reading, size)
        if self.gaze_maps == "rendered":
            height, width = self._pixel_size()
            return rendered_targets(reading, size, self.grid_size, box, size=(width, height))
        return gaze_targets(reading, size, self.grid_size, box)

    def _rendered(self, reading, sentences: int, size, box, name: str) -> np.ndarray:
        pictures = reading["heatmaps"]
        if not sentences or len(pictures) != sentences + 1:
            raise ValueError(
                f"{name}.heatmaps: {len(pictures)} pictures for {sentences} sentences; give one per sentence, then the "
                "full transcript's."
            )
        try:
            return heatmap_targets(pictures, self.grid_size, size, box)
        except ValueError as error:
            raise ValueError(f"{name}.heatmaps: {error}") from error

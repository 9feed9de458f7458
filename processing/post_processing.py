"""What segmentation models predict, brought back to the radiographs."""

from collections.abc import Sequence

import torch

from .batches import given_sizes
from .processor_parts import ProcessorPart
from .targets import masks_of_original


class MaskPostProcessing(ProcessorPart):
    """For a processor with `crop_box` and `exclusive_classes`."""

    def post_process_masks(
        self, logits: torch.Tensor, image_size: Sequence, picture_size: Sequence | None = None
    ) -> list[torch.Tensor]:
        """Predicted masks on the whole original radiographs.

        Args:
            logits: (B, C, H, W) for this processor's pixel values.
            image_size: B pairs (width, height) of the originals, in pixels.
            picture_size: the same of the stored pictures, where their proportions differ; default: `image_size`.
        Returns:
            B tensors (C, height, width) of probabilities, zero where the pixels did not show the radiograph.
        """
        sizes = given_sizes(image_size, image_size)
        boxes = [self.crop_box(own, size) for own, size in zip(picture_size or sizes, sizes, strict=True)]
        logits = logits.detach().float()
        probabilities = logits.softmax(dim=1) if self.exclusive_classes else logits.sigmoid()
        return [masks_of_original(*each) for each in zip(probabilities, sizes, boxes, strict=True)]

    def post_process_panoptic_segmentation(
        self, outputs, threshold: float = 0.0, mask_threshold: float = 0.5, target_sizes: Sequence = (), **unused
    ) -> list[dict]:
        """Masks as transformers' `image-segmentation` pipeline reads them.

        Independent labels may overlap, so each has a mask of its own; of exclusive classes each pixel belongs to the
        most probable one, the background included. What the pixels did not show belongs to none.

        Args:
            outputs: of the model, with `logits` (B, C, H, W).
            threshold: not used: it is meant for objects that are found first and drawn then. `mask_threshold` decides.
            mask_threshold: a pixel belongs to an independent label from this probability on.
            target_sizes: B pairs (height, width) of the pictures.
        Returns:
            Per picture `segmentation` (height, width) and `segments_info`, for each label that is there `id`,
            `label_id` and `score`, its mean probability within the mask. `segmentation == id` is the mask.
        """
        results = []
        for probabilities in self.post_process_masks(outputs.logits, [size[::-1] for size in target_sizes]):
            if self.exclusive_classes:
                best = probabilities.argmax(dim=0)
                masks = torch.arange(len(probabilities), device=best.device)[:, None, None] == best
                masks = masks & (probabilities > 0).any(dim=0)
            else:
                masks = probabilities >= mask_threshold
            segments = [
                # One map of numbers cannot hold masks that overlap: here every label's `id` is a map.
                {"id": mask.int(), "label_id": label, "score": probabilities[label][mask].mean().item()}
                for label, mask in enumerate(masks)
                if mask.any()
            ]
            shown = torch.ones(probabilities.shape[1:], dtype=torch.int32, device=probabilities.device)
            results.append({"segmentation": shown, "segments_info": segments})
        return results


__all__ = ["MaskPostProcessing"]

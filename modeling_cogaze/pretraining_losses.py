"""What CoGaze's pretraining adds up, over the joined batch of all processes."""

from typing import Any

import torch

from .distributed import gather_with_grad, mean_over_processes
from .dual_encoder import Mixed, zero_through
from .losses_cogaze import class_balanced_focal_loss, images_with_gaze, precise, soft_gaze_loss


class PreTrainingLosses(Mixed):
    """The parts of `CoGazeForPreTraining`'s loss."""

    cogaze: Any

    def _contrastive_loss(self, image_features, text_features, study_ids, present=None):
        if self.config.contrastive_targets == "single":
            study_ids = None
        if self.training:
            joined = gather_with_grad(precise(torch.cat([image_features, text_features], dim=-1)))
            image_features, text_features = joined.chunk(2, dim=-1)
            study_ids = None if study_ids is None else gather_with_grad(study_ids)
            present = None if present is None else gather_with_grad(present.long()).bool()
        return self.cogaze.contrastive_loss(image_features, text_features, study_ids, present)

    def _classification_loss(self, vision_logits, report_logits, labels, present=None):
        config = self.config
        logits = [vision_logits] if report_logits is None else [vision_logits, report_logits]
        if self.training:
            *logits, labels = gather_with_grad(torch.stack([*logits, labels.to(vision_logits)], dim=1)).unbind(dim=1)
            present = None if present is None else gather_with_grad(present.long()).bool()
        gamma = config.focal_gamma if config.classification_loss == "focal" else 0.0
        balance = (config.positives_per_class, config.class_balance_beta, gamma, config.class_balance_epsilon)
        of_each = [labels] * len(logits)
        if present is not None and report_logits is not None:
            of_each[1] = labels.masked_fill(~present[:, None], torch.nan)
        losses = [class_balanced_focal_loss(each, own, *balance) for each, own in zip(logits, of_each, strict=True)]
        return torch.stack(losses).mean()

    def _gaze_loss(self, outputs, gaze_targets, image_index):
        config = self.config
        images, gaze_logits = outputs.image_features, outputs.gaze_logits
        if gaze_logits is None or gaze_targets is None:
            gaze_logits = gaze_targets = images.new_zeros(0, 1)
            image_index = torch.zeros(0, dtype=torch.long, device=images.device)
        num_images = None
        if self.training:
            count = images_with_gaze(gaze_targets, image_index, config.gaze_count_empty_images)
            num_images = mean_over_processes(count.float())
        return soft_gaze_loss(
            gaze_logits,
            gaze_targets,
            image_index,
            top_fraction=config.gaze_top_fraction,
            weight=config.gaze_loss_weight,
            divergence=config.gaze_loss,
            patch_rows=config.gaze_patch_rows,
            num_images=num_images,
            cut=config.gaze_cut,
            keep_empty_rows=config.gaze_keep_empty_rows,
            count_empty_images=config.gaze_count_empty_images,
        )

    def _zero(self, complete: bool) -> torch.Tensor | int:
        """Zero, with a graph to the parameters that this batch left out: DDP waits for each one's gradient."""
        idle = [self.cogaze.logit_scale, self.cogaze.logit_scale_gaze]
        if not complete:
            idle = list(self.parameters())
        return zero_through(idle)

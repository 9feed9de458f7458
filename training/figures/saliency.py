"""Where a classifier's decisions come from, as maps over the patches.

Of vision backbones that keep their blocks or stages in a `ModuleList`, as those of transformers do; others are refused.
"""

import numpy as np
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import nn


def activation_maps(model, inputs: dict[str, torch.Tensor], columns: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) and HiResCAM (Draelos and Carin, 2020) of one label for each image.

    Grad-CAM weighs features by their gradients' mean over the map, and so loses sight of where the head looks; HiResCAM
    takes each place's own gradient. Both are taken at the vision backbone's last map of features: of a convolutional
    network what its last stage gives; of a transformer what its last block or stage reads, since a class token or a
    pooled one may be all that is used of what it gives.

    Args:
        model: a classifier of either family, whose vision encoder is not frozen.
        inputs: its inputs, of B images.
        columns: (B,) the labels.
    Returns:
        Both (B, rows, columns), not negative.
    Raises:
        ValueError: a vision backbone that keeps its blocks in no `ModuleList`, so that its last one cannot be found.
    """
    encoder = model.base_model.vision_model
    blocks = next((module for module in encoder.modules() if isinstance(module, nn.ModuleList)), None)
    if blocks is None:
        raise ValueError(f"checkpoint: Grad-CAM finds no blocks in its vision backbone, {type(encoder).__name__}.")
    others = {name: tensor for name, tensor in inputs.items() if name != "pixel_values"}
    # captum takes features of shape (B, D, ...): here they pass by in this shape.
    features = nn.Identity()

    def tokens(module, args):
        if args[0].ndim == 3:
            return (features(args[0].mT).mT, *args[1:])

    def feature_map(module, args, output):
        if args[0].ndim == 4:
            return features(output)

    with blocks[-1].register_forward_pre_hook(tokens), blocks[-1].register_forward_hook(feature_map):
        averaged, own = (
            kind(lambda pixels: model(pixels, **others).logits, features).attribute(inputs["pixel_values"], columns)
            for kind in (LayerGradCam, LayerGradientXActivation)
        )
    return tuple(_over_patches(model, maps.sum(dim=1).flatten(1).relu()) for maps in (averaged, own))


@torch.no_grad()
def pooling_attention(model, inputs: dict[str, torch.Tensor], columns: torch.Tensor) -> np.ndarray:
    """(B, rows, columns) the weights of the patches for one label for each image, of a head that pools by attention."""
    *_, weights = model(**inputs, output_attentions=True).attentions
    return _over_patches(model, weights[torch.arange(len(columns)), columns])


@torch.no_grad()
def latent_attention(model, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    """(B, rows, columns) CoGaze's last cross-attention of latents to patches, mean over latents and heads.

    It is the same for all labels.
    """
    attention = model.base_model.perceiver.layers[-1].cross_attention
    found = {}

    def keep(module, args, output):
        # The Perceiver reads the context first and the image last, which is what stays here.
        found[module] = output.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)

    with attention.q_proj.register_forward_hook(keep), attention.k_proj.register_forward_hook(keep):
        model(**inputs)
    scores = found[attention.q_proj] @ found[attention.k_proj].mT * attention.scaling
    return _over_patches(model, scores.softmax(dim=-1).mean(dim=(1, 2)))


def _over_patches(model, values: torch.Tensor) -> np.ndarray:
    """(B, rows, columns) of (B, others + P): the patches come last."""
    rows, columns = model.config.grid_size
    return values[:, -rows * columns :].unflatten(1, (rows, columns)).detach().float().cpu().numpy()


__all__ = ["activation_maps", "latent_attention", "pooling_attention"]

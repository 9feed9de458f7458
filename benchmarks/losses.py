"""The gaze loss against the same loss as loops over images and sentences: `python -m benchmarks.losses`.

Forward and backward at the paper's batch of 80 images with 1369 patches of 768, where eight images carry eight gaze
maps each: from the similarities, and from patch and sentence features, where most of the time goes into the zeros of
the gradient of all patches, 0.3 GiB.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from modeling_cogaze.losses_cogaze import gaze_similarity, soft_gaze_loss

SCALE = 1 / 0.07


def loop_from_features(patches, sentences, targets, image_index):
    losses = []
    for image in range(len(patches)):
        rows = [n for n in range(len(targets)) if image_index[n] == image and targets[n].max() > 0]
        if rows:
            features = functional.normalize(patches[image], dim=-1)
            texts = functional.normalize(sentences[rows], dim=-1)
            losses.append(loop_over_rows(texts @ features.T * SCALE, targets[rows]))
    return torch.stack(losses).mean()


def loop_from_similarity(similarity, targets, image_index):
    losses = []
    for image in range(int(image_index.max()) + 1):
        rows = [n for n in range(len(targets)) if image_index[n] == image and targets[n].max() > 0]
        if rows:
            losses.append(loop_over_rows(similarity[rows], targets[rows]))
    return torch.stack(losses).mean()


def loop_over_rows(similarity, targets, top_fraction=0.25, weight=0.8):
    """One image's loss as one would write it first: row by row, then patch by patch."""
    maps = []
    for row in targets:
        heat = torch.where(row > 0.5 / 255 * row.max(), row, 0)
        keep = max(1, int(top_fraction * (heat > 0).sum()))
        values, places = heat.topk(keep)
        sharp = torch.zeros_like(heat)
        sharp[places] = values / values.sum()
        maps.append(sharp)
    forward = [jensen_shannon(g, s.softmax(dim=0)) for g, s in zip(maps, similarity, strict=True)]
    backward = []
    for column, s in zip(torch.stack(maps).T, similarity.T, strict=True):
        if column.sum() > 0:
            backward.append(jensen_shannon(column / column.sum(), s.softmax(dim=0)))
    return weight * torch.stack(forward).mean() + (1 - weight) * torch.stack(backward).mean()


def jensen_shannon(p, q):
    middle = (p + q) / 2
    return (divergence(p, middle) + divergence(q, middle)) / 2


def divergence(p, q):
    return (p * (p.clamp(min=1e-12).log() - q.clamp(min=1e-12).log())).sum()


def project_from_features(patches, sentences, targets, image_index):
    return soft_gaze_loss(gaze_similarity(patches, sentences, image_index) * SCALE, targets, image_index)


def make_inputs(images: int, with_gaze: int, segments: int, grid: int, width: int, device: str):
    """Features, and gaze maps with a few fixations each."""
    generator = torch.Generator().manual_seed(0)
    rows = with_gaze * segments
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    targets = torch.zeros(rows, grid, grid)
    for _ in range(6):
        cy, cx, seconds = (torch.rand(rows, 1, 1, generator=generator) * scale for scale in (grid, grid, 1))
        targets += seconds * torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * (grid / 12) ** 2))
    patches = torch.randn(images, grid * grid, width, generator=generator).to(device).requires_grad_()
    sentences = torch.randn(rows, width, generator=generator).to(device).requires_grad_()
    index = torch.arange(with_gaze).repeat_interleave(segments)
    return patches, sentences, targets.flatten(1).to(device), index.to(device)


def measure(loss: Callable, inputs: tuple, repeats: int) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Seconds (median) of forward and backward, by the clock and of processor time; the gradients."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        gradients = torch.autograd.grad(loss(*inputs), wanted)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    clock, processor = (statistics.median(column) for column in zip(*times, strict=True))
    return {"clock": clock, "processor": processor}, list(gradients)


def compare(loop: Callable, project: Callable, inputs: tuple) -> dict:
    """Both ways' times and their ratio; their gradients must agree."""
    measure(project, inputs, 2)
    loop_seconds, expected = measure(loop, inputs, 1)
    seconds, gradients = measure(project, inputs, 9)
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=1e-7)
    ratio = {kind: loop_seconds[kind] / seconds[kind] for kind in seconds}
    return {"loop_seconds": loop_seconds, "seconds": seconds, "ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=80)
    parser.add_argument("--with_gaze", type=int, default=8)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--grid", type=int, default=37)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    patches, sentences, targets, image_index = inputs = make_inputs(**vars(arguments))
    similarity = (gaze_similarity(patches, sentences, image_index) * SCALE).detach().requires_grad_()
    result = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {arguments.device}",
        **vars(arguments),
        "from_similarity": compare(loop_from_similarity, soft_gaze_loss, (similarity, targets, image_index)),
        "from_features": compare(loop_from_features, project_from_features, inputs),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

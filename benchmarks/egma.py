"""EGMA's losses against the same as loops over images, and the step of `tiny`: `python -m benchmarks.egma`.

The losses run from patch and sentence features (ragged, up to 12 sentences an image) to gradients, at a batch of 32
with 49 patches of 512. The loop version is what one writes first from the equations: image by image, and for the
fine-grained logits pair by pair.
"""

import argparse
import platform
import resource
import statistics
import time

import torch
from torch.nn.functional import cross_entropy, normalize

from modeling_cogaze import EgmaConfig, EgmaForPreTraining
from modeling_cogaze.losses_egma import egf_loss, egm_loss, gaze_strengths, pad_sentences

SCALE, THRESHOLD = 1 / 0.07, 1 / 7


def make_inputs(images: int, patches: int, most_sentences: int, width: int, device: str):
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(1, most_sentences + 1, (images,), generator=generator)
    counts[0] = most_sentences
    index = torch.arange(images).repeat_interleave(counts)
    targets = torch.rand(len(index), patches, generator=generator)
    targets = targets * (torch.rand(len(index), patches, generator=generator) < 0.2)
    targets[index % 4 == 3] = 0  # a quarter of the images without gaze
    tensors = (
        torch.randn(images, patches, width, generator=generator),
        torch.randn(len(index), width, generator=generator),
        gaze_strengths(targets),
        index,
    )
    return [tensor.to(device) for tensor in tensors]


def whole_batch(patches, sentences, strengths, index):
    images, width = len(patches), int(index.bincount().max())
    keep = torch.ones_like(index, dtype=torch.bool)
    padded = pad_sentences(normalize(sentences, dim=-1), index, keep, images, width)
    mask = torch.arange(width, device=index.device) < index.bincount(minlength=images)[:, None]
    inputs = normalize(patches, dim=-1), padded, mask, pad_sentences(strengths, index, keep, images, width), SCALE
    return egf_loss(*inputs) + egm_loss(*inputs, threshold=THRESHOLD)


def image_by_image(patches, sentences, strengths, index):
    patches, sentences = normalize(patches, dim=-1), normalize(sentences, dim=-1)
    images = range(len(patches))
    texts = [sentences[index == image] for image in images]
    labels, mappings = [], []
    for image in images:
        gaze, scores = strengths[index == image], texts[image] @ patches[image].T
        if (gaze > 0).any():
            labels.append((_mlce(SCALE * scores, gaze > 0) + _mlce(SCALE * scores.T, gaze.T > 0)) / 2)
        if len(texts[image]) > 1:
            own_texts = normalize(_weights(scores, gaze) @ patches[image], dim=-1) @ texts[image].T
            own_patches = normalize(_weights(scores.T, gaze.T) @ texts[image], dim=-1) @ patches[image].T
            mappings.append((_contrast(own_texts) + _contrast(own_patches)) / 2)
    z_image, z_text = [], []
    for image in images:
        pairs = [patches[image] @ texts[other].T for other in images]
        z_image.append(torch.stack([pair.amax(dim=1).mean() for pair in pairs]))
        z_text.append(torch.stack([pair.amax(dim=0).mean() for pair in pairs]))
    contrast = (_contrast(torch.stack(z_image)) + _contrast(torch.stack(z_text).T)) / 2
    return torch.stack(labels).mean() + contrast + torch.stack(mappings).mean()


def _mlce(scores, labels):
    rows = []
    for row, label in zip(scores, labels, strict=True):
        rows.append((1 + row[~label].exp().sum()).log() + (1 + (-row[label]).exp().sum()).log())
    return torch.stack(rows).mean()


def _weights(scores, gaze):
    rows = []
    for row, strength in zip(scores, gaze, strict=True):
        weights = ((row - row.min()) / (row.max() - row.min()) >= THRESHOLD).to(row) + strength
        rows.append(weights / weights.sum())
    return torch.stack(rows)


def _contrast(similarity):
    return cross_entropy(SCALE * similarity, torch.arange(len(similarity), device=similarity.device))


def seconds(function, repeats: int, device: str) -> float:
    """Median of so many calls, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def gradients(loss, inputs):
    patches, sentences = (tensor.clone().requires_grad_() for tensor in inputs[:2])
    value = loss(patches, sentences, *inputs[2:])
    value.backward()
    return value.detach(), patches.grad, sentences.grad


def training_step(size: str, batch_size: int, sentences: int, device: str):
    config = EgmaConfig.named(size)
    model = EgmaForPreTraining(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rows, patches = batch_size * sentences, config.grid_size[0] * config.grid_size[1]
    batch = {
        "pixel_values": torch.randn(batch_size, 3, *config.image_size),
        "transcript_input_ids": torch.randint(1, config.text_config.vocab_size, (rows, 16)),
        "transcript_attention_mask": torch.ones(rows, 16, dtype=torch.int64),
        "transcript_image_index": torch.arange(batch_size).repeat_interleave(sentences),
        "gaze_targets": torch.rand(rows, patches),
    }
    batch = {name: tensor.to(device) for name, tensor in batch.items()}

    def step():
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--patches", type=int, default=49)
    parser.add_argument("--sentences", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=["tiny"], choices=["tiny", "base"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = arguments.device
    inputs = make_inputs(arguments.batch_size, arguments.patches, arguments.sentences, 512, device)
    for ours, plain in zip(gradients(whole_batch, inputs), gradients(image_by_image, inputs), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{platform.machine()}, {name}, torch {torch.__version__}")
    print(f"Losses, forward and backward, {arguments.batch_size} images, {len(inputs[3])} sentences; equal gradients")
    fast, slow = (
        seconds(lambda loss=loss: gradients(loss, inputs), arguments.repeats, device)
        for loss in (whole_batch, image_by_image)
    )
    print(f"| whole batch | {fast * 1e3:8.1f} ms |\n| image by image | {slow * 1e3:8.1f} ms |  {slow / fast:.1f}x")
    for size in arguments.sizes:
        step = training_step(size, arguments.batch_size, sentences=5, device=device)
        elapsed = seconds(step, arguments.repeats, device)
        if device == "cuda":
            memory = torch.cuda.max_memory_allocated() / 2**20
        else:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        print(f"| training step of {size} | {elapsed * 1e3:8.0f} ms | peak {memory:.0f} MiB |")


if __name__ == "__main__":
    main()

"""What companions cost: pretraining steps with 0, 1 and 2 per image, against steps of as many main images.

`python -m benchmarks.companions`. Both are measured in turn, in one process for each number, so that the ratios mean
something on a machine that does other work. Peak memory is of a process that runs one of the two alone.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.pretraining import make_batch, synchronize
from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining


def make_step(size: str, images: int, companions: int, device: str):
    """A training step of `images`, each with so many companions."""
    torch.manual_seed(0)
    fields = {"use_views": True, "use_priors": True, "max_companions": companions} if companions else {}
    config = CoGazeConfig.named(size, **fields)
    model = CoGazeForPreTraining(config).train().to(device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    batch = make_batch(config, images, device)
    if companions:
        count = images * companions
        more = {
            "companion_pixel_values": torch.randn(count, 3, *config.image_size),
            "companion_index": torch.arange(images).repeat_interleave(companions),
            "companion_role_ids": torch.arange(count) % 2,
            "companion_days": torch.rand(count) * 400,
        }
        batch |= {name: value.to(device) for name, value in more.items()}

    def step() -> None:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)

    return step


def measure(size: str, images: int, companions: int, rounds: int, device: str) -> float:
    """Seconds of a step with companions over seconds of one with as many main images."""
    steps = make_step(size, images, companions, device), make_step(size, images * (1 + companions), 0, device)
    seconds = [[], []]
    for number in range(rounds + 1):
        for own, step in zip(seconds, steps, strict=True):
            start = time.perf_counter()
            step()
            if number:  # the first warms up
                own.append(time.perf_counter() - start)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def peak(size: str, images: int, companions: int, device: str) -> float:
    """GiB, in this process."""
    step = make_step(size, images, companions, device)
    step()
    step()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", type=int, nargs=2, help="images and companions: prints the peak alone")
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak(arguments.size, *arguments.peak, arguments.device)))
        return

    def of_process(images: int, companions: int) -> float:
        command = [sys.executable, "-m", "benchmarks.companions", "--size", arguments.size]
        command += ["--device", arguments.device, "--peak", str(images), str(companions)]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    print("| companions | step time, against as many main images | peak memory, against the same |")
    print("|---|---|---|")
    images = arguments.batch_size
    for companions in range(3):
        ratio = measure(arguments.size, images, companions, arguments.rounds, arguments.device)
        memory = of_process(images, companions) / of_process(images * (1 + companions), 0)
        print(f"| {companions} | {ratio:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()

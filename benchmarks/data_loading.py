"""Records decoded and processed per second from a JPEG folder, parquet and webdataset shards; memory of a long stream.

Each way gives the same radiographs through the same processor and a DataLoader: pictures of `--side` x `--height`
pixels, reduced to 224 and to 518. "scaled" decodes JPEGs at the least scale that this needs. "prepared" is parquet
written with `convert --image_size 518`, which decodes smaller pictures. The ways take turns in every round, and the
median of the rounds counts. Real radiographs are used where COGAZE_REAL_DATA has them, generated noise elsewhere.

Usage: python -m benchmarks.data_loading [--records 200] [--side 2048] [--height 2048] [--workers 2] [--rounds 3]
    [--ways "JPEG folder" "JPEG folder, scaled"] [--stream 100000]
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BitImageProcessor

from processing.datasets import load
from processing.datasets.storage.shards import MANIFEST, write_shards
from processing.datasets.storage.streaming import RecordStream
from processing.processing_cogaze import CoGazeProcessor
from processing.tokenization import build_tokenizer
from training.data.loading import leave_pictures


def make_folder(root: Path, records: int, side: int, height: int | None = None) -> None:
    """A JPEG folder in TBX11K's layout."""
    real = Path(os.environ.get("COGAZE_REAL_DATA", "../shared/data")) / "nih_mini" / "images"
    pictures = sorted(real.glob("*.jpg"))[:records] if real.is_dir() else []
    print(f"pictures: {'real radiographs, enlarged' if pictures else 'generated noise'}")
    (root / "images").mkdir(parents=True)
    height = height or side
    rows = ["fname,image_height,image_width,source,bbox,target,tb_type,image_type"]
    for index in range(records):
        if pictures:
            picture = Image.open(pictures[index % len(pictures)]).resize((side, height), Image.Resampling.BICUBIC)
        else:
            noise = np.random.default_rng(index).integers(0, 255, (height // 8, side // 8), np.uint8)
            picture = Image.fromarray(noise).resize((side, height), Image.Resampling.BICUBIC)
        picture.convert("L").save(root / "images" / f"{index:06d}.jpg", quality=95)
        rows.append(f"{index:06d}.jpg,{height},{side},train,none,no_tb,none,healthy")
    (root / "data.csv").write_text("\n".join(rows))


def processor(size: int, scaled: bool = False) -> CoGazeProcessor:
    frame = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    options = {"grid_size": (size // 14,) * 2, "scaled_decoding": scaled}
    return CoGazeProcessor(BitImageProcessor(**frame), build_tokenizer(["no text"], 300), **options)


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def records_per_second(data, size: int, workers: int, scaled: bool) -> float:
    collate = processor(size, scaled).collate
    loader = DataLoader(data, batch_size=16, num_workers=workers, collate_fn=collate, worker_init_fn=one_thread)
    batches = iter(loader)
    count = -len(next(batches)["pixel_values"])  # workers have started once the first batch is there
    start = time.perf_counter()
    for batch in batches:
        count += len(batch["pixel_values"])
    return (count + 16) / (time.perf_counter() - start)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def stream_memory(shards: Path, count: int, folder: Path) -> list[tuple[int, float]]:
    """(records read, resident MiB) along a stream of `count` small records: the same shards again and again."""
    manifest = yaml.safe_load((shards / MANIFEST).read_text())
    once = manifest["splits"]["train"]
    manifest["splits"]["train"] = once * -(-count // sum(shard["records"] for shard in once))
    folder.mkdir()
    for shard in once:
        os.symlink(shards / shard["file"], folder / shard["file"])
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
    marks = {count // 20, count // 4, count // 2, count}
    readings = []
    for number, _ in enumerate(RecordStream(folder, shuffle_buffer=1000), start=1):
        if number in marks:
            readings.append((number, resident_mb()))
        if number == count:
            break
    return readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--height", type=int, help="as --side if absent")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ways", nargs="+", help="of those that the table has; all if absent")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stream", type=int, default=100_000)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_folder(root / "jpeg", arguments.records, arguments.side, arguments.height)
        dataset = load("tbx11k", root / "jpeg", cache_dir=root / "cache")
        write_shards(dataset, root / "parquet", "parquet", max_shard="50MB")
        write_shards(dataset, root / "webdataset", "webdataset", max_shard="50MB")
        write_shards(dataset, root / "prepared", "parquet", max_shard="50MB", image_size=518)
        ways = {
            "JPEG folder": lambda: dataset,
            "JPEG folder, scaled": lambda: leave_pictures(dataset),
            "parquet": partial(RecordStream, root / "parquet", shuffle_buffer=64),
            "webdataset": partial(RecordStream, root / "webdataset", shuffle_buffer=64),
            "parquet, prepared": partial(RecordStream, root / "prepared", shuffle_buffer=64),
        }
        ways = {way: data for way, data in ways.items() if way in (arguments.ways or ways)}
        rates = {(way, size): [] for way in ways for size in (224, 518)}
        for _ in range(arguments.rounds):
            for way, size in rates:
                rates[way, size].append(records_per_second(ways[way](), size, arguments.workers, "scaled" in way))
        stored = f"{arguments.side} x {arguments.height or arguments.side}"
        print(f"\nrecords/s, {stored} px stored, {arguments.workers} workers")
        print("| | 224 px | 518 px |\n|---|---|---|")
        for way in ways:
            print(
                f"| {way} | " + " | ".join(f"{statistics.median(rates[way, size]):.0f}" for size in (224, 518)) + " |"
            )

        if not arguments.stream:
            return
        make_folder(root / "small", 500, 64)
        small = load("tbx11k", root / "small", cache_dir=root / "cache")
        for to in ("parquet", "webdataset"):
            write_shards(small, root / f"small {to}", to, max_shard="500KB")
            marks = stream_memory(root / f"small {to}", arguments.stream, root / f"long {to}")
            print(f"{to}: " + ", ".join(f"{memory:.0f} MiB after {number:,}" for number, memory in marks))


if __name__ == "__main__":
    main()

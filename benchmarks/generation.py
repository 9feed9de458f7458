"""Report generation: reports and tokens a second, and peak memory: `python -m benchmarks.generation`.

Side by side: the cross-attention decoder with its cache, the same without, and transformers'
`VisionEncoderDecoderModel` of like size, whose decoder reads all patch tokens. Random weights and inputs in the shapes
that the processor gives; every report has the same number of tokens. The images' encoding is part of the time.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration

WAYS = ("cross-attention", "cross-attention, no cache", "VisionEncoderDecoderModel")
SPECIAL = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}


class Tokens:
    """As much of a tokenizer as a decoder's config asks for."""

    cls_token_id = sep_token_id = None
    bos_token_id, eos_token_id, pad_token_id = SPECIAL.values()

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count


def build(size: str, way: str):
    """A model with random weights, and the tensors besides the pictures that it reads."""
    torch.manual_seed(0)
    config = CoGazeConfig.named(size)
    config.add_decoder(Tokens(config.text_config.vocab_size))
    if way != "VisionEncoderDecoderModel":
        return CoGazeForConditionalGeneration(config).eval(), config
    if size == "base":
        encoder = config.vision_config
    else:
        width = config.hidden_size
        encoder = ViTConfig(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=4 * width,
            image_size=config.image_size[0],
            patch_size=14,
        )
    decoder = GPT2Config.from_dict(config.decoder_config.to_dict())
    both = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = VisionEncoderDecoderModel(both).eval()
    model.generation_config.update(**SPECIAL, decoder_start_token_id=SPECIAL["bos_token_id"])
    return model, config


def run(size: str, way: str, batch: int, beams: int, tokens: int, repeats: int, device: str, bf16: bool) -> dict:
    """One row of the table, measured in this process."""
    model, config = build(size, way)
    model.to(device, torch.bfloat16 if bf16 else torch.float32)
    inputs = {"pixel_values": torch.randn(batch, 3, *config.image_size, dtype=model.dtype)}
    if way != "VisionEncoderDecoderModel":
        inputs["context_input_ids"] = torch.randint(2, config.text_config.vocab_size, (batch, 40))
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}

    def write() -> torch.Tensor:
        return model.generate(
            **inputs,
            num_beams=beams,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            use_cache=way != "cross-attention, no cache",
        )

    assert write().shape == (batch, 1 + tokens)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        write()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return {
        "parameters": parameters,
        "reports_per_second": batch / median,
        "tokens_per_second": batch * tokens / median,
        "peak_gib": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=["tiny", "base"], help="by default base on a GPU, else tiny")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--tokens", type=int, default=100, help="of each report")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--here", action="store_true", help="one row, in this process")
    arguments = parser.parse_args()
    size = arguments.size or ("base" if arguments.device == "cuda" else "tiny")
    shared = [arguments.tokens, arguments.repeats, arguments.device, arguments.bf16]
    if arguments.here:
        print(json.dumps(run(size, arguments.ways[0], arguments.batch_sizes[0], arguments.beams[0], *shared)))
        return

    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    precision = "bfloat16" if arguments.bf16 else "float32"
    print(
        f"{platform.machine()}, {name}, torch {torch.__version__}, {precision}, {size}, {arguments.tokens} tokens each"
    )
    print("| | parameters | batch | beams | reports/s | tokens/s | times | peak GiB |")
    print("|---|---|---|---|---|---|---|---|")
    for batch in arguments.batch_sizes:
        for beams in arguments.beams:
            first = None
            for way in arguments.ways:
                # A process each, so that peaks do not mix.
                command = [sys.executable, "-m", "benchmarks.generation", "--here", "--size", size, "--ways", way]
                command += ["--batch_sizes", str(batch), "--beams", str(beams), "--tokens", str(arguments.tokens)]
                command += ["--repeats", str(arguments.repeats), "--device", arguments.device]
                command += ["--bf16"] if arguments.bf16 else []
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                row = json.loads(output.splitlines()[-1])
                first = first or row["reports_per_second"]
                print(
                    f"| {way} | {row['parameters']:.1f}M | {batch} | {beams} | {row['reports_per_second']:.2f} "
                    f"| {row['tokens_per_second']:.0f} | {row['reports_per_second'] / first:.2f} "
                    f"| {row['peak_gib']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

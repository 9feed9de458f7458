"""Beam search against transformers' own over the same decoder: `python -m benchmarks.beam_search`.

The other side is what CoGaze's authors run: transformers' `EncoderDecoderModel` around a GPT-2 with cross-attention,
`generate(encoder_outputs=..., num_beams=10, use_cache=True)`, with the same weights and the same encoded images, 256
latents of 768. DistilGPT2's shape, random weights; both must give the same tokens. The two take turns, and the medians
of the rounds count, in processor time, which other work on the machine disturbs less than it does the clock.

Beside the times stand the bounds: operations over the measured rate of a large matrix product, and the bytes of the
weights (read at each step) over the measured bandwidth.
"""

import argparse
import platform
import statistics
import time

import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, GPT2LMHeadModel
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.generation import SPECIAL, Tokens
from modeling_cogaze import CoGazeConfig, CoGazeForConditionalGeneration
from modeling_cogaze.report_generation import EncodedImages

LATENTS, WIDTH = 256, 768


def build(vocabulary: int, layers: int):
    """Our model and theirs, of one decoder's weights."""
    torch.manual_seed(0)
    config = CoGazeConfig.tiny(hidden_size=WIDTH, num_latents=LATENTS // 2)
    config.add_decoder(Tokens(vocabulary), n_layer=layers, n_head=12, n_embd=WIDTH, n_positions=1024)
    ours = CoGazeForConditionalGeneration(config).eval()
    decoder = GPT2LMHeadModel(config.decoder_config).eval()
    decoder.load_state_dict(ours.decoder.state_dict())
    encoder = BertConfig(hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=12)  # never run
    both = EncoderDecoderConfig.from_encoder_decoder_configs(encoder, config.decoder_config)
    theirs = EncoderDecoderModel(both, decoder=decoder).eval()
    theirs.generation_config.update(**SPECIAL, decoder_start_token_id=SPECIAL["bos_token_id"])
    return ours, theirs


def matrix_rate() -> float:
    """Operations a second of a float32 matrix product of 1024 cubed."""
    one = torch.randn(1024, 1024)
    return 2 * 1024**3 / _median(lambda: one @ one, 9)


def bandwidth() -> float:
    """Bytes a second that a sum reads, of 256 MiB."""
    many = torch.ones(2**26)
    return 4 * 2**26 / _median(many.sum, 5)


def _median(function, repeats: int) -> float:
    function()
    return statistics.median(_seconds(function) for _ in range(repeats))


def _seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(ours, theirs, batch: int, beams: int, tokens: int, rounds: int) -> dict:
    """Seconds of processor time of both for one batch."""
    memory = torch.randn(batch, LATENTS, WIDTH, generator=torch.Generator().manual_seed(0))
    search = {"num_beams": beams, "max_length": 1 + tokens}
    ways = {
        "ours": lambda: ours.generate(encoder_outputs=EncodedImages(last_hidden_state=memory), **search),
        "transformers": lambda: theirs.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory), use_cache=True, **search
        ),
    }
    found = [way() for way in ways.values()]
    assert torch.equal(*found), "the two searches differ"
    assert found[0].shape[1] == 1 + tokens, "a report ended early: the times would not be of the tokens asked for"
    seconds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(_seconds(way))
    return {name: statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=50_260)
    parser.add_argument("--layers", type=int, default=6)
    arguments = parser.parse_args()
    ours, theirs = build(arguments.vocabulary, arguments.layers)
    rate, read = matrix_rate(), bandwidth()
    # Of the decoder, what each token is multiplied with; cross-attention's keys and values are of the image.
    weights = sum(p.numel() for name, p in ours.decoder.named_parameters() if p.ndim > 1 and "wpe" not in name)
    weights -= arguments.layers * 2 * WIDTH * WIDTH
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32, processor time"
    )
    print(f"{rate / 1e9:.0f} GFLOP/s, {read / 1e9:.0f} GB/s, weights {4 * weights / 1e6:.0f} MB")
    print("| batch | ours, s | transformers, s | ratio | bound by operations, s | by the weights' bytes, s |")
    print("|---|---|---|---|---|---|")
    for batch in arguments.batch_sizes:
        found = measure(ours, theirs, batch, arguments.beams, arguments.tokens, arguments.rounds)
        operations = 2 * weights * batch * arguments.beams * arguments.tokens
        operations += 2 * batch * LATENTS * arguments.layers * 2 * WIDTH * WIDTH
        bounds = operations / rate, 4 * weights * arguments.tokens / read
        ratio = found["transformers"] / found["ours"]
        print(
            f"| {batch} | {found['ours']:.2f} | {found['transformers']:.2f} | {ratio:.2f} "
            f"| {bounds[0]:.2f} | {bounds[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

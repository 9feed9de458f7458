"""Two processes with half the batch each take the step that one takes with all of it."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import modeling_cogaze
from modeling_cogaze import CoGazeConfig, CoGazeForPreTraining, EgmaConfig
from modeling_cogaze.distributed import gather_with_grad
from tests import small

PATCHES = 16
# Images on the first process, whether the second half has gaze, and whether images of the first have companions.
CASES = {
    "halves": (3, True, False),
    "gaze_on_one": (3, False, False),
    "ragged": (4, True, False),
    "companions_on_one": (3, True, True),
}


# Heads by family, task, config, and whether a batch has contexts.
HEADS = [
    *(("CoGaze", task, {}, context) for task in ("ImageClassification", "SemanticSegmentation") for context in (1, 0)),
    ("CoGaze", "ImageClassification", {"use_context": False}, True),
    ("CoGaze", "ImageClassification", {"classifier_pooling": "attention"}, True),
    ("Egma", "ImageClassification", {}, False),
    ("Egma", "SemanticSegmentation", {}, False),
]


def make_head(family, task, fields):
    torch.manual_seed(0)
    kind, sizes = (CoGazeConfig, small.COGAZE) if family == "CoGaze" else (EgmaConfig, small.EGMA)
    config = kind.tiny(vocab_size=100, num_labels=2, **sizes | fields)
    return getattr(modeling_cogaze, f"{family}For{task}")(config).train()


def train_head(family, task, fields, context) -> nn.Module:
    """Two steps of plain DDP, which waits in the second for each gradient of the first."""
    model = make_head(family, task, fields)
    wrapped = DistributedDataParallel(model)
    batch = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.ones(2, 2)}
    if task == "SemanticSegmentation":
        batch["labels"] = torch.ones(2, 2, 64, 64)
    if context:
        batch["context_input_ids"] = torch.randint(0, 100, (2, 5))
    for _ in range(2):
        step(wrapped, batch)
    return model


def make_model(companions: bool) -> CoGazeForPreTraining:
    torch.manual_seed(0)
    fields = {"use_views": True, "use_priors": True, "max_companions": 2} if companions else {}
    config = CoGazeConfig.tiny(
        vocab_size=100,
        vision_config={"image_size": 64},
        text_config={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        positives_per_class=list(range(1, 15)),
        **fields,
    )
    return CoGazeForPreTraining(config).train()


def make_batch(gaze_on_second_half: bool, companions: bool) -> dict[str, torch.Tensor]:
    """Six images; a study spans both halves; the halves differ in images with gaze and in labels left out."""
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([0, 0, 1, 5, 5, 5] if gaze_on_second_half else [0, 0, 1, 2])
    labels = torch.randint(0, 2, (6, 14), generator=generator).float()
    labels[:2] = torch.nan
    more = {}
    if companions:
        more = {
            "companion_pixel_values": torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
            "companion_index": torch.tensor([0, 2, 2]),
            "companion_role_ids": torch.tensor([1, 0, 1]),
            "companion_days": torch.tensor([9.0, 0.0, 99.0]),
        }
    return more | {
        "pixel_values": torch.randn(6, 3, 64, 64, generator=generator),
        "context_input_ids": torch.randint(0, 100, (6, 5), generator=generator),
        "context_attention_mask": torch.tensor([1, 0, 1, 0, 0, 0])[:, None].expand(6, 5),
        "report_input_ids": torch.randint(0, 100, (6, 8), generator=generator),
        "report_attention_mask": torch.ones(6, 8, dtype=torch.long),
        "labels": labels,
        "study_ids": torch.tensor([3, 4, 5, 5, 6, 6]),
        "transcript_input_ids": torch.randint(0, 100, (len(index), 6), generator=generator),
        "transcript_attention_mask": torch.ones(len(index), 6, dtype=torch.long),
        "transcript_image_index": index,
        "gaze_targets": torch.rand(len(index), PATCHES, generator=generator),
    }


def part(batch: dict[str, torch.Tensor], start: int, stop: int) -> dict[str, torch.Tensor]:
    index = batch["transcript_image_index"]
    rows = (index >= start) & (index < stop)
    beside = batch.get("companion_index", torch.zeros(0))
    beside = (beside >= start) & (beside < stop)
    of_rows = {"transcript": rows, "gaze": rows, "companion": beside}
    cut = {n: v[of_rows.get(n.partition("_")[0], slice(start, stop))] for n, v in batch.items()}
    for name in ("transcript_image_index", "companion_index"):
        if name in cut:
            cut[name] = cut[name] - start
    return cut


def step(model, batch):
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**batch).loss.backward()
    optimizer.step()


def train_one_of_two(rank: int, port: int, folder: str):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for case, (split, *kinds) in CASES.items():
        model = make_model(kinds[1])
        bounds = (0, split) if rank == 0 else (split, 6)
        step(DistributedDataParallel(model), part(make_batch(*kinds), *bounds))
        save_file(model.state_dict(), f"{folder}/{case}-{rank}.safetensors")
    for number, head in enumerate(HEADS):
        save_file(train_head(*head).state_dict(), f"{folder}/head-{number}-{rank}.safetensors")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_processes")
    mp.spawn(train_one_of_two, (free_port(), str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_step_as_one(two_processes, case):
    _, *kinds = CASES[case]
    model = make_model(kinds[1])
    start = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, make_batch(*kinds))
    first, second = (load_file(two_processes / f"{case}-{rank}.safetensors") for rank in range(2))
    moved = 0.0
    for name, value in model.state_dict().items():
        assert first[name].equal(second[name]), name
        torch.testing.assert_close(
            first[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        moved = max(moved, (value - start[name]).abs().max().item())
    assert moved > 1e-2


@pytest.mark.parametrize("number", range(len(HEADS)))
def test_heads_train_by_plain_ddp(two_processes, number):
    """Every parameter that asks for a gradient gets one: DDP is not told to look for others."""
    first, second = (load_file(two_processes / f"head-{number}-{rank}.safetensors") for rank in range(2))
    family, task, fields, _ = HEADS[number]
    head = make_head(family, task, fields)
    start = head.state_dict()
    assert all(value.equal(second[name]) for name, value in first.items())
    idle = {name for name, parameter in head.named_parameters() if not parameter.requires_grad}
    assert all(first[name].equal(start[name]) for name in idle)
    assert any("logit_scale" in name for name in idle)
    spoken = {name for name in start if "text_model" in name}
    assert (spoken <= idle) == (family == "Egma" or fields.get("use_context") is False)
    trained = [name for name in start if name not in idle and start[name].is_floating_point()]
    assert any(not first[name].equal(start[name]) for name in trained)


def test_gathering_alone_is_the_identity():
    tensor = torch.randn(3, 2, requires_grad=True)
    assert gather_with_grad(tensor) is tensor

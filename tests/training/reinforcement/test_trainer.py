"""trl's GRPO on report generators that trl does not know: the same losses, and rewards that rise."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from training.reinforcement.sampling import write_reports
from training.reinforcement.trainer import ReportReinforcer
from training.reports.writing import open_writer

KINDS = ("cross_attention", "prefix")


def words_without_e(completions, records=None) -> list[float]:
    words = [text.split() for text in completions]
    return [sum("e" not in word for word in each) / max(1, len(each)) for each in words]


def config(tmp_path, **changes) -> GRPOConfig:
    options = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
        "beta": 0.0,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": 0,
    }
    return GRPOConfig(**options | changes)


def reinforcer(folder, records, tmp_path, rewards=None, **changes) -> ReportReinforcer:
    writer = open_writer(folder)
    if hasattr(writer.model.config, "freeze_encoder"):
        writer.model.config.freeze_encoder = True
    writer.model.train()
    rewards = rewards or {"words_without_e": words_without_e}
    return ReportReinforcer(writer, config(tmp_path, **changes), records, rewards, dict.fromkeys(rewards, 1.0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_toy_reward_rises(kind, generators, small_phantom, tmp_path):
    trainer = reinforcer(generators[kind], small_phantom, tmp_path, max_steps=50)
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(rewards) == 50
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.1
    changed = {name.split(".")[0] for name, each in trainer.model.named_parameters() if not each.equal(before[name])}
    assert changed <= {"decoder", "memory_projection", "adapter", "language_model"} and changed


@pytest.fixture
def sampled(generators, small_phantom, tmp_path):
    """kind -> a trainer, with the samples that its first step learns from."""

    def sample(kind: str, **changes):
        trainer = reinforcer(generators[kind], small_phantom, tmp_path, **changes)
        rows = [{"prompt": str(number)} for number in (0, 0, 0, 0, 3, 3, 3, 3)]
        return trainer, trainer._generate_and_score_completions(rows)

    return sample


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_generation(kind, sampled, small_phantom):
    trainer, batch = sampled(kind)
    writer = trainer.writer
    writer.model.eval()
    records = [small_phantom[number] for number in (0, 3)]
    places = [0, 0, 0, 0, 1, 1, 1, 1]
    found, *_ = trainer._get_per_token_logps_and_entropies(
        writer.model,
        torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
        torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
        batch["completion_ids"].shape[1],
        batch_size=3,
        pixel_values=batch["pixel_values"],
    )
    # One report at a time, from its image, token by token: by `generate` that may write nothing else.
    for row, place in enumerate(places):
        tokens = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()

        def only(_, ids, tokens=tokens, start=None):
            return [tokens[min(ids.shape[-1] - (1 if kind == "cross_attention" else 0), len(tokens) - 1)]]

        inputs = writer.inputs([records[place]])
        outputs = writer.model.generate(
            **inputs,
            prefix_allowed_tokens_fn=only,
            max_new_tokens=len(tokens),
            min_new_tokens=len(tokens),
            return_dict_in_generate=True,
            output_logits=True,
        )
        logits = torch.cat(outputs.logits).float()
        expected = logits.log_softmax(-1)[range(len(tokens)), tokens]
        torch.testing.assert_close(found[row, : len(tokens)].detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_grpo(kind, sampled):
    """Equation 3 of arXiv 2402.03300 with the KL estimate of its equation 4, in numpy; one pass over the samples."""
    beta = 0.3
    trainer, batch = sampled(kind, beta=beta, loss_type="grpo")
    assert batch["pixel_values"].shape[0] == 8 and not torch.equal(batch["pixel_values"][0], batch["pixel_values"][4])
    rewards = np.array(words_without_e(trainer._sampled[0])).reshape(2, 4)
    advantages = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(1, ddof=1, keepdims=True) + 1e-4)
    np.testing.assert_allclose(batch["advantages"].numpy(), advantages.reshape(-1), atol=1e-5)

    with torch.no_grad():  # a step away from the start, so that there is something to measure
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    inputs = [torch.cat([batch[f"prompt_{k}"], batch[f"completion_{k}"]], dim=1) for k in ("ids", "mask")]
    keep = batch["completion_ids"].shape[1]
    logps, _, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, *inputs, keep, pixel_values=batch["pixel_values"]
    )
    logps, start = logps.detach().numpy().astype(float), batch["ref_per_token_logps"].numpy().astype(float)
    mask = batch["completion_mask"].numpy()
    kl = np.exp(start - logps) - (start - logps) - 1
    expected = np.mean(((beta * kl - advantages.reshape(-1, 1)) * mask).sum(1) / mask.sum(1))
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(trainer.model, batch)
    assert kl.max() > 1e-4
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    loss.backward()
    trained = [name for name, each in trainer.model.named_parameters() if each.grad is not None]
    assert trained and not any(name.startswith(("cogaze.", "encoder.")) for name in trained)


def test_a_prefix_model_goes_through_stock_grpo_with_the_same_loss(generators, small_phantom, tmp_path):
    writer = open_writer(generators["prefix"])
    writer.model.train()
    processor = writer.processor
    prompt = [{"role": "user", "content": "Describe the findings."}]
    records = [small_phantom[number] for number in range(4)]
    dataset = Dataset.from_dict({"prompt": [prompt] * 4, "image": [record["image"] for record in records]})

    def reward(completions, **_):
        return words_without_e([message[0]["content"] for message in completions])

    options = {"generation_kwargs": {"return_prompt": True}, "loss_type": "grpo"}
    stock = GRPOTrainer(writer.model, reward, config(tmp_path, **options), dataset, processing_class=processor)
    stock.current_gradient_accumulation_steps = 1
    batch = stock._generate_and_score_completions([dataset[number] for number in (0, 0, 0, 0, 2, 2, 2, 2)])
    loss = stock._compute_loss(stock.model, batch)
    stock.train()
    assert all(math.isfinite(entry["reward"]) for entry in stock.state.log_history if "reward" in entry)

    own = reinforcer(generators["prefix"], small_phantom, tmp_path, loss_type="grpo")
    own.current_gradient_accumulation_steps = 1
    batch["pixel_values"] = own.model.encode(pixel_values=batch["pixel_values"])[0]
    assert own._compute_loss(own.model, batch).item() == pytest.approx(loss.item(), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_encoded_once_for_all_its_samples(kind, generators, small_phantom, tmp_path, monkeypatch):
    writer = open_writer(generators[kind])
    seen = []
    encode = writer.model.encode

    def counted(*args, **kwargs):
        encoded = encode(*args, **kwargs)
        seen.append(len(encoded[0]))
        return encoded

    counted.__signature__ = __import__("inspect").signature(encode)
    monkeypatch.setattr(writer.model, "encode", counted)
    records = [small_phantom[number] for number in range(2)]
    sequences, _, memory, prepared = write_reports(writer, records, [0, 0, 0, 1], {"max_new_tokens": 3})
    assert seen == [2] and len(sequences) == len(memory) == 4 and len(prepared) == 2
    alone, *_ = write_reports(writer, records[1:], [0], {"max_new_tokens": 3})
    assert torch.equal(alone[0], sequences[3])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([0.5] * 7, "bad gave 7 values for 8 reports"),
        ([0.5] * 7 + [math.nan], "bad gave nan for the report of image"),
        ([None] * 8, "none of .'bad'. applies to image"),
    ],
)
def test_a_wrong_reward_stops_the_run_and_is_named(values, says, generators, small_phantom, tmp_path):
    trainer = reinforcer(generators["cross_attention"], small_phantom, tmp_path, {"bad": lambda texts, records: values})
    with pytest.raises(ValueError, match=says):
        trainer.train()

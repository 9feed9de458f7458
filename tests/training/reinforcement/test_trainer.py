"""trl's GRPO on report generators that trl does not know: the same losses, and rewards that rise."""

import pytest
import torch
from trl import GRPOConfig

from training.reinforcement.trainer import ReportReinforcer
from training.reports.writing import open_writer


def words_without(letter: str):
    def reward(completions, records):
        words = [text.split() for text in completions]
        return [sum(letter not in word for word in each) / max(1, len(each)) for each in words]

    return reward


def reinforcer(folder, records, tmp_path, rewards=None, **changes) -> ReportReinforcer:
    options = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
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
    writer = open_writer(folder)
    if hasattr(writer.model.config, "freeze_encoder"):
        writer.model.config.freeze_encoder = True
    writer.model.train()
    rewards = rewards or {"without_e": words_without("e")}
    return ReportReinforcer(
        writer, GRPOConfig(**options | changes), records, rewards, dict.fromkeys(rewards, 1.0)
    )


@pytest.mark.parametrize("kind", ["cross_attention", "prefix"])
def test_a_toy_reward_rises(kind, generators, small_phantom, tmp_path):
    torch.manual_seed(0)
    trainer = reinforcer(generators[kind], small_phantom, tmp_path, max_steps=50, beta=0.0, learning_rate=2e-2)
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert len(rewards) == 50
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1

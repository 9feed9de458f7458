import json

import pytest

from processing.datasets.phantom.loading import load_phantom
from tests import small


@pytest.fixture(scope="session")
def phantom_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("phantom")


@pytest.fixture(scope="session")
def small_phantom(phantom_cache):
    """Twelve studies at 64 pixels."""
    return load_phantom("train", size=12, image_size=64, num_proc=1, cache_dir=phantom_cache)


@pytest.fixture(scope="session")
def tiny_run(small_phantom, phantom_cache):
    """Flags of training/pretrain.py for a run of seconds on `small_phantom`."""
    data = {"name": "phantom", "size": 12, "image_size": 64, "num_proc": 1, "cache_dir": str(phantom_cache)}
    overrides = {
        "vision_config": {"image_size": 64, "hidden_sizes": [16, 32], "depths": [1, 1]},
        "text_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
        "hidden_size": 32,
        "intermediate_size": 32,
        "perceiver_depth": 1,
        "num_latents": 4,
        "freeze_vision_encoder": False,
    }
    return {
        "train_data": json.dumps(data | {"split": "train"}),
        "validation_data": json.dumps(data | {"split": "train", "size": 4}),
        "model_size": "tiny",
        "model_overrides": json.dumps(overrides),
        "vocab_size": "400",
        "per_device_train_batch_size": "4",
        "report_to": "none",
        "disable_tqdm": "True",
        "use_cpu": "True",
    }


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> str:
    """A CoGaze pretraining checkpoint at 64 pixels, with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    small.save_pretrained(folder)
    return str(folder)

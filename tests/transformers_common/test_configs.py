"""transformers' ConfigTester over the three configurations; `make transformers-tests` fetches and runs it."""

import unittest

import pytest

from modeling_cogaze import CoGazeConfig, CoGazePrefixConfig, EgmaConfig
from tests.transformers_common import source

pytestmark = [pytest.mark.slow, pytest.mark.network]

if source.tests_folder() is None:
    pytest.skip("transformers' own tests are not here: `make transformers-tests` fetches them", allow_module_level=True)
ConfigTester = source.offered("test_configuration_common").ConfigTester

FIELDS = {
    # Fields that a config keeps as they are given; of its sub-configs it makes configs.
    CoGazeConfig: {"hidden_size": 32, "num_latents": 5, "perceiver_depth": 1},
    EgmaConfig: {"projection_dim": 32, "pooled_text_layers": 1},
    CoGazePrefixConfig: {"lora_rank": 0},
}


class ConfigurationTest(unittest.TestCase):
    model_tester = None

    def check(self, kind):
        tester = ConfigTester(self, config_class=kind, has_text_modality=False, **FIELDS[kind])
        for name in dir(tester):
            if name.startswith(("create_and_test", "check_config")):
                with self.subTest(name):
                    getattr(tester, name)()

    def test_cogaze(self):
        self.check(CoGazeConfig)

    def test_egma(self):
        self.check(EgmaConfig)

    def test_prefix(self):
        self.check(CoGazePrefixConfig)

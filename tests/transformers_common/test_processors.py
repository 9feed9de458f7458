"""transformers' ProcessorTesterMixin over the three processors; `make transformers-tests` fetches and runs it."""

import unittest

import numpy as np
import pytest
from PIL import Image

from modeling_cogaze import CoGazeConfig, EgmaConfig
from processing import CoGazePrefixProcessor, CoGazeProcessor, EgmaProcessor
from processing.tokenization import build_tokenizer
from tests import small
from tests.transformers_common import source
from tests.transformers_common.exclusions import reason_against

pytestmark = [pytest.mark.slow, pytest.mark.network]

if source.tests_folder() is None:
    pytest.skip("transformers' own tests are not here: `make transformers-tests` fetches them", allow_module_level=True)
common = source.offered("test_processing_common")


def make(kind, config_class, sizes):
    tokenizer = build_tokenizer(["The lungs are clear. lower newer upper older longer string"] * 3, 400)
    return kind.for_model(tokenizer, config_class.tiny(vocab_size=len(tokenizer), **sizes))


class OwnProcessorTest(common.ProcessorTesterMixin):
    def prepare_images_inputs(self, batch_size=None, **options):
        """Grey pictures: colour photographs are refused."""
        rng = np.random.default_rng(0)
        pictures = [Image.fromarray(rng.integers(0, 255, (30, 40), np.uint8)) for _ in range(batch_size or 1)]
        return pictures[0] if batch_size is None else pictures

    def setUp(self):
        reason = reason_against(self._testMethodName, self.processor_class.__name__)
        if reason:
            self.skipTest(reason)


class CoGazeProcessorTest(OwnProcessorTest, unittest.TestCase):
    processor_class = CoGazeProcessor

    @classmethod
    def _setup_from_components(cls):
        return make(CoGazeProcessor, CoGazeConfig, small.COGAZE)


class EgmaProcessorTest(OwnProcessorTest, unittest.TestCase):
    processor_class = EgmaProcessor

    @classmethod
    def _setup_from_components(cls):
        return make(EgmaProcessor, EgmaConfig, small.EGMA)


class CoGazePrefixProcessorTest(OwnProcessorTest, unittest.TestCase):
    processor_class = CoGazePrefixProcessor

    @classmethod
    def _setup_from_components(cls):
        encoder = make(CoGazeProcessor, CoGazeConfig, small.COGAZE)
        return CoGazePrefixProcessor.for_language_model(encoder.tokenizer, encoder, num_image_tokens=8)


del OwnProcessorTest

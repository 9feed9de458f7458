"""transformers' ModelTesterMixin over all architectures; `make transformers-tests` fetches and runs it."""

import inspect
import unittest

import pytest

from tests.transformers_common import source
from tests.transformers_common.architectures import ARCHITECTURES, ArchitectureTester, make_known
from tests.transformers_common.exclusions import reason_against

pytestmark = [pytest.mark.slow, pytest.mark.network]

if source.tests_folder() is None:
    pytest.skip("transformers' own tests are not here: `make transformers-tests` fetches them", allow_module_level=True)
make_known()
common = source.offered("test_modeling_common")


class ArchitectureTest(common.ModelTesterMixin):
    """What all architectures set alike; one class below for each."""

    name = ""
    pipeline_model_mapping = {}
    # As in the library's own models of images and text.
    _is_composite = True
    test_torch_exportable = False

    def setUp(self):
        self.model_tester = ArchitectureTester(self, self.name)
        reason = reason_against(self._testMethodName, self.name)
        if reason:
            self.skipTest(reason)


for _name, _kind in ARCHITECTURES.items():
    _bases = (ArchitectureTest, unittest.TestCase)
    if _kind.can_generate() and source.offers_generation():
        _bases = (ArchitectureTest, source.offered("generation.test_utils").GenerationTesterMixin, unittest.TestCase)
    _fields = {
        "name": _name,
        "all_model_classes": (_kind,),
        # Resizing is tested on `input_ids`; of what writes without them, in test_stock_tools.py.
        "test_resize_embeddings": "input_ids" in inspect.signature(_kind.forward).parameters,
        "is_encoder_decoder": _name.endswith("ForConditionalGeneration") and "Prefix" not in _name,
        "__module__": __name__,
    }
    globals()[f"{_name}Test"] = type(f"{_name}Test", _bases, _fields)
del ArchitectureTest

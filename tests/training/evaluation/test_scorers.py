"""Images are encoded once, however many scores are made of them."""

import numpy as np

from tests import small
from training.evaluation.scorers import load_scorer


def test_a_data_set_is_encoded_once_for_all_scores_of_a_condition(small_phantom, tmp_path):
    small.save_pretrained(tmp_path)
    scorer, runs = load_scorer(str(tmp_path)), []
    scorer.model.vision_model.register_forward_hook(lambda module, inputs, outputs: runs.append(len(outputs[0])))
    dataset = small_phantom.select(range(3))
    first = scorer.embed_images(dataset, "no_context")
    assert runs == [3]
    np.testing.assert_array_equal(scorer.similarity(dataset, "no_context", np.eye(first.shape[1])), first)
    assert runs == [3]
    other = scorer.embed_images(dataset, "context_blank_image")
    assert runs == [3, 3] and not np.allclose(first, other)
    part = scorer.embed_images(dataset.select([0, 2]), "no_context")
    assert runs == [3, 3, 2]
    np.testing.assert_allclose(part, first[[0, 2]], atol=1e-5)

"""Tiny checkpoints of random weights, which documents and notebooks are tried on."""

import pytest


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Folders by what is in them: a pretrained model, a report writer and a classifier."""
    from modeling_cogaze import (
        CoGazeConfig,
        CoGazeForConditionalGeneration,
        CoGazeForImageClassification,
        CoGazeForPreTraining,
    )
    from processing import CoGazeProcessor
    from processing.tokenization import build_tokenizer
    from tests import small

    start, writer, classifier = (tmp_path_factory.mktemp(name) for name in ("pretrained", "writer", "classifier"))
    tokenizer = build_tokenizer(["There is no pleural effusion."] * 4, 300)
    config = CoGazeConfig.tiny(vocab_size=len(tokenizer), **small.COGAZE)
    processor = CoGazeProcessor.for_model(tokenizer, config)
    CoGazeForPreTraining(config).save_pretrained(start)
    CoGazeForConditionalGeneration.from_pretraining(str(start), tokenizer).save_pretrained(writer)
    labelled = CoGazeConfig.tiny(vocab_size=len(tokenizer), num_labels=3, **small.COGAZE)
    CoGazeForImageClassification(labelled).save_pretrained(classifier)
    for folder in (start, writer, classifier):
        processor.save_pretrained(folder)
    return {"pretrained": start, "writer": writer, "classifier": classifier}

"""More operations of `worker`: RadCliQ-v1, RaTEScore, GREEN and temporal F1, in `radeval`'s code with local weights.

Imports nothing of the project, as `worker` does.
"""

import os
import re
import sys
import tempfile
import types


def radcliq(
    references,
    predictions,
    radgraph_model,
    chexbert,
    chexbert_config,
    chexbert_tokenizer,
    bertscore_model,
    bertscore_layer,
):
    """RadCliQ-v1 of each pair, and its parts, by radeval's `CompositeMetric` with models from where they lie."""
    import numpy as np
    import radeval

    # RadGraph imports itself under the package's other name (see `worker.radgraph`): all of it must come from there.
    sys.modules.setdefault("RadEval", radeval)
    from RadEval.metrics.bertscore._vendor import BERTScorer
    from RadEval.metrics.RadCliQv1 import radcliq as package
    from RadEval.metrics.radgraph import RadGraph as radgraph_class

    package.RadGraph = lambda model_type: radgraph_class(**radgraph_options(radgraph_model))
    package.F1CheXbert = lambda device: chexbert_evaluator(chexbert, chexbert_config, chexbert_tokenizer, device)
    metric = package.CompositeMetric()
    # As CompositeMetric makes it, from a model that may lie in a folder.
    metric._bert_scorer = BERTScorer(
        model_type=bertscore_model,
        num_layers=bertscore_layer,
        rescale_with_baseline=has_baseline(bertscore_model),
        idf=True,
        batch_size=64,
        nthreads=4,
        all_layers=False,
        lang="en",
        device=None,
    )
    limit = getattr(metric._bert_scorer._model.config, "max_position_embeddings", 514) - 2
    tokenizer = metric._bert_scorer._tokenizer
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)
    metric._bert_scorer.compute_idf(references)
    metric._bertscore_cache_key = id(references)
    parts = metric._compute_sub_metrics(references, predictions)
    metric._compute_sub_metrics = lambda refs, hyps: parts
    scores = metric.predict(references, predictions)[1]
    names = {"radgraph": "radgraph", "bertscore": "bertscore", "semb": "semb_score"}
    found = {ours: np.asarray(parts[theirs]).tolist() for ours, theirs in names.items()}
    return found | {"radcliq": np.asarray(scores).tolist()}


def has_baseline(model):
    """Whether radeval brings BERTScore's baseline of a model, by whose name its folder goes."""
    import radeval.metrics.bertscore._vendor as vendor

    folder = os.path.join(os.path.dirname(vendor.__file__), "rescale_baseline", "en")
    return os.path.isfile(os.path.join(folder, f"{model}.tsv"))


def radgraph_options(model):
    """What opens RadGraph's model by name, or from a folder so named."""
    if not os.path.isdir(model):
        return {"model_type": model}
    folder = os.path.abspath(model)
    for name in ("config.json", "vocabulary", "weights.th"):
        if not os.path.exists(os.path.join(folder, name)):
            raise OSError(f"{folder} has no {name}")
    return {"model_type": os.path.basename(folder), "model_cache_dir": os.path.dirname(folder)}


def chexbert_evaluator(path, config, tokenizer, device):
    """radeval's CheXbert with weights from a file."""
    import torch
    from radeval.metrics._chexbert_base import BaseBertLabeler, BaseCheXbertEvaluator
    from radeval.metrics.f1chexbert.f1chexbert import F1CheXbert
    from transformers import AutoTokenizer, BertConfig, BertModel

    class Evaluator(BaseCheXbertEvaluator):
        CONDITION_NAMES, NO_FINDING, TOP5 = F1CheXbert.CONDITION_NAMES, F1CheXbert.NO_FINDING, F1CheXbert.TOP5

        def __init__(self):
            super().__init__()
            state = torch.load(path, map_location="cpu", weights_only=True)["model_state_dict"]
            state = {name.removeprefix("module."): value for name, value in state.items()}
            state.pop("bert.embeddings.position_ids", None)
            backbone = BertModel(BertConfig(**config))
            model = BaseBertLabeler(device=device, backbone=backbone, num_4way_heads=13, state_dict=state).eval()
            words = AutoTokenizer.from_pretrained(tokenizer)
            words.model_max_length = min(words.model_max_length, backbone.config.max_position_embeddings)
            self._init_evaluator(model=model, tokenizer=words, device=device, batch_size=32)

    return Evaluator()


def ratescore(references, predictions, ner, synonyms):
    """RaTEScore of each pair."""
    if "medspacy" not in sys.modules:
        try:
            import medspacy  # noqa: F401
        except ImportError:
            sys.modules["medspacy"] = sentence_splitter()
    from radeval.metrics.RaTEScore.scorer import RaTEScore

    scorer = RaTEScore(bert_model=ner, eval_model=synonyms)
    # radeval's loop loses a report without a sentence: such a pair scores 0.5, as one without an entity does.
    pairs = enumerate(zip(references, predictions, strict=True))
    kept = [i for i, pair in pairs if all(_has_sentence(text) for text in pair)]
    own = [[side[i] for i in kept] for side in (predictions, references)]
    scores = [0.5] * len(references)
    for place, value in zip(kept, scorer.compute_score(*own)[0] if kept else [], strict=True):
        scores[place] = float(value)
    return {"scores": scores}


def _has_sentence(text):
    return any(len(part.strip()) >= 3 for part in SENTENCE_END.split(text))


SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def sentence_splitter():
    """What radeval's RaTEScore asks of medspacy, whose spaCy does not go with the environment: sentences."""
    module = types.ModuleType("medspacy")

    def load(**options):
        return lambda text: types.SimpleNamespace(sents=SENTENCE_END.split(text))

    module.load = load
    return module


def green(references, predictions, model):
    """GREEN of each pair."""
    from radeval.metrics.green_score.green import GREEN

    with tempfile.TemporaryDirectory() as folder:
        scores = GREEN(model, output_dir=folder)(references, predictions)[2]
    return {"scores": [float(score) for score in scores]}


def temporal(references, predictions):
    """Temporal entity F1 of each pair."""
    from radeval.metrics.f1temporal.f1temporal import F1Temporal

    return {"scores": [float(score) for score in F1Temporal(predictions, references)["sample_scores"]]}


OPERATIONS = {"radcliq": radcliq, "ratescore": ratescore, "green": green, "temporal": temporal}

"""The metrics of the `radeval` package, run by the Python of `environment`: one JSON request in, one JSON answer out.

A script of its own that imports nothing of the project but the file beside it, so that any Python with `radeval` 2.2
can run it. The answer holds the operation's result, or `error` with what is missing.
"""

import contextlib
import json
import os
import sys

# The script's own folder is the first that Python looks in.
import worker_clinical

RADGRAPH_FILES = ("config.json", "vocabulary", "weights.th")
RADGRAPH_MODELS = ("radgraph", "radgraph-xl", "modern-radgraph-xl")


def radgraph(references, predictions, model):
    """F1-RadGraph of each pair, at its three levels."""
    import radeval

    # radeval 2.2 names itself RadEval inside its RadGraph, which only a case-insensitive file system forgives.
    sys.modules.setdefault("RadEval", radeval)
    from RadEval.metrics.radgraph import F1RadGraph

    options = {"model_type": model}
    if model not in RADGRAPH_MODELS:
        folder = os.path.abspath(model)
        options = {"model_type": os.path.basename(folder), "model_cache_dir": os.path.dirname(folder)}
        if options["model_type"] not in RADGRAPH_MODELS:
            raise OSError(f"the folder {folder} must be named after its model, one of {RADGRAPH_MODELS}")
        for name in RADGRAPH_FILES:
            if not os.path.exists(os.path.join(folder, name)):
                raise OSError(f"{folder} has no {name}")
    # RadGraph leaves empty reports out of its lists and scores them 0.
    simple, partial, complete = F1RadGraph(reward_level="all", **options)(refs=references, hyps=predictions)[1]
    levels = {"simple": simple, "partial": partial, "complete": complete}
    return {name: [float(score) for score in scores] for name, scores in levels.items()}


def bertscore(references, predictions, model, layer, baseline, batch_size):
    """BERTScore of each pair; rescaled when the package has the model's baseline or one is given."""
    from radeval.metrics.bertscore._vendor import BERTScorer

    scorer = BERTScorer(model_type=model, num_layers=layer, lang="en", baseline_path=baseline, batch_size=batch_size)
    scorer._rescale_with_baseline = scorer.baseline_path is not None
    # A tokenizer that was saved without a limit gives one that overflows.
    limit = getattr(scorer._model.config, "max_position_embeddings", 512)
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    precision, recall, f1 = scorer.score(predictions, references, batch_size=batch_size)
    scores = {"precision": precision, "recall": recall, "f1": f1}
    return {name: values.tolist() for name, values in scores.items()} | {"rescaled": scorer.rescale_with_baseline}


def srr_bert(texts, model, tokenizer, kind, batch_size):
    """SRR-BERT's labels of each text, given whole or as a list of its utterances: indices into `names`."""
    import torch
    from radeval.metrics.SRRBert import srr_bert as package
    from transformers import AutoTokenizer, BertForSequenceClassification

    class SrrBert(package.SRRBert):
        """The package's scorer, with weights and tokenizer from anywhere."""

        def __init__(self):
            torch.nn.Module.__init__(self)
            config = self.MODEL_CONFIGS[kind]
            with open(os.path.join(os.path.dirname(package.__file__), config["mapping_file"])) as file:
                self.mapping = json.load(file)
            self.inverted_mapping = {index: name for name, index in self.mapping.items()}
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            self.model = BertForSequenceClassification.from_pretrained(
                model or config["model_path"], num_labels=len(self.mapping)
            )
            self.model.to(self.device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
            self.batch_size = batch_size
            self.tqdm_enable = False

    scorer = SrrBert()
    utterances = [package.srr_bert_parse_sentences(text) if isinstance(text, str) else text for text in texts]
    found = scorer([utterance for group in utterances for utterance in group])[0] if any(utterances) else []
    labels, start = [], 0
    for group in utterances:
        rows = found[start : start + len(group)]
        labels.append([int(index) for index in rows.any(axis=0).nonzero()[0]] if len(group) else [])
        start += len(group)
    return {"labels": labels, "names": [scorer.inverted_mapping[index] for index in range(len(scorer.mapping))]}


def overlap(references, predictions):
    """BLEU-4 and ROUGE-L (stemmed, F1) of each pair, as StructEval and RadEval take them."""
    from radeval.metrics.bleu.bleu import Bleu
    from radeval.metrics.rouge.rouge import RougeL

    return {
        "bleu": [float(x) for x in Bleu(n=4)(references, predictions)[1]],
        "rouge": [float(x) for x in RougeL()(references, predictions)[1]],
    }


def check():
    """The versions in use; fails unless every metric's package can be imported."""
    import radeval.metrics.bertscore._vendor  # noqa: F401
    import radeval.metrics.rouge.rouge  # noqa: F401
    import radeval.metrics.SRRBert.srr_bert  # noqa: F401
    import transformers

    sys.modules.setdefault("RadEval", sys.modules["radeval"])
    import RadEval.metrics.radgraph  # noqa: F401

    return {"python": sys.version.split()[0], "transformers": transformers.__version__}


OPERATIONS = {
    "radgraph": radgraph,
    "bertscore": bertscore,
    "srr_bert": srr_bert,
    "overlap": overlap,
    "check": check,
    **worker_clinical.OPERATIONS,
}


def main():
    request = json.load(sys.stdin)
    try:
        # The packages print to stdout, which belongs to the answer.
        with contextlib.redirect_stdout(sys.stderr):
            if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
                # radeval asks for sentence-splitting data whenever it is imported.
                import nltk

                nltk.download = lambda *args, **kwargs: False
            answer = OPERATIONS[request["operation"]](**request["arguments"])
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()

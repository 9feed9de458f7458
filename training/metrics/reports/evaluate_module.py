"""The report metrics as a module of Hugging Face's `evaluate`; its configuration is a family of metrics.

evaluate.load("training/metrics/reports/evaluate_module.py", "bleu").compute(predictions=..., references=...)
"""

import datasets
import evaluate

import training.metrics.reports as report_metrics
from training.metrics.scores import MetricUnavailable

_DESCRIPTION = "Metrics of generated radiology reports, in the scoring protocol of the CoGaze paper for free text."
_CITATION = "arXiv 2603.26049"


class ReportMetrics(evaluate.Metric):
    """`compute` takes `predictions` and `references` (texts) and any field of `MetricOptions`.

    Raises:
        ValueError: an unknown family or option.
        MetricUnavailable: what the metric needs is missing.
    """

    def _info(self):
        if self.config_name not in report_metrics.FAMILIES:
            raise ValueError(
                f"config_name: {self.config_name!r} is no family of metrics; give one of "
                f"{', '.join(report_metrics.FAMILIES)}."
            )
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description="predictions, references: lists of texts.",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references, **options):
        unknown = options.keys() - report_metrics.MetricOptions.__dataclass_fields__
        if unknown:
            raise ValueError(f"{sorted(unknown)[0]}: no option of the report metrics; see MetricOptions.")
        pairs = report_metrics.ReportPairs.from_lists(references, predictions)
        scores = report_metrics.score_reports(
            pairs, [self.config_name], report_metrics.MetricOptions(**options), bootstrap=0
        )
        if scores.missing:
            raise MetricUnavailable(scores.scores[scores.missing[0]].not_computed)
        return scores.values

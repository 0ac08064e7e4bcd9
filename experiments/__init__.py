"""Studies, and the harness they share: compare candidates, sweep parameters, hold simulation against live runs."""

from experiments.compare import compare
from experiments.metrics import DEFAULT_METRICS, Metric, metric
from experiments.report import Report, Row

__all__ = ["DEFAULT_METRICS", "Metric", "Report", "Row", "compare", "metric"]

"""An evaluation as ``metrics.json`` and ``metrics.md``."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phenokit.statements import clinical_name
from phenokit.training.assemble import Evaluation
from phenokit.training.evaluate import Interval


def write_metrics(evaluation: Evaluation, out: Path) -> None:
    """Write both files into a folder, which is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    data = _without_nan(asdict(evaluation))
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    (out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    (out / "metrics.md").write_text(format_metrics(evaluation), encoding="utf-8")


def format_metrics(evaluation: Evaluation) -> str:
    """The evaluation as Markdown; every figure with its n and 95 % interval."""
    metrics = evaluation.metrics
    distinct = evaluation.distinct_sources
    lines = [
        f"# {evaluation.model} on {evaluation.dataset}, split {evaluation.split}",
        "",
        f"{metrics.n_records:,} recordings, {metrics.n_clusters:,} patients (a recording "
        "without a patient id is its own). 95 % intervals by patient bootstrap. Bundle "
        f"{evaluation.bundle_hash[:8]}. Research use - not for diagnosis.",
        "",
        "| mean over labels | AUROC | AUPRC |",
        "| --- | --- | --- |",
        f"| {', '.join(metrics.macro_labels)} | {_words(metrics.macro_auroc)} "
        f"| {_words(metrics.macro_auprc)} |",
        f"| {len(evaluation.scp_labels)} SCP codes with 10 positives or more "
        f"| {_words(evaluation.scp_macro_auroc)} | |",
        "",
        f"Micro F1 at the model's thresholds {metrics.micro_f1:.3f}; best over one "
        f"threshold {metrics.micro_fmax:.3f}.",
        "",
        "| label | n | positive | AUROC | AUPRC | Brier | calibration slope | sensitivity "
        "| specificity |",
        "| --- | ---: | ---: | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {clinical_name(m.label)} | {m.n:,} | {m.n_positive:,} | {_words(m.auroc)} "
        f"| {_words(m.auprc)} | {m.brier:.3f} | {_words(m.calibration_slope)} "
        f"| {_words(m.sensitivity)} | {_words(m.specificity)} |"
        for m in metrics.labels
    ]
    lowest = min(distinct.values(), default=float("nan"))
    lines += [
        "",
        f"Distinct records: {100 * lowest:.0f} % or more of each label's prototypes.",
        "",
    ]
    return "\n".join(lines)


def _words(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "undefined"
    if math.isnan(interval.low):
        return f"{interval.value:.3f} (too few for an interval)"
    return f"{interval.value:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def _without_nan(value: Any) -> Any:  # noqa: ANN401 - plain data of any shape
    """The same data with ``None`` for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value

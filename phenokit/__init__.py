"""PhenoKit: phenotypes from ECGs and intracranial EEGs that a clinician can check.

The few public functions, each imported from its module when it is first used, so that
``import phenokit`` costs no more than numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phenokit.evidence.associations import associate
    from phenokit.evidence.risk import SelectiveLabelsModel
    from phenokit.pipeline import explain, load_model, score_ecg, score_ieeg
    from phenokit.readers.ecg import read_ecg
    from phenokit.readers.ieeg import read_ieeg

__all__ = [
    "SelectiveLabelsModel",
    "associate",
    "explain",
    "load_model",
    "read_ecg",
    "read_ieeg",
    "score_ecg",
    "score_ieeg",
]

_HOME = {
    "SelectiveLabelsModel": "phenokit.evidence.risk",
    "associate": "phenokit.evidence.associations",
    "read_ecg": "phenokit.readers.ecg",
    "read_ieeg": "phenokit.readers.ieeg",
    "load_model": "phenokit.pipeline",
    "score_ecg": "phenokit.pipeline",
    "score_ieeg": "phenokit.pipeline",
    "explain": "phenokit.pipeline",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the home module defines
    if name not in _HOME:
        raise AttributeError(f"module 'phenokit' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)

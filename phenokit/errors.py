"""The error tree and the closed set of outcome codes.

    PhenoKitError
    ├── BadInput        a file or a table that cannot be used; carries an outcome code
    ├── BundleError     a model bundle that does not match its hashes or the network
    ├── OutputBusy      another run is writing to the output folder (exit code 75)
    └── AnalysisRefused an analysis stopped by its own gate (exit code 66)

Every input ends in exactly one `Outcome` with one code of `CODES`. Where several codes
hold, the first in the order of `CODES` is the code of the row.
"""

from collections.abc import Iterable
from enum import StrEnum


class Outcome(StrEnum):
    """What became of one input row."""

    SCORED = "scored"
    SCORED_WITH_WARNING = "scored_with_warning"
    ABSTAINED = "abstained"
    REJECTED = "rejected"


class PhenoKitError(Exception):
    """Base of all errors that PhenoKit raises on purpose."""


class BadInput(PhenoKitError):
    """An input that cannot be used.

    Attributes
    ----------
    code
        One of `CODES`.
    where
        Lead, row number, byte offset or tensor; empty where the whole file is meant.
    """

    def __init__(self, code: str, message: str, *, where: str = "") -> None:
        if code not in CODES:
            raise ValueError(f"{code} is not an outcome code")
        super().__init__(message)
        self.code = code
        self.where = where


class BundleError(BadInput):
    """A model bundle that is damaged or was made for another network."""


class OutputBusy(PhenoKitError):
    """An output folder that another run is writing to; wait for it, or take another."""


class AnalysisRefused(PhenoKitError):
    """An analysis that its own gate stopped; the message says what would be needed.

    Attributes
    ----------
    code
        One of `CODES`; empty where several hold.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        if code and code not in CODES:
            raise ValueError(f"{code} is not an outcome code")
        super().__init__(message)
        self.code = code


CODES: dict[str, str] = {
    # rejected, bytes
    "E_PATH": "The name or path leaves the folder, or is not a regular file.",
    "E_MISSING": "The file is absent or cannot be read.",
    "E_ENCODING": "The text is not UTF-8, or holds a NUL byte.",
    "E_HEADER": "The header does not follow the grammar of its format.",
    "E_FORMAT": "The format is not known.",
    "E_TOO_LARGE": "The file is larger than the limit.",
    "E_SIZE_MISMATCH": "The size that the header declares is not the size of the data.",
    "E_EMPTY": "There is no row or no valid sample.",
    "E_CHECKSUM": "The samples do not match the checksum of the header.",
    "E_XML": "The XML is cut off, nested too deep, or declares a document type.",
    "E_DUP_NAME": "Two members of the archive have the same name.",
    "E_ZIP_RATIO": "The archive inflates beyond the limits.",
    "E_DICOM": "The file is not a DICOM ECG that can be read safely.",
    "E_ARRAY": "The array file holds objects or has another layout than declared.",
    "E_VERSION": "The file was made for another model or version.",
    "E_WEIGHTS": "The weights are damaged or do not fit the network.",
    "E_WEIGHTS_HASH": "The weights do not match the hash of their bundle.",
    # rejected, meaning
    "E_FS": "The sampling rate cannot be used.",
    "E_UNITS": "The unit is missing or unknown.",
    "E_CALIBRATION": "The signal has no usable gain.",
    "E_LEADS": "A lead is missing, unknown or occurs twice.",
    "E_CHANNELS": "Two channels have the same name.",
    "E_DISCONTINUOUS": "The recording is not continuous.",
    "E_COLUMNS": "A column is missing, doubled, or the rows differ in width.",
    "E_CODE": "A diagnosis code or its version is damaged.",
    "E_DUP_ID": "An id occurs twice.",
    "E_DATE": "A date cannot be told without its format.",
    "E_TIMEZONE": "A time has no zone.",
    "E_RANGE": "A value is outside its possible range.",
    "E_PREVALENCE": "The prevalence is not between 0 and 1, or the data exclude it.",
    "E_NONFINITE": "A value is not finite.",
    "E_FIT": "The fit is not reliable; no results are shown.",
    "E_SELECTION": "Testing does not rise with risk; the model's core assumption fails.",
    # rejected, run
    "E_WORKER": "The worker process died on this record.",
    "E_TIMEOUT": "The record took longer than the limit.",
    "E_MODEL_NONFINITE": "The model returned a value that is not finite.",
    # abstained
    "A_USE": "The recording is outside the model's intended use.",
    "A_DURATION": "The recording is too short, or its timing is not plausible.",
    "A_MISSING": "Part of the signal is missing.",
    "A_FLAT": "A lead is flat.",
    "A_CLIP": "A lead is clipped at the limits of the amplifier.",
    "A_AMPLITUDE": "The amplitude is not that of an ECG.",
    "A_POLARITY": "The signal is inverted.",
    "A_NOISE": "No heartbeat can be told from the noise.",
    "A_EINTHOVEN": "The limb leads contradict each other.",
    "A_LEADREV": "The arm electrodes seem to be reversed.",
    "A_OOD": "The recording is unlike those that the model was trained on.",
    "A_SET": "No label can be told from the others.",
    "A_ENSEMBLE": "The models of the ensemble disagree.",
    # scored with warning
    "W_TIME": "The date or time of the header was impossible and was dropped.",
    "W_WINDOW": "Only part of the recording was scored.",
    "W_DERIVED": "Leads were derived from others.",
    "W_POLARITY": "The signal was inverted by its header; the sign was applied.",
    "W_AMPLITUDE": "The amplitude is not that of an intracranial EEG in microvolts.",
    "W_CHANNELS": "More than a tenth of the signal could not be used.",
    "W_ORDER": "The channels are in another order than the model was trained on.",
    "W_THRESHOLD": "A probability lies on its threshold.",
    "W_COLLINEAR": "A covariate repeats others and was dropped.",
    # risk of the tested and the untested
    "W_PREVALENCE_CONFLICT": "The stated prevalence disagrees with the data.",
    "W_MISFIT": "Tests and outcomes of a group are not those of the model.",
    "W_EXPERTISE": "The conclusion depends on a feature not affecting testing beyond risk.",
    "W_WEAK": "The data barely inform how much unseen risk drives testing.",
    "W_RESCALED": "A feature was standardised for the fit; results are in its own unit.",
    "N_NO_UNTESTED": "Everybody was tested; nothing is to be inferred.",
    "N_SINGLE_CLASS": "The tested all have the same outcome, or nobody was tested.",
    "N_FEW_EVENTS": "Too few confirmed cases for the features.",
    "W_NONPROPORTIONAL": "The hazard ratio of a covariate changes over time.",
    # associations
    "N_SEX": "Not tested: the phecode is restricted to a sex that is not in the cohort.",
    "N_CONSTANT": "Not tested: the exposure does not vary.",
    "N_FEW_CASES": "Not tested: too few cases or too few controls.",
    "N_NOT_CONVERGED": "Not tested: no finite estimate was found.",
    "OK_FIRTH": "Tested with Firth's penalty because the groups are separated.",
    "OK": "Nothing wrong.",
}
"""Every outcome code in order of precedence, with its sentence."""

_OUTCOME_BY_PREFIX = {
    "E_": Outcome.REJECTED,
    "A_": Outcome.ABSTAINED,
    "W_": Outcome.SCORED_WITH_WARNING,
    "OK": Outcome.SCORED,
}


def first_code(codes: Iterable[str]) -> str:
    """The code of a row that has several: the first in order of precedence, else ``"OK"``.

    Examples
    --------
    >>> first_code(["W_WINDOW", "A_NOISE", "A_CLIP"])
    'A_CLIP'
    """
    order = list(CODES)
    return min(codes, key=order.index, default="OK")


def outcome_of(code: str) -> Outcome:
    """The outcome that a code of a recording means.

    Examples
    --------
    >>> outcome_of("W_DERIVED")
    <Outcome.SCORED_WITH_WARNING: 'scored_with_warning'>
    """
    if code not in CODES:
        raise ValueError(f"{code} is not an outcome code")
    return _OUTCOME_BY_PREFIX[code[:2]]

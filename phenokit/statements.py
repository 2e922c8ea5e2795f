"""Diagnostic statements of an ECG: SCP codes, what they mean, and the five superclasses.

The 71 codes of PTB-XL in the row order of its statement table (Wagner et al. 2020,
doi:10.1038/s41597-020-0495-6), which is the order of a fused network's labels. `branch` is
the published grouping of ProtoECGNet (arXiv 2504.08713); `superclass` is PTB-XL's
diagnostic class. The names are what a clinician reads on the page.
"""

from dataclasses import dataclass
from typing import Literal

Branch = Literal["rhythm", "morphology", "global"]


@dataclass(frozen=True)
class Statement:
    """One label of an ECG.

    Attributes
    ----------
    code
        SCP code, or the code of a superclass.
    name
        Clinical name.
    branch
        Branch of the prototype network that holds the label's own prototypes.
    superclass
        NORM, MI, STTC, CD or HYP; ``None`` for statements of form and rhythm.
    needs_voltage
        The statement rests on amplitudes, which a z-scored recording has lost.
    """

    code: str
    name: str
    branch: Branch
    superclass: str | None = None
    needs_voltage: bool = False


SUPERCLASSES = (
    Statement("NORM", "Normal ECG pattern", "global", "NORM"),
    Statement("MI", "Myocardial infarction, any", "global", "MI"),
    Statement("STTC", "ST-T change, any", "global", "STTC"),
    Statement("CD", "Conduction disturbance, any", "global", "CD"),
    Statement("HYP", "Hypertrophy or enlargement, any", "global", "HYP"),
)
"""The five diagnostic superclasses. NORM is also an SCP code: one label, not two."""

# fmt: off
SCP_STATEMENTS = (
    Statement("NDT", "Non-diagnostic T-wave abnormality", "morphology", "STTC"),
    Statement("NST_", "Non-specific ST-segment change", "morphology", "STTC"),
    Statement("DIG", "Digitalis effect", "global", "STTC"),
    Statement("LNGQT", "Long QT interval", "morphology", "STTC"),
    Statement("NORM", "Normal ECG pattern", "global", "NORM"),
    Statement("IMI", "Inferior myocardial infarction", "morphology", "MI"),
    Statement("ASMI", "Anteroseptal myocardial infarction", "morphology", "MI"),
    Statement("LVH", "Left ventricular hypertrophy", "morphology", "HYP", needs_voltage=True),
    Statement("LAFB", "Left anterior fascicular block", "morphology", "CD"),
    Statement("ISC_", "Non-specific ischaemic ST-T change", "morphology", "STTC"),
    Statement("IRBBB", "Right bundle branch block, incomplete", "morphology", "CD"),
    Statement("1AVB", "Atrioventricular block, first degree", "rhythm", "CD"),
    Statement("IVCD", "Intraventricular conduction delay, non-specific", "rhythm", "CD"),
    Statement("ISCAL", "Ischaemic ST-T change, anterolateral", "morphology", "STTC"),
    Statement("CRBBB", "Right bundle branch block, complete", "morphology", "CD"),
    Statement("CLBBB", "Left bundle branch block, complete", "morphology", "CD"),
    Statement("ILMI", "Inferolateral myocardial infarction", "morphology", "MI"),
    Statement("LAO/LAE", "Left atrial enlargement", "morphology", "HYP"),
    Statement("AMI", "Anterior myocardial infarction", "morphology", "MI"),
    Statement("ALMI", "Anterolateral myocardial infarction", "morphology", "MI"),
    Statement("ISCIN", "Ischaemic ST-T change, inferior", "morphology", "STTC"),
    Statement("INJAS", "Subendocardial injury, anteroseptal", "morphology", "MI"),
    Statement("LMI", "Lateral myocardial infarction", "morphology", "MI"),
    Statement("ISCIL", "Ischaemic ST-T change, inferolateral", "morphology", "STTC"),
    Statement("LPFB", "Left posterior fascicular block", "morphology", "CD"),
    Statement("ISCAS", "Ischaemic ST-T change, anteroseptal", "morphology", "STTC"),
    Statement("INJAL", "Subendocardial injury, anterolateral", "morphology", "MI"),
    Statement("ISCLA", "Ischaemic ST-T change, lateral", "morphology", "STTC"),
    Statement("RVH", "Right ventricular hypertrophy", "morphology", "HYP", needs_voltage=True),
    Statement("ANEUR", "ST-T change compatible with ventricular aneurysm", "morphology", "STTC"),
    Statement("RAO/RAE", "Right atrial enlargement", "morphology", "HYP"),
    Statement("EL", "Electrolyte disturbance or drug effect", "global", "STTC"),
    Statement("WPW", "Pre-excitation (Wolff-Parkinson-White)", "morphology", "CD"),
    Statement("ILBBB", "Left bundle branch block, incomplete", "morphology", "CD"),
    Statement("IPLMI", "Inferoposterolateral myocardial infarction", "morphology", "MI"),
    Statement("ISCAN", "Ischaemic ST-T change, anterior", "morphology", "STTC"),
    Statement("IPMI", "Inferoposterior myocardial infarction", "morphology", "MI"),
    Statement("SEHYP", "Septal hypertrophy", "morphology", "HYP"),
    Statement("INJIN", "Subendocardial injury, inferior", "morphology", "MI"),
    Statement("INJLA", "Subendocardial injury, lateral", "morphology", "MI"),
    Statement("PMI", "Posterior myocardial infarction", "morphology", "MI"),
    Statement("3AVB", "Atrioventricular block, third degree", "rhythm", "CD"),
    Statement("INJIL", "Subendocardial injury, inferolateral", "morphology", "MI"),
    Statement("2AVB", "Atrioventricular block, second degree", "rhythm", "CD"),
    Statement("ABQRS", "Abnormal QRS complex", "morphology", None),
    Statement("PVC", "Premature ventricular complexes", "morphology", None),
    Statement("STD_", "ST depression, non-specific", "morphology", None),
    Statement("VCLVH", "Voltage criteria for left ventricular hypertrophy", "morphology", None, needs_voltage=True),
    Statement("QWAVE", "Q waves", "morphology", None),
    Statement("LOWT", "Low T-wave amplitude", "morphology", None),
    Statement("NT_", "Non-specific T-wave change", "morphology", None),
    Statement("PAC", "Premature atrial complexes", "morphology", None),
    Statement("LPR", "Prolonged PR interval", "morphology", None),
    Statement("INVT", "Inverted T waves", "morphology", None),
    Statement("LVOLT", "Low QRS voltage", "morphology", None, needs_voltage=True),
    Statement("HVOLT", "High QRS voltage", "morphology", None, needs_voltage=True),
    Statement("TAB_", "T-wave abnormality", "morphology", None),
    Statement("STE_", "ST elevation, non-specific", "morphology", None),
    Statement("PRC(S)", "Premature complexes", "morphology", None),
    Statement("SR", "Sinus rhythm", "rhythm", None),
    Statement("AFIB", "Atrial fibrillation", "rhythm", None),
    Statement("STACH", "Sinus tachycardia", "rhythm", None),
    Statement("SARRH", "Sinus arrhythmia", "rhythm", None),
    Statement("SBRAD", "Sinus bradycardia", "rhythm", None),
    Statement("PACE", "Paced rhythm", "rhythm", None),
    Statement("SVARR", "Supraventricular arrhythmia", "rhythm", None),
    Statement("BIGU", "Bigeminy", "rhythm", None),
    Statement("AFLT", "Atrial flutter", "rhythm", None),
    Statement("SVTAC", "Supraventricular tachycardia", "rhythm", None),
    Statement("PSVT", "Paroxysmal supraventricular tachycardia", "rhythm", None),
    Statement("TRIGU", "Trigeminy", "rhythm", None),
)
# fmt: on

_BY_CODE = {statement.code: statement for statement in (*SCP_STATEMENTS, *SUPERCLASSES)}


def statement(code: str) -> Statement:
    """The statement of an SCP or superclass code.

    Raises
    ------
    KeyError
        If the code is not one of PTB-XL's 71 or a superclass.

    Examples
    --------
    >>> statement("CRBBB").name
    'Right bundle branch block, complete'
    """
    return _BY_CODE[code]


def clinical_name(code: str) -> str:
    """What a clinician reads: the name with the code in brackets.

    Examples
    --------
    >>> clinical_name("CRBBB")
    'Right bundle branch block, complete (CRBBB)'
    """
    return f"{statement(code).name} ({code})"


def superclasses_of(codes: frozenset[str]) -> frozenset[str]:
    """Superclasses that a set of SCP codes implies; unknown codes imply none.

    Examples
    --------
    >>> sorted(superclasses_of(frozenset({"IMI", "LAFB", "SR"})))
    ['CD', 'MI']
    """
    known = (_BY_CODE.get(code) for code in codes)
    return frozenset(s.superclass for s in known if s is not None and s.superclass)

"""Every condition that can be simulated: one table, and what can stand together.

`CONDITIONS` holds the name, the SCP codes that it means, the slot that it occupies and the
function that changes the draft of the heart. Two conditions can be combined unless they
claim the same slot or one hides the other (`contradiction`). Sizes are drawn at random
within what the criteria of the textbooks allow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from phenokit.simulation.chambers import (
    high_voltage,
    left_atrial_enlargement,
    left_ventricular_hypertrophy,
    low_voltage,
    right_atrial_enlargement,
    right_ventricular_hypertrophy,
    septal_hypertrophy,
)
from phenokit.simulation.conduction import (
    first_degree_block,
    fragmented_qrs,
    incomplete_left_bundle_branch_block,
    incomplete_right_bundle_branch_block,
    intraventricular_delay,
    left_anterior_fascicular_block,
    left_bundle_branch_block,
    left_posterior_fascicular_block,
    pre_excitation,
    right_bundle_branch_block,
)
from phenokit.simulation.heart import Heart
from phenokit.simulation.infarction import (
    acute_infarct,
    aneurysm,
    ischaemia,
    old_infarct,
    subendocardial_injury,
)
from phenokit.simulation.repolarisation import (
    digitalis,
    hypercalcaemia,
    hyperkalaemia,
    hypocalcaemia,
    hypokalaemia,
    inverted_t,
    long_qt,
    low_t,
    nondiagnostic_t,
    unspecific_st_change,
    unspecific_st_depression,
)

Slot = Literal[
    "rhythm", "ectopy", "av", "bundle", "fascicle", "atria", "ventricles", "infarct",
    "form", "repolarisation",
]  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One condition that can be simulated.

    Attributes
    ----------
    name
        Key in `CONDITIONS`.
    codes
        SCP codes that a recording with this condition always carries.
    slot
        Part of the heart that it occupies; also the order in which conditions take effect.
    change
        Alters the draft of the heart; ``None`` for what `rhythm` lays out in time.
    """

    name: str
    codes: tuple[str, ...]
    slot: Slot
    change: Callable[[Heart, np.random.Generator], None] | None = None


_TABLE = (
    Condition("normal", ("NORM",), "form"),
    Condition("sinus_tachycardia", ("STACH",), "rhythm"),
    Condition("sinus_bradycardia", ("SBRAD",), "rhythm"),
    Condition("sinus_arrhythmia", ("SARRH",), "rhythm"),
    Condition("atrial_fibrillation", ("AFIB",), "rhythm"),
    Condition("atrial_flutter", ("AFLT",), "rhythm"),
    Condition("wandering_pacemaker", ("SVARR",), "rhythm"),
    Condition("supraventricular_tachycardia", ("SVTAC",), "rhythm"),
    Condition("paroxysmal_tachycardia", ("PSVT",), "rhythm"),
    Condition("second_degree_mobitz_1", ("2AVB",), "rhythm"),
    Condition("second_degree_mobitz_2", ("2AVB",), "rhythm"),
    Condition("second_degree_2_to_1", ("2AVB",), "rhythm"),
    Condition("third_degree_block", ("3AVB",), "rhythm"),
    Condition("pacing", ("PACE",), "rhythm"),
    Condition("first_degree_block", ("1AVB", "LPR"), "av", first_degree_block),
    Condition("premature_atrial", ("PAC",), "ectopy"),
    Condition("premature_ventricular", ("PVC",), "ectopy"),
    Condition("bigeminy", ("BIGU", "PVC"), "ectopy"),
    Condition("trigeminy", ("TRIGU", "PVC"), "ectopy"),
    Condition("right_bundle_branch_block", ("CRBBB",), "bundle", right_bundle_branch_block),
    Condition("left_bundle_branch_block", ("CLBBB",), "bundle", left_bundle_branch_block),
    Condition(
        "incomplete_right_bundle_branch_block",
        ("IRBBB",),
        "bundle",
        incomplete_right_bundle_branch_block,
    ),
    Condition(
        "incomplete_left_bundle_branch_block",
        ("ILBBB",),
        "bundle",
        incomplete_left_bundle_branch_block,
    ),
    Condition("intraventricular_delay", ("IVCD",), "bundle", intraventricular_delay),
    Condition("pre_excitation", ("WPW",), "bundle", pre_excitation),
    Condition(
        "left_anterior_fascicular_block",
        ("LAFB",),
        "fascicle",
        left_anterior_fascicular_block,
    ),
    Condition(
        "left_posterior_fascicular_block",
        ("LPFB",),
        "fascicle",
        left_posterior_fascicular_block,
    ),
    Condition("left_atrial_enlargement", ("LAO/LAE",), "atria", left_atrial_enlargement),
    Condition("right_atrial_enlargement", ("RAO/RAE",), "atria", right_atrial_enlargement),
    Condition(
        "left_ventricular_hypertrophy", ("LVH",), "ventricles", left_ventricular_hypertrophy
    ),
    Condition(
        "right_ventricular_hypertrophy",
        ("RVH",),
        "ventricles",
        right_ventricular_hypertrophy,
    ),
    Condition("septal_hypertrophy", ("SEHYP",), "ventricles", septal_hypertrophy),
    Condition("low_voltage", ("LVOLT",), "ventricles", low_voltage),
    Condition("high_voltage", ("HVOLT",), "ventricles", high_voltage),
    Condition("acute_anterior_mi", ("AMI", "STE_"), "infarct", acute_infarct("anterior")),
    Condition(
        "acute_anteroseptal_mi", ("ASMI", "STE_"), "infarct", acute_infarct("anteroseptal")
    ),
    Condition(
        "acute_anterolateral_mi",
        ("ALMI", "STE_"),
        "infarct",
        acute_infarct("anterolateral"),
    ),
    Condition("acute_lateral_mi", ("LMI", "STE_"), "infarct", acute_infarct("lateral")),
    Condition("acute_inferior_mi", ("IMI", "STE_"), "infarct", acute_infarct("inferior")),
    Condition(
        "acute_inferolateral_mi",
        ("ILMI", "STE_"),
        "infarct",
        acute_infarct("inferolateral"),
    ),
    Condition("acute_posterior_mi", ("PMI", "STD_"), "infarct", acute_infarct("posterior")),
    Condition("old_anterior_mi", ("AMI", "QWAVE"), "infarct", old_infarct("anterior")),
    Condition(
        "old_anteroseptal_mi", ("ASMI", "QWAVE"), "infarct", old_infarct("anteroseptal")
    ),
    Condition(
        "old_anterolateral_mi", ("ALMI", "QWAVE"), "infarct", old_infarct("anterolateral")
    ),
    Condition("old_lateral_mi", ("LMI", "QWAVE"), "infarct", old_infarct("lateral")),
    Condition("old_inferior_mi", ("IMI", "QWAVE"), "infarct", old_infarct("inferior")),
    Condition(
        "old_inferolateral_mi", ("ILMI", "QWAVE"), "infarct", old_infarct("inferolateral")
    ),
    Condition("old_posterior_mi", ("PMI",), "infarct", old_infarct("posterior")),
    Condition(
        "old_inferoposterior_mi",
        ("IPMI", "QWAVE"),
        "infarct",
        old_infarct("inferoposterior"),
    ),
    Condition(
        "old_inferoposterolateral_mi",
        ("IPLMI", "QWAVE"),
        "infarct",
        old_infarct("inferoposterolateral"),
    ),
    Condition("aneurysm", ("ANEUR", "AMI", "QWAVE"), "infarct", aneurysm),
    Condition("ischaemia_anterior", ("ISCAN",), "repolarisation", ischaemia("anterior")),
    Condition(
        "ischaemia_anteroseptal", ("ISCAS",), "repolarisation", ischaemia("anteroseptal")
    ),
    Condition(
        "ischaemia_anterolateral", ("ISCAL",), "repolarisation", ischaemia("anterolateral")
    ),
    Condition("ischaemia_lateral", ("ISCLA",), "repolarisation", ischaemia("lateral")),
    Condition("ischaemia_inferior", ("ISCIN",), "repolarisation", ischaemia("inferior")),
    Condition(
        "ischaemia_inferolateral", ("ISCIL",), "repolarisation", ischaemia("inferolateral")
    ),
    Condition("ischaemia_unspecific", ("ISC_",), "repolarisation", ischaemia("diffuse")),
    Condition(
        "injury_anteroseptal",
        ("INJAS",),
        "repolarisation",
        subendocardial_injury("anteroseptal"),
    ),
    Condition(
        "injury_anterolateral",
        ("INJAL",),
        "repolarisation",
        subendocardial_injury("anterolateral"),
    ),
    Condition(
        "injury_lateral", ("INJLA",), "repolarisation", subendocardial_injury("lateral")
    ),
    Condition(
        "injury_inferior", ("INJIN",), "repolarisation", subendocardial_injury("inferior")
    ),
    Condition(
        "injury_inferolateral",
        ("INJIL",),
        "repolarisation",
        subendocardial_injury("inferolateral"),
    ),
    Condition(
        "unspecific_st_depression", ("STD_",), "repolarisation", unspecific_st_depression
    ),
    Condition("unspecific_st_change", ("NST_",), "repolarisation", unspecific_st_change),
    Condition("nondiagnostic_t", ("NDT",), "repolarisation", nondiagnostic_t),
    Condition("low_t", ("LOWT", "NT_"), "repolarisation", low_t),
    Condition("inverted_t", ("INVT", "TAB_"), "repolarisation", inverted_t),
    Condition("long_qt", ("LNGQT",), "repolarisation", long_qt),
    Condition("hyperkalaemia", ("EL",), "repolarisation", hyperkalaemia),
    Condition("hypokalaemia", ("EL",), "repolarisation", hypokalaemia),
    Condition("hypocalcaemia", ("EL", "LNGQT"), "repolarisation", hypocalcaemia),
    Condition("hypercalcaemia", ("EL",), "repolarisation", hypercalcaemia),
    Condition("digitalis", ("DIG",), "repolarisation", digitalis),
    Condition("fragmented_qrs", ("ABQRS",), "form", fragmented_qrs),
)


CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in _TABLE}
"""Every condition by name; `simulate_ecg` takes the names."""


_ORDER: tuple[Slot, ...] = (
    "bundle", "fascicle", "ventricles", "infarct", "form", "repolarisation", "atria", "av",
    "ectopy", "rhythm",
)  # fmt: skip


# A ventricle that is activated the wrong way round shows none of these for certain.
_HIDDEN: tuple[Slot, ...] = ("fascicle", "ventricles", "infarct", "repolarisation", "form")


_HIDES: dict[str, tuple[Slot, ...]] = {
    "left_bundle_branch_block": _HIDDEN,
    "pre_excitation": (*_HIDDEN, "av"),
    "pacing": (*_HIDDEN, "av", "bundle", "ectopy", "atria"),
    "right_bundle_branch_block": ("ventricles",),
    "intraventricular_delay": ("fascicle",),
    "incomplete_left_bundle_branch_block": ("fascicle", "infarct"),
    "incomplete_right_bundle_branch_block": ("ventricles",),
    "atrial_fibrillation": ("av", "atria"),
    "atrial_flutter": ("av", "atria", "ectopy"),
    "wandering_pacemaker": ("av", "atria", "ectopy"),
    "supraventricular_tachycardia": ("av", "atria", "ectopy"),
    "paroxysmal_tachycardia": ("av", "atria", "ectopy"),
    "second_degree_mobitz_1": ("av", "ectopy"),
    "second_degree_mobitz_2": ("av", "ectopy"),
    "second_degree_2_to_1": ("av", "ectopy"),
    "third_degree_block": ("av", "ectopy"),
    "sinus_arrhythmia": ("ectopy",),
    "digitalis": ("ventricles",),
    "left_ventricular_hypertrophy": ("infarct",),
    "right_ventricular_hypertrophy": ("fascicle", "infarct"),
    "septal_hypertrophy": ("fascicle", "infarct"),
}


_HIDES_ONE = {
    # No P before the beat: nothing that is premature by its P can be seen.
    ("atrial_fibrillation", "premature_atrial"),
    ("supraventricular_tachycardia", "pre_excitation"),
    ("third_degree_block", "pre_excitation"),
    # These set a T wave that the infarct's own T would take away.
    ("sinus_tachycardia", "hypokalaemia"),
}


_SHARED_SLOTS = ("atria", "ectopy")
"""Both atria can be large, and both kinds of premature beats occur in one recording."""


_REGULAR_ECTOPY = tuple(
    {pattern, single}
    for pattern in ("bigeminy", "trigeminy")
    for single in ("premature_atrial", "premature_ventricular")
)


def contradiction(names: Sequence[str]) -> str | None:
    """Why these conditions cannot stand in one recording; ``None`` where they can.

    Examples
    --------
    >>> contradiction(["atrial_fibrillation", "right_bundle_branch_block"])
    >>> contradiction(["atrial_fibrillation", "atrial_flutter"])
    'atrial_fibrillation and atrial_flutter are both of the rhythm'
    """
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            reason = _pair_contradiction(first, second)
            if reason is not None:
                return reason
    return None


def _pair_contradiction(first: str, second: str) -> str | None:
    if first == second:
        return f"{first} is named twice"
    for one, other in ((first, second), (second, first)):
        if one == "normal":
            return f"normal stands alone, not with {other}"
        if CONDITIONS[other].slot in _HIDES.get(one, ()) or (one, other) in _HIDES_ONE:
            return f"{one} hides {other}"
    slot = CONDITIONS[first].slot
    if {first, second} in ({"bigeminy", "trigeminy"}, *_REGULAR_ECTOPY):
        return f"{first} and {second} exclude each other"
    if slot == CONDITIONS[second].slot and slot not in _SHARED_SLOTS:
        return f"{first} and {second} are both of the {slot}"
    return None


def in_order(names: Sequence[str]) -> list[Condition]:
    """The conditions in the order in which they take effect."""
    return sorted((CONDITIONS[name] for name in names), key=lambda c: _ORDER.index(c.slot))

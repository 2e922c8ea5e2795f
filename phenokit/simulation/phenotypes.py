"""Which diagnoses a simulated patient gets, and why: the planted truth of a cohort.

`PHENOTYPES` is the table of diseases: the phecode (1.2) that all its ICD codes roll up to,
how common it is, how it goes with age and sex, and which conditions of the ECG drive it.
The drivers are *parts* of what a class label stands for: of the electrolyte disorders (EL)
only hyperkalaemia goes with renal failure, of the inferior infarcts (IMI) only the acute
ones with hypotension. A class prediction mixes those that drive with those that do not; a
prototype that is one of those that drive does not.

Diseases without drivers are null for the ECG once age and sex are adjusted for. None of
them has a driven phecode among its ancestors, descendants or control exclusions, which
would make the controls depend on the ECG.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Sex = Literal["Both", "Female", "Male"]


@dataclass(frozen=True)
class Phenotype:
    """A disease, as it is coded.

    Attributes
    ----------
    phecode
        Phecode 1.2; each of the codes means it or one of its descendants.
    name
        In words.
    icd9, icd10
        ICD-9-CM and ICD-10-CM codes with dots.
    prevalence
        Of a person of 62 with none of the drivers (a woman, unless only men have it).
    age
        Log odds a decade.
    male
        Log odds of a man against a woman.
    drivers
        Log odds of a person whose first ECG shows the condition.
    part_of
        Labels (superclass or SCP code) of which the drivers are only a part; empty where
        all of a label drives the disease.
    hazards
        Log hazard of the first code after the ECG; `prevalence` is then reached in five
        years, and one person in 25 has had the disease before.
    sex
        Who can have it.
    """

    phecode: str
    name: str
    icd9: tuple[str, ...]
    icd10: tuple[str, ...]
    prevalence: float
    age: float = 0.0
    male: float = 0.0
    drivers: MappingProxyType[str, float] = field(
        default_factory=lambda: MappingProxyType({})
    )
    part_of: tuple[str, ...] = ()
    hazards: MappingProxyType[str, float] = field(
        default_factory=lambda: MappingProxyType({})
    )
    sex: Sex = "Both"

    @property
    def is_incident(self) -> bool:
        """Whether it begins after the ECG, with a hazard."""
        return bool(self.hazards)

    @property
    def kind(self) -> Literal["prototype", "class", "hazard", "confounded", "null"]:
        """What it depends on.

        ``"prototype"``: part of a class; ``"class"``: all of one; ``"hazard"``: the time
        to its first code depends on the ECG; ``"confounded"``: age or sex only;
        ``"null"``: nothing.
        """
        if self.hazards:
            return "hazard"
        if self.drivers:
            return "prototype" if self.part_of else "class"
        return "confounded" if self.age or self.male or self.sex != "Both" else "null"


def _disease(
    phecode: str,
    name: str,
    icd9: str,
    icd10: str,
    prevalence: float,
    *,
    age: float = 0.0,
    male: float = 0.0,
    drivers: dict[str, float] | None = None,
    part_of: str = "",
    hazards: dict[str, float] | None = None,
    sex: Sex = "Both",
) -> Phenotype:
    return Phenotype(
        phecode,
        name,
        tuple(icd9.split()),
        tuple(icd10.split()),
        prevalence,
        age,
        male,
        MappingProxyType(drivers or {}),
        tuple(part_of.split()),
        MappingProxyType(hazards or {}),
        sex,
    )


INFARCTS = tuple(
    f"{age}_{wall}_mi"
    for age, walls in (
        (
            "acute",
            "inferior anterior anteroseptal anterolateral lateral inferolateral posterior",
        ),
        (
            "old",
            "inferior anterior anteroseptal anterolateral lateral inferolateral posterior "
            "inferoposterior inferoposterolateral",
        ),
    )
    for wall in walls.split()
)
"""Every condition that is an infarct of some wall."""


# Prevalences and effects are set so that 2,000 patients show what there is to show; they
# are of the right order for a cardiology department, not estimates of any population.
PHENOTYPES: tuple[Phenotype, ...] = (
    # ---- driven by part of a class: a prototype can say more than the class ----
    _disease(
        "585.3", "Chronic renal failure", "585.9 585.3 585.4 585.6",
        "N18.9 N18.3 N18.4 N18.6", 0.05, age=0.2, male=0.2, drivers={"hyperkalaemia": 2.6},
        part_of="STTC EL",
    ),
    _disease(
        "252.1", "Hyperparathyroidism", "252.00 252.01 252.08", "E21.0 E21.3", 0.012,
        age=0.1, male=-0.4, drivers={"hypercalcaemia": 3.4}, part_of="STTC EL",
    ),
    _disease(
        "252.2", "Hypoparathyroidism", "252.1", "E20.0 E20.9 E89.2", 0.012,
        drivers={"hypocalcaemia": 3.4}, part_of="STTC EL",
    ),
    _disease(
        "458.9", "Hypotension", "458.9", "I95.9 I95.89", 0.010, age=0.1,
        drivers={"acute_inferior_mi": 4.8}, part_of="MI IMI",
    ),
    _disease(
        "420.21", "Acute pericarditis", "420.90 420.91 420.99", "I30.0 I30.1 I30.9", 0.004,
        age=-0.1, male=0.3, drivers={"acute_lateral_mi": 5.5}, part_of="MI LMI",
    ),
    _disease(
        "427.12", "Ventricular tachycardia", "427.1", "I47.0 I47.2", 0.008, male=0.3,
        drivers={"old_anterior_mi": 4.6}, part_of="MI AMI",
    ),
    _disease(
        "411.41", "Aneurysm of the heart", "414.10", "I25.3", 0.003, male=0.3,
        drivers={"aneurysm": 6.0}, part_of="MI STTC AMI",
    ),
    _disease(
        "428.3", "Heart failure with reduced ejection fraction", "428.20 428.22 428.23",
        "I50.20 I50.22 I50.23 I50.42", 0.010, age=0.25, male=0.2,
        drivers={"left_bundle_branch_block": 4.6}, part_of="CD",
    ),
    _disease(
        "426.24", "Complete atrioventricular block", "426.0", "I44.2", 0.003, age=0.2,
        drivers={"third_degree_block": 6.0}, part_of="CD",
    ),
    _disease(
        "415.2", "Chronic pulmonary heart disease", "416.8 416.9", "I27.2 I27.81 I27.9",
        0.004, age=0.1, drivers={"right_ventricular_hypertrophy": 5.6}, part_of="HYP",
    ),
    _disease(
        "425.11", "Hypertrophic obstructive cardiomyopathy", "425.11", "I42.1", 0.003,
        drivers={"septal_hypertrophy": 5.8}, part_of="HYP",
    ),
    _disease(
        "394.2", "Mitral valve disease", "394.0 394.1 394.9", "I05.0 I05.1 I05.9", 0.008,
        age=0.1, male=-0.3, drivers={"left_atrial_enlargement": 5.0}, part_of="HYP",
    ),
    _disease(
        "411.3", "Angina pectoris", "413.9 413.0", "I20.8 I20.9", 0.006, age=0.1, male=0.2,
        drivers={"ischaemia_lateral": 5.4}, part_of="STTC",
    ),
    # ---- driven by all of a class: the class prediction is as good ----
    _disease(
        "411.2", "Myocardial infarction", "410.11 410.41 410.71 410.91 412",
        "I21.09 I21.19 I21.29 I21.4 I25.2", 0.03, age=0.2, male=0.4,
        drivers={**dict.fromkeys(INFARCTS, 3.0), "aneurysm": 3.0},
    ),
    _disease(
        "427.21", "Atrial fibrillation", "427.31", "I48.0 I48.2 I48.91", 0.03, age=0.3,
        male=0.2, drivers={"atrial_fibrillation": 4.3},
    ),
    _disease(
        "426.31", "Right bundle branch block", "426.4", "I45.10 I45.19", 0.006, age=0.2,
        drivers={"right_bundle_branch_block": 3.5},
    ),
    _disease(
        "401.1", "Essential hypertension", "401.1 401.9", "I10", 0.42, age=0.35, male=0.1,
        drivers={"left_ventricular_hypertrophy": 1.4},
    ),
    # ---- begin after the ECG ----
    _disease(
        "428.1", "Congestive heart failure", "428.0", "I50.9", 0.08, age=0.3,
        hazards={"left_bundle_branch_block": 1.6, "left_ventricular_hypertrophy": 0.9},
    ),
    _disease(
        "433.21", "Cerebral artery occlusion with infarction", "434.11 434.91",
        "I63.30 I63.9", 0.05, age=0.3, hazards={"atrial_fibrillation": 1.5},
    ),
    _disease(
        "427.42", "Cardiac arrest", "427.5", "I46.2 I46.9", 0.02, age=0.1,
        hazards={"aneurysm": 2.2},
    ),
    # ---- age and sex only ----
    _disease("272.1", "Hyperlipidemia", "272.4", "E78.4 E78.5", 0.35, age=0.2, male=0.2),
    _disease("250.2", "Type 2 diabetes", "250.00 250.02", "E11.9 E11.65", 0.18, age=0.15,
             male=0.2),
    _disease("366", "Cataract", "366.9 366.16", "H26.9 H25.11 H25.9", 0.10, age=0.9),
    _disease("290.1", "Dementias", "294.20 331.0", "F03.90 G30.9", 0.025, age=1.0),
    _disease("362.2", "Macular degeneration", "362.50 362.51", "H35.30 H35.31", 0.03,
             age=0.9),
    _disease("389", "Hearing loss", "389.10 389.9", "H90.3 H90.5", 0.06, age=0.6,
             male=0.3),
    _disease("740", "Osteoarthrosis", "715.35 715.36 715.90", "M16.9 M17.9 M17.11", 0.14,
             age=0.5, male=-0.3),
    _disease("743.1", "Osteoporosis", "733.00 733.01", "M81.0", 0.10, age=0.7, male=-1.6),
    _disease("244.4", "Hypothyroidism", "244.9", "E03.9", 0.13, age=0.2, male=-1.1),
    _disease("274.1", "Gout", "274.9 274.00", "M10.9 M10.40", 0.03, age=0.3, male=1.2),
    _disease("550.1", "Inguinal hernia", "550.90", "K40.90", 0.012, age=0.2, male=1.8),
    _disease("340", "Migraine", "346.90 346.10", "G43.909 G43.109", 0.08, age=-0.4,
             male=-1.0),
    _disease("495", "Asthma", "493.90", "J45.909 J45.40", 0.09, age=-0.2, male=-0.3),
    _disease("562.1", "Diverticulosis", "562.10", "K57.30 K57.90", 0.08, age=0.5),
    _disease("496.21", "Obstructive chronic bronchitis", "491.21", "J44.0 J44.1", 0.08,
             age=0.3, male=0.2),
    _disease("591", "Urinary tract infection", "599.0", "N39.0", 0.13, age=0.2, male=-1.0),
    _disease("317", "Alcohol-related disorders", "303.90 305.00", "F10.10 F10.20", 0.03,
             age=-0.2, male=1.0),
    _disease("153.2", "Colon cancer", "153.3 153.9", "C18.2 C18.9", 0.02, age=0.5,
             male=0.2),
    _disease("600", "Hyperplasia of prostate", "600.00 600.01", "N40.0 N40.1", 0.20,
             age=0.8, sex="Male"),
    _disease("185", "Cancer of prostate", "185", "C61", 0.06, age=0.8, sex="Male"),
    _disease("174.11", "Cancer of the female breast", "174.4 174.9",
             "C50.911 C50.912 C50.919", 0.06, age=0.3, sex="Female"),
    _disease("218.1", "Uterine leiomyoma", "218.1 218.9", "D25.1 D25.9", 0.06, age=-0.4,
             sex="Female"),
    _disease("626.1", "Irregular menstrual bleeding", "626.4 626.8", "N92.6 N93.8", 0.02,
             age=-0.9, sex="Female"),
    # ---- nothing at all ----
    _disease("038", "Septicemia", "038.9 038.42", "A41.9 A41.51", 0.05),
    _disease("480", "Pneumonia", "486 482.9", "J18.9 J15.9", 0.09),
    _disease("540.1", "Appendicitis", "540.9 541", "K35.80 K37", 0.015),
    _disease("564.1", "Irritable bowel syndrome", "564.1", "K58.0 K58.9", 0.04),
    _disease("296.2", "Depression", "311 296.20", "F32.9 F33.0", 0.12),
    _disease("300.1", "Anxiety disorder", "300.00 300.02", "F41.1 F41.9", 0.10),
    _disease("318", "Tobacco use disorder", "305.1", "F17.200 F17.210", 0.15),
    _disease("070.3", "Viral hepatitis C", "070.54 070.70", "B18.2 B19.20", 0.02),
    _disease("530.11", "Gastroesophageal reflux", "530.81", "K21.9", 0.20),
    _disease("574.1", "Cholelithiasis", "574.10 574.20", "K80.10 K80.20", 0.04),
    _disease("594.1", "Calculus of kidney", "592.0", "N20.0", 0.05),
    _disease("327.3", "Sleep apnea", "327.23 780.57", "G47.33", 0.09),
    _disease("345", "Epilepsy", "345.90", "G40.909", 0.02),
    _disease("696.4", "Psoriasis", "696.1", "L40.0 L40.9", 0.025),
    _disease("939", "Contact dermatitis", "692.9", "L23.9 L25.9", 0.04),
    _disease("760", "Back pain", "724.2 724.5", "M54.5 M54.9", 0.16),
    _disease("380.4", "Impacted cerumen", "380.4", "H61.20 H61.21", 0.04),
    _disease("681.5", "Cellulitis of leg", "682.6", "L03.115 L03.116", 0.04),
    _disease("722.6", "Degeneration of intervertebral disc", "722.52", "M51.36", 0.06),
    _disease("110.11", "Dermatophytosis of nail", "110.1", "B35.1", 0.03),
    # ---- rare: refused, or only for exact methods ----
    _disease("365", "Glaucoma", "365.9", "H40.9", 0.006),
    _disease("008.52", "C. difficile infection", "008.45", "A04.7", 0.006),
    _disease("112", "Candidiasis", "112.0", "B37.0", 0.005),
    _disease("332", "Parkinson's disease", "332.0", "G20", 0.004),
    _disease("335", "Multiple sclerosis", "340", "G35", 0.001),
)  # fmt: skip
"""Every disease that is simulated; phecodes are distinct."""


UNMAPPED_ICD9: tuple[str, ...] = (
    "V70.0",
    "V58.69",
    "V15.82",
    "V72.81",
    "V66.7",
    "E849.0",
    "E878.2",
)
UNMAPPED_ICD10: tuple[str, ...] = (
    "Z00.00",
    "Z23",
    "Z51.81",
    "Z66",
    "Y83.1",
    "Y92.230",
    "W19.XXXA",
)
"""Codes in everyday use that mean no phecode: examinations, vaccinations, places."""

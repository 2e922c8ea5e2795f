"""Pack the 2,273-record subset of PTB-XL into one archive.

    python scripts/pack_ptbxl_subset.py OUT [--data DIR]

DIR (default: PHENOKIT_DATA) holds the folders ptbxl-500-raw, ptbxl-1819-zscored and
ptbxl-labels. Two forms of the same data set meet here: 500 raw records at 500 Hz, and
1,819 that somebody band-passed and z-scored. The raw ones are put through the same input
contract; the 34 that exist in both forms are taken from the raw data and measure how well
the two agree. Nothing that is not known is filled in: a fold, a patient or an SCP list
that no source gives stays missing.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd

from phenokit.preprocessing.contract import InputContract, prepare
from phenokit.readers.packed import quantise, write_archive
from phenokit.readers.ptbxl import AGE_ABOVE_89, LABEL_CODES, REMOVED_IN_1_0_3
from phenokit.recording import LEADS, Recording
from phenokit.statements import SCP_STATEMENTS, SUPERCLASSES

SCALE = 0.001
SUPERCLASS_CODES = [s.code for s in SUPERCLASSES]
SCP_CODES = [s.code for s in SCP_STATEMENTS]

NOTES = """\
2,273-record subset of PTB-XL 1.0.3 (Wagner et al. 2020, doi:10.13026/kfzx-aw45),
CC BY 4.0, modified: zero-phase Butterworth band-pass of order 4, 0.5-40 Hz, at 500 Hz;
z-score per lead; resampled to 100 Hz; rounded to 0.001. Superclasses are known for every
record, SCP codes where has_scp is true (not a random part). patient_id and fold are missing
where unknown; fold 1-8 = train, 9 = val, 10 = test. Age 90 is every age above 89."""

EXPECTED = {
    "split": {"train": 1764, "val": 256, "test": 253},
    "superclass": {"NORM": 1240, "STTC": 610, "CD": 530, "MI": 328, "HYP": 227},
    "SCP known": {"train": 1046, "val": 165, "test": 240},
    "codes with 18 train positives": 26,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("PHENOKIT_DATA"))
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data or set PHENOKIT_DATA")
    contract = InputContract()
    raw = prepared_raw_records(arguments.data / "ptbxl-500-raw", contract)
    z_scored = z_scored_records(arguments.data / "ptbxl-1819-zscored")
    shared = sorted(raw.keys() & z_scored.keys())
    difference = max(
        np.abs(raw[i].astype(int) - z_scored[i].astype(int)).max() for i in shared
    )
    print(f"{len(shared)} records in both forms differ by at most {difference * SCALE:g} z")
    signals = {**z_scored, **raw}  # the shared ones from the raw data
    table = record_table(arguments.data, sorted(signals))
    table["source"] = np.where(table.index.isin(list(raw)), "raw", "z-scored")
    labels = record_labels(arguments.data, table)
    summarise(table, labels)
    write_archive(
        arguments.out,
        signals=(signals[ecg_id][None] for ecg_id in table.index),
        table=table,
        label_codes=LABEL_CODES,
        labels=labels.to_numpy(dtype=np.float32),
        scale=SCALE,
        unit="z",
        contract_id=contract.identifier,
        sampling_rate=contract.sampling_rate,
        dataset="PTB-XL 1.0.3, 2,273-record subset",
        notes=NOTES,
    )
    print(f"wrote {len(table)} records to {arguments.out}")


def prepared_raw_records(folder: Path, contract: InputContract) -> dict[int, np.ndarray]:
    """The raw 500 Hz records without the twelve that 1.0.3 removed, prepared."""
    with np.load(folder / "records500_delta_uV.npz") as archive:
        microvolt = archive["d"].cumsum(-1, dtype=np.int16)
        ecg_ids, leads = archive["ecg_id"], tuple(str(lead) for lead in archive["leads"])
    prepared = {}
    for ecg_id, steps in zip(ecg_ids.tolist(), microvolt, strict=True):
        if ecg_id in REMOVED_IN_1_0_3:
            continue
        recording = Recording(steps / 1000.0, leads, 500.0, str(ecg_id))
        prepared[ecg_id] = quantise(prepare(recording, contract).signal, scale=SCALE)
    return prepared


def z_scored_records(folder: Path) -> dict[int, np.ndarray]:
    """The records that came filtered and z-scored, as they are."""
    with np.load(folder / "ptbxl1819_100hz_z1000.npz") as archive:
        if tuple(archive["leads"]) != LEADS:
            raise ValueError("the leads are in another order")
        steps = archive["x"].transpose(
            0, 2, 1
        )  # recording sample lead -> recording lead sample
        return dict(zip(archive["ecg_id"].tolist(), steps, strict=True))


def record_table(data: Path, ecg_ids: list[int]) -> pd.DataFrame:
    """What is known of each record, indexed by ecg_id."""
    full = pd.concat(
        [
            pd.read_csv(data / "ptbxl-500-raw/ptbxl_database.csv", index_col="ecg_id"),
            pd.read_csv(
                data / "ptbxl-labels/ptbxl_database_6144rows.csv.gz", index_col="ecg_id"
            ),
        ]
    )
    full = full[~full.index.duplicated()].reindex(ecg_ids)
    splits = pd.read_csv(data / "ptbxl-labels/ptbxl_labels_all.csv.gz", index_col="ecg_id")
    split = splits["split"].reindex(ecg_ids)
    # val and test are one fold each; which of folds 1-8 holds a train record, nobody says
    fold = full["strat_fold"].fillna(split.map({"val": 9, "test": 10})).astype("Int64")
    from_fold = fold.map({9: "val", 10: "test"}).where(fold.isna() | (fold > 8), "train")
    if (split.notna() & from_fold.notna() & (split != from_fold)).any():
        raise ValueError("split and fold contradict each other")
    return pd.DataFrame(
        {
            "record_id": [str(ecg_id) for ecg_id in ecg_ids],
            "dataset": "PTB-XL 1.0.3",
            "patient_id": full["patient_id"].map(lambda p: str(int(p)), na_action="ignore"),
            "split": split.fillna(from_fold),
            "fold": fold,
            "age": full["age"].where(~(full["age"] > 89), AGE_ABOVE_89),
            "sex": full["sex"].map({0: "male", 1: "female"}),
            "site": full["site"].map(lambda s: str(int(s)), na_action="ignore"),
            "device": full["device"].str.split().str.join(" "),
        },
        index=pd.Index(ecg_ids, name="ecg_id"),
    )


def record_labels(data: Path, table: pd.DataFrame) -> pd.DataFrame:
    """1, 0 or NaN for every label; a code is positive whatever its likelihood."""
    known = pd.read_csv(data / "ptbxl-labels/ptbxl_labels_all.csv.gz", index_col="ecg_id")
    own = pd.read_csv(data / "ptbxl-1819-zscored/labels.csv", index_col="ecg_id")
    known = known.reindex(table.index).combine_first(own).reindex(table.index)
    table["has_scp"] = known["scp_list"].notna()
    labels = pd.DataFrame(np.nan, index=table.index, columns=list(LABEL_CODES))
    labels[SUPERCLASS_CODES] = known[SUPERCLASS_CODES]
    for ecg_id, codes in known["scp_list"].dropna().str.split().items():
        unknown = set(codes) - set(SCP_CODES)
        if unknown:
            raise ValueError(f"record {ecg_id}: unknown codes {sorted(unknown)}")
        for code in LABEL_CODES[len(SUPERCLASS_CODES) :]:
            labels.loc[ecg_id, code] = float(code in codes)
    return labels


def summarise(table: pd.DataFrame, labels: pd.DataFrame) -> None:
    """Print the counts beside those that are expected."""
    train_positives = labels[table["split"] == "train"].sum()
    codes = [code for code in SCP_CODES if train_positives[code] >= 18]
    found = {
        "split": table["split"].value_counts().to_dict(),
        "superclass": labels[SUPERCLASS_CODES].sum().astype(int).to_dict(),
        "SCP known": table.loc[table["has_scp"], "split"].value_counts().to_dict(),
        "codes with 18 train positives": len(codes),
    }
    for name, expected in EXPECTED.items():
        verdict = "as expected" if found[name] == expected else f"EXPECTED {expected}"
        print(f"{name}: {found[name]} ({verdict})")
    print("train positives:", {code: int(train_positives[code]) for code in LABEL_CODES})
    print("patients known:", int(table["patient_id"].notna().sum()), "of", len(table))


if __name__ == "__main__":
    main()

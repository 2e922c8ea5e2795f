"""From iEEG files with annotated seizures to an archive of segments for training."""

from collections.abc import Callable, Iterator
from pathlib import Path

from phenokit.errors import BadInput
from phenokit.preprocessing.segments import SegmentRule
from phenokit.readers.ieeg import read_ieeg
from phenokit.readers.swec import check_split
from phenokit.readers.tables import Column, read_table
from phenokit.training.segment_archive import (
    SPLITS,
    SegmentArchive,
    ToArchive,
    write_archive,
)

_COLUMNS = (
    Column("path", unique=True),
    Column("patient_id"),
    Column("split"),
)

Progress = Callable[[int, int], None]
"""Called with the number of recordings done and of all."""


def pack_ieeg(
    folder: Path,
    splits: Path,
    out: Path,
    *,
    dataset: str = "",
    rule: SegmentRule | None = None,
    progress: Progress = lambda done, of: None,
) -> SegmentArchive:
    """Prepare the recordings that a table names and archive their segments.

    Parameters
    ----------
    folder
        Recordings, each with its seizures annotated in the file or in a table beside it. A
        recording without a seizure teaches too.
    splits
        CSV with `path` (below the folder), `patient_id` and `split` (train, val, test).
    dataset
        What it is, in words; by default the folder's name.
    rule
        What a segment is; by default 5 s at 512 Hz.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` for a split of another name; ``E_DUP_ID`` for a patient in two splits,
        copies in SWEC included; what `read_ieeg` raises, with the recording named.
    """
    table = read_table(splits, _COLUMNS, what="table of splits")
    strange = set(table["split"]) - set(SPLITS)
    if strange:
        raise BadInput(
            "E_COLUMNS",
            f"{splits.name}: the split is one of {', '.join(SPLITS)}, not {min(strange)}",
            where="split",
        )
    check_split(
        {
            str(split): sorted(set(rows["patient_id"]))
            for split, rows in table.groupby("split")
        }
    )

    def recordings() -> Iterator[ToArchive]:
        for done, (path, patient_id, split) in enumerate(
            zip(table["path"], table["patient_id"], table["split"], strict=True), start=1
        ):
            try:
                recording = read_ieeg(folder / path, root=folder)
            except BadInput as error:
                raise BadInput(error.code, f"{path}: {error}", where=path) from None
            seizures = tuple(
                event for event in recording.annotations if event.label.startswith("sz")
            )
            yield ToArchive(recording, patient_id, split, seizures)
            progress(done, len(table))

    return write_archive(
        out, recordings(), rule=rule or SegmentRule(), dataset=dataset or folder.name
    )

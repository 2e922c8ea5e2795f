"""Exposures of a cohort: what its scores, and tables of numbers, say of each row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Float64, Int64

from phenokit.cohort import Cohort
from phenokit.errors import BadInput
from phenokit.evidence.associations import Exposures, Kind
from phenokit.networks.checkpoint import Bundle
from phenokit.readers.files import read_bytes
from phenokit.readers.scores import Scores
from phenokit.readers.tables import Column, parse_header, parse_table
from phenokit.statements import clinical_name

SCORE_KINDS: tuple[Kind, ...] = ("prototype", "class", "prototype_class")
"""Kinds of exposures that scores have; features come from a table."""

ClassScale = Literal["logit", "probability"]
LOWEST = 1e-6
"""Probability that a logit is cut at."""

Array = np.ndarray


@dataclass(frozen=True)
class ExposureTable:
    """Exposures of the rows of a cohort, and what each of them is.

    Attributes
    ----------
    exposures
        The same rows as the cohort.
    labels
        Class of each; empty for a feature.
    prototype_ids
        Of each prototype; -1 for the others.
    descriptions
        In clinical words.
    """

    exposures: Exposures
    labels: tuple[str, ...]
    prototype_ids: tuple[int, ...]
    descriptions: tuple[str, ...]

    def at(self, positions: Sequence[int]) -> "ExposureTable":
        """Some of the exposures."""
        of = self.exposures
        return ExposureTable(
            Exposures(
                tuple(of.names[k] for k in positions),
                tuple(of.kinds[k] for k in positions),
                of.values[:, list(positions)],
            ),
            tuple(self.labels[k] for k in positions),
            tuple(self.prototype_ids[k] for k in positions),
            tuple(self.descriptions[k] for k in positions),
        )

    def summary(self) -> pd.DataFrame:
        """A row an exposure: what it is, n, mean, SD (of the population)."""
        values = self.exposures.values.astype(np.float64)
        present = ~np.isnan(values)
        n = present.sum(axis=0)
        filled = np.where(present, values, 0)
        mean = filled.sum(axis=0) / np.maximum(n, 1)
        square = np.where(present, (values - mean) ** 2, 0).sum(axis=0)
        return pd.DataFrame(
            {
                "exposure": list(self.exposures.names),
                "exposure_kind": list(self.exposures.kinds),
                "label": list(self.labels),
                "prototype_id": np.array(self.prototype_ids, dtype=np.int64),
                "description": list(self.descriptions),
                "n": n,
                "n_missing": len(values) - n,
                "mean": np.where(n > 0, mean, np.nan),
                "sd": np.where(n > 0, np.sqrt(square / np.maximum(n, 1)), np.nan),
            }
        )


def score_exposures(
    cohort: Cohort,
    scores: Scores,
    bundle: Bundle,
    *,
    kinds: Sequence[Kind] = SCORE_KINDS,
    class_scale: ClassScale = "logit",
) -> ExposureTable:
    """Exposures that the scores of the cohort's recordings hold.

    Parameters
    ----------
    bundle
        The model that scored; it names the class of each prototype.
    kinds
        ``"prototype"`` similarity to each prototype; ``"class"`` prediction of each label;
        ``"prototype_class"`` maximum and mean over the prototypes of a label.
    class_scale
        Whether a class prediction is a log-odds or a probability.

    Raises
    ------
    BadInput
        ``E_VERSION`` if the scores come from another bundle.
    """
    if scores.bundle_hash != bundle.bundle_hash:
        raise BadInput(
            "E_VERSION",
            f"The scores were made by bundle {scores.bundle_hash[:8]}, and the model "
            f"{bundle.name} is bundle {bundle.bundle_hash[:8]}; score again, or install "
            "the model that scored.",
        )
    rows = _rows_of(cohort, scores)
    prototypes = bundle.prototypes
    similarity = _take(scores.similarity, rows)
    label_of = prototypes["label"].tolist()
    parts: list[ExposureTable] = []
    if "prototype" in kinds:
        ids = [int(one) for one in prototypes["prototype_id"]]
        parts.append(
            _table(
                "prototype",
                [f"prototype {one}" for one in ids],
                similarity,
                label_of,
                [_prototype_words(row) for row in prototypes.to_dict("records")],
                ids,
            )
        )
    if "class" in kinds:
        values = _take(scores.probability, rows)
        if class_scale == "logit":
            cut = np.clip(values, LOWEST, 1 - LOWEST)
            values = np.log(cut / (1 - cut))
        words = {"logit": "Predicted log-odds", "probability": "Predicted probability"}
        parts.append(
            _table(
                "class",
                [f"class {label}" for label in scores.labels],
                values,
                scores.labels,
                [f"{words[class_scale]}: {_words_of(one)}" for one in scores.labels],
            )
        )
    if "prototype_class" in kinds:
        for how, summary in (("max", np.max), ("mean", np.mean)):
            classes = list(dict.fromkeys(label_of))
            values = np.column_stack(
                [
                    summary(similarity[:, [own == label for own in label_of]], axis=1)
                    for label in classes
                ]
            )
            word = {"max": "Largest", "mean": "Mean"}[how]
            parts.append(
                _table(
                    "prototype_class",
                    [f"prototype_class {label} {how}" for label in classes],
                    values,
                    classes,
                    [
                        f"{word} similarity to the prototypes of: {_words_of(label)}"
                        for label in classes
                    ],
                )
            )
    return join(parts)


def feature_exposures(
    cohort: Cohort, path: Path, *, names: Sequence[str] = ()
) -> ExposureTable:
    """Exposures of a table: its columns of numbers, by `person_id` or `record_id`.

    Parameters
    ----------
    path
        CSV with `person_id` or `record_id`, once each; an empty cell is missing.
    names
        Columns to take; default: all others.

    Raises
    ------
    BadInput
        As `parse_table`: ``E_RANGE`` names the column and rows whose cell is no number;
        ``E_EMPTY`` if none of its rows is of the cohort.
    """
    what = "exposures table"
    data = read_bytes(path, what=what)
    header = parse_header(data, what=what)
    key = "record_id" if "record_id" in header else "person_id"
    wanted = list(names) or [
        name for name in header if name not in ("record_id", "person_id")
    ]
    table = parse_table(
        data,
        [
            Column(key, unique=True),
            *(Column(name, "number", may_be_missing=True) for name in wanted),
        ],
        ignore_others=True,
        what=what,
    )
    if set(table[key]).isdisjoint(cohort.patients[key]):
        raise BadInput(
            "E_EMPTY",
            f"No {key} of the exposures table is in the cohort; is it the same id?",
            where=f"column {key}",
        )
    aligned = table.set_index(key).reindex(cohort.patients[key])
    return _features(wanted, aligned.to_numpy(np.float64))


def cohort_exposures(cohort: Cohort, names: Sequence[str]) -> ExposureTable:
    """Exposures that stand in the patients table itself, such as `age`.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if there is no such column, ``E_RANGE`` if it holds no numbers.
    """
    for name in names:
        if name not in cohort.patients:
            raise BadInput(
                "E_COLUMNS",
                f"The patients table has no column {name}.",
                where=f"column {name}",
            )
        if not pd.api.types.is_numeric_dtype(cohort.patients[name]):
            raise BadInput(
                "E_RANGE",
                f"Column {name} of the patients table is not of numbers.",
                where=f"column {name}",
            )
    return _features(names, cohort.patients[list(names)].to_numpy(np.float64))


def join(parts: Sequence[ExposureTable]) -> ExposureTable:
    """Several exposure tables of the same rows as one.

    Raises
    ------
    BadInput
        ``E_COLUMNS`` if two have an exposure of the same name, or there is none.
    """
    names = [name for part in parts for name in part.exposures.names]
    if not names:
        raise BadInput("E_COLUMNS", "There is no exposure to test.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadInput("E_COLUMNS", f"Two exposures are called {twice}; rename one.")
    kinds = {part.exposures.values.dtype for part in parts}
    dtype = np.float32 if kinds == {np.dtype(np.float32)} else np.float64
    return ExposureTable(
        Exposures(
            tuple(names),
            tuple(kind for part in parts for kind in part.exposures.kinds),
            np.concatenate(
                [part.exposures.values.astype(dtype, copy=False) for part in parts], axis=1
            ),
        ),
        tuple(label for part in parts for label in part.labels),
        tuple(one for part in parts for one in part.prototype_ids),
        tuple(words for part in parts for words in part.descriptions),
    )


def latent_vectors(bundle: Bundle) -> list[Float64[Array, " _feature"]]:
    """Latent vector of each prototype of a bundle, in the order of its table."""
    return [
        bundle.tensors[f"prototypes.{row['branch']}"][row["index_in_branch"]]
        .astype(np.float64)
        .ravel()
        for row in bundle.prototypes.to_dict("records")
    ]


def _table(
    kind: Kind,
    names: Sequence[str],
    values: Float[Array, "row exposure"],
    labels: Sequence[str],
    descriptions: Sequence[str],
    prototype_ids: Sequence[int] = (),
) -> ExposureTable:
    return ExposureTable(
        Exposures(tuple(names), (kind,) * len(names), values),
        tuple(labels),
        tuple(prototype_ids) or (-1,) * len(names),
        tuple(descriptions),
    )


def _features(
    names: Sequence[str], values: Float64[Array, "row exposure"]
) -> ExposureTable:
    return _table("feature", names, values, [""] * len(names), list(names))


def _rows_of(cohort: Cohort, scores: Scores) -> Int64[Array, " row"]:
    """Row of the scores of each row of the cohort; -1 where it has none."""
    index = pd.Index(scores.table["record_id"])
    return index.get_indexer(cohort.patients["record_id"]).astype(np.int64)


def _take(
    values: Float32[Array, "recording column"] | Float64[Array, "recording column"],
    rows: Int64[Array, " row"],
) -> Float[Array, "row column"]:
    taken = values[rows]
    taken[rows < 0] = np.nan
    return taken


def _prototype_words(row: dict) -> str:
    others = [one for one in row["labels"] if one != row["label"]]
    also = f", whose source ECG also shows {', '.join(others)}" if others else ""
    return f"Similarity to a prototype of: {_words_of(row['label'])}{also}"


def _words_of(label: str) -> str:
    try:
        return clinical_name(label)
    except KeyError:
        return label

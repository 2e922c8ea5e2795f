"""A model's card: what a clinician has to know before trusting a number (`card.toml`).

Model Facts as a closed schema: a card with a field missing, or with a field that nobody
knows, does not load, and without a card a model gives no risk. The card is the one source
of the model's page, of the extract in a PDF and of its README.

TOML has no writer in the standard library; `format_toml` writes the part of the language
that a card needs: tables, lists of tables, lists and plain values.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from phenokit.errors import BundleError
from phenokit.readers.files import read_bytes

MAX_CARD_BYTES = 1 << 20
SENSITIVITY = "sensitivity at the threshold"
SPECIFICITY = "specificity at the threshold"
"""Metrics of `Card.performance`: how many of the positives, and negatives, are right."""

Text = Annotated[str, Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Licences(_Table):
    """Three licences, never one: they differ, and each binds somebody else."""

    code: Text
    weights: Text
    training_data: Text


class Training(_Table):
    """What the model was trained on."""

    data: Text
    n_recordings: Annotated[int, Field(ge=0)]
    n_patients: Annotated[int, Field(ge=0)] | None = None
    preprocessing: Text
    split: Text


class Metric(_Table):
    """One figure of performance with its interval; undefined where it says why.

    Attributes
    ----------
    label, subgroup
        What was measured, and in whom; ``"all"`` for everybody.
    value, low, high
        Estimate and interval; ``None`` where the figure is undefined (one class absent).
    undefined
        Why there is no value; ``None`` where there is one.
    """

    label: Text
    metric: Text
    subgroup: Text = "all"
    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    level: Fraction = 0.95
    n: Annotated[int, Field(ge=0)]
    n_positive: Annotated[int, Field(ge=0)]
    undefined: Text | None = None

    @model_validator(mode="after")
    def _has_interval_or_reason(self) -> "Metric":
        figures = (self.value, self.low, self.high)
        if self.undefined is None and None in figures:
            raise ValueError("give value, low and high, or say why in undefined")
        if self.undefined is not None and figures != (None, None, None):
            raise ValueError("an undefined figure has no value and no interval")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self


class Calibration(_Table):
    """How logits became probabilities, and how well, in words and by slope."""

    method: Text
    data: Text
    slope: list[Metric]


class Prevalence(_Table):
    """Fraction of cases in training, and the range of target prevalence that was tested."""

    training: Fraction
    tested_low: Fraction | None = None
    tested_high: Fraction | None = None


class OutOfDistribution(_Table):
    """How foreign recordings are told, and how often that goes wrong."""

    method: Text
    threshold: Number
    false_positive_rate: Fraction
    detection: list[Metric]


class Card(_Table):
    """Everything that a model's page has to say.

    Attributes
    ----------
    first_line
        What it was trained on and that it is not for diagnosis: shown first, everywhere.
    ensemble_flips
        Share of decisions that flip between the models of an ensemble; ``None`` where
        the model is a single one.
    """

    first_line: Text
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    intended_use: Text
    population: Text
    inputs: Text
    outputs: Text
    warnings: Annotated[list[Text], Field(min_length=1)]
    owner: Text
    date: date
    ensemble_flips: Fraction | None = None
    labels_not_assessed: list[Text] = []
    licences: Licences
    training: Training
    calibration: Calibration
    out_of_distribution: OutOfDistribution
    prevalence: Annotated[dict[str, Prevalence], Field(min_length=1)]
    performance: Annotated[list[Metric], Field(min_length=1)]
    subgroups: list[Metric]
    tripod_ai: dict[str, Text]


def parse_card(data: bytes) -> Card:
    """Read a card from the bytes of a ``card.toml``.

    Raises
    ------
    BundleError
        ``E_VERSION`` if it is not TOML or a field is missing, unknown or of another kind;
        the field is named.
    """
    try:
        return Card.model_validate(tomllib.loads(data.decode("utf-8")))
    except ValidationError as error:
        raise BundleError("E_VERSION", _first_fault(error), where="card.toml") from None
    except (ValueError, RecursionError):
        raise BundleError(
            "E_VERSION", "The card is not valid TOML in UTF-8.", where="card.toml"
        ) from None


def read_card(path: Path) -> Card:
    """Read a model's card: a ``card.toml``, or the folder of the bundle that holds it.

    Raises
    ------
    BundleError
        ``E_VERSION`` as `parse_card`.
    BadInput
        If the file cannot be opened.
    """
    file = path / "card.toml" if path.is_dir() else path
    return parse_card(read_bytes(file, max_bytes=MAX_CARD_BYTES, what="card"))


def format_card(card: Card | Mapping[str, Any]) -> bytes:
    """The bytes of a ``card.toml``, the same for the same card.

    Raises
    ------
    BundleError
        ``E_VERSION`` if a field is missing, unknown or of another kind.
    """
    fields = card.model_dump(exclude_none=True) if isinstance(card, Card) else dict(card)
    text = format_toml(fields)
    parse_card(text.encode())
    return text.encode()


def format_toml(table: Mapping[str, Any]) -> str:
    """A table as TOML text that `tomllib` reads back as the same values.

    Raises
    ------
    TypeError
        For a value that is none of text, number, truth value, date, list, or table.
    """
    return "".join(line + "\n" for line in _table_lines(table, ()))


def _table_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Plain values first: below a header they would belong to the header's table."""
    lines, below = [], []
    for key, value in table.items():
        here = (*path, _key(key))
        if isinstance(value, Mapping):
            below += ["", f"[{'.'.join(here)}]", *_table_lines(value, here)]
        elif _is_list_of_tables(value):
            for entry in value:
                below += ["", f"[[{'.'.join(here)}]]", *_table_lines(entry, here)]
        else:
            lines.append(f"{_key(key)} = {_value(value)}")
    return lines + below


def _is_list_of_tables(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(entry, Mapping) for entry in value)
    )


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _value(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes what TOML wants escaped, but for the character DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    raise TypeError(f"{type(value).__name__} has no place in a card")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    return f"The card's field {'.'.join(map(str, fault['loc']))}: {fault['msg']}."

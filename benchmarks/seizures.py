"""Seizures of unseen simulated patients: ieeg-demo, plain attention, line length.

    python benchmarks/seizures.py train-plain --archive DIR --run DIR
    python benchmarks/seizures.py score --archive DIR --run DIR --out DIR [--part 0/2]
    python benchmarks/seizures.py table --out DIR

with the archive of ``scripts/pack_simulated_ieeg.py``.

Three detectors see the same prepared segments. ``ieeg-demo`` is scored as it streams. The
plain transformer has the same size and the same training steps on the same windows, but
ordinary attention, with embeddings of time and channel added to its tokens; its inner width
makes up for the projections that it lacks. Line length is the detector of
``benchmarks/line_length.py``, relative to the channel's median over the whole recording,
which a detector at the bedside would not have.

Validation patients choose each detector's threshold (best event F1 with at most 24 false
alarms a day). Test patients have 40, 72 or 100 contacts, which no training patient has, and
decided nothing. Intervals and paired differences resample patients.
"""

import argparse
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from phenokit.errors import AnalysisRefused
from phenokit.evidence.seizure_patients import (
    ScoredRecording,
    SeizureScores,
    bootstrap_patients,
    choose_threshold,
    pool,
    score_patients,
)
from phenokit.evidence.seizures import EventRule
from phenokit.monitor import SeizureMonitor, load_ieeg_model
from phenokit.networks.checkpoint import read_tensors, write_tensors
from phenokit.networks.mvpformer import MVPFormer, MVPFormerConfig, to_arrays
from phenokit.recording import Event, SegmentStatus
from phenokit.training.assemble_seizures import SCORES
from phenokit.training.recipe import SeizureRecipe
from phenokit.training.segment_archive import SegmentArchive
from phenokit.training.seizures import Windows, fit_seizures, segment_logits

MODEL = "ieeg-demo"
RECIPE = Path(__file__).parents[1] / "scripts" / "ieeg-demo.toml"
PLAIN_INNER = 363
DETECTORS = ("ieeg-demo", "plain attention", "line length")
LIMIT = 24


class PlainTransformer(MVPFormer):
    """Ordinary attention over all tokens of the horizon; positions added to the tokens."""

    def decode(self, tokens, grid, **options):  # noqa: ANN001, ANN003, ANN201
        n_times, n_channels = tokens.shape[1:3]
        place = (
            self.positional_embedding.weight[:n_times, None]
            + self.channel_embedding.weight[:n_channels]
        )
        return super().decode(tokens + place, grid, **options)


def plain_config(config: MVPFormerConfig) -> MVPFormerConfig:
    """The same network without the terms of time and channel."""
    rule = replace(config.rule, time=False, channel=False)
    return replace(config, rule=rule, inner=PLAIN_INNER, head="classification")


def build_plain(config: MVPFormerConfig, generator: torch.Generator) -> MVPFormer:
    """A new one: weights N(0, 0.02), norms 1."""
    network = PlainTransformer(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.split(".")[-2].startswith("ln"):
                parameter.fill_(1)
            else:
                parameter.normal_(0, 0.02, generator=generator)
    return network


def read_recipe() -> SeizureRecipe:
    """That of the shipped model."""
    return SeizureRecipe.model_validate(tomllib.loads(RECIPE.read_text()))


def train_plain(archive: SegmentArchive, run: Path) -> None:
    """Train the plain transformer as the shipped model was."""
    recipe = read_recipe()
    network = fit_seizures(
        plain_config(recipe.network_config(archive)),
        archive,
        recipe.fit_config(0),
        run_folder=run,
        resume=True,
        report=lambda p: print(p.stage, p.epoch, p.loss, p.validation, flush=True),
        build=build_plain,
    )
    write_tensors(run / "plain.safetensors", to_arrays(network))


def load_plain(run: Path) -> PlainTransformer:
    """What `train_plain` wrote."""
    network = PlainTransformer(plain_config(load_ieeg_model(MODEL).config))
    arrays = read_tensors(run / "plain.safetensors")
    network.load_state_dict({name: torch.from_numpy(a) for name, a in arrays.items()})
    return network.eval()


# ---- the three detectors ----------------------------------------------------------------


class Detectors:
    """Feeds segments of one recording to all three."""

    def __init__(self, channels: Sequence[str], plain: MVPFormer) -> None:
        model = load_ieeg_model(MODEL)
        self.monitor = SeizureMonitor(
            model, channels=channels, sampling_rate=model.segments.sampling_rate
        )
        self.plain, self.horizon = plain, model.n_segments
        self.past: list[tuple[np.ndarray, np.ndarray]] = []
        self.probability: dict[str, list[float]] = {name: [] for name in DETECTORS[:2]}
        self.length: list[np.ndarray] = []
        self.status: list[int] = []

    def feed(self, signal: np.ndarray, valid: np.ndarray) -> None:
        """One segment: (channel, sample) µV in the order of the model, 0 if not valid."""
        given = np.where(valid[:, None], signal, np.float32(np.nan))
        [result] = self.monitor.feed(given)
        self.status.append(int(result.status))
        self.probability[DETECTORS[0]].append(result.probability)
        step = np.abs(np.diff(signal, axis=1)).mean(axis=1)
        self.length.append(np.where(valid, step, np.nan))
        self.past.append((signal.astype(np.float32), valid))
        if len(self.past) == 2 * self.horizon:
            self._score_plain()

    def _score_plain(self) -> None:
        """Probabilities of the plain transformer for what it has not scored yet."""
        n_known = len(self.probability[DETECTORS[1]])
        n_new = len(self.status) - n_known
        if not n_new:
            return
        signal, valid = (
            torch.from_numpy(np.stack(x)) for x in zip(*self.past, strict=True)
        )
        nothing = torch.zeros(1, len(self.past), dtype=torch.long)
        windows = Windows(signal[None], valid[None], nothing, nothing)
        with torch.inference_mode():
            logit = segment_logits(self.plain, windows)[0, -n_new:]
        self.probability[DETECTORS[1]] += torch.softmax(logit, -1)[:, 1].tolist()
        self.past = self.past[-self.horizon :]

    def finish(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Probability of every segment by detector, and the status of the segments."""
        self._score_plain()
        status = np.array(self.status, dtype=np.int8)
        found = {name: np.array(p) for name, p in self.probability.items()}
        found[DETECTORS[2]] = line_length_probability(np.stack(self.length))
        evaluated = status == SegmentStatus.EVALUATED
        return {
            name: np.where(evaluated, np.nan_to_num(p), np.nan) for name, p in found.items()
        }, status


def line_length_probability(length: np.ndarray) -> np.ndarray:
    """Of each segment, from the line length of each channel; NaN: not usable."""
    used = np.isfinite(length).mean(axis=0) > 0.5
    length = length[:, used]
    usual = np.nanmedian(length, axis=0)
    middle = np.median(usual)
    ordinary = (usual > middle / 4) & (usual < middle * 4)
    rise = np.log(np.maximum(length[:, ordinary], 1e-6) / usual[ordinary])
    n = max(1, ordinary.sum() // 8)
    highest = np.sort(np.where(np.isnan(rise), -np.inf, rise), axis=1)[:, -n:]
    mean = np.where(np.isfinite(highest), highest, 0).mean(axis=1)
    return 1 / (1 + np.exp(-2 * (mean - 1)))


# ---- validation and test patients -------------------------------------------------------


def score(archive: SegmentArchive, run: Path, out: Path, *, part: tuple[int, int]) -> None:
    """All three on validation and test patients; `part` k of m takes every m-th."""
    plain = load_plain(run)
    for one in (*archive.of("val"), *archive.of("test")):
        file = out / f"{one.split}-{one.number:05d}.npz"
        if one.number % part[1] != part[0] or file.exists():
            continue
        detectors = Detectors(one.channels, plain)
        valid = archive.valid(one)
        for k in range(one.n_segments):
            detectors.feed(archive.signal(one, k, k + 1)[0], valid[k])
        save(file, one.patient_id, one.duration, one.seizures, *detectors.finish())
        print(file.name, len(one.seizures), "seizures", flush=True)


def save(
    file: Path,
    patient_id: str,
    duration: float,
    seizures: Sequence[Event],
    probability: dict[str, np.ndarray],
    status: np.ndarray,
) -> None:
    """Everything that a table needs of one recording."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        patient_id=np.array(patient_id),
        duration=np.array(duration),
        seizures=np.array([(one.onset, one.offset) for one in seizures]).reshape(-1, 2),
        status=status,
        **{name: probability[name] for name in DETECTORS},
    )


def read(out: Path, split: str, detector: str) -> list[ScoredRecording]:
    """The recordings of a split as one detector scored them."""
    recordings = []
    for file in sorted(out.glob(f"{split}-*.npz")):
        with np.load(file) as saved:
            seizures = tuple(Event("sz", a, b) for a, b in saved["seizures"].tolist())
            recordings.append(
                ScoredRecording(
                    str(saved["patient_id"]),
                    saved[detector],
                    saved["status"],
                    seizures,
                    float(saved["duration"]),
                )
            )
    return recordings


def show_table(out: Path) -> None:
    """Scores of each detector on the test patients, and paired differences."""
    patients: dict[str, list[SeizureScores]] = {}
    for detector in DETECTORS:
        try:
            chosen = choose_threshold(
                read(out, "val", detector), rule=EventRule(), limit=LIMIT
            )
        except AnalysisRefused as error:
            print(f"{detector}: {error}")
            continue
        validation = chosen.scores.events
        print(f"\n{detector}: threshold {chosen.rule.theta_on}, validation event F1 "
              f"{validation.f1:.2f} ({validation.n_reference} seizures)")  # fmt: skip
        test = read(out, "test", detector)
        patients[detector] = list(score_patients(test, chosen.rule).values())
        pooled = pool(patients[detector])
        print(f"test: {len(test)} patients, {pooled.events.seconds / 3600:.1f} h, "
              f"{pooled.events.n_reference} seizures")  # fmt: skip
        for name, score in SCORES.items():
            interval = bootstrap_patients(
                patients[detector],
                lambda sample, score=score: score(pool(sample)),
                rng=np.random.default_rng(0),
            )
            print(f"  {name}: {words(interval.estimate)} "
                  f"({words(interval.low)} to {words(interval.high)})")  # fmt: skip
    first = DETECTORS[0]
    for other in DETECTORS[1:]:
        if first not in patients or other not in patients:
            continue
        pairs = list(zip(patients[first], patients[other], strict=True))
        for name in ("event F1", "segment kappa", "segment AUROC"):
            interval = bootstrap_patients(
                pairs,
                lambda sample, name=name: difference(sample, name),
                rng=np.random.default_rng(0),
            )
            print(f"{first} - {other}, {name}: {words(interval.estimate)} "
                  f"({words(interval.low)} to {words(interval.high)})")  # fmt: skip


def difference(
    pairs: Sequence[tuple[SeizureScores, SeizureScores]], name: str
) -> float | None:
    """Of a score of the same patients by two detectors."""
    a, b = (SCORES[name](pool(list(side))) for side in zip(*pairs, strict=True))
    return None if a is None or b is None else a - b


def words(value: float | None) -> str:
    """Two decimals, or that there is none."""
    return "undefined" if value is None else f"{value:.2f}"


def main() -> None:
    """One of the three steps."""
    parser = argparse.ArgumentParser(description="Seizures of unseen simulated patients")
    parser.add_argument("step", choices=("train-plain", "score", "table"))
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", default="0/1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.step == "train-plain":
        train_plain(SegmentArchive(options.archive), options.run)
    elif options.step == "score":
        k, m = (int(number) for number in options.part.split("/"))
        score(SegmentArchive(options.archive), options.run, options.out, part=(k, m))
    else:
        show_table(options.out)


if __name__ == "__main__":
    main()

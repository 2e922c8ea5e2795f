"""Training of MVPFormer on segments of iEEG: pre-training, then seizures.

1. ``pre-training``: predict the next segment's token among others
   (`phenokit.training.contrastive`); needs no annotation.
2. ``fine-tuning``: tell ictal segments, by all weights or by low-rank adapters alone.

The published code supervises the last segment of each window. A network whose last segment
is not exempt from the rule of the others (``exempt_last=False``, ``index="distance"``) sees
the same in segment t of a long window as in the last one of a window that ends there, so
here every segment of a window is supervised at once.

What a step draws depends on (seed, stage, step) only: a run that was stopped and resumed
ends in the same weights, bit for bit on a CPU. Batches are windows of one recording, so
that no channel is padded.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from phenokit.errors import BadInput
from phenokit.evidence.seizure_scores import segment_auroc
from phenokit.networks.lora import merge
from phenokit.networks.mvpformer import (
    N_CLASSES,
    MVPFormer,
    MVPFormerConfig,
    adapt,
    initialise,
    reset_head,
)
from phenokit.training.checkpoints import Checkpoints, RunningMean
from phenokit.training.contrastive import (
    N_NEGATIVES,
    contrastive_logits,
    contrastive_loss,
    draw_negatives,
)
from phenokit.training.loop import Progress, Report
from phenokit.training.segment_archive import ArchivedRecording, SegmentArchive

Stage = Literal["pre-training", "fine-tuning"]


@dataclass(frozen=True)
class SeizureFitConfig:
    """How a network is trained.

    Attributes
    ----------
    segments
        Of a training window; longer than the horizon of the attention.
    tokens
        Segments times channels of a step at most; one window at least.
    pretraining_steps, steps
        Of the two stages.
    pretraining_rate, learning_rate
        Largest learning rates; they rise over the first tenth and fall as a cosine.
    weight_decay, clip_norm
        Of AdamW; largest norm of the gradient.
    adaptation
        What fine-tuning moves: ``"all"`` weights, or ``"lora"`` adapters and the head.
    lora_rank
        Of the adapters.
    n_negatives
        Of each prediction.
    ictal_share
        Of the windows that are drawn around a seizure.
    ictal_weight
        Of an ictal segment in the loss, against 1.
    channel_weight
        Of the loss of the channels, against 1 of the segments'.
    averaging
        Decay a step of the running mean of the weights that is validated and kept.
    steps_a_checkpoint
        Steps from one checkpoint, with its validation, to the next.
    validation_windows
        Windows of validation recordings that choose the checkpoint.
    """

    seed: int = 0
    segments: int = 24
    tokens: int = 4608
    pretraining_steps: int = 400
    steps: int = 2000
    pretraining_rate: float = 1e-3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    adaptation: Literal["all", "lora"] = "all"
    lora_rank: int = 8
    n_negatives: int = N_NEGATIVES
    ictal_share: float = 0.6
    ictal_weight: float = 1.0
    channel_weight: float = 1.0
    averaging: float = 0.99
    steps_a_checkpoint: int = 100
    validation_windows: int = 64


class Windows(NamedTuple):
    """Windows of one recording.

    Attributes
    ----------
    signal
        Microvolts, 0 where not valid.
    valid
        Which segments of which channels hold a signal.
    label
        Whether a segment is ictal.
    channel_label
        Whether a channel of it is; -1 where nobody said.
    """

    signal: Float[Tensor, "window time channel sample"]
    valid: Bool[Tensor, "window time channel"]
    label: Int64[Tensor, "window time"]
    channel_label: Int64[Tensor, "window time channel"]


def fit_seizures(
    config: MVPFormerConfig,
    archive: SegmentArchive,
    settings: SeizureFitConfig,
    *,
    run_folder: Path,
    device: str = "cpu",
    resume: bool = False,
    report: Report = lambda _: None,
    build: Callable[[MVPFormerConfig, torch.Generator], MVPFormer] | None = None,
) -> MVPFormer:
    """Train a network through both stages.

    Parameters
    ----------
    config
        Of the network; its head does not matter.
    archive
        With training and validation recordings.
    run_folder
        Holds the checkpoints.
    device
        ``"cpu"`` or ``"cuda"``; on CUDA in bfloat16 autocast (not run on a GPU yet).
    resume
        Go on from the checkpoint of the same configuration and data.
    build
        Makes another network of the same methods, for comparisons.

    Returns
    -------
    MVPFormer
        With a head of two classes, adapters merged, on the CPU, in eval mode.

    Raises
    ------
    BadInput
        ``E_VERSION`` if a checkpoint is of another configuration or data; ``E_EMPTY`` if
        there is no seizure to learn from.
    ValueError
        If the attention's last segment is exempt from the rule of the others.
    """
    if config.rule.exempt_last or config.rule.index != "distance":
        raise ValueError(
            "every segment is supervised: train with index='distance', exempt_last=False"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    start = replace(config, head="generative")
    network = (build or _initialise)(start, generator)
    loop = _Loop(archive, settings, run_folder, config, device=device, resume=resume)
    loop.report = report
    network.to(device)
    if settings.pretraining_steps:
        loop.run("pre-training", network, settings.pretraining_steps)
    reset_head(network, "classification", generator=generator)
    if settings.adaptation == "lora":
        adapt(network, rank=settings.lora_rank, generator=generator)
    network.to(device)
    loop.run("fine-tuning", network, settings.steps)
    merge(network)
    return network.cpu().eval()


def segment_logits(
    network: MVPFormer, windows: Windows
) -> Float[Tensor, "window time class"]:
    """Two logits of every segment; of one without a valid channel, those of nothing."""
    return _pooled(network, network(windows.signal, valid=windows.valid), windows)


def _pooled(
    network: MVPFormer,
    features: Float[Tensor, "window time channel feature"],
    windows: Windows,
) -> Float[Tensor, "window time class"]:
    counted = windows.valid[..., None]
    mean = torch.where(counted, features, 0).sum(2) / counted.sum(2).clamp(min=1)
    return network.head(mean)


def _initialise(config: MVPFormerConfig, generator: torch.Generator) -> MVPFormer:
    return initialise(config, generator=generator)


class _Loop:
    """Runs the stages and keeps their checkpoints."""

    report: Report

    def __init__(
        self,
        archive: SegmentArchive,
        settings: SeizureFitConfig,
        run_folder: Path,
        config: MVPFormerConfig,
        *,
        device: str,
        resume: bool,
    ) -> None:
        self.archive, self.settings, self.device = archive, settings, device
        self.train = _usable(archive, "train", settings.segments)
        self.validation = _usable(archive, "val", settings.segments)
        if not any(one.seizures for one in self.train):
            raise BadInput("E_EMPTY", "no training recording has an annotated seizure")
        self._run = Checkpoints(
            run_folder, fingerprint(config, archive, settings), resume=resume
        )

    def run(self, stage: Stage, network: MVPFormer, steps: int) -> None:
        """Train for one stage; the network ends with the best checkpoint's weights."""
        settings = self.settings
        peak = (
            settings.learning_rate if stage == "fine-tuning" else settings.pretraining_rate
        )
        channel_head = nn.Linear(network.config.width, N_CLASSES, bias=False)
        nn.init.zeros_(channel_head.weight)
        moved = nn.ModuleDict(
            {"network": network, "channels": channel_head.to(self.device)}
        )
        optimizer = torch.optim.AdamW(
            moved.parameters(), lr=peak, weight_decay=settings.weight_decay
        )
        average = RunningMean(moved, settings.averaging)
        each = settings.steps_a_checkpoint
        n_checkpoints = -(-steps // each)
        checks = list(self._validation_windows())
        for done in range(self._run.load(stage, moved, optimizer, average), n_checkpoints):
            moved.train()
            total = 0.0
            first, stop = done * each, min((done + 1) * each, steps)
            for step in range(first, stop):
                for group in optimizer.param_groups:
                    group["lr"] = peak * _rate(step / steps)
                total += self._step(stage, step, moved, optimizer)
                average.update(moved)
            with average.in_place_of(moved):
                score = self._score(stage, network, checks)
            self._run.save(stage, done, score, moved, optimizer, average)
            self.report(
                Progress(
                    stage,
                    done + 1,
                    n_checkpoints,
                    total / (stop - first),
                    score,
                    "AUROC" if stage == "fine-tuning" else "accuracy",
                )
            )
        self._run.restore_best(stage, moved)

    def _step(
        self,
        stage: Stage,
        step: int,
        moved: nn.ModuleDict,
        optimizer: torch.optim.Optimizer,
    ) -> float:
        settings = self.settings
        network = cast(MVPFormer, moved["network"])
        key = f"{settings.seed} {stage} {step}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:7])
        rng = np.random.default_rng(seed)
        windows = draw_windows(self.archive, self.train, settings, rng=rng)
        windows = Windows(*(part.to(self.device) for part in windows))
        optimizer.zero_grad(set_to_none=True)
        with torch.random.fork_rng():
            torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
            with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
                loss = (
                    seizure_loss(network, moved["channels"], windows, settings)
                    if stage == "fine-tuning"
                    else self._contrast(network, windows, seed)
                )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(moved.parameters(), settings.clip_norm)
        optimizer.step()
        return float(loss.detach())

    def _contrast(
        self, network: MVPFormer, windows: Windows, seed: int
    ) -> Float[Tensor, ""]:
        prediction, target = network.predict(windows.signal, valid=windows.valid)
        negatives = draw_negatives(
            windows.valid,
            self.settings.n_negatives,
            generator=torch.Generator().manual_seed(seed),
        )
        return contrastive_loss(prediction, target, negatives, valid=windows.valid)

    def _validation_windows(self) -> Iterator[Windows]:
        """The same at every checkpoint, as ictal as the training windows."""
        rng = np.random.default_rng(self.settings.seed)
        settings = replace(self.settings, tokens=0)  # one window at a time
        for _ in range(settings.validation_windows if self.validation else 0):
            yield draw_windows(self.archive, self.validation, settings, rng=rng)

    @torch.inference_mode()
    def _score(self, stage: Stage, network: MVPFormer, checks: Sequence[Windows]) -> float:
        """AUROC of segments, or how often the next token is picked; 0 if unknown."""
        network.eval()
        label, score = [], []
        for k, windows in enumerate(checks):
            windows = Windows(*(part.to(self.device) for part in windows))
            if stage == "pre-training":
                prediction, target = network.predict(windows.signal, valid=windows.valid)
                negatives = draw_negatives(
                    windows.valid,
                    self.settings.n_negatives,
                    generator=torch.Generator().manual_seed(k),
                )
                logits = contrastive_logits(
                    prediction, target, negatives, valid=windows.valid
                )
                score.append((logits.argmax(1) == 0).double().cpu().numpy())
                continue
            logits = segment_logits(network, windows).double()
            # What is evaluated later: segments with a full history.
            known = windows.valid.any(2) & _is_late(windows.valid.shape[1], network.config)
            label.append(windows.label[known].cpu().numpy() > 0)
            score.append(torch.softmax(logits, -1)[..., 1][known].cpu().numpy())
        if not score:
            return 0.0
        if stage == "pre-training":
            return float(np.concatenate(score).mean())
        return segment_auroc(np.concatenate(label), np.concatenate(score)) or 0.0


def seizure_loss(
    network: MVPFormer,
    channel_head: nn.Module,
    windows: Windows,
    settings: SeizureFitConfig,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the segments, and of their channels where those are known."""
    features = network(windows.signal, valid=windows.valid)
    weight = features.new_tensor([1.0, settings.ictal_weight])
    known = windows.valid.any(2)
    logits = _pooled(network, features, windows).float()
    loss = F.cross_entropy(logits[known], windows.label[known], weight)
    said = windows.valid & (windows.channel_label >= 0)
    if settings.channel_weight and said.any():
        logits = channel_head(features[said]).float()
        loss = loss + settings.channel_weight * F.cross_entropy(
            logits, windows.channel_label[said]
        )
    return loss


def draw_windows(
    archive: SegmentArchive,
    recordings: Sequence[ArchivedRecording],
    settings: SeizureFitConfig,
    *,
    rng: np.random.Generator,
) -> Windows:
    """Windows of one recording, some of them around its seizures.

    Parameters
    ----------
    recordings
        Each at least ``settings.segments`` long; each is as likely.
    settings
        `segments`, `tokens`, `ictal_share`.
    rng
        Everything random is drawn from it.
    """
    recording = recordings[int(rng.integers(len(recordings)))]
    length = settings.segments
    n = max(1, settings.tokens // (length * len(recording.channels)))
    label = archive.label(recording)
    ictal = np.flatnonzero(label)
    channel_label = archive.channel_label(recording)
    signal, valid, labels, channel_labels = [], [], [], []
    for _ in range(n):
        last = recording.n_segments - length
        first = int(rng.integers(last + 1))
        if len(ictal) and rng.random() < settings.ictal_share:
            # A segment in seizure, anywhere in the window.
            first = int(rng.choice(ictal)) - int(rng.integers(length))
            first = min(max(first, 0), last)
        signal.append(archive.signal(recording, first, first + length))
        valid.append(archive.valid(recording, first, first + length))
        labels.append(label[first : first + length])
        channel_labels.append(channel_label[first : first + length])
    return Windows(
        torch.from_numpy(np.stack(signal)),
        torch.from_numpy(np.stack(valid)),
        torch.from_numpy(np.stack(labels).astype(np.int64)),
        torch.from_numpy(np.stack(channel_labels).astype(np.int64)),
    )


def fingerprint(
    config: MVPFormerConfig, archive: SegmentArchive, settings: SeizureFitConfig
) -> str:
    """Hash of what decides a run; test recordings do not."""
    recordings = [asdict(one) for one in archive.recordings if one.split != "test"]
    text = json.dumps(
        [config.to_dict(), asdict(settings), archive.dataset, archive.rule.to_dict(),
         recordings],
        sort_keys=True,
    )  # fmt: skip
    return hashlib.sha256(text.encode()).hexdigest()


def _usable(
    archive: SegmentArchive, split: str, n_segments: int
) -> tuple[ArchivedRecording, ...]:
    return tuple(one for one in archive.of(split) if one.n_segments >= n_segments)


def _is_late(n_times: int, config: MVPFormerConfig) -> Bool[Tensor, " time"]:
    """Segments of a window that have the horizon of the attention behind them."""
    return torch.arange(n_times) >= min((config.rule.horizon or 1) - 1, n_times - 1)


def _rate(progress: float) -> float:
    """Factor on the learning rate: rises over a tenth, then falls as a cosine."""
    if progress < 0.1:
        return max(progress, 0.002) / 0.1
    return 0.5 * (1 + np.cos(np.pi * (progress - 0.1) / 0.9))

"""When the atria and the ventricles beat: one function a rhythm.

A `Schedule` says when each P wave and each QRS begins and of which kind it is. Sinus rhythm
breathes (respiratory sinus arrhythmia) and drifts; premature beats are laid over it with
the pauses that they cause. The fibrillating atria follow Stridh & Sörnmo (2001),
doi:10.1109/10.900256: a sawtooth of a few harmonics whose frequency and height vary slowly.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from phenokit.simulation.conduction import paced_complex, ventricular_ectopic
from phenokit.simulation.heart import Complex, Heart, Wave, bump


@dataclass
class Schedule:
    """All beats of one recording, in seconds from its start; some lie outside it.

    Attributes
    ----------
    p_onset, p_shape
        Every P wave, conducted or not, and its key in `p_shapes`.
    qrs_onset, kind, complex_name, conducted_p
        Every QRS: kind of beat in words, key in `complexes`, and the onset of the P wave
        that led to it (NaN where none did).
    spikes
        Pacemaker stimuli.
    atrial_rate, atrial_vector
        Of flutter or fibrillation (Hz; mV), ``None`` where the atria beat in P waves.
    """

    p_onset: list[float] = field(default_factory=list)
    p_shape: list[str] = field(default_factory=list)
    qrs_onset: list[float] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    complex_name: list[str] = field(default_factory=list)
    conducted_p: list[float] = field(default_factory=list)
    spikes: list[float] = field(default_factory=list)
    p_shapes: dict[str, Wave] = field(default_factory=dict)
    complexes: dict[str, Complex] = field(default_factory=dict)
    atrial_rate: float | None = None
    atrial_vector: Float[np.ndarray, " 3"] | None = None
    fibrillating: bool = False

    def beat(
        self, qrs: float, kind: str, *, p: float = np.nan, complex_name: str = "main"
    ) -> None:
        """Add a ventricular beat."""
        self.qrs_onset.append(qrs)
        self.kind.append(kind)
        self.complex_name.append(complex_name)
        self.conducted_p.append(p)

    def atrial(self, onset: float, shape: str = "sinus") -> None:
        """Add a P wave."""
        self.p_onset.append(onset)
        self.p_shape.append(shape)


def schedule_rhythm(
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    *,
    start: float,
    stop: float,
) -> Schedule:
    """Lay out the beats of the rhythm among `names` (sinus rhythm if there is none)."""
    plan = Schedule(p_shapes={"sinus": heart.p}, complexes={"main": heart.beat})
    for name, lay_out in _RHYTHMS.items():
        if name in names:
            lay_out(plan, heart, names, rng, start, stop)
            break
    else:
        _sinus(plan, heart, names, rng, start, stop)
    if names & {"premature_ventricular", "bigeminy", "trigeminy"}:
        _add_ventricular_ectopy(plan, heart, names, rng, stop)
    return plan


def _sinus_times(
    heart: Heart, rng: np.random.Generator, start: float, stop: float, *, breathing: float
) -> list[float]:
    """Onsets of sinus P waves: the RR interval follows the breath and a slow drift."""
    mean = 60.0 / heart.rate
    breath, drift = rng.uniform(0.16, 0.30), rng.uniform(0.06, 0.11)
    phases = rng.uniform(0, 2 * np.pi, 2)
    jitter = rng.normal(0, 0.006, 512)
    time = start - rng.uniform(0, mean)
    times = []
    while time < stop:
        times.append(time)
        sway = breathing * np.sin(2 * np.pi * breath * time + phases[0])
        sway += 0.012 * np.sin(2 * np.pi * drift * time + phases[1])
        time += mean * (1 + sway + jitter[len(times) % 512])
    return times


def _sinus(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """Sinus rhythm, conducted one to one, with premature atrial beats where named."""
    breathing = rng.uniform(0.002, 0.022)
    if "sinus_arrhythmia" in names:
        breathing = rng.uniform(0.13, 0.22)
    times = _sinus_times(heart, rng, start, stop, breathing=breathing)
    premature: set[int] = set()
    if "premature_atrial" in names:
        inside = [i for i, t in enumerate(times) if 1.0 < t < stop - 2.5]
        count = int(rng.integers(1, 4))
        premature = _apart(inside, count, rng)
        plan.p_shapes["ectopic"] = _ectopic_p(heart, rng)
    mean = 60.0 / heart.rate
    shift = 0.0
    coupling = rng.uniform(0.55, 0.74)
    for number, planned in enumerate(times):
        time = planned + shift
        if number in premature:
            early = plan.p_onset[-1] + mean * float(coupling + rng.normal(0, 0.02))
            # The sinus node is reset: the pause is less than compensatory.
            shift += early - time + mean * rng.uniform(0.02, 0.12)
            plan.atrial(early, "ectopic")
            pr = heart.pr + rng.uniform(0.0, 0.03)
            plan.beat(early + pr, "premature atrial", p=early)
            continue
        plan.atrial(time)
        plan.beat(time + heart.pr, "sinus", p=time)
    # The reset sinus node leaves the end of the recording without beats: go on.
    while plan.p_onset[-1] + mean < stop:
        time = plan.p_onset[-1] + mean * (1 + rng.normal(0, 0.01))
        plan.atrial(time)
        plan.beat(time + heart.pr, "sinus", p=time)


def _apart(candidates: list[int], count: int, rng: np.random.Generator) -> set[int]:
    """A random choice of beats of which no two are neighbours."""
    chosen: set[int] = set()
    for number in rng.permutation(candidates):
        if len(chosen) < count and not {number - 1, number, number + 1} & chosen:
            chosen.add(int(number))
    return chosen


def _ectopic_p(heart: Heart, rng: np.random.Generator) -> Wave:
    """A P wave from another place of the atria: another direction, often from below."""
    vector = rng.normal(0, 1, 3) * np.array([0.6, 1.0, 0.5])
    if rng.random() < 0.6:
        vector[1] = -abs(vector[1])
    vector *= rng.uniform(0.10, 0.16) / np.linalg.norm(vector)
    return {"ectopic": bump(0.5, 0.56, *vector)}


def _wandering(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """The pacemaker moves through the atria: at least three shapes of P, PR and RR vary."""
    plan.p_shapes |= {f"ectopic{i}": _ectopic_p(heart, rng) for i in range(3)}
    shapes = list(plan.p_shapes)
    shape, time = 0, start - rng.uniform(0, 0.8)
    while time < stop:
        if rng.random() < 0.5:
            shape = int(rng.integers(len(shapes)))
        pr = heart.pr * (1.0 if shape == 0 else rng.uniform(0.75, 1.1))
        plan.atrial(time, shapes[shape])
        plan.beat(time + pr, "supraventricular", p=time)
        time += 60.0 / heart.rate * (1 + float(np.clip(rng.normal(0, 0.14), -0.3, 0.4)))


def _fibrillation(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """No P wave; the AV node lets impulses through at random."""
    plan.fibrillating = True
    plan.atrial_rate = float(rng.uniform(4.6, 8.2))
    coarse = 0.025 + rng.gamma(2.0, 0.017)
    vector = np.array([0.15, 0.75, -0.85]) + rng.normal(0, 0.25, 3)
    plan.atrial_vector = coarse * vector / np.linalg.norm(vector)
    mean = 60.0 / heart.rate
    spread = rng.uniform(0.19, 0.29)
    shape = 1 / spread**2
    shortest = 0.30 if heart.rate > 110 else 0.36
    time = start - rng.uniform(0, mean)
    while time < stop:
        plan.beat(time, "fibrillation")
        time += max(shortest, float(rng.gamma(shape, mean / shape)))


def _flutter(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """A sawtooth of 240 to 330 a minute, of which every second to fifth is conducted."""
    rate = float(rng.uniform(4.0, 5.4))
    plan.atrial_rate = rate
    size = rng.uniform(0.14, 0.28)
    clockwise = rng.random() < 0.2
    vector = np.array([0.05, 0.95 if clockwise else -0.95, 0.2 if clockwise else -0.22])
    plan.atrial_vector = size * (vector + rng.normal(0, 0.07, 3))
    fixed = rng.random() < 0.55
    ratio = int(rng.choice([2, 3, 4], p=[0.45, 0.15, 0.40]))
    wave, phase = 0, rng.uniform(0, 1)
    while (time := start + (wave + phase) / rate) < stop:
        plan.beat(time + rng.normal(0, 0.004), "flutter")
        wave += ratio if fixed else int(rng.choice([2, 3, 4, 5], p=[0.35, 0.2, 0.35, 0.1]))


def _tachycardia(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """Regular, narrow, 150 to 215 a minute; P hidden in the QRS or just after it."""
    rr = 60.0 / rng.uniform(150, 215)
    times = np.arange(start - rng.uniform(0, rr), stop, rr)
    times = times + np.cumsum(rng.normal(0, 0.0015, len(times)))
    _add_reentry(plan, heart, times, rng)


def _paroxysm(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """Sinus rhythm that a tachycardia interrupts, or a tachycardia that ends."""
    length = stop - start
    begins = rng.random() < 0.5
    change = start + length * rng.uniform(0.32, 0.55)
    rr = 60.0 / rng.uniform(150, 205)
    if begins:
        lasts = stop if rng.random() < 0.6 else change + length * rng.uniform(0.25, 0.4)
        first, last = change, lasts
    else:
        first, last = start, change
    quiet = rng.uniform(0.9, 1.5)
    mean = 60.0 / heart.rate
    # The attack begins with a premature beat and ends with a pause.
    before = [t for t in np.arange(start, first, mean) if t + heart.pr < first - 0.30]
    after = list(np.arange(last + quiet, stop, mean))
    for time in (t + rng.normal(0, 0.008) for t in (*before, *after)):
        plan.atrial(float(time))
        plan.beat(float(time + heart.pr), "sinus", p=float(time))
    times = np.arange(first, last, rr)
    _add_reentry(plan, heart, times + np.cumsum(rng.normal(0, 0.002, len(times))), rng)


def _add_reentry(
    plan: Schedule,
    heart: Heart,
    times: Float[np.ndarray, " beat"],
    rng: np.random.Generator,
) -> None:
    beat = heart.beat
    fast = Complex(dict(beat.qrs), beat.qrs_duration, dict(beat.repolarisation), beat.qtc)
    st = fast.repolarisation["st"]
    shift = -rng.uniform(0.0, 0.08) * np.array([0.6, 0.6, -0.1])
    fast.repolarisation["st"] = st._replace(vector=st.vector + shift)
    fast.repolarisation["t"] = fast.repolarisation["t"].scaled(0.75)
    plan.complexes["reentry"] = fast
    # Backwards through the atria: negative in the inferior leads, up to 100 ms after J.
    seen = rng.random() < 0.6
    delay = beat.qrs_duration + (rng.uniform(0.0, 0.07) if seen else -0.05)
    vector = (rng.uniform(0.07, 0.14) if seen else 0.03) * np.array([-0.1, -0.95, -0.25])
    plan.p_shapes["retrograde"] = {"retrograde": bump(0.5, 0.6, *vector)}
    for time in times.tolist():
        plan.atrial(time + delay, "retrograde")
        plan.beat(time, "supraventricular", complex_name="reentry")


def _wenckebach(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """PR grows from beat to beat by less and less until a P wave is not conducted."""
    length = int(rng.integers(3, 6))
    first, step = max(heart.pr, rng.uniform(0.16, 0.22)), rng.uniform(0.07, 0.11)
    position = int(rng.integers(length))
    for time in _sinus_times(heart, rng, start, stop, breathing=0.01):
        plan.atrial(time)
        if position < length - 1:
            pr = first + step * sum(0.6**k for k in range(position))
            plan.beat(time + pr, "sinus", p=time)
        position = (position + 1) % length


def _mobitz(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """PR constant; now and then a P wave is not conducted."""
    length = int(rng.integers(3, 6)) if "second_degree_mobitz_2" in names else 2
    position = int(rng.integers(length))
    pr = heart.pr + rng.uniform(0.0, 0.04)
    for time in _sinus_times(heart, rng, start, stop, breathing=0.01):
        plan.atrial(time)
        if position < length - 1:
            plan.beat(time + pr, "sinus", p=time)
        position = (position + 1) % length


def _third_degree(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """Atria and ventricles each at their own regular rate; the escape narrow or wide."""
    for time in _sinus_times(heart, rng, start, stop, breathing=0.012):
        plan.atrial(time)
    wide = len(names) == 1 and rng.random() < 0.5
    escape = "main"
    if wide:
        escape = "escape"
        plan.complexes[escape] = ventricular_ectopic(heart, rng)
    rr = 60.0 / (rng.uniform(27, 40) if wide else rng.uniform(36, 50))
    time = start - rng.uniform(0, rr)
    while time < stop:
        plan.beat(time, "escape", complex_name=escape)
        time += rr * (1 + rng.normal(0, 0.008))


def _paced(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    start: float,
    stop: float,
) -> None:
    """Paced: the ventricle alone, both chambers, after sensed P waves, or the atrium."""
    mode = str(rng.choice(["VVI", "DDD", "VDD", "AAI"], p=[0.45, 0.25, 0.2, 0.1]))
    plan.complexes["paced"] = paced_complex(heart, rng)
    delay = rng.uniform(0.14, 0.20)
    rr = 60.0 / rng.uniform(58, 88)
    beats = np.arange(start - rng.uniform(0, rr), stop, rr).tolist()
    if mode == "VVI":
        if rng.random() < 0.5:
            plan.fibrillating = True
            plan.atrial_rate = float(rng.uniform(5, 8))
            plan.atrial_vector = rng.uniform(0.02, 0.06) * np.array([0.2, 0.7, -0.7])
        else:
            slow = Heart(**{**vars(heart), "rate": rng.uniform(60, 95)})
            for time in _sinus_times(slow, rng, start, stop, breathing=0.01):
                plan.atrial(time)
    if mode == "VDD":
        beats = [t + delay for t in _sinus_times(heart, rng, start, stop, breathing=0.01)]
    for time in beats:
        p = np.nan
        if mode in {"DDD", "VDD"}:
            p = time - delay
            plan.atrial(p)
        if mode == "DDD":
            plan.spikes.append(p - 0.012)
        if mode == "AAI":
            p = time - heart.pr
            plan.atrial(p)
            plan.spikes.append(p - 0.012)
            plan.beat(time, "atrially paced", p=p)
            continue
        plan.spikes.append(time - 0.008)
        plan.beat(time, "paced", p=p, complex_name="paced")


def _add_ventricular_ectopy(
    plan: Schedule,
    heart: Heart,
    names: frozenset[str],
    rng: np.random.Generator,
    stop: float,
) -> None:
    """Lay ventricular premature beats over the rhythm; they block the next beat."""
    plan.complexes["ectopic"] = ventricular_ectopic(heart, rng)
    if "premature_ventricular" in names and rng.random() < 0.15:
        plan.complexes["ectopic2"] = ventricular_ectopic(heart, rng)
    foci = [name for name in plan.complexes if name.startswith("ectopic")]
    order = np.argsort(plan.qrs_onset)
    times = [plan.qrs_onset[i] for i in order]
    period = {"bigeminy": 2, "trigeminy": 3}
    pattern = next((period[name] for name in period if name in names), None)
    if pattern is not None:
        after = set(range(int(rng.integers(pattern)), len(times) - 1, pattern))
    else:
        inside = [i for i, t in enumerate(times[:-1]) if 0.3 < t < stop - 2.6]
        after = _apart(inside, int(rng.integers(1, 4)), rng)
    mean = 60.0 / heart.rate
    coupling = rng.uniform(0.52, 0.66)
    blocked: set[int] = set()
    for position in sorted(after):
        if order[position] in blocked:
            continue
        gap = max(
            mean * (coupling + rng.normal(0, 0.015)), heart.beat.qtc * 0.95 * mean**0.5
        )
        early = times[position] + float(min(gap, 0.85 * mean))
        plan.beat(early, "premature ventricular", complex_name=str(rng.choice(foci)))
        until = early + 0.62 * mean
        blocked |= {
            int(i) for i, t in zip(order, times, strict=True) if early - 0.1 < t < until
        }
    for column in ("qrs_onset", "kind", "complex_name", "conducted_p"):
        kept = [value for i, value in enumerate(getattr(plan, column)) if i not in blocked]
        setattr(plan, column, kept)


_RHYTHMS = {
    "atrial_fibrillation": _fibrillation,
    "atrial_flutter": _flutter,
    "wandering_pacemaker": _wandering,
    "supraventricular_tachycardia": _tachycardia,
    "paroxysmal_tachycardia": _paroxysm,
    "second_degree_mobitz_1": _wenckebach,
    "second_degree_mobitz_2": _mobitz,
    "second_degree_2_to_1": _mobitz,
    "third_degree_block": _third_degree,
    "pacing": _paced,
}


def draw_rate(heart: Heart, names: frozenset[str], rng: np.random.Generator) -> float:
    """Mean rate (a minute) that goes with the conditions; of the atria in AV block."""
    if "sinus_tachycardia" in names:
        return rng.uniform(103, 138)
    if "sinus_bradycardia" in names:
        return rng.uniform(42, 57.5)
    if "sinus_arrhythmia" in names:
        return rng.uniform(62, 82)
    if "atrial_fibrillation" in names:
        return float(np.clip(rng.normal(88, 22), 52, 155))
    if names & {"second_degree_mobitz_1", "second_degree_mobitz_2", "second_degree_2_to_1"}:
        return rng.uniform(66, 98)
    if "third_degree_block" in names:
        return rng.uniform(70, 100)
    if any(name.startswith("acute") for name in names):
        return float(np.clip(heart.rate + rng.uniform(0, 18), 60.5, 98))
    return heart.rate


def atrial_waves(
    plan: Schedule, time: Float[np.ndarray, " time"], rng: np.random.Generator
) -> Float[np.ndarray, "3 time"]:
    """The dipole of fluttering or fibrillating atria (mV)."""
    assert plan.atrial_rate is not None
    assert plan.atrial_vector is not None
    if not plan.fibrillating:
        phase = 2 * np.pi * plan.atrial_rate * time + rng.uniform(0, 2 * np.pi)
        saw = sum(np.sin(k * phase) / k for k in range(1, 5))
        # The return of the wave is not on the same path: V1 sees it later.
        late = sum(np.sin(k * (phase - 0.5)) / k for k in range(1, 4))
        return plan.atrial_vector[:, None] * np.stack([saw, saw, late]) * 0.5
    waves = np.empty((3, len(time)))
    drift, sway = rng.uniform(0.1, 0.25), rng.uniform(0.3, 0.8)
    for axis in range(3):
        turns = plan.atrial_rate * time + sway * np.sin(2 * np.pi * drift * time + axis)
        turns += 0.12 * np.sin(2 * np.pi * rng.uniform(0.5, 1.3) * time)
        phase = 2 * np.pi * turns + rng.uniform(-0.6, 0.6)
        height = 1 + 0.35 * np.sin(2 * np.pi * rng.uniform(0.15, 0.5) * time + axis)
        waves[axis] = height * sum(np.sin(k * phase) / k for k in range(1, 4))
    return plan.atrial_vector[:, None] * waves * 0.8

"""The published synthetic experiment of the risk model, and recovery of its variants.

    OMP_NUM_THREADS=1 python benchmarks/selective_labels.py --out FILE
        [--variant published|published_alpha|heckman|alpha] [--sets N] [--first K]
        [--seed S] [--nuts N] [--prevalence-sd S] [--expected]

``published`` (Balachandar, Garg & Pierson, ICLR 2024, arXiv 2312.03878): data sets of 5,000
patients with 4 standard normal features, standardised. Risk is ``X beta_Y + U(0, sigma)``,
testing follows risk and the intercept and the first feature besides. beta_Y0 ~ N(-2, 0.1),
beta_Delta0 ~ N(2, 0.1), sigma ~ N(2, 0.1), the other coefficients ~ N(0, 1). The stated
prevalence is the share of all rows with the outcome, its standard deviation 0.005. alpha is
1, as the model assumes; the published generator draws it from N(1, 0.1), and so does
``published_alpha``. `--prevalence-sd` states the prevalence more, or less, exactly;
`--expected` states the mean of P(Y=1 | X) in place of the share, which differs from it by
chance (0.006 or so).

Each set is fitted with no constraint, with the prevalence, with the expertise (only the
first feature may affect testing beyond risk), and with both. What a constraint changes in
the mean width of the 95 % intervals, and in the mean error of the posterior means, is given
in percent of the fit without: the median over sets and a bootstrap interval of it, beside
the published figures. A set whose fit is refused is counted by code and left out of the
figures that need it.

The variants are simulations of this project: ``heckman``, 5,000 patients, the same features
and coefficients, rho ~ N(1, 0.1), beta_T0 ~ N(2, 0.1); ``alpha``, 5,000 patients with 4
binary features, normal unseen risk with a given sigma of 1, alpha uniform on 0.5 to 1.5.
In these the stated mean is drawn around the true one with the stated standard deviation.

FILE has a line (JSON) a set, written as it is done; a second run continues, and prints.
``--nuts N`` fits the first N sets by NUTS as well.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from phenokit.errors import AnalysisRefused, BadInput
from phenokit.evidence.heckman import HeckmanModel
from phenokit.evidence.psis import weighted_quantile
from phenokit.evidence.risk import SelectiveLabelsModel
from phenokit.evidence.selective_labels import BernoulliModel, Kind, aggregate

N_PATIENTS, N_FEATURES = 5_000, 4
FREE = (0, 1)
"""Intercept and first feature: what may affect testing beyond risk, and does."""
TESTING_FEATURES = ["x1"]
LEVELS = (0.5, 0.8, 0.95)
N_BOOTSTRAP = 1_000

CONSTRAINTS = {
    "none": (False, False),
    "prevalence": (True, False),
    "expertise": (False, True),
    "both": (True, True),
}
"""Whether the prevalence is stated, and whether the expertise is."""

PUBLISHED = {
    ("beta_Y", "width"): {"expertise": (-24, -26, -22), "prevalence": (-39, -41, -36)},
    ("beta_Delta", "width"): {"expertise": (-20, -22, -17), "prevalence": (-46, -49, -42)},
    ("sigma", "width"): {"expertise": (-15, -17, -13), "prevalence": (-33, -36, -30)},
    ("beta_Y", "error"): {"expertise": (-12, -19, -4), "prevalence": (-44, -51, -37)},
    ("beta_Delta", "error"): {"expertise": (-11, -22, -4), "prevalence": (-45, -50, -40)},
    ("sigma", "error"): {"expertise": (2, -11, 17), "prevalence": (-45, -59, -34)},
}
"""Percent change with its 95 % interval, read off the published figure to a point."""


@dataclass(frozen=True)
class Simulated:
    """A table, what is stated of it, and the truth by the names of the posterior."""

    X: pd.DataFrame
    tested: np.ndarray
    outcome: np.ndarray
    prevalence: float
    prevalence_sd: float
    truth: Mapping[str, float]
    kind: Literal["uniform", "normal", "normal_alpha", "heckman"] = "uniform"
    options: Mapping[str, float] = field(default_factory=dict)


def logistic(u: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-u))."""
    return 1 / (1 + np.exp(-u))


def frame(features: np.ndarray) -> pd.DataFrame:
    """Features with their names."""
    names = [f"x{j + 1}" for j in range(N_FEATURES)]
    return pd.DataFrame(features, columns=pd.Index(names))


def standard_normal(rng: np.random.Generator) -> np.ndarray:
    """Features with mean 0 and standard deviation 1."""
    features = rng.normal(size=(N_PATIENTS, N_FEATURES))
    return (features - features.mean(axis=0)) / features.std(axis=0)


def coefficients_of(
    intercept: float, slopes: Iterable[float], *, n: int = N_FEATURES
) -> np.ndarray:
    """Intercept and slopes, with zeros for the features that are not named."""
    given = [intercept, *slopes]
    return np.r_[given, np.zeros(n + 1 - len(given))]


def named(beta_y: np.ndarray, beta_delta: np.ndarray) -> dict[str, float]:
    """Coefficients by the names of the posterior."""
    names = ["intercept", *(f"x{j + 1}" for j in range(N_FEATURES))]
    found = {f"beta_Y[{name}]": float(b) for name, b in zip(names, beta_y, strict=True)}
    return found | {f"beta_Delta[{names[j]}]": float(beta_delta[j]) for j in FREE}


def test_and_hide(
    risk: np.ndarray, testing: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Who is tested, the outcomes of the tested, and the share of everyone with it."""
    case = rng.random(len(risk)) < logistic(risk)
    tested = rng.random(len(risk)) < logistic(testing)
    return tested, np.where(tested, case, np.nan), float(case.mean())


def averages(
    features: np.ndarray,
    tested: np.ndarray,
    outcome: np.ndarray,
    beta: np.ndarray,
    shape: float,
    *,
    kind: Kind,
    given: float,
) -> dict[str, float]:
    """True prevalence and risk of the tested and the untested, given the features."""
    model = BernoulliModel(aggregate(features, tested, outcome), kind, FREE, given)
    found = model.evaluate(beta[None], np.array([shape]))
    names = ("prevalence", "risk_tested", "risk_untested")
    return {name: float(getattr(found, name)[0]) for name in names}


def simulate_published(rng: np.random.Generator, *, alpha_sd: float = 0.0) -> Simulated:
    """Uniform unseen risk; alpha is 1 where its standard deviation is 0."""
    features = standard_normal(rng)
    beta_y = coefficients_of(rng.normal(-2, 0.1), rng.normal(size=N_FEATURES))
    beta_delta = coefficients_of(rng.normal(2, 0.1), rng.normal(size=1))
    sigma = rng.normal(2, 0.1)
    design = np.column_stack([np.ones(N_PATIENTS), features])
    risk = design @ beta_y + rng.uniform(0, sigma, N_PATIENTS)
    alpha = rng.normal(1, alpha_sd) if alpha_sd else 1.0
    tested, outcome, share = test_and_hide(risk, alpha * risk + design @ beta_delta, rng)
    truth = named(beta_y, beta_delta) | {"sigma": float(sigma)}
    truth |= averages(
        features, tested, outcome, np.r_[beta_y, beta_delta[list(FREE)]], float(sigma),
        kind="uniform", given=1.0,
    )  # fmt: skip
    if alpha_sd:
        del truth["risk_tested"], truth["risk_untested"]  # those are of alpha = 1
    return Simulated(frame(features), tested, outcome, share, 0.005, truth)


def simulate_alpha(rng: np.random.Generator) -> Simulated:
    """Normal unseen risk of a given spread, and a steepness of testing to be found."""
    features = rng.integers(0, 2, (N_PATIENTS, N_FEATURES)).astype(np.float64)
    beta_y = coefficients_of(rng.normal(-2, 0.1), rng.normal(size=N_FEATURES))
    beta_delta = coefficients_of(rng.normal(2, 0.1), rng.normal(size=1))
    alpha, sigma, sd = rng.uniform(0.5, 1.5), 1.0, 0.005
    design = np.column_stack([np.ones(N_PATIENTS), features])
    risk = design @ beta_y + rng.normal(0, sigma, N_PATIENTS)
    tested, outcome, _ = test_and_hide(risk, alpha * risk + design @ beta_delta, rng)
    truth = named(beta_y, beta_delta) | {"alpha": float(alpha)}
    truth |= averages(
        features, tested, outcome, np.r_[beta_y, beta_delta[list(FREE)]], float(alpha),
        kind="normal_alpha", given=sigma,
    )  # fmt: skip
    stated = float(rng.normal(truth["prevalence"], sd))
    return Simulated(
        frame(features), tested, outcome, stated, sd, truth, "normal_alpha",
        {"sigma": sigma},
    )  # fmt: skip


def simulate_heckman(rng: np.random.Generator) -> Simulated:
    """A continuous outcome whose residual goes along with the choice to test."""
    features = standard_normal(rng)
    beta_y = coefficients_of(rng.normal(-2, 0.1), rng.normal(size=N_FEATURES))
    sigma, rho, sd = rng.normal(2, 0.1), rng.normal(1, 0.1), 0.01
    slope, k = rho / sigma**2, np.sqrt(1 - rho**2 / sigma**2)
    beta_t = slope * beta_y  # what does not affect testing beyond risk
    beta_t[list(FREE)] = rng.normal(2, 0.1), rng.normal()
    design = np.column_stack([np.ones(N_PATIENTS), features])
    covariance = [[sigma**2, rho], [rho, 1]]
    z, u = rng.multivariate_normal([0, 0], covariance, N_PATIENTS).T
    tested, outcome = design @ beta_t + u > 0, design @ beta_y + z
    beta_delta = (beta_t - slope * beta_y) / k
    theta = np.r_[beta_y, beta_t[list(FREE)], np.log(sigma)]
    truth = named(beta_y, beta_delta) | {"sigma": float(sigma), "rho": float(rho)}
    model = HeckmanModel(design, tested, np.where(tested, outcome, 0.0), FREE)
    found = model.evaluate(theta[None], np.array([rho / sigma]))
    for name in ("prevalence", "risk_tested", "risk_untested"):
        truth[name] = float(getattr(found, name)[0])
    stated = float(rng.normal(truth["prevalence"], sd))
    hidden = np.where(tested, outcome, np.nan)
    return Simulated(frame(features), tested, hidden, stated, sd, truth, "heckman")


VARIANTS: dict[str, Callable[[np.random.Generator], Simulated]] = {
    "published": simulate_published,
    "published_alpha": partial(simulate_published, alpha_sd=0.1),
    "alpha": simulate_alpha,
    "heckman": simulate_heckman,
}


def simulate(variant: str, seed: int, number: int) -> Simulated:
    """The data set of a number; every number has its own stream."""
    return VARIANTS[variant](np.random.default_rng([seed, number]))


# --- fits -----------------------------------------------------------------------------


def fit(data: Simulated, constraint: str, *, seed: int, engine: str) -> dict[str, Any]:
    """Means and interval ends of every quantity, or the code of a refusal."""
    stated, expert = CONSTRAINTS[constraint]
    start = time.perf_counter()
    model = SelectiveLabelsModel(data.kind, engine, checks=False, **data.options)
    try:
        model.fit(
            data.X, data.tested, data.outcome, seed=seed,
            prevalence=data.prevalence if stated else None,
            prevalence_sd=data.prevalence_sd if stated else None,
            testing_features=TESTING_FEATURES if expert else None,
        )  # fmt: skip
    except (AnalysisRefused, BadInput) as refusal:
        return {"refused": refusal.code, "message": str(refusal)}
    ends = np.array([(1 + side * level) / 2 for level in LEVELS for side in (-1, 1)])
    weights = model.posterior_.weights.reshape(-1)
    quantities = {}
    for name in data.truth:
        draws = model.posterior_.draws[name].reshape(-1)
        at = weighted_quantile(draws, weights, ends)
        quantities[name] = [model.posterior_.mean(name), *(float(q) for q in at)]
    found = model.diagnostics_
    record = {
        "quantities": quantities,
        "k_hat": found.k_hat,
        "importance_ess": found.importance_ess,
        "seconds": time.perf_counter() - start,
    }
    if engine == "nuts":
        record |= {
            "r_hat": found.r_hat,
            "ess": min(found.ess_bulk, found.ess_tail),
            "divergences": found.divergences,
            "mean_difference": found.agreement["mean_difference"].to_dict(),
            "sd_ratio": found.agreement["sd_ratio"].to_dict(),
        }
    return record


def fit_all(
    variant: str, seed: int, number: int, *, engine: str, prevalence_sd: float | None,
    expected: bool,
) -> dict[str, Any]:  # fmt: skip
    """The record of a data set."""
    data = simulate(variant, seed, number)
    if expected:
        data = replace(data, prevalence=data.truth["prevalence"])
    if prevalence_sd is not None:
        data = replace(data, prevalence_sd=prevalence_sd)
    fits = {name: fit(data, name, seed=number, engine=engine) for name in CONSTRAINTS}
    return {
        "variant": variant, "seed": seed, "set": number, "engine": engine,
        "tested": int(data.tested.sum()), "prevalence": data.prevalence,
        "prevalence_sd": prevalence_sd, "expected": expected,
        "truth": dict(data.truth), "fits": fits,
    }  # fmt: skip


def read_lines(out: Path, experiment: tuple[Any, ...]) -> list[dict[str, Any]]:
    """What an earlier run has done; a line cut short is not counted."""
    if not out.exists():
        return []
    found = []
    for line in out.read_text("utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        stated = record.get("prevalence_sd"), record.get("expected", False)
        if (record["variant"], record["seed"], *stated) != experiment:
            raise SystemExit(f"{out} holds another experiment; name another file")
        found.append(record)
    return found


# --- figures --------------------------------------------------------------------------


def block_of(name: str) -> str:
    """``beta_Y[x1]`` belongs to ``beta_Y``."""
    return name.split("[")[0]


def blocks_of(records: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Quantities of each block, in order."""
    found: dict[str, list[str]] = {}
    for name in records[0]["truth"]:
        found.setdefault(block_of(name), []).append(name)
    return found


def width_and_error(
    record: dict[str, Any], constraint: str, names: list[str]
) -> np.ndarray | None:
    """Mean width of the 95 % intervals, and mean error of the means, of a block."""
    quantities = record["fits"][constraint].get("quantities")
    if quantities is None:
        return None
    each = [
        (quantities[name][6] - quantities[name][5],
         abs(quantities[name][0] - record["truth"][name]))
        for name in names
    ]  # fmt: skip
    return np.mean(each, axis=0)


def percent_changes(
    records: list[dict[str, Any]], constraint: str, names: list[str]
) -> np.ndarray:
    """Change of width and error against no constraint, ``(set, 2)``."""
    found = []
    for record in records:
        with_it, without = (
            width_and_error(record, one, names) for one in (constraint, "none")
        )
        if with_it is not None and without is not None:
            found.append(100 * (with_it / without - 1))
    return np.array(found).reshape(-1, 2)


def bootstrap_median(values: np.ndarray, rng: np.random.Generator) -> tuple[float, ...]:
    """Median, and the 95 % interval of 1,000 bootstrap medians."""
    picked = rng.integers(0, len(values), (N_BOOTSTRAP, len(values)))
    medians = np.median(values[picked], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def coverage(
    records: list[dict[str, Any]], constraint: str, names: list[str]
) -> tuple[np.ndarray, int, float]:
    """Share of the truths inside each interval, how many, and the median error."""
    inside, errors = [], []
    for record in records:
        quantities = record["fits"][constraint].get("quantities")
        if quantities is None:
            continue
        for name in names:
            mean, *ends = quantities[name]
            truth = record["truth"][name]
            low, high = np.array(ends).reshape(-1, 2).T
            inside.append((low <= truth) & (truth <= high))
            errors.append(abs(mean - truth))
    if not inside:
        return np.full(len(LEVELS), np.nan), 0, float("nan")
    return np.mean(inside, axis=0), len(inside), float(np.median(errors))


def print_changes(records: list[dict[str, Any]], variant: str) -> None:
    """A line a bar: block, measure and constraint."""
    rng = np.random.default_rng(0)
    compared = variant.startswith("published")
    print("\nChange against no constraint, percent: median over sets [95 % interval]")
    print(f"{'':22}{'constraint':12}{'here':>22}{'published':>24}{'sets':>6}")
    figures: dict[tuple[str, str, str], tuple[float, ...]] = {}
    for column, measure in enumerate(("width", "error")):
        for block, names in blocks_of(records).items():
            if block in ("prevalence", "risk_tested"):
                continue
            for constraint in ("expertise", "prevalence", "both"):
                changes = percent_changes(records, constraint, names)
                if not len(changes):
                    continue
                middle, low, high = bootstrap_median(changes[:, column], rng)
                figures[block, measure, constraint] = (middle, low, high)
                theirs = PUBLISHED.get((block, measure), {}).get(constraint)
                beside = "{:+d} [{:+d}, {:+d}]".format(*theirs) if theirs else ""
                ours = f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"
                print(
                    f"{block + ' ' + measure:22}{constraint:12}{ours:>22}"
                    f"{beside if variant == 'published' else '':>24}{len(changes):6}"
                )
    for constraint in ("expertise", "prevalence"):
        bars = [figures[key] for bar in PUBLISHED if (key := (*bar, constraint)) in figures]
        if compared and bars:
            print(
                f"{constraint}: {sum(middle <= -20 for middle, _, _ in bars)} of "
                f"{len(bars)} bars at -20 or below, "
                f"{sum(high < 0 for _, _, high in bars)} intervals below 0"
            )


def print_coverage(records: list[dict[str, Any]]) -> None:
    """A line a block and constraint: coverage at three levels, and the median error."""
    heads = "".join(f"{f'{100 * level:.0f} %':>8}" for level in LEVELS)
    print(f"\nCoverage of the intervals\n{'':16}{'constraint':12}{heads}   truths  error")
    for block, names in blocks_of(records).items():
        for constraint in CONSTRAINTS:
            share, n, error = coverage(records, constraint, names)
            shown = "".join(f"{100 * one:8.1f}" for one in share)
            print(f"{block:16}{constraint:12}{shown}{n:9}{error:7.3f}")


def print_fits(records: list[dict[str, Any]]) -> None:
    """A line a constraint: refusals by code, k-hat, effective draws and time."""
    for constraint in CONSTRAINTS:
        fits = [record["fits"][constraint] for record in records]
        done = [one for one in fits if "quantities" in one]
        codes = Counter(one["refused"] for one in fits if "refused" in one)
        refused = ", ".join(f"{n} {code}" for code, n in codes.items()) or "none"
        line = f"{constraint:12}{len(done)} fitted, refused: {refused}"
        if done:
            line += (
                f"; largest k-hat {max(one['k_hat'] for one in done):.2f}, fewest "
                f"effective {min(one['importance_ess'] for one in done):,.0f} of 4,000; "
                f"{np.median([one['seconds'] for one in done]):.1f} s a fit"
            )
        print(line)
        for record, one in zip(records, fits, strict=True):
            if "refused" in one:
                print(f"    set {record['set']}: {one['message']}")


def print_engines(records: list[dict[str, Any]]) -> None:
    """A line a NUTS fit: its gate, and how far the nested Laplace fit is."""
    print("\nNUTS beside nested Laplace: largest difference of means (sd), ratios of sd")
    for record in records:
        for constraint, one in record["fits"].items():
            head = f"set {record['set']:3} {constraint:12}"
            if "refused" in one:
                print(f"{head}refused: {one['message']}")
                continue
            apart = max(map(abs, one["mean_difference"].values()))
            ratios = one["sd_ratio"].values()
            print(
                f"{head}{apart:.3f}  {min(ratios):.3f} to {max(ratios):.3f}   R-hat "
                f"{one['r_hat']:.4f}, ESS {one['ess']:,.0f}, {one['divergences']} "
                f"divergences, {one['seconds']:.0f} s"
            )


def main() -> None:
    """Fit what is not yet done, then print the tables of what is."""
    parser = argparse.ArgumentParser(description="Published experiment of the risk model")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="published")
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first set")
    parser.add_argument("--nuts", type=int, default=0, help="sets fitted by NUTS as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prevalence-sd", type=float, help="in place of the variant's")
    parser.add_argument("--expected", action="store_true", help="state the mean of P(Y=1)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    variant, seed, sd = arguments.variant, arguments.seed, arguments.prevalence_sd
    expected = arguments.expected
    done = read_lines(arguments.out, (variant, seed, sd, expected))
    wanted = [("laplace", arguments.first + k) for k in range(arguments.sets)]
    wanted += [("nuts", arguments.first + k) for k in range(arguments.nuts)]
    there = {(record["engine"], record["set"]) for record in done}
    for engine, number in wanted:
        if (engine, number) in there:
            continue
        record = fit_all(
            variant, seed, number, engine=engine, prevalence_sd=sd, expected=expected
        )
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        done.append(record)
    laplace, nuts = (
        sorted(
            (one for one in done if (one["engine"], one["set"]) in wanted
             and one["engine"] == engine),
            key=lambda one: one["set"],
        )
        for engine in ("laplace", "nuts")
    )  # fmt: skip
    print(
        f"{variant}: sets {arguments.first} to {arguments.first + len(laplace) - 1}, seed "
        f"{seed}, {N_PATIENTS:,} patients, {N_FEATURES} features"
        + (f", prevalence stated with sd {sd:g}" if sd else "")
        + (", its expectation" if expected else "")
    )
    print_fits(laplace)
    print_changes(laplace, variant)
    print_coverage(laplace)
    if nuts:
        print_engines(nuts)


if __name__ == "__main__":
    main()

"""The cohort of the association benchmarks: exposures, covariates and case status.

Not a script: `associations.py` and `peers.py` import it. Case status follows the logistic
model that is fitted: a log odds linear in the covariates and, for a tenth of the exposures
of each phecode, in the exposure.
"""

import numpy as np

from phenokit.cohort import PhecodeStatus

PREVALENCE = (0.005, 0.1)
EXCLUDED = 0.05
NON_NULL = 0.1


def simulate_scan(
    n: int, n_exposures: int, n_phecodes: int, n_covariates: int, seed: int
) -> tuple[np.ndarray, np.ndarray, PhecodeStatus]:
    """Simulate what a scan is given.

    Parameters
    ----------
    n
        Number of patients.
    n_covariates
        The first is 0/1, the others are standard normal. Each exposure is correlated with
        them (together 0.3) and each phecode depends on them.

    Returns
    -------
    values
        Exposures, shape ``(patient, exposure)``; mean about 0, SD about 1.
    covariates
        Shape ``(patient, covariate)``, without intercept.
    status
        Prevalence 0.5 to 10 % among the patients who are not excluded; 5 % are, drawn anew
        for each phecode. A tenth of the pairs has an effect, a log odds ratio per SD
        between 0.1 and 0.3 of either sign.
    """
    rng = np.random.default_rng(seed)
    covariates = rng.normal(size=(n, n_covariates))
    covariates[:, :1] = covariates[:, :1] > 0
    shared = rng.normal(size=(n_covariates, n_exposures))
    shared *= 0.3 / np.linalg.norm(shared, axis=0)
    values = covariates @ shared + np.sqrt(1 - 0.3**2) * rng.normal(size=(n, n_exposures))
    n_effects = round(NON_NULL * n_exposures)
    cases, excluded = [], []
    for prevalence in rng.uniform(*PREVALENCE, size=n_phecodes):
        log_odds = covariates @ rng.normal(scale=0.2, size=n_covariates)
        chosen = rng.choice(n_exposures, size=n_effects, replace=False)
        effects = rng.uniform(0.1, 0.3, size=n_effects)
        log_odds += values[:, chosen] @ (effects * rng.choice([-1, 1], size=n_effects))
        # A threshold on log odds plus logistic noise is the model's own intercept.
        liability = log_odds + rng.logistic(size=n)
        is_case = liability > np.quantile(liability, 1 - prevalence)
        is_excluded = rng.random(n) < EXCLUDED
        cases.append(np.flatnonzero(is_case & ~is_excluded).astype(np.int32))
        excluded.append(np.flatnonzero(is_excluded).astype(np.int32))
    phecodes = tuple(str(p) for p in range(n_phecodes))
    return values, covariates, PhecodeStatus(phecodes, n, tuple(cases), tuple(excluded))

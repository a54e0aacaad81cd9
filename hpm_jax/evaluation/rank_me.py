"""RankMe: how many dimensions the features use, without labels (Garrido et al. 2023)."""

import numpy as np


def rank_me(features: np.ndarray) -> float:
    """The exponential of the entropy of the singular values of `[N, D]`: from 1 to min(N, D).

    A falling number is a collapse: the features say less and less of the images.
    """
    singular = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    return float(np.exp(-(share * np.log(share)).sum()))

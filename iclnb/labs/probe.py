"""A linear probe: how much of a vector can be read out of hidden states by one matrix.

Letters: P prompts, C width, m entries of the vector that is looked for.
Source: Alain and Bengio 2017; Akyurek et al. 2023, section 5.
"""

import torch
from torch import Tensor


def linear_probe(Z: Tensor, V: Tensor, lam: float = 1e-2) -> tuple[Tensor, Tensor]:
    """The ridge regression of V on Z, both centred: (M, b) with Z M + b close to V.

    Args:
        Z: (P, C) hidden states.
        V: (P, m) what is to be read from them.
        lam: strength of the ridge, as a share of the mean squared entry of the centred Z, times P.

    Returns:
        M (C, m) and b (m,), float64.

    Raises:
        ValueError: Z and V differ in P, or P is below 2.
    """
    if len(Z) != len(V) or len(Z) < 2:
        raise ValueError(f"Z has {len(Z)} rows and V has {len(V)}; they need one number of rows, 2 or more")
    Z, V = Z.double(), V.double()
    Zc, Vc = Z - Z.mean(0), V - V.mean(0)  # (P, C), (P, m)
    strength = lam * len(Z) * Zc.square().mean()  # ()
    M = torch.linalg.solve(Zc.T @ Zc + strength * torch.eye(Z.shape[1], dtype=Z.dtype), Zc.T @ Vc)  # (C, m)
    return M, V.mean(0) - Z.mean(0) @ M


def explained(Z: Tensor, V: Tensor, probe: tuple[Tensor, Tensor]) -> Tensor:
    """R^2 on each prompt: 1 minus its squared error over the mean squared distance of V from its mean, (P,)."""
    M, b = probe
    V = V.double()
    error = (Z.double() @ M + b - V).square().sum(1)  # (P,)
    return 1 - error / (V - V.mean(0)).square().sum(1).mean()  # (P,)

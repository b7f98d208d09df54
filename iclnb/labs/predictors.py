"""What a regressor is held against: predictors that see the pairs before a point, and a probe of its hidden states.

Letters: B prompts of N points in d dimensions. All predictors return (B, N), number n after the n pairs before it, and
0 where there are none. Source: Garg et al. 2022, section 3; Akyurek et al. 2023, section 4.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Fit = Callable[[Tensor, Tensor], Tensor]  # X (B, n, d), Y (B, n) -> weights (B, d)


def over_prefixes(fit: Fit, x: Tensor, y: Tensor) -> Tensor:
    """Predictions (B, N) of a linear estimator that is fitted anew to the pairs before each point.

    Args:
        fit: X (B, n, d), Y (B, n) -> weights (B, d); n may be 0.
        x: (B, N, d) inputs.
        y: (B, N) labels.
    """
    return torch.stack([(fit(x[:, :n], y[:, :n]) * x[:, n]).sum(-1) for n in range(x.shape[1])], dim=1)  # (B, N)


def least_squares(X: Tensor, Y: Tensor) -> Tensor:
    """The weights (B, d) of least squared error on X (B, n, d), Y (B, n); the shortest of them where n < d."""
    return (torch.linalg.pinv(X) @ Y[..., None]).squeeze(-1)  # (B, d)


def ridge(lam: float) -> Fit:
    """(X^T X + lam I)^-1 X^T Y: the best estimate for weights from N(0, I) when lam is the noise's variance.

    Raises:
        ValueError: lam is not above 0.
    """
    if not lam > 0:
        raise ValueError(f"lam is {lam}; ridge regression needs more than 0 (least_squares is its limit)")

    def fit(X: Tensor, Y: Tensor) -> Tensor:
        gram = X.mT @ X + lam * torch.eye(X.shape[-1], dtype=X.dtype)  # (B, d, d)
        return torch.linalg.solve(gram, X.mT @ Y[..., None]).squeeze(-1)  # (B, d)

    return fit


def ridge_path(lams: Sequence[float], x: Tensor, y: Tensor) -> Tensor:
    """What `over_prefixes(ridge(lam), x, y)` gives for each of many strengths, (lams, B, N), from one decomposition.

    Args:
        lams: strengths, each above 0.
        x: (B, N, d) inputs.
        y: (B, N) labels.
    """
    strengths, X = torch.tensor(lams, dtype=torch.float64), x.double()  # (lams,), (B, N, d)
    columns = [torch.zeros(len(lams), len(x), dtype=torch.float64)]  # (lams, B)
    for n in range(1, x.shape[1]):
        values, vectors = torch.linalg.eigh(X[:, :n].mT @ X[:, :n])  # (B, d), (B, d, d)
        moment = (X[:, :n].mT @ y[:, :n, None].double()).mT @ vectors  # (B, 1, d), along the eigenvectors
        query = X[:, n : n + 1] @ vectors  # (B, 1, d)
        columns.append(((moment * query)[:, 0] / (values + strengths[:, None, None])).sum(-1))  # (lams, B)
    return torch.stack(columns, dim=-1)  # (lams, B, N)


def one_step(lr: float | None = None) -> Fit:
    """One step of gradient descent from 0 on the sum of 1/2 (w . x - y)^2: w = lr X^T Y.

    Args:
        lr: learning rate; None is 1 / n, which makes it Garg et al.'s "averaging", the mean of y x.
    """

    def fit(X: Tensor, Y: Tensor) -> Tensor:
        rate = 1 / max(1, X.shape[1]) if lr is None else lr
        return rate * (X.mT @ Y[..., None]).squeeze(-1)  # (B, d)

    return fit


averaging = one_step()


def best_rates(x: Tensor, y: Tensor, f: Tensor) -> Tensor:
    """The learning rate of `one_step` that gives the least squared error after each number of pairs.

    Args:
        x: (B, N, d) inputs.
        y, f: (B, N) labels, and the values to predict.

    Returns:
        (N,); 0 where there are no pairs.
    """
    g = over_prefixes(one_step(1.0), x, y)  # (B, N): predictions at rate 1
    return (g * f).sum(0) / g.square().sum(0).clamp_min(1e-12)  # (N,)


@torch.no_grad()
def read_weights(model: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The weights w that explain best what a model answers to many queries after the same pairs.

    Args:
        model: predictions (B, N) for x (B, N, d) and y (B, N).
        x, y: (P, n + M, d) and (P, n + M): n pairs, then M queries, M >= d; the queries' labels are not used.
        n: number of pairs.

    Returns:
        w (P, d), and R^2 (): the share of the answers' mean square that a function linear in the query gives.

    Source: Akyurek et al. 2023, section 4, on implied weights.
    """
    P, d, M = x.shape[0], x.shape[2], x.shape[1] - n
    each = torch.cat([x[:, None, :n].expand(P, M, n, d), x[:, n:, None]], dim=2)  # (P, M, n + 1, d)
    labels = torch.cat([y[:, None, :n].expand(P, M, n), y[:, n:, None]], dim=2)  # (P, M, n + 1)
    answers = model(each.flatten(0, 1), labels.flatten(0, 1))[:, -1].view(P, M)
    w = least_squares(x[:, n:], answers)  # (P, d)
    rest = answers - torch.einsum("pd,pmd->pm", w, x[:, n:])  # (P, M)
    return w, 1 - rest.square().sum() / answers.square().sum()


def nearest_neighbours(x: Tensor, y: Tensor, k: int = 3) -> Tensor:
    """The mean label (B, N) of the k earlier points that lie closest, or of all where there are fewer.

    Raises:
        ValueError: k is below 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a mean needs at least 1 neighbour")
    N, distance = x.shape[1], torch.cdist(x, x)  # (B, N, N)
    columns = [torch.zeros_like(y[:, 0])]  # (B,)
    for n in range(1, N):
        closest = distance[:, n, :n].topk(min(k, n), largest=False).indices  # (B, k)
        columns.append(y.gather(1, closest).mean(1))  # (B,)
    return torch.stack(columns, dim=1)  # (B, N)


def linear_probe(Z: Tensor, V: Tensor, lam: float = 1e-2) -> tuple[Tensor, Tensor]:
    """The ridge regression of V on Z, both centred: (M, b) with Z M + b close to V.

    Args:
        Z: (P, C) hidden states of P prompts; C is the width.
        V: (P, m) what is to be read from them.
        lam: strength of the ridge, as a share of the mean squared entry of the centred Z, times P.

    Returns:
        M (C, m) and b (m,), float64.

    Raises:
        ValueError: Z and V differ in P, or P is below 2.

    Source: Alain and Bengio 2017; Akyurek et al. 2023, section 5.
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

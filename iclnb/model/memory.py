"""How much memory prediction and fine-tuning take, tensor by tensor in bytes, and how much a device has free.

Letters: L layers, C width, H heads, G key heads, D head width, V vocabulary, F hidden width of an MLP, P prefix tokens,
T tokens; A = H D, all heads side by side.
"""

import os
from pathlib import Path

import torch

from iclnb.model.gpt import GPT, GPTConfig

WIDE = 4  # bytes of a float32, in which softmax statistics, logits and records are held
RECOMPUTE_ABOVE = 2**30  # bytes of activations from which on fine-tuning computes them twice instead of keeping them
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")  # Linux's own account, and a container's
CONTAINERS = (  # below CGROUP: limit, use, and which entry of which file says how much of the use is cached files
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),  # control groups, version 2
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),  # 1
)
UNKNOWN_FREE = 2**31  # bytes taken as free where the system does not tell


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on a device; on a CPU within the limit of a container, where it has one."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # held by torch, but empty
        return torch.cuda.mem_get_info(device)[0] + unused
    available = _entry(MEMINFO, "MemAvailable:")
    free = _installed_bytes() // 2 if available is None else 1024 * available
    for limit, used, stat, cached in CONTAINERS:
        try:
            left = int((CGROUP / limit).read_text()) - int((CGROUP / used).read_text())
        except (OSError, ValueError):  # no container, or one whose limit is "max"
            continue
        free = min(free, left + (_entry(CGROUP / stat, cached) or 0))  # cached files give way
    return max(0, free)


def _entry(file: Path, name: str) -> int | None:
    """The number after `name` in a file of the system with one entry a line; None where it is missing."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), None)


def _installed_bytes() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2 * UNKNOWN_FREE


def query_bytes(config: GPTConfig, dtype: torch.dtype, P: int, T: int, answer_tokens: int, record: bool) -> int:
    """Bytes that one query of a batch needs at the peak of a forward pass, an upper estimate.

    Args:
        config: the model's.
        dtype: of its parameters.
        P: tokens of the shared prefix, which is not counted itself.
        T: tokens of the query, padding and answers included.
        answer_tokens: positions whose logits are needed.
        record: whether internals are recorded.
    """
    C, H, F, width = config.n_embd, config.n_head, config.mlp_width, dtype.itemsize
    A = H * config.head_dim
    stream = 3 * C * width  # the residual stream, its sum with attention's output, and their norm
    attention = 6 * A * width + 4 * A * WIDE  # q, k, v, each also rotated or repeated; two attentions and their mixture
    attention += 0 if config.qk_norm is None else 2 * A * max(width, WIDE)  # q and k before their norms
    attention += 0 if config.momentum is None else 3 * A * WIDE  # the values in chunks, their sums, and both together
    mlp = 3 * F * width  # before and after the activation, and the gate
    scores = 2 * H * (P + T) * WIDE  # scores and their softmax, where no kernel avoids them
    logits = 2 * answer_tokens * config.vocab_size * WIDE  # and their exponentials
    recorded = 2 * config.n_layer * (H * (P + T) + C + A) * WIDE if record else 0  # as kept by layer, then stacked
    return T * (stream + max(attention + scores, mlp)) + logits + recorded


def activation_bytes(config: GPTConfig, dtype: torch.dtype, T: int, recompute: bool = False) -> int:
    """Bytes that a fine-tuning step on one sequence of T tokens keeps in the blocks for its way back.

    With `recompute` that is the input of every block, and all of one block at a time.
    """
    C, H, F = config.n_embd, config.n_head, config.mlp_width
    A, keys = H * config.head_dim, config.key_heads * config.head_dim
    normed = C * (max(WIDE, dtype.itemsize) if config.norm == "rms" else dtype.itemsize)  # RMSNorm keeps a wide x
    attention = (C + 3 * A + A) * dtype.itemsize + H * WIDE  # norm(x) for W_K and W_V; q, k, v; the output; log-sum-exp
    if config.qk_norm is not None:  # what both norms act on, and their means
        count = (H + config.key_heads) if config.qk_norm == "head" else 2
        attention += (A + keys) * max(WIDE, dtype.itemsize) + count * WIDE
    mlp = (3 if config.activation == "swiglu" else 1) * F * dtype.itemsize  # what the activation, and the gate, act on
    statistics = (4 if config.norm == "layer" else 2) * WIDE  # means and deviations of both norms
    block = 2 * normed + attention + mlp + statistics
    inputs = config.n_layer * C * dtype.itemsize
    return T * (inputs + block if recompute else config.n_layer * block)


def needs_recomputing(config: GPTConfig, dtype: torch.dtype, T: int) -> bool:
    """Whether fine-tuning on T tokens keeps only the inputs of the blocks and computes the rest again."""
    return activation_bytes(config, dtype, T) > RECOMPUTE_ABOVE


def finetuning_bytes(config: GPTConfig, dtype: torch.dtype, T: int) -> dict[str, int]:
    """Bytes that attention-only fine-tuning holds at its peak, part by part.

    Args:
        config: the model's; the shape alone counts.
        dtype: of the given model's parameters.
        T: tokens of the longest training sequence.

    Returns:
        Name of the part -> bytes: "weights", of the given model, shared but for keys and values; "trained", the new
        keys and values; "masters", their float32 copies, if dtype has 16 bits; "gradients"; "activations" of the
        blocks; "head", the output projection in float32, if dtype has 16 bits; "logits" with their softmax and their
        gradient. There is no optimiser state: plain SGD has none.
    """
    with torch.device("meta"):
        weights = sum(p.numel() for p in GPT(config).parameters())
    C, kv = config.n_embd, config.key_heads * config.head_dim
    trained = 2 * config.n_layer * (C + config.biased_qkv) * kv
    narrow = dtype.itemsize < WIDE
    return {
        "weights": weights * dtype.itemsize,
        "trained": trained * dtype.itemsize,
        "masters": trained * WIDE if narrow else 0,
        "gradients": trained * dtype.itemsize,
        "activations": activation_bytes(config, dtype, T, needs_recomputing(config, dtype, T)),
        "head": config.vocab_size * C * WIDE if narrow else 0,
        "logits": 3 * T * config.vocab_size * max(WIDE, dtype.itemsize),
    }

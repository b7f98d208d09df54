"""A checkpoint's config.json: which layout and which GPTConfig it says, and how a GPTConfig is said in it."""

from dataclasses import replace

from iclnb.gpt import GPTConfig
from iclnb.layouts import LAYOUTS, Layout

MOMENTUM = "_momentum"  # ends the model_type of a model with momentum attention, so that others do not load it as plain


def read_config(raw: dict) -> tuple[Layout, GPTConfig]:
    """The layout and the configuration that a config.json holds.

    Raises:
        KeyError: it lacks an entry.
        ValueError: an architecture or a variant that is not supported.
    """
    kind = str(raw.get("model_type"))
    layout = LAYOUTS.get(kind.removesuffix(MOMENTUM))
    if layout is None:
        raise ValueError(f"model_type is {kind!r}; supported are {', '.join(LAYOUTS)}")
    config = layout.read_config(raw)
    if not kind.endswith(MOMENTUM):
        if "momentum" in raw:
            raise ValueError(f"it says momentum {raw['momentum']}, but its model_type is {kind!r}, plain attention")
        return layout, config
    momentum = tuple(raw["momentum"]) if isinstance(raw["momentum"], list) else raw["momentum"]
    return layout, replace(config, momentum=momentum, learn_momentum=raw["learn_momentum"])


def write_config(layout: Layout, c: GPTConfig) -> dict:
    """The entries of config.json that say this configuration."""
    plain = {
        "model_type": layout.model_type,
        "architectures": [layout.class_name],
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tie_embeddings,
        "bos_token_id": c.bos_token_id,
        "eos_token_id": c.eos_token_id,
        **layout.write_config(c),
    }
    if c.momentum is None:
        return plain
    kind = layout.model_type + MOMENTUM
    return plain | {"model_type": kind, "architectures": [], "momentum": c.momentum, "learn_momentum": c.learn_momentum}


def layout_for(config: GPTConfig) -> Layout:
    """The layout that keeps everything of this configuration.

    Raises:
        ValueError: there is none, because no architecture of the Hub combines these variants.
    """
    for layout in LAYOUTS.values():
        try:
            _, read_again = read_config(write_config(layout, config))
        except ValueError:  # a variant that this layout cannot say
            continue
        if _spelled_out(read_again, config) == _spelled_out(config, config):
            return layout
    raise ValueError(f"no layout of {', '.join(LAYOUTS)} holds {config}")


def _spelled_out(c: GPTConfig, ids: GPTConfig) -> GPTConfig:
    """The configuration with its defaults written out, and the special ids of another."""
    explicit = {"d_ff": c.mlp_width, "n_kv_head": c.key_heads, "qkv_bias": c.biased_qkv}
    return replace(c, **explicit, bos_token_id=ids.bos_token_id, eos_token_id=ids.eos_token_id)

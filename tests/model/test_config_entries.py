"""What config.json may say: every option of the architectures' classes, and any value, honoured or refused."""

import json
import shutil
from dataclasses import MISSING, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from toys import hf_model
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from iclnb.model.architectures import LAYOUTS, layout_for, read_config, write_config
from iclnb.model.checkpoints import CheckpointError, load_model, save
from iclnb.model.gpt import GPTConfig
from iclnb.model.layouts import SUPPORTED

CPU = torch.device("cpu")
HARMLESS = {  # option -> another value than usual, which changes no logit
    "transformers_version": "4.0.0",
    "architectures": ["GPT"],
    "output_hidden_states": True,
    "return_dict": True,  # False is more than the classes themselves can do
    "dtype": "float16",
    "chunk_size_feed_forward": 3,
    "id2label": {"0": "no"},
    "label2id": {"no": 0},
    "problem_type": "regression",
    "use_cache": False,
}
LLAMA = {"initializer_range": 0.5, "attention_dropout": 0.5, "pad_token_id": 7}
QWEN = LLAMA | {"sliding_window": 3, "max_window_layers": 0}
DROPPED = dict.fromkeys(["dropout", "attention_dropout", "activation_dropout", "layerdrop"], 0.5)
SUMMARY = {"summary_type": "last", "summary_use_proj": False, "summary_activation": "tanh"}
SUMMARY |= {"summary_proj_to_labels": False, "summary_first_dropout": 0.5}
HARMLESS_IN = {
    "xglm": DROPPED | {"init_std": 0.5, "decoder_start_token_id": 3},
    "gpt2": SUMMARY
    | dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop", "initializer_range"], 0.5)
    | {"reorder_and_upcast_attn": True, "pad_token_id": 7},
    "gpt_neox": LLAMA | {"hidden_dropout": 0.5, "classifier_dropout": 0.5, "is_decoder": True},
    "llama": LLAMA | {"pretraining_tp": 2},
    "qwen2": QWEN,
    "qwen3": QWEN,
    "smollm3": LLAMA | {"sliding_window": 3},
    "olmo2": LLAMA,
}
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}
HONOURED_IN = {  # option -> another value, which the shapes of the tensors allow
    "xglm": {"activation_function": "gelu_new", "scale_embedding": False, "pad_token_id": 0},
    "gpt2": {"activation_function": "gelu", "layer_norm_epsilon": 0.1},
    "gpt_neox": {"hidden_act": "gelu_new", "layer_norm_eps": 0.1, "use_parallel_residual": False, **ROPE},
    "smollm3": {
        "rms_norm_eps": 0.1,
        "no_rope_layer_interval": 1,
        "no_rope_layers": None,
        "hidden_act": "swish",
        **ROPE,
    },
    **dict.fromkeys(["llama", "qwen2", "qwen3", "olmo2"], {"rms_norm_eps": 0.1, "hidden_act": "swish", **ROPE}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each architecture, written by transformers."""
    found = {}
    for kind in LAYOUTS:
        found[kind] = tmp_path_factory.mktemp(kind)
        hf_model(kind).save_pretrained(found[kind])
    return found


@pytest.fixture
def edited(folders, tmp_path):
    """Called with an architecture: its checkpoint, whose config.json says other things, or nothing of some."""

    def edit(kind, absent=(), **entries):
        said = json.loads((folders[kind] / "config.json").read_text()) | entries
        kept = {entry: value for entry, value in said.items() if entry not in absent}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        if not (tmp_path / "model.safetensors").exists():
            shutil.copy(folders[kind] / "model.safetensors", tmp_path)
        return tmp_path

    return edit


@torch.no_grad()
def assert_logits_equal_transformers(folder, tokens=30):
    ids = torch.randint(0, 400, (2, tokens))
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids)[0]
    torch.testing.assert_close(load_model(folder, CPU, torch.float32)(ids), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_option_of_the_class_is_honoured_or_refused_or_harmless(kind):
    layout, theirs = LAYOUTS[kind], CONFIG_MAPPING[kind]
    options = {option.name for option in fields(theirs)} | set(theirs.attribute_map)
    known = {*layout.entries, *layout.supported, *SUPPORTED, *layout.aliases, *HARMLESS, *HARMLESS_IN[kind]}
    assert options <= known | HONOURED_IN[kind].keys(), "an option of transformers that nobody has looked at"


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_a_file_leaves_out_is_what_the_class_says(kind):
    layout, theirs = LAYOUTS[kind], CONFIG_MAPPING[kind]
    usual = {option.name: option.default for option in fields(theirs) if option.default is not MISSING}
    rope = getattr(theirs(), "rope_parameters", {})
    usual |= {"rope_theta": rope.get("rope_theta"), "rotary_emb_base": rope.get("rope_theta")}
    usual |= {"rotary_pct": rope.get("partial_rotary_factor")}
    said = {entry: default[0] for entry, (_, *default) in layout.entries.items() if default}
    said |= {entry: known[0] for entry, known in (SUPPORTED | layout.supported).items()}
    assert {entry: value for entry, value in said.items() if usual.get(entry, value) != value} == {}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_options_that_are_honoured_or_harmless_change_what_they_change_in_transformers(kind, edited):
    assert_logits_equal_transformers(edited(kind, **HARMLESS, **HARMLESS_IN[kind] | HONOURED_IN[kind]))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_options_that_are_not_supported_are_refused_by_name(kind, folders):
    raw = json.loads((folders[kind] / "config.json").read_text())
    refused = {"hidden_act": "relu", "layer_types": ["full_attention", "sliding_attention"], "pad_token_id": 5}
    for entry, known in (SUPPORTED | LAYOUTS[kind].supported).items():
        wrong = refused.get(entry, not known[0] if isinstance(known[0], bool) else 64)
        with pytest.raises(ValueError, match=f"^{entry} is .*; supported is {known[0]!r}"):
            read_config(raw | {entry: wrong})


@pytest.mark.parametrize("kind", ["xglm", "gpt2", "gpt_neox"])
def test_heads_of_another_width_are_refused_where_the_class_has_none(kind, folders):
    raw = json.loads((folders[kind] / "config.json").read_text())
    assert read_config(raw | {"head_dim": 8})[1] == read_config(raw)[1]
    with pytest.raises(ValueError, match="head_dim is 16; supported is 8"):
        read_config(raw | {"head_dim": 16})


@pytest.mark.parametrize("kind", ["xglm", "gpt2"])
def test_other_names_of_an_entry_count_more_than_its_own(kind, folders):
    raw = json.loads((folders[kind] / "config.json").read_text())
    for alias, entry in LAYOUTS[kind].aliases.items():
        said = raw | {alias: 16, entry: 8}
        theirs = getattr(CONFIG_MAPPING[kind].from_dict(dict(said)), entry)
        assert getattr(read_config(said)[1], LAYOUTS[kind].entries[entry][0]) == theirs == 16
    assert CONFIG_MAPPING[kind].attribute_map == LAYOUTS[kind].aliases


@pytest.mark.parametrize(
    "older",
    [
        {"rope_theta": 300.0},
        {"rope_theta": 300.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 300.0},
        {"rope_parameters": {"rope_theta": 300.0}, "rope_theta": 700.0},
        {"rope_parameters": {"rope_theta": 300.0}, "rope_scaling": {"type": "default", "rope_theta": 700.0}},
        {},
    ],
)
@pytest.mark.parametrize("kind", ["llama", "smollm3", "gpt_neox"])
def test_rotary_bases_are_found_where_transformers_finds_them(kind, older, folders):
    raw = json.loads((folders[kind] / "config.json").read_text())
    said = {entry: value for entry, value in raw.items() if entry != "rope_parameters"} | older
    theirs = CONFIG_MAPPING[kind].from_dict(json.loads(json.dumps(said))).rope_parameters
    _, config = read_config(said)
    assert config.rotary_base == theirs["rope_theta"]
    assert config.rotary_fraction == theirs.get("partial_rotary_factor", 1)


@pytest.mark.parametrize("inside, outside", [(8, None), (None, 8), (8, 16), (None, None)])
@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_older_files_slow_rotary_positions_down_too(kind, inside, outside, edited):
    rule = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    length = "original_max_position_embeddings"
    said = {"rope_theta": 50.0, "rope_scaling": rule | ({} if inside is None else {length: inside})}
    folder = edited(kind, absent=["rope_parameters"], **said | ({} if outside is None else {length: outside}))
    assert_logits_equal_transformers(folder)
    assert load_model(folder, CPU, torch.float32).config.rotary_scaling is not None


def special_tokens(folder):
    config = load_model(folder, CPU, torch.float32).config
    return config.bos_token_id, config.eos_token_id


@pytest.mark.parametrize(
    "said, expected",
    [
        ({"bos_token_id": None, "eos_token_id": None}, (None, None)),
        ({"bos_token_id": None, "eos_token_id": 7}, (None, 7)),
        ({"eos_token_id": [9, 8, 7]}, (0, 9)),
        ({"absent": ["bos_token_id", "eos_token_id"]}, (1, 2)),  # LlamaConfig's own
    ],
)
def test_special_tokens_are_what_the_file_or_the_architecture_says(said, expected, edited):
    assert special_tokens(edited("llama", **said)) == expected


def test_an_architectures_own_special_tokens_are_not_those_of_a_smaller_vocabulary(edited):
    assert special_tokens(edited("gpt2", absent=["bos_token_id", "eos_token_id"])) == (None, None)  # not 50256


@pytest.mark.parametrize("entry", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [400, -1, "</s>", True, 1.0, [], [[1]], [400], {}])
def test_special_tokens_outside_the_vocabulary_are_refused(entry, value, edited):
    with pytest.raises(CheckpointError, match=f"config.json: {entry} is .*; it must be an id below 400, or None"):
        load_model(edited("llama", **{entry: value}), CPU, torch.float32)


def with_tensors(folder, edit):
    """The folder, whose tensors are what `edit` makes of them."""
    tensors = edit(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize("kind, table", [("llama", "model.embed_tokens.weight"), ("gpt2", "transformer.wte.weight")])
def test_an_output_projection_of_its_own_is_not_tied_whatever_config_says(kind, table, factor, edited, tmp_path):
    folder = edited(kind, tie_word_embeddings=True)
    with_tensors(folder, lambda tensors: tensors | {"lm_head.weight": factor * tensors[table]})
    assert_logits_equal_transformers(folder)
    model = load_model(folder, CPU, torch.float32)
    assert model.config.tie_embeddings == (model.lm_head.weight is model.embed_tokens.weight) == (factor == 1.0)
    save(model, None, tmp_path / "saved")
    assert_logits_equal_transformers(tmp_path / "saved")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_embeddings_are_tied_where_the_class_ties_them_unasked(kind, edited):
    assert (
        load_model(edited(kind), CPU, torch.float32).config.tie_embeddings == CONFIG_MAPPING[kind]().tie_word_embeddings
    )
    folder = edited(kind, absent=["tie_word_embeddings"])
    assert_logits_equal_transformers(folder)


def test_one_table_may_be_stored_as_the_output_projection(edited):
    folder = edited("smollm3", tie_word_embeddings=True)
    with_tensors(
        folder, lambda tensors: {name.replace("model.embed_tokens", "lm_head"): t for name, t in tensors.items()}
    )
    assert_logits_equal_transformers(folder)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32, torch.bool])
def test_quantised_tensors_are_not_taken_for_numbers(dtype, edited):
    weight = "model.layers.1.mlp.up_proj.weight"
    folder = with_tensors(edited("llama"), lambda tensors: tensors | {weight: tensors[weight].to(dtype)})
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=f"up_proj.weight is stored as {kind}; supported are float16, bfloat16"):
        load_model(folder, CPU, torch.float32)


@pytest.mark.parametrize("raw", [[], "gpt2", 3, None, [{"model_type": "gpt2"}]])
def test_a_config_that_is_no_object_is_refused(raw):
    with pytest.raises(ValueError, match="it holds .*; it must be an object with the entries of a configuration"):
        read_config(raw)


DEEP = json.loads("[" * 900 + "]" * 900)


@pytest.mark.parametrize("value", ["long " * 10**5, [DEEP] * 10**3, {"rope_type": DEEP}, list(range(-(10**5), 0))])
@pytest.mark.parametrize("entry", ["hidden_size", "hidden_act", "rope_parameters", "eos_token_id", "model_type"])
def test_a_message_stays_short_whatever_the_value(entry, value, folders):
    raw = json.loads((folders["llama"] / "config.json").read_text())
    with pytest.raises(ValueError) as error:
        read_config(raw | {entry: value})
    assert len(str(error.value)) < 300


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400)
NEAR = st.sampled_from(
    [0, 1, 2, 4, 8, 0.5, 1.0, "silu", "gelu", "default", "llama3", "full_attention", -1, 16, 32, 400]
)
JSON = st.recursive(
    ATOMS | NEAR, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=2)
)
ROPE_ENTRIES = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "partial_rotary_factor",
]
ROPES = st.dictionaries(st.sampled_from([*ROPE_ENTRIES, "original_max_position_embeddings"]), NEAR | JSON, max_size=6)


@st.composite
def changes(draw):
    """An architecture, and entries of its config.json with other values."""
    kind = draw(st.sampled_from(sorted(LAYOUTS)))
    layout = LAYOUTS[kind]
    names = sorted({*layout.entries, *SUPPORTED, *layout.supported, *layout.aliases, "rope_scaling", "rope_parameters"})
    names += ["momentum", "learn_momentum", "no_rope_layers", "no_rope_layer_interval", "model_type"]
    entries = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2))
    return kind, {entry: draw(ROPES | JSON if entry.startswith("rope") else NEAR | JSON) for entry in entries}


@settings(max_examples=80)
@given(changed=changes())
def test_any_value_is_read_rightly_or_refused_in_one_sentence(changed, folders, tmp_path_factory):
    kind, entries = changed
    folder = tmp_path_factory.mktemp("any")
    said = json.loads((folders[kind] / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps(said))
    shutil.copy(folders[kind] / "model.safetensors", folder)
    try:
        model = load_model(folder, CPU, torch.float32)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    try:
        AutoModelForCausalLM.from_pretrained(folder)
    except Exception:  # stricter than we are, about 1 for 1.0, say
        return
    assert_logits_equal_transformers(folder, tokens=min(30, model.config.n_positions))


CONFIGS = st.builds(
    dict,
    d_head=st.sampled_from([None, 2, 6, 8]),
    n_kv_head=st.sampled_from([None, 1, 2]),
    qk_norm=st.sampled_from([None, "head", "all"]),
    norm_after=st.booleans(),
    rotary_layers=st.sampled_from([None, (True, False), (True, True)]),
    qkv_bias=st.booleans(),
)


@given(variant=CONFIGS)
def test_a_layout_says_all_of_a_configuration_or_none_is_found(variant):
    llama = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "d_ff": 40}
    config = GPTConfig(60, n_layer=2, n_head=4, n_embd=32, **llama, **variant)
    try:
        layout = layout_for(config)
    except ValueError as error:
        assert str(error).startswith("no layout of xglm")
        return
    _, again = read_config(json.loads(json.dumps(write_config(layout, config))))
    for name in ("head_dim", "key_heads", "qk_norm", "norm_after", "biased_qkv"):
        assert getattr(again, name) == getattr(config, name)
    assert [again.rotates(i) for i in range(2)] == [config.rotates(i) for i in range(2)]

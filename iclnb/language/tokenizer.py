"""The words of pocket-gpt's world as tokens: one token a word, and bytes for everything else."""

from typing import Any

from iclnb.language.lexicon import AFTER, ATTRIBUTES, BEFORE, BETWEEN, NONSENSE, STATES
from iclnb.language.sentences import CLAIMS, PATTERNS, REVIEWS

BOS, EOS = "<s>", "</s>"
CONTENT = tuple(dict.fromkeys(w for classes in ATTRIBUTES.values() for words in classes.values() for w in words))
FUNCTION = tuple(
    dict.fromkeys(
        word
        for pattern in (*PATTERNS, *REVIEWS, *CLAIMS, "in near at like and also")
        for word in pattern.split()
        if "{" not in word
    )
)


def world_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of the world: all of them, and those that can start a text."""
    words = dict.fromkeys((*FUNCTION, *CONTENT, *STATES, *NONSENSE, *BEFORE, *AFTER, *BETWEEN))
    stance = [word for words in ATTRIBUTES["stance"].values() for word in words]
    return tuple(words), (*BEFORE, *FUNCTION, *stance)


def build_tokenizer() -> Any:
    """The tokenizer: one token for each word of the world, bytes for everything else.

    Returns:
        A transformers PreTrainedTokenizerFast. The space before a word belongs to its token, as in GPT-2.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words, first_words = world_words()
    tokens = [BOS, EOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġ{word}" for word in words), *first_words]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )

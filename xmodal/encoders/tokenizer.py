"""Tokenizers: text to padded token ids, CLIP's byte pairs and the word list of the shipped tiny CLIP.

Both are called with one text or several and answer with ids (K, L): start token, text, end token, zeros. The end token
has the largest id, which is how CLIP's text tower finds it.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


class Tokenizer:
    """Base class of tokenizers: `encode` returns the ids of a text, calling adds start, end and padding.

    Args:
        context_length: L, longest sequence.
        sot: id of the start token.
        eot: id of the end token, the largest there is.
    """

    def __init__(self, context_length: int, sot: int, eot: int):
        self.context_length, self.sot, self.eot = context_length, sot, eot
        self.vocab_size = eot + 1

    def encode(self, text: str) -> list[int]:
        """Ids of a text without start and end tokens."""
        raise NotImplementedError

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None, truncate: bool = False) -> Tensor:
        """Token ids (K, L) of one text or several.

        Args:
            texts: what to encode.
            context_length: L when another one is wanted.
            truncate: cut a text that is too long instead of refusing it.

        Raises:
            ValueError: a text that does not fit.
        """
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        out = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(out, texts, strict=True):
            ids = [self.sot, *self.encode(text), self.eot]
            if len(ids) > length:
                if not truncate:
                    raise ValueError(f"{text!r} makes {len(ids)} tokens, only {length} fit: cut it or truncate=True")
                ids = [*ids[: length - 1], self.eot]
            row[: len(ids)] = torch.tensor(ids)
        return out


class ClipTokenizer(Tokenizer):
    """CLIP's byte-pair encoding (lower case, 49408 entries), the table of which open_clip carries."""

    def __init__(self, context_length: int = 77):
        super().__init__(context_length, sot=49406, eot=49407)

    def encode(self, text: str) -> list[int]:
        """Byte-pair ids of a text."""
        return _bpe().encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        return _bpe().decode([int(i) for i in ids])


@lru_cache(maxsize=1)
def _bpe():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class WordTokenizer(Tokenizer):
    """One id per word of a short list, which is a word's place in it.

    Args:
        words: the list, lower case: `<pad>` first, `<end>` last, `<start>` and `<unk>` anywhere.
        context_length: L, longest sequence.

    Raises:
        ValueError: a list without these, or with a word twice.
    """

    def __init__(self, words: Sequence[str], context_length: int = 16):
        self.words = list(words)
        self.ids = {word: i for i, word in enumerate(self.words)}
        if len(self.ids) != len(self.words):
            raise ValueError(f"{len(self.words) - len(self.ids)} words stand twice in the list")
        if self.words[:1] != ["<pad>"] or self.words[-1] != "<end>" or not {"<start>", "<unk>"} <= self.ids.keys():
            raise ValueError("the word list must begin with <pad>, end with <end> and hold <start> and <unk>")
        self.unk = self.ids["<unk>"]
        super().__init__(context_length, self.ids["<start>"], self.ids["<end>"])

    def encode(self, text: str) -> list[int]:
        """Ids of the words of a text; marks are dropped, an unknown word gets the id `unk`."""
        return [self.ids.get(word, self.unk) for word in split_words(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of some ids."""
        return " ".join(self.words[int(i)] for i in ids if int(i))

    def unknown(self, texts: str | Sequence[str]) -> list[str]:
        """Words of the texts that are not in the list."""
        texts = [texts] if isinstance(texts, str) else texts
        return sorted({word for text in texts for word in split_words(text)} - self.ids.keys())


class HubTokenizer(Tokenizer):
    """The tokenizer that open_clip names for a model (SigLIP); needs the package transformers and its hub file.

    Args:
        model: open_clip's name of the model.
        context_length: L.
    """

    def __init__(self, model: str, context_length: int):
        self.model, self.context_length = model, context_length

    def encode(self, text: str) -> list[int]:
        """Not there: learned prompts (CoOp and others) cut and join the tokens of CLIP's own tokenizer.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.model} has the tokenizer of its hub, which does not say where a class name stands in a prompt: "
            "methods that learn prompts need a CLIP model with CLIP's own tokenizer"
        )

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None, truncate: bool = False) -> Tensor:
        """Token ids (K, L); such tokenizers cut what is too long by themselves."""
        return _hub_tokenizer(self.model)([texts] if isinstance(texts, str) else list(texts), self.context_length)


@lru_cache(maxsize=4)
def _hub_tokenizer(model: str):
    import open_clip

    try:
        return open_clip.get_tokenizer(model)
    except Exception as error:
        name = open_clip.get_model_config(model)["text_cfg"].get("hf_tokenizer_name")
        raise FileNotFoundError(
            f"the tokenizer of {model} needs the package transformers and the file tokenizer.json of {name} from the "
            f"Hugging Face hub in the local cache ({type(error).__name__}); or give token ids"
        ) from error


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, `_` and `-` counted as spaces, other marks dropped."""
    return re.findall(r"[a-z0-9']+", text.lower())

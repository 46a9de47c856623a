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
    """What both tokenizers share: `encode` gives the bare ids of a text, calling pads and closes them.

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
                    raise ValueError(f"{text!r} makes {len(ids)} tokens, at most {length} fit: shorten it or truncate=True")
                ids = [*ids[: length - 1], self.eot]
            row[: len(ids)] = torch.tensor(ids)
        return out


class ClipTokenizer(Tokenizer):
    """CLIP's byte-pair encoding (lower case, 49408 entries), the table of which open_clip carries."""

    def __init__(self, context_length: int = 77):
        self.bpe = _bpe()
        super().__init__(context_length, self.bpe.sot_token_id, self.bpe.eot_token_id)

    def encode(self, text: str) -> list[int]:
        """Byte-pair ids of a text."""
        return self.bpe.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        return self.bpe.decode([int(i) for i in ids])


@lru_cache(maxsize=1)
def _bpe():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class WordTokenizer(Tokenizer):
    """One id per word of a short list: 0 pads, words from 1, then unknown, start and end.

    Args:
        words: the list, lower case.
        context_length: L, longest sequence.
    """

    def __init__(self, words: Sequence[str], context_length: int = 16):
        self.words = list(words)
        self.ids = {word: i for i, word in enumerate(self.words, start=1)}
        if len(self.ids) != len(self.words):
            raise ValueError(f"{len(self.words) - len(self.ids)} words stand twice in the list")
        self.unk = len(self.words) + 1
        super().__init__(context_length, self.unk + 1, self.unk + 2)

    def encode(self, text: str) -> list[int]:
        """Ids of the words of a text; marks are dropped, an unknown word gets the id `unk`."""
        return [self.ids.get(word, self.unk) for word in split_words(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The words of some ids."""
        names = {**{i: w for w, i in self.ids.items()}, self.unk: "?"}
        return " ".join(names[int(i)] for i in ids if int(i) in names)

    def unknown(self, texts: str | Sequence[str]) -> list[str]:
        """Words of the texts that are not in the list."""
        texts = [texts] if isinstance(texts, str) else texts
        return sorted({word for text in texts for word in split_words(text)} - self.ids.keys())


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, `_` and `-` counted as spaces, other marks dropped."""
    return re.findall(r"[a-z0-9']+", text.lower())

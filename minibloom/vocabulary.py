"""The vocabulary: tokens and their ids, the special ones among them, and ids back to text.

A token is written in the 256 symbols of `byte_pair.py`, an added one as it stands. Either is some bytes, and the text
of ids is their bytes, one after the other. One token may hold only part of a character, so a text that grows token by
token is decoded by a `TokenStream`.
"""

from __future__ import annotations

import codecs
import operator
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .byte_pair import BYTE_OF
from .errors import InputError
from .fields import choice

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
MORE = "additional_special_tokens"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")  # of an AddedToken
ERRORS = choice("replace", "strict", "ignore", "backslashreplace", "surrogateescape")
CLEAN_UP = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'"} | {
    f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")
}


def _id_of(name: str) -> property:
    """The id of the token called `name`; None for a token that is None. Setting the id sets the token."""

    def set_token(self: Vocabulary, token_id: int | None) -> None:
        setattr(self, name, None if token_id is None else self._token(token_id))

    return property(lambda self: self._id(name, getattr(self, name)), set_token)


class Vocabulary:
    """The tokens of a pipeline, and what decoding makes of them. `BloomTokenizerFast` adds the way from text to ids.

    special: the tokens of `NAMED` by name, and a list of more under "additional_special_tokens".
    errors: what decoding does with bytes that are no UTF-8; see bytes.decode.
    """

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token: str | None

    def __init__(self, backend: Tokenizer, special: Mapping[str, Any], errors: str, clean_up: bool) -> None:
        named, more = {name: special[name] for name in NAMED}, special[MORE] or ()
        self.errors = ERRORS.check("errors", errors)
        self.clean_up_tokenization_spaces = bool(clean_up)
        self.additional_special_tokens = _contents(more)
        for name, token in named.items():
            setattr(self, name, token)
        self._backend = backend
        self._note_added()
        self._add([*(token for token in named.values() if token is not None), *more], special=True)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _content(name, value, optional=True) if name in NAMED else value)

    # --- Tokens and ids ---

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of several."""
        ids = listed(ids)
        if not isinstance(ids, list):
            return self._token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token(one) for one in ids if one not in skipped]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return the id of a token, or the ids of several; `unk_token_id` for what is no token."""
        if isinstance(tokens, str):
            token_id = self._backend.token_to_id(tokens)
            return self.unk_token_id if token_id is None else token_id
        several = list(tokens) if isinstance(tokens, Iterable) else [None]
        if not all(isinstance(token, str) for token in several):
            raise InputError(f"tokens is {reprlib.repr(tokens)}, expected a string or a list of strings.")
        return [self.convert_tokens_to_ids(token) for token in several]

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id, added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def get_added_vocab(self) -> dict[str, int]:
        """Return the special tokens, and what else was added, with their ids."""
        return {token.content: token_id for token_id, token in self._added.items()}

    @property
    def vocab_size(self) -> int:
        """Number of tokens without those added at the end; `len(tokenizer)` counts these too."""
        return self._backend.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._backend.get_vocab_size(with_added_tokens=True)

    def _token(self, token_id: Any) -> str:
        try:
            index = operator.index(token_id)
        except TypeError:
            index = -1
        token = self._backend.id_to_token(index) if 0 <= index < 2**32 else None
        if token is None:
            raise InputError(f"id {reprlib.repr(token_id)} is not in the vocabulary, 0 to {len(self) - 1}.")
        return token

    def _id(self, name: str, token: str | None) -> Any:
        token_id = None if token is None else self._backend.token_to_id(token)
        if token is not None and token_id is None:
            hint = f' Add it: tokenizer.add_special_tokens({{"{name}": {token!r}}}).' if name in NAMED else ""
            raise InputError(f"{name} is {token!r}, which is not in the vocabulary.{hint}")
        return token_id

    # --- Special tokens, and others that are added ---

    bos_token_id, eos_token_id = _id_of("bos_token"), _id_of("eos_token")
    unk_token_id, pad_token_id = _id_of("unk_token"), _id_of("pad_token")

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The special tokens by name, without those that are None."""
        tokens = {name: getattr(self, name) for name in (*NAMED, MORE)}
        return {name: token for name, token in tokens.items() if token}

    @property
    def all_special_tokens(self) -> list[str]:
        """The named special tokens (bos, eos, unk, pad), then any others."""
        tokens = [getattr(self, name) for name in NAMED]
        tokens += [token.content for token in self._added.values() if token.special]
        return list(dict.fromkeys(token for token in tokens if token is not None))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return [self._id("all_special_tokens", token) for token in self.all_special_tokens]

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add a token (a string or a tokenizers.AddedToken), or a list of them, and return how many are new.

        They are cut out of a text before it is split into pieces. New ones get the next ids: where these reach the
        model's `vocab_size`, the model has no embedding for them.
        """
        tokens = list(new_tokens) if isinstance(new_tokens, list | tuple) else [new_tokens]
        for token in tokens:
            _content("new_tokens", token)
        before = len(self)
        self._add(tokens, special_tokens)
        return len(self) - before

    def add_special_tokens(
        self, special_tokens_dict: Mapping[str, Any], replace_additional_special_tokens: bool = True
    ) -> int:
        """Set named special tokens, add those that are not in the vocabulary, and return how many are new.

        special_tokens_dict: {"pad_token": "[PAD]"}, say; a list under "additional_special_tokens" replaces, or
        prolongs, the one of that name. Tokens that it replaces stay in the vocabulary.
        """
        named = dict(special_tokens_dict)
        for name in named:
            if name not in (*NAMED, MORE):
                names = ", ".join(NAMED)
                raise InputError(f"BLOOM has no {name!r}, expected {names}, or {MORE!r} with a list of others.")
        more = named.pop(MORE, None)
        new = _contents(more or ())
        for name, token in named.items():
            _content(name, token)
        before = len(self)
        for name, token in named.items():
            setattr(self, name, token)
        if more is not None:
            old = [] if replace_additional_special_tokens else self.additional_special_tokens
            self.additional_special_tokens = list(dict.fromkeys([*old, *new]))
        self._add([*named.values(), *(more or ())], special=True)
        return len(self) - before

    def _add(self, tokens: Iterable[Any], special: bool) -> None:
        """Add `tokens`, or mark them as special. A string leaves the flags of a token that was added before."""
        from tokenizers import AddedToken

        known = {token.content: token for token in self._added.values()}
        given: list[Any] = []
        for token in tokens:
            if isinstance(token, Mapping):  # as a file has an AddedToken
                token = AddedToken(token["content"], **{flag: token[flag] for flag in FLAGS if flag in token})
            if not isinstance(token, str):
                known[token.content] = token
            elif token in known and not special:
                continue
            elif token in known:
                token = AddedToken(token, **{flag: getattr(known[token], flag) for flag in FLAGS})
            given.append(token)
        if special:
            self._backend.add_special_tokens(given)
        else:
            self._backend.add_tokens(given)
        self._note_added()

    def _note_added(self) -> None:
        self._added: dict[int, AddedToken] = dict(sorted(self._backend.get_added_tokens_decoder().items()))
        # Those that were not learned are text as it stands. A learned one is symbols, even if it is special too.
        model = self._backend.model
        self._as_it_stands = {i for i, token in self._added.items() if model.token_to_id(token.content) != i}

    # --- Ids to text ---

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Return the text of ids [S]: a list, an array, or one id."""
        ids = listed(token_ids)
        data = [self._bytes(one, skip_special_tokens) for one in (ids if isinstance(ids, list) else [ids])]
        text = b"".join(data).decode("utf-8", self.errors)
        clean_up = clean_up_tokenization_spaces
        if self.clean_up_tokenization_spaces if clean_up is None else clean_up:
            for spaced, tight in CLEAN_UP.items():
                text = text.replace(spaced, tight)
        return text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Return the text of each row of ids [B, S]; options as in `decode`."""
        return [self.decode(row, **options) for row in listed(sequences)]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens as the vocabulary writes them."""
        return self.decode([self._id("tokens", token) for token in tokens])

    def stream(self, skip_special_tokens: bool = True) -> TokenStream:
        """Return a decoder for ids that come one at a time."""
        return TokenStream(self, skip_special_tokens)

    def _bytes(self, token_id: Any, skip_special_tokens: bool) -> bytes:
        """The bytes that one id stands for."""
        token, index = self._token(token_id), int(token_id)
        if skip_special_tokens and index in self._added and self._added[index].special:
            return b""
        if index in self._as_it_stands or not BYTE_OF.keys() >= set(token):
            return token.encode()
        return bytes(BYTE_OF[symbol] for symbol in token)


class TokenStream:
    """Decodes ids as they come, and never shows half a character.

        text = "".join(map(stream.put, ids)) + stream.end()  # what tokenizer.decode(ids) returns

    Spaces are not cleaned up: that would need the token that comes next.
    """

    def __init__(self, tokenizer: Vocabulary, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.errors)

    def put(self, token_id: int) -> str:
        """Take the next id and return the characters that are complete now: a word, or nothing yet."""
        return self._decoder.decode(self._tokenizer._bytes(token_id, self._skip))

    def end(self) -> str:
        """Return what is left when no id follows: nothing, or U+FFFD for a character that broke off."""
        return self._decoder.decode(b"", final=True)

    def pieces(self, ids: Iterable[int]) -> Iterator[str]:
        """Yield the text of `ids`, up to its end, in pieces that are not empty, as soon as each is complete."""
        yield from filter(None, map(self.put, ids))
        if rest := self.end():
            yield rest


def _content(name: str, token: Any, optional: bool = False) -> Any:
    """The text of a token, given as a string, as an AddedToken, or as a file has that; None only if `optional`."""
    content = token.get("content") if isinstance(token, Mapping) else getattr(token, "content", token)
    if not (isinstance(content, str) and content) and not (optional and token is None):
        raise InputError(f"{name} is {token!r}, expected a string, not empty.")
    return content


def _contents(tokens: Any) -> list[str]:
    """The texts of `additional_special_tokens`."""
    if not isinstance(tokens, list | tuple):
        raise InputError(f"{MORE} is {tokens!r}, expected a list of strings.")
    return [_content(MORE, token) for token in tokens]


def listed(value: Any) -> Any:
    """Return an array of NumPy or CuPy as nested lists, a tuple or range as a list, anything else as it is."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, tuple | range) else value

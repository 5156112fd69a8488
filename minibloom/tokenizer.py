"""BloomTokenizerFast: text to token ids, and back.

BLOOM reads bytes, in four steps:

1. Special tokens (`<s>`, `</s>`, `<unk>`, `<pad>`) are cut out of the text; each is one id.
2. `SPLIT` cuts the rest into pieces. A run of letters, digits or symbols, with the one space before it, is a
   piece; so is what stands between two such runs: spaces, line ends, punctuation that ends a sentence.
3. The UTF-8 bytes of a piece are written as printable symbols: `Ġ` is a space, `Ċ` a line end.
4. Byte-pair encoding joins neighbouring symbols of a piece, in the order in which the merges were learned.

    "How are you?"  ->  "How", "Ġare", "Ġyou", "?"  ->  7572, 1306, 1152, 34      (the real BLOOM's ids)

All 256 bytes have a token, so every text can be encoded, and decoding gives back exactly that text. One token
may hold only part of a character, so a text that grows token by token is decoded with `stream()`.

The four steps run in the `tokenizers` library. Sources: the documentation of BloomTokenizerFast in
transformers, and the pipeline in the tokenizer.json of bigscience/bloom.
"""

from __future__ import annotations

import codecs
import copy
import json
import operator
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from .backend import load
from .errors import InputError, suggest
from .fields import choice, optional, whole
from .files import SHIPPED, fetch, make_folder, read_json, replacing

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# The real pattern: `(`, `|` and `)` end a run too, though it hardly meant to; `[` and `]` do not.
SPLIT = r" ?[^(\s|[.,!?…。，、।۔،])]+"
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")  # ids 0 to 3
NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
SURROGATE = "half of a surrogate pair is no character, and has no bytes in UTF-8."
NO_LIMIT = int(1e30)  # transformers' model_max_length where there is no limit
OPTIONS: dict[str, Any] = {
    "errors": "replace",  # what decoding does with bytes that are no UTF-8: see bytes.decode
    "trim_offsets": None,  # leave spaces out of offsets? None: as the file says, and BLOOM's says no
    "padding_side": "left",  # as in BLOOM's files: generation goes on at the right end
    "truncation_side": "right",
    "model_max_length": NO_LIMIT,
    "additional_special_tokens": (),
    "name_or_path": "",
    "tokenizer_object": None,  # a tokenizers.Tokenizer, in place of files
}
SIDE, COUNT = choice("left", "right"), whole(1)
ERRORS = choice("replace", "strict", "ignore", "backslashreplace", "surrogateescape")
PAD_VALUES = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
CLEAN_UP = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'"} | {
    f" {end}": end for end in ("n't", "'m", "'s", "'ve", "'re")
}


def _byte_symbols() -> dict[str, int]:
    """Return the 256 symbols of step 3 and the byte that each stands for.

    Visible Latin-1 characters stand for their own code; 256, 257, ... for the other bytes, in order.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTE_OF = _byte_symbols()


class BatchEncoding(dict[str, Any]):
    """What a tokenizer call returns: a dictionary for `model(**encoded)`, whose keys are attributes too.

    `tokens`, `word_ids` and `sequence_ids` say where each token of one row comes from (None for padding).
    """

    def __init__(self, columns: Mapping[str, Any], encodings: Sequence[Encoding] = ()) -> None:
        super().__init__(columns)
        self._encodings = encodings

    def __getattr__(self, name: str) -> Any:  # called only for what is no method
        if name not in self:
            raise AttributeError(f"this encoding has no {name!r}, only {list(self)}.{suggest(name, self)}")
        return self[name]

    def _row(self, index: int) -> Encoding:
        if not 0 <= index < len(self._encodings):
            raise InputError(f"batch_index is {index}, but {len(self._encodings)} texts were encoded here.")
        return self._encodings[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of one row, as the vocabulary writes them."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token the number of its word, or of its piece where the text came in one."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return for each token 0 if it comes from `text`, 1 if from `text_pair`."""
        return self._row(batch_index).sequence_ids


class BloomTokenizerFast:
    """BLOOM's tokenizer, usually made by `from_pretrained` or `train`.

    It is read from `tokenizer_file`, or from `vocab_file` (JSON) and `merges_file` (a pair a line), to which
    BLOOM's pipeline is added. A special token that is not in the vocabulary is added at its end.
    `add_prefix_space` puts a space before each piece that has none, as in transformers 4, so that the first
    word is read like any other. `clean_up_tokenization_spaces` makes decoding drop spaces before punctuation.
    `OPTIONS` above lists the other keywords. What cannot be used is an `InputError`.

        >>> tokenizer = BloomTokenizerFast.train(["to be or not to be"] * 2, vocab_size=300)
        >>> tokenizer.decode(tokenizer("not to be")["input_ids"])
        'not to be'
    """

    model_input_names = ("input_ids", "attention_mask")
    is_fast = True

    def __init__(
        self,
        vocab_file: str | Path | None = None,
        merges_file: str | Path | None = None,
        tokenizer_file: str | Path | None = None,
        unk_token: str | None = "<unk>",
        bos_token: str | None = "<s>",
        eos_token: str | None = "</s>",
        pad_token: str | None = "<pad>",
        add_prefix_space: bool | None = False,
        clean_up_tokenization_spaces: bool = False,
        **kwargs: Any,
    ) -> None:
        _refuse_unknown("BloomTokenizerFast", kwargs, OPTIONS)
        options = OPTIONS | kwargs
        self.errors = ERRORS.check("errors", options["errors"])
        self.padding_side = SIDE.check("padding_side", options["padding_side"])
        self.truncation_side = SIDE.check("truncation_side", options["truncation_side"])
        self.model_max_length = whole(1, NO_LIMIT).check("model_max_length", options["model_max_length"])
        self.name_or_path = options["name_or_path"]
        self.clean_up_tokenization_spaces = bool(clean_up_tokenization_spaces)
        self.unk_token, self.bos_token = _content("unk_token", unk_token), _content("bos_token", bos_token)
        self.eos_token, self.pad_token = _content("eos_token", eos_token), _content("pad_token", pad_token)
        more = [_content("additional_special_tokens", one) for one in options["additional_special_tokens"] or ()]
        self.additional_special_tokens = more

        self._backend = _backend(vocab_file, merges_file, tokenizer_file, options["tokenizer_object"])
        self.add_prefix_space = _switch(self._backend, "pre_tokenizer", "add_prefix_space", add_prefix_space)
        self.trim_offsets = _switch(self._backend, "post_processor", "trim_offsets", options["trim_offsets"])
        # `_offsets` trims; the library's own trimming takes a letter off where a prefix space was put in.
        _switch(self._backend, "post_processor", "trim_offsets", False)
        tokens = [getattr(self, name) for name in NAMED] + more
        self._backend.add_special_tokens([token for token in tokens if token is not None])
        self._added = dict(sorted(self._backend.get_added_tokens_decoder().items()))  # id -> AddedToken

    # --- Learning, loading, saving ---

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BloomTokenizerFast:
        """Return a tokenizer with BLOOM's pipeline whose merges are learned from `texts`. Repeatable.

        The special tokens get ids 0 to 3 and the 256 bytes follow, so `vocab_size` is at least 260. It is an
        upper limit: `len(tokenizer)` is less where `texts` have too few pairs that occur twice.
        """
        from tokenizers import models, pre_tokenizers, trainers

        vocab_size = whole(len(SPECIAL) + len(BYTE_OF)).check("vocab_size", vocab_size)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # a pair that occurs once is not worth a token
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend = _pipeline(models.BPE())
        try:
            backend.train_from_iterator(_strings(texts), trainer)
        except UnicodeEncodeError:
            raise InputError(f"texts: {SURROGATE}") from None
        return cls(tokenizer_object=backend)

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path | None = None, revision: str | None = None, **kwargs: Any
    ) -> BloomTokenizerFast:
        """Return the tokenizer in a folder or a hub repository, or without either the one minibloom ships.

        Keywords are those of the class; they win over what `tokenizer_config.json` says.
        """
        names = ["tokenizer.json", "tokenizer_config.json"]
        folder = SHIPPED if path_or_repo is None else fetch(path_or_repo, names, revision)
        if not (folder / "tokenizer.json").is_file():
            raise InputError(f"{folder} is no checkpoint with a tokenizer: there is no file tokenizer.json in it.")
        config_file = folder / "tokenizer_config.json"
        config = read_json(config_file) if config_file.exists() else {}
        known = (OPTIONS.keys() | {"add_prefix_space", "clean_up_tokenization_spaces"}) - {"tokenizer_object"}
        options: dict[str, Any] = {name: config[name] for name in NAMED if name in config}  # None is no token
        options |= {name: config[name] for name in known if config.get(name) is not None}
        options = {"add_prefix_space": None} | options | {"name_or_path": str(path_or_repo or "")}
        return cls(tokenizer_file=folder / "tokenizer.json", **options | kwargs)

    def save_pretrained(self, folder: str | Path) -> tuple[str, ...]:
        """Write three files into `folder` and return their paths. transformers 4 and 5 read them too."""
        content = json.loads(self._backend.to_str())
        merges = content["model"]["merges"]  # as strings, for the older `tokenizers` of transformers 4
        content["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
        _byte_step(content["post_processor"] or {})["trim_offsets"] = self.trim_offsets
        names = ["add_prefix_space", "clean_up_tokenization_spaces", "errors", "model_max_length"]
        names += ["padding_side", "trim_offsets", "truncation_side"]
        tokens = {name: getattr(self, name) for name in (*NAMED, "additional_special_tokens")}
        settings = {"tokenizer_class": "BloomTokenizerFast"} | {name: getattr(self, name) for name in names}
        files = {
            "tokenizer.json": content,
            "special_tokens_map.json": {name: token for name, token in tokens.items() if token},
            "tokenizer_config.json": settings | tokens,
        }
        target = make_folder(folder)
        for name, value in files.items():
            with replacing(target / name) as path:
                path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return tuple(str(target / name) for name in files)

    # --- Text to ids ---

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[Any] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        **unknown: Any,
    ) -> BatchEncoding:
        """Return `input_ids` and `attention_mask` of a text or of a list of texts, each with a pair or not.

        One text gives a list of ids, B texts a list of B lists. `return_tensors="np"` ("cp" for CuPy) gives
        int64 arrays [B, S] and needs `padding=True` where lengths differ.

        - `is_split_into_words`: a text is a list of words. Needs `add_prefix_space=True`.
        - `padding`: True or "longest" (of the batch), "max_length", or False; on `padding_side`.
        - `truncation`: True or "longest_first", "only_first", "only_second" (of a pair), or False; on
          `truncation_side`. None, the default, is True if `max_length` is given and `padding` is not.
        - `max_length`: else `model_max_length`; without any limit nothing is cut, or padded to it.
        - `return_overflowing_tokens`: what was cut comes as further rows, each repeating `stride` tokens;
          `overflow_to_sample_mapping` has the text that each row is from.
        - `return_offsets_mapping`: `offset_mapping`, where each token begins and ends in its text (or word).
        - `return_token_type_ids`: 1 in a second text. `return_special_tokens_mask`: 1 for padding.
        - `return_length`: tokens in each row, padding included.
        - `add_special_tokens`: changes nothing in BLOOM's pipeline, which adds none.
        """
        _refuse_unknown("tokenizer(...)", unknown, type(self).__call__.__kwdefaults__ or ())
        xp = _library(return_tensors)
        if is_split_into_words and not self.add_prefix_space:
            raise InputError("is_split_into_words=True needs a tokenizer made with add_prefix_space=True.")
        samples, batched = _samples(text, text_pair, is_split_into_words)
        strategy, side, multiple = self._padding(padding, padding_side, pad_to_multiple_of)
        if truncation is None:
            truncation = max_length is not None and padding is False
        cut = _strategy("truncation", truncation, ("longest_first", "only_first", "only_second"))
        limit = self._limit(max_length)
        cut = cut if limit < NO_LIMIT else None
        if cut:
            whole(0, limit - 1).check("stride", stride)
        if cut == "only_second" and text_pair is None:
            raise InputError("truncation='only_second' needs a text_pair.")
        if cut and strategy and limit % multiple:
            raise InputError(f"max_length={limit} is no multiple of pad_to_multiple_of={multiple}.")

        rows = self._encode(samples, add_special_tokens, is_split_into_words, cut, limit, stride)
        origins = list(range(len(rows)))  # which sample each row is from
        if return_overflowing_tokens:
            origins = [i for i, row in enumerate(rows) for _ in range(1 + len(row.overflowing))]
            rows = [part for row in rows for part in (row, *row.overflowing)]
        length = _padded_length(strategy, map(len, rows), limit, multiple)
        for row in rows if length else ():
            row.pad(length, direction=side, pad_id=self.pad_token_id, pad_token=self.pad_token)

        columns: dict[str, list[Any]] = {"input_ids": [row.ids for row in rows]}
        if return_token_type_ids:
            columns["token_type_ids"] = [row.type_ids for row in rows]
        if return_attention_mask is not False:
            columns["attention_mask"] = [row.attention_mask for row in rows]
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = [row.special_tokens_mask for row in rows]
        if return_offsets_mapping:
            texts = [samples[i] for i in origins]
            columns["offset_mapping"] = list(map(self._offsets, rows, texts))
        if return_length:
            columns["length"] = [len(row) for row in rows]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = origins
        return _result(columns, rows, batched or return_overflowing_tokens, xp)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return only the ids, `tokenizer(...)["input_ids"]`."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: Any, pair: Any = None, **options: Any) -> list[str]:
        """Return the tokens of one text as the vocabulary writes them: "Ġworld" for " world"."""
        return self(text, pair, **{"add_special_tokens": False} | options).tokens()

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad what calls without padding returned: one text, a batch, or a list of encodings of one text.

        Of the columns, `input_ids`, `attention_mask` (made if missing), `token_type_ids` and
        `special_tokens_mask` are padded.
        """
        xp = _library(return_tensors)
        strategy, side, multiple = self._padding(padding, padding_side, pad_to_multiple_of)
        if not isinstance(encoded_inputs, Mapping):
            names = list(dict.fromkeys(name for one in encoded_inputs for name in one))
            if any(name not in one for one in encoded_inputs for name in names):
                raise InputError(f"encoded_inputs: expected the keys {names} in every encoding.")
            encoded_inputs = {name: [one[name] for one in encoded_inputs] for name in names}
        columns = {name: [_listed(row) for row in _listed(column)] for name, column in encoded_inputs.items()}
        if not columns.get("input_ids"):
            raise InputError(f"encoded_inputs: expected input_ids, not empty, got {reprlib.repr(columns)}.")
        batched = isinstance(columns["input_ids"][0], list)
        if not batched:
            columns = {name: [column] for name, column in columns.items()}
        if return_attention_mask is not False:
            columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
        length = _padded_length(strategy, map(len, columns["input_ids"]), self._limit(max_length), multiple)
        values = PAD_VALUES | {"input_ids": self.pad_token_id}
        for name in values.keys() & columns.keys() if length else ():
            fills = [[values[name]] * (length - len(row)) for row in columns[name]]
            both = zip(fills, columns[name], strict=True)
            columns[name] = [fill + row if side == "left" else row + fill for fill, row in both]
        return _result(columns, (), batched, xp)

    def _encode(
        self, samples: list[tuple[Any, ...]], add: bool, split: bool, cut: str | None, limit: int, stride: int
    ) -> list[Encoding]:
        """Run the four steps on samples (text,) or (text, pair), and truncate if `cut` names a strategy."""
        inputs = [sample if len(sample) == 2 else sample[0] for sample in samples]
        try:
            if cut:
                side = self.truncation_side
                self._backend.enable_truncation(limit, stride=stride, strategy=cut, direction=side)
            return self._backend.encode_batch(inputs, is_pretokenized=split, add_special_tokens=add)
        except TypeError:
            raise InputError(f"text: {SURROGATE}") from None
        except Exception as error:  # the library has no types of its own
            if not cut:
                raise
            raise InputError(f"truncation={cut!r}, max_length={limit}, stride={stride!r}: {error}.") from None
        finally:
            self._backend.no_truncation()

    def _offsets(self, row: Encoding, sample: tuple[Any, ...]) -> list[tuple[int, int]]:
        """Where each token begins and ends in its text (or word), in characters; trimmed: without spaces."""
        if not self.trim_offsets:
            return row.offsets
        trimmed = []
        for (begin, end), which, word in zip(row.offsets, row.sequence_ids, row.word_ids, strict=True):
            if which is not None:  # None is padding
                text = sample[which] if isinstance(sample[which], str) else sample[which][word]
                begin = end - len(text[begin:end].lstrip(" "))
                end = begin + len(text[begin:end].rstrip(" "))
            trimmed.append((begin, end))
        return trimmed

    def _padding(self, padding: Any, side: str | None, multiple: int | None) -> tuple[str | None, str, int]:
        """The strategy that `padding` names, the side, and the number that a padded length is a multiple of."""
        strategy = _strategy("padding", padding, ("longest", "max_length"))
        if strategy and self.pad_token_id is None:
            raise InputError("padding needs a padding token: set tokenizer.pad_token = tokenizer.eos_token.")
        multiple = 1 if multiple is None else COUNT.check("pad_to_multiple_of", multiple)
        return strategy, SIDE.check("padding_side", side or self.padding_side), multiple

    def _limit(self, max_length: int | None) -> int:
        return self.model_max_length if max_length is None else COUNT.check("max_length", max_length)

    # --- Ids to text ---

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Return the text of ids [S]: a list, an array, or one id."""
        ids = _listed(token_ids)
        data = [self._bytes(one, skip_special_tokens) for one in (ids if isinstance(ids, list) else [ids])]
        text = b"".join(data).decode("utf-8", self.errors)
        if _first(clean_up_tokenization_spaces, self.clean_up_tokenization_spaces):
            for spaced, tight in CLEAN_UP.items():
                text = text.replace(spaced, tight)
        return text

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Return the text of each row of ids [B, S]; options as in `decode`."""
        return [self.decode(row, **options) for row in _listed(sequences)]

    def stream(self, skip_special_tokens: bool = True) -> TokenStream:
        """Return a decoder for ids that come one at a time."""
        return TokenStream(self, skip_special_tokens)

    def _bytes(self, token_id: Any, skip_special_tokens: bool) -> bytes:
        """The bytes that one id stands for."""
        token = self._token(token_id)
        added = self._added.get(int(token_id))
        if added is None and BYTE_OF.keys() >= set(token):
            return bytes(BYTE_OF[symbol] for symbol in token)
        skipped = skip_special_tokens and added is not None and added.special
        return b"" if skipped else token.encode()  # an added token is text as it stands

    # --- The vocabulary ---

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or the tokens of several."""
        ids = _listed(ids)
        if not isinstance(ids, list):
            return self._token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token(one) for one in ids if one not in skipped]

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Return the id of a token, or the ids of several; `unk_token_id` for what is no token."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        token_id = self._backend.token_to_id(tokens)
        return self.unk_token_id if token_id is None else token_id

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """Return the text of tokens as the vocabulary writes them."""
        return self.decode([self._id("tokens", token) for token in tokens])

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id, added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

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
            raise InputError(f"{name} is {token!r}, which is not in the vocabulary.")
        return token_id

    # None for a token that is None
    unk_token_id = property(lambda self: self._id("unk_token", self.unk_token))
    bos_token_id = property(lambda self: self._id("bos_token", self.bos_token))
    eos_token_id = property(lambda self: self._id("eos_token", self.eos_token))
    pad_token_id = property(lambda self: self._id("pad_token", self.pad_token))

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

    def __repr__(self) -> str:
        return f"BloomTokenizerFast({len(self)} tokens; special: {' '.join(self.all_special_tokens)})"


class TokenStream:
    """Decodes ids as they come, and never shows half a character.

        text = "".join(map(stream.put, ids)) + stream.end()  # what tokenizer.decode(ids) returns

    Spaces are not cleaned up: that would need the token that comes next.
    """

    def __init__(self, tokenizer: BloomTokenizerFast, skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(tokenizer.errors)

    def put(self, token_id: int) -> str:
        """Take the next id and return the characters that are complete now: a word, or nothing yet."""
        return self._decoder.decode(self._tokenizer._bytes(token_id, self._skip))

    def end(self) -> str:
        """Return what is left when no id follows: nothing, or U+FFFD for a character that broke off."""
        return self._decoder.decode(b"", final=True)


# --- The four steps in the `tokenizers` library ---


def _pipeline(model: Any) -> Tokenizer:
    """Steps 2 and 3, and the way back, around the merges of `model`."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors

    backend = Tokenizer(model)
    pieces = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pieces, symbols])
    backend.post_processor = processors.ByteLevel(trim_offsets=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _backend(vocab_file: Any, merges_file: Any, tokenizer_file: Any, given: Tokenizer | None) -> Tokenizer:
    """The pipeline from the one source that is given, if it is byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models

    two_files = vocab_file is not None or merges_file is not None
    if two_files + (tokenizer_file is not None) + (given is not None) != 1:
        raise InputError(
            "expected tokenizer_file, or vocab_file and merges_file, or tokenizer_object. To load a folder, "
            "a hub repository or what minibloom ships, use BloomTokenizerFast.from_pretrained(...)."
        )
    if two_files:
        return _pipeline(_read(models.BPE.from_file, vocab_file=vocab_file, merges_file=merges_file))
    backend = copy.deepcopy(given) if given else _read(Tokenizer.from_file, tokenizer_file=tokenizer_file)
    reads_bytes = isinstance(backend.decoder, decoders.ByteLevel) and _byte_step(_state(backend.pre_tokenizer))
    if not isinstance(backend.model, models.BPE) or not reads_bytes:
        parts = (backend.model, backend.pre_tokenizer, backend.decoder)
        model, pre_tokenizer, decoder = (type(part).__name__ for part in parts)
        raise InputError(
            f"{tokenizer_file or 'tokenizer_object'} has model {model}, pre_tokenizer {pre_tokenizer} and decoder "
            f"{decoder}; expected BPE on bytes, with a ByteLevel step both ways, as BLOOM has it."
        )
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read(reader: Any, **files: Any) -> Any:
    """What `reader` makes of `files`; an InputError names the one that is missing or cannot be read."""
    for name, path in files.items():
        if path is None or not Path(path).is_file():
            raise InputError(f"{name}: there is no file {path}.")
    paths = [str(path) for path in files.values()]
    try:
        return reader(*paths)
    except Exception as error:  # the library has no types of its own
        raise InputError(f"{' and '.join(paths)} cannot be read as {' and '.join(files)}: {error}.") from None


def _state(part: Any) -> dict[str, Any]:
    """One part of a pipeline as tokenizer.json has it."""
    return {} if part is None else json.loads(part.__getstate__())


def _byte_step(state: Mapping[str, Any]) -> dict[str, Any]:
    """The ByteLevel step (number 3) in the state of one part of a pipeline; empty if there is none."""
    steps = state.get("pretokenizers") or state.get("processors") or [state]
    return next((step for step in steps if step.get("type") == "ByteLevel"), {})


def _switch(backend: Tokenizer, part_name: str, name: str, value: bool | None) -> bool:
    """Set a switch of the ByteLevel step in one part of a pipeline, and return it; None leaves it as it is."""
    part = getattr(backend, part_name)
    state = _state(part)
    step = _byte_step(state)
    if step and value is not None:
        step[name] = bool(value)
        part.__setstate__(json.dumps(state).encode())
        setattr(backend, part_name, part)  # older versions of the library hand out copies
    return bool(_first(value, step.get(name), False))


# --- Checks, and the shapes of what comes and goes ---


def _first(*values: Any) -> Any:
    """The first of `values` that is not None."""
    return next(value for value in values if value is not None)


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{where} has no argument {name!r}.{suggest(name, known)}")


def _strategy(name: str, value: Any, choices: Sequence[str]) -> str | None:
    """The strategy that `padding=` or `truncation=` names; True is the first of `choices`."""
    if value is False or value is None or value in ("do_not_pad", "do_not_truncate"):
        return None
    return choices[0] if value is True else choice(*choices).check(name, value)


def _padded_length(strategy: str | None, lengths: Iterable[int], limit: int, multiple: int) -> int:
    """The length to which rows of these `lengths` are padded, or 0 if they stay as they are."""
    if strategy is None or (strategy == "max_length" and limit >= NO_LIMIT):
        return 0
    length = limit if strategy == "max_length" else max(lengths)
    return -(-length // multiple) * multiple


def _content(name: str, token: Any) -> Any:
    """The text of a special token, given as a string, as an AddedToken, or as a file has that."""
    token = token.get("content") if isinstance(token, Mapping) else getattr(token, "content", token)
    if token is not None and not (isinstance(token, str) and token):
        raise InputError(f"{name} is {token!r}, expected a string, not empty.")
    return token


def _strings(texts: Iterable[str]) -> Iterator[str]:
    for text in texts if isinstance(texts, Iterable) and not isinstance(texts, str) else [None]:
        if not isinstance(text, str):
            raise InputError(f"texts: expected an iterable of strings, got {reprlib.repr(texts)}.")
        yield text


def _samples(text: Any, pair: Any, split: bool) -> tuple[list[tuple[Any, ...]], bool]:
    """The samples (text,) or (text, pair) of a call, and whether it was given a batch."""
    kind = "list of words" if split else "string"

    def is_one(value: Any) -> bool:
        if split:
            return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)
        return isinstance(value, str)

    def batch_of(name: str, value: Any) -> list[Any]:
        batch = [value] if is_one(value) else value
        if not (isinstance(batch, list | tuple) and batch and all(map(is_one, batch))):
            raise InputError(f"{name} is {reprlib.repr(value)}, expected a {kind}, or one or more in a list.")
        return list(batch)

    texts, batched = batch_of("text", text), not is_one(text)
    if pair is None:
        return [(one,) for one in texts], batched
    pairs = batch_of("text_pair", pair)
    if len(pairs) != len(texts) or is_one(pair) is batched:
        given = reprlib.repr(pair)
        raise InputError(f"text_pair is {given}, expected a {kind} for each text, {len(texts)} here.")
    return list(zip(texts, pairs, strict=True)), batched


def _listed(value: Any) -> Any:
    """An array of NumPy or CuPy as nested lists, a tuple or range as a list, anything else as it is."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, tuple | range) else value


def _library(return_tensors: str | None) -> Any:
    """The array library that a call asks for, or None for lists."""
    optional(choice("np", "cp")).check("return_tensors", return_tensors)
    return return_tensors and load({"np": "numpy", "cp": "cupy"}[return_tensors])


def _result(columns: dict[str, Any], rows: Sequence[Encoding], batched: bool, xp: Any) -> BatchEncoding:
    """The columns [B, ...] as int64 arrays of library `xp`; or as lists, and one text has no batch axis."""
    if xp is None:
        if not batched:
            columns = {name: c[0] if isinstance(c[0], list) else c for name, c in columns.items()}
        return BatchEncoding(columns, rows)
    lengths = sorted({len(ids) for ids in columns["input_ids"]})
    if len(lengths) > 1:
        raise InputError(f"rows of {lengths[0]} to {lengths[-1]} tokens make no array: pass padding=True.")
    arrays = {name: xp.asarray(numpy.array(column, numpy.int64)) for name, column in columns.items()}
    return BatchEncoding(arrays, rows)

"""BloomTokenizerFast: text to token ids, and back.

`byte_pair.py` tells how BLOOM cuts a text into tokens, `vocabulary.py` what tokens there are and how ids become text
again, `encoding.py` what a call returns. Here is the class, with loading, saving, and all that a call can be asked
for: batches, pairs, words, truncation, padding, offsets, arrays.

Source: the documentation of BloomTokenizerFast in transformers, and of PreTrainedTokenizerFast, which it inherits.
"""

from __future__ import annotations

import functools
import json
import reprlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .byte_pair import BYTE_OF, SPECIAL, SPLIT, SURROGATE, byte_step, learn, read, switch
from .encoding import BatchEncoding, asked_library, result, trimmed
from .errors import InputError, suggest
from .fields import choice, optional, whole
from .files import fetch, make_folder, read_json, replacing
from .vocabulary import MORE, NAMED, TokenStream, Vocabulary, listed

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding, Tokenizer

__all__ = ["BYTE_OF", "SPECIAL", "SPLIT", "BatchEncoding", "BloomTokenizerFast", "TokenStream"]

NO_LIMIT = int(1e30)  # transformers' model_max_length where there is no limit
LARGE = int(1e20)  # it counts as no limit from here on, in transformers too
OPTIONS: dict[str, Any] = {
    "errors": "replace",  # what decoding does with bytes that are no UTF-8: see bytes.decode
    "trim_offsets": None,  # leave spaces out of offsets? None: as the file says, and BLOOM's says no
    "padding_side": "left",  # as in BLOOM's files: generation goes on at the right end
    "truncation_side": "right",
    "model_max_length": NO_LIMIT,  # None is no limit too
    MORE: (),
    "name_or_path": "",
    "tokenizer_object": None,  # a tokenizers.Tokenizer, in place of files
}
INSTEAD = {  # what transformers has besides, and what to use in its place
    "apply_chat_template": '"".join(m["content"] + tokenizer.eos_token for m in messages): transformers\' default, '
    "though BLOOM has learned no chat format",
    "as_target_tokenizer": 'a call of its own: labels = tokenizer(targets)["input_ids"]',
    "batch_encode_plus": "tokenizer(texts), or tokenizer(texts, text_pairs)",
    "build_inputs_with_special_tokens": "ids + other_ids: BLOOM's pipeline adds no special tokens",
    "clean_up_tokenization": "decode(ids, clean_up_tokenization_spaces=True)",
    "cls_token": "additional_special_tokens: BLOOM has no cls_token",
    "create_token_type_ids_from_sequences": "tokenizer(text, text_pair, return_token_type_ids=True)",
    "encode_plus": "tokenizer(text), or tokenizer(text, text_pair)",
    "get_special_tokens_mask": "[int(i in tokenizer.all_special_ids) for i in ids]",
    "is_pretokenized": "is_split_into_words",
    "mask_token": "additional_special_tokens: BLOOM has no mask_token",
    "pad_to_max_length": 'padding="max_length"',
    "prepare_for_model": 'tokenizer(text, ...), or tokenizer.pad({"input_ids": ids}, ...)',
    "push_to_hub": "save_pretrained(folder), then huggingface_hub.upload_folder",
    "sep_token": "additional_special_tokens: BLOOM has no sep_token",
    "text_pair_target": 'a call of its own: labels = tokenizer(targets, target_pairs)["input_ids"]',
    "text_target": 'a call of its own: labels = tokenizer(targets)["input_ids"]',
    "train_new_from_iterator": "BloomTokenizerFast.train(texts, vocab_size)",
    "truncate_sequences": "tokenizer(text, truncation=True, max_length=...)",
    "truncation_strategy": "truncation",
    "vocab": "get_vocab()",
}
SIDE, COUNT = choice("left", "right"), whole(1)
PAD_VALUES = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}
ENCODING = threading.Lock()  # truncation is a state of the backend: meanwhile no other thread's call may be cut


class BloomTokenizerFast(Vocabulary):
    """BLOOM's tokenizer, usually made by `from_pretrained` or `train`.

    It is read from `tokenizer_file`, or from `vocab_file` (JSON) and `merges_file` (a pair a line), to which
    BLOOM's pipeline is added. A special token, a string or a tokenizers.AddedToken, that is not in the vocabulary is
    added at its end.
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
        unk_token: str | AddedToken | None = "<unk>",
        bos_token: str | AddedToken | None = "<s>",
        eos_token: str | AddedToken | None = "</s>",
        pad_token: str | AddedToken | None = "<pad>",
        add_prefix_space: bool | None = False,
        clean_up_tokenization_spaces: bool = False,
        **kwargs: Any,
    ) -> None:
        _refuse_unknown("BloomTokenizerFast", kwargs, OPTIONS)
        options = OPTIONS | kwargs
        self.padding_side = SIDE.check("padding_side", options["padding_side"])
        self.truncation_side = SIDE.check("truncation_side", options["truncation_side"])
        limit = optional(whole(1, NO_LIMIT)).check("model_max_length", options["model_max_length"])
        self.model_max_length = NO_LIMIT if limit is None else limit
        self.name_or_path = options["name_or_path"]

        backend = read(vocab_file, merges_file, tokenizer_file, options["tokenizer_object"])
        self.add_prefix_space = switch(backend, "pre_tokenizer", "add_prefix_space", add_prefix_space)
        self.trim_offsets = switch(backend, "post_processor", "trim_offsets", options["trim_offsets"])
        # `trimmed` trims; the library's own trimming takes a letter off where a prefix space was put in.
        switch(backend, "post_processor", "trim_offsets", False)
        special = {"unk_token": unk_token, "bos_token": bos_token, "eos_token": eos_token, "pad_token": pad_token}
        special |= {MORE: options[MORE]}
        super().__init__(backend, special, options["errors"], clean_up_tokenization_spaces)

    def __getattr__(self, name: str) -> Any:  # called only for what is not there
        public = [known for known in dir(self) if not known.startswith("_")]
        raise AttributeError(f"BloomTokenizerFast has no {name!r}.{suggest(name, public, INSTEAD)}")

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The pipeline in the `tokenizers` library: `backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)`."""
        return self._backend

    def __repr__(self) -> str:
        return f"BloomTokenizerFast({len(self)} tokens; special: {' '.join(self.all_special_tokens)})"

    # --- Learning, loading, saving ---

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> BloomTokenizerFast:
        """Return a tokenizer with BLOOM's pipeline whose merges are learned from `texts`. Repeatable.

        The special tokens get ids 0 to 3 and the 256 bytes follow, so `vocab_size` is at least 260. It is an
        upper limit: `len(tokenizer)` is less where `texts` have too few pairs that occur twice.
        """
        return cls(tokenizer_object=learn(texts, vocab_size))

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path | None = None, revision: str | None = None, **kwargs: Any
    ) -> BloomTokenizerFast:
        """Return the tokenizer in a folder or a hub repository, or without either the one minibloom ships.

        Keywords are those of the class; they win over what `tokenizer_config.json` says.
        """
        names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
        folder = fetch(path_or_repo, names, revision)
        if not (folder / "tokenizer.json").is_file():
            raise InputError(f"{folder} is no checkpoint with a tokenizer: there is no file tokenizer.json in it.")
        config = _config(folder)
        known = (OPTIONS.keys() | {"add_prefix_space", "clean_up_tokenization_spaces"}) - {"tokenizer_object"}
        options: dict[str, Any] = {name: config[name] for name in NAMED if name in config}  # None is no token
        options |= {name: config[name] for name in known if config.get(name) is not None}
        options = {"add_prefix_space": None} | options | {"name_or_path": str(path_or_repo or "")}
        return cls(tokenizer_file=folder / "tokenizer.json", **options | kwargs)

    def save_pretrained(self, folder: str | Path) -> tuple[str, ...]:
        """Write three files into `folder` and return their paths. transformers 4 and 5 read them too."""
        content = self._pipeline()
        byte_step(content["post_processor"] or {})["trim_offsets"] = self.trim_offsets
        names = ["add_prefix_space", "clean_up_tokenization_spaces", "errors", "model_max_length"]
        names += ["padding_side", "trim_offsets", "truncation_side"]
        tokens = {name: getattr(self, name) for name in (*NAMED, MORE)}
        settings = {"tokenizer_class": "BloomTokenizerFast"} | {name: getattr(self, name) for name in names}
        return _write(
            folder,
            {
                "tokenizer.json": _json(content),
                "special_tokens_map.json": _json(self.special_tokens_map),
                "tokenizer_config.json": _json(settings | tokens),
            },
        )

    def save_vocabulary(self, folder: str | Path) -> tuple[str, ...]:
        """Write vocab.json and merges.txt, `vocab_file` and `merges_file`, into `folder` and return their paths.

        They hold what was learned; tokens that were added since, and settings, are only in `save_pretrained`'s files.
        """
        model = self._pipeline()["model"]
        merges = "".join(f"{pair}\n" for pair in ("#version: 0.2", *model["merges"]))
        return _write(folder, {"vocab.json": _json(model["vocab"]), "merges.txt": merges})

    def _pipeline(self) -> dict[str, Any]:
        """The pipeline as tokenizer.json has it, with merges as strings: the form that transformers 4 reads too."""
        content = json.loads(self._backend.to_str())
        merges = content["model"]["merges"]
        content["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
        return content

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
        verbose: bool = True,
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
        - `add_special_tokens`: changes nothing in BLOOM's pipeline, which adds none. `verbose`: changes nothing
          either, as no warnings are given.
        """
        _refuse_unknown("tokenizer(...)", unknown, type(self).__call__.__kwdefaults__ or ())
        xp = asked_library(return_tensors)
        if is_split_into_words and not self.add_prefix_space:
            raise InputError("is_split_into_words=True needs a tokenizer made with add_prefix_space=True.")
        samples, batched = _samples(text, text_pair, is_split_into_words)
        _refuse_surrogates(samples)
        strategy, side, multiple = self._padding(padding, padding_side, pad_to_multiple_of)
        if truncation is None:
            truncation = max_length is not None and padding is False
        cut = _strategy("truncation", truncation, ("longest_first", "only_first", "only_second"))
        limit = self._limit(max_length)
        cut = cut if limit < LARGE else None
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
        spans = [trimmed(row, samples[i]) for row, i in zip(rows, origins, strict=True)] if self.trim_offsets else None
        if return_offsets_mapping:
            columns["offset_mapping"] = spans or [row.offsets for row in rows]
        if return_length:
            columns["length"] = [len(row) for row in rows]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = origins
        return result(columns, batched or return_overflowing_tokens, xp, rows, spans)

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """Return only the ids, `tokenizer(...)["input_ids"]`."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: Any, pair: Any = None, **options: Any) -> list[str]:
        """Return the tokens of one text as the vocabulary writes them: "Ġworld" for " world"."""
        return self(text, pair, **{"add_special_tokens": False} | options).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many tokens a call adds to a text, or to a pair: none in BLOOM's pipeline."""
        return self._backend.num_special_tokens_to_add(pair)

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
        `special_tokens_mask` are padded. Arrays come back as arrays of their library, if `return_tensors` is None.
        """
        strategy, side, multiple = self._padding(padding, padding_side, pad_to_multiple_of)
        columns = _columns(encoded_inputs)
        xp = asked_library(return_tensors, columns["input_ids"])
        columns = {name: listed(column) for name, column in columns.items()}
        ids = columns["input_ids"]
        batched = isinstance(ids, list) and bool(ids) and isinstance(listed(ids[0]), list)
        columns = {name: list(map(listed, c)) if batched and isinstance(c, list) else c for name, c in columns.items()}
        columns = columns if batched else {name: [column] for name, column in columns.items()}
        _refuse_uneven(columns)
        if return_attention_mask is not False:
            columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
        length = _padded_length(strategy, map(len, columns["input_ids"]), self._limit(max_length), multiple)
        values = PAD_VALUES | {"input_ids": self.pad_token_id}
        for name in values.keys() & columns.keys() if length else ():
            fills = [[values[name]] * (length - len(row)) for row in columns[name]]
            both = zip(fills, columns[name], strict=True)
            columns[name] = [fill + row if side == "left" else row + fill for fill, row in both]
        if xp is None and not batched:
            return BatchEncoding({name: row for name, [row] in columns.items()})
        return result(columns, batched, xp)

    def _encode(
        self, samples: list[tuple[Any, ...]], add: bool, split: bool, cut: str | None, limit: int, stride: int
    ) -> list[Encoding]:
        """Run the four steps on samples (text,) or (text, pair), and truncate if `cut` names a strategy."""
        inputs = [sample if len(sample) == 2 else sample[0] for sample in samples]
        side = SIDE.check("truncation_side", self.truncation_side)
        run = functools.partial(self._backend.encode_batch, is_pretokenized=split, add_special_tokens=add)
        with ENCODING:
            if not cut:
                return run(inputs)
            if stride and len(samples[0]) == 2:
                texts, pairs = (run(list(column)) for column in zip(*samples, strict=True))
                _refuse_stride(stride, cut, limit, texts, pairs)
            try:
                self._backend.enable_truncation(limit, stride=stride, strategy=cut, direction=side)
                return run(inputs)
            except Exception as error:  # the library has no types of its own
                raise InputError(f"truncation={cut!r}, max_length={limit}, stride={stride!r}: {error}.") from None
            finally:
                self._backend.no_truncation()

    def _padding(self, padding: Any, side: str | None, multiple: int | None) -> tuple[str | None, str, int]:
        """The strategy that `padding` names, the side, and the number that a padded length is a multiple of."""
        strategy = _strategy("padding", padding, ("longest", "max_length"))
        if strategy and self.pad_token_id is None:
            raise InputError("padding needs a padding token: set tokenizer.pad_token = tokenizer.eos_token.")
        multiple = 1 if multiple is None else COUNT.check("pad_to_multiple_of", multiple)
        return strategy, SIDE.check("padding_side", side or self.padding_side), multiple

    def _limit(self, max_length: int | None) -> int:
        return self.model_max_length if max_length is None else COUNT.check("max_length", max_length)


# --- Checks, and the shapes of what comes and goes ---


def _config(folder: Path) -> dict[str, Any]:
    """The settings in the files of a folder, under the names of transformers 4."""
    config, tokens = (
        read_json(folder / name) if (folder / name).exists() else {}
        for name in ("tokenizer_config.json", "special_tokens_map.json")
    )
    if not {"added_tokens_decoder", "backend"} & config.keys():  # transformers before 4.34: the map has the last word
        config |= tokens
    more = config.get("extra_special_tokens") or []  # its name in transformers 5
    return {MORE: list(more.values() if isinstance(more, Mapping) else more)} | config


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _write(folder: str | Path, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Write files of these names and texts into `folder`, and return their paths."""
    target = make_folder(folder)
    for name, text in texts.items():
        with replacing(target / name) as path:
            path.write_text(text, encoding="utf-8")
    return tuple(str(target / name) for name in texts)


def _refuse_unknown(where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise InputError(f"{where} has no argument {name!r}.{suggest(name, known, INSTEAD)}")


def _strategy(name: str, value: Any, choices: Sequence[str]) -> str | None:
    """The strategy that `padding=` or `truncation=` names; True is the first of `choices`."""
    if value is False or value is None or value in ("do_not_pad", "do_not_truncate"):
        return None
    return choices[0] if value is True else choice(*choices).check(name, value)


def _padded_length(strategy: str | None, lengths: Iterable[int], limit: int, multiple: int) -> int:
    """The length to which rows of these `lengths` are padded, or 0 if they stay as they are."""
    if strategy is None or (strategy == "max_length" and limit >= LARGE):
        return 0
    length = limit if strategy == "max_length" else max(lengths)
    return -(-length // multiple) * multiple


def _refuse_stride(stride: int, cut: str, limit: int, texts: list[Encoding], pairs: list[Encoding]) -> None:
    """Raise an InputError where a text is cut to no more tokens than rows share: the library would panic."""
    for first, second in zip(map(len, texts), map(len, pairs), strict=True):
        if cut == "longest_first":
            left = max(limit - min(first, second), limit // 2)
        else:
            left = limit - (second if cut == "only_first" else first)
        if first + second > limit and 0 < left <= stride:
            raise InputError(f"stride is {stride}, but max_length={limit} leaves only {left} tokens of a text.")


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
            nested = isinstance(value, list | tuple) and any(isinstance(one, list | tuple) for one in value)
            hint = " Pairs come as text and text_pair, words with is_split_into_words=True." * nested
            raise InputError(f"{name} is {reprlib.repr(value)}, expected a {kind}, or one or more in a list.{hint}")
        return list(batch)

    texts, batched = batch_of("text", text), not is_one(text)
    if pair is None:
        return [(one,) for one in texts], batched
    pairs = batch_of("text_pair", pair)
    if len(pairs) != len(texts) or is_one(pair) is batched:
        given = reprlib.repr(pair)
        raise InputError(f"text_pair is {given}, expected a {kind} for each text, {len(texts)} here.")
    return list(zip(texts, pairs, strict=True)), batched


def _refuse_surrogates(samples: Iterable[tuple[Any, ...]]) -> None:
    for sample in samples:
        for text in sample:
            try:
                (text if isinstance(text, str) else "".join(text)).encode()
            except UnicodeEncodeError:
                raise InputError(f"text: {SURROGATE}") from None


def _columns(encoded: Any) -> dict[str, Any]:
    """The columns of what `pad` is given: a mapping, or a list of mappings with the same keys."""
    columns = {}
    if isinstance(encoded, Mapping):
        columns = dict(encoded)
    elif isinstance(encoded, list | tuple) and all(isinstance(one, Mapping) for one in encoded):
        names = list(dict.fromkeys(name for one in encoded for name in one))
        if any(name not in one for one in encoded for name in names):
            raise InputError(f"encoded_inputs: expected the keys {names} in every encoding.")
        columns = {name: [one[name] for one in encoded] for name in names}
    if "input_ids" not in columns:
        raise InputError(f"encoded_inputs is {reprlib.repr(encoded)}, expected input_ids, as a tokenizer call returns.")
    return columns


def _refuse_uneven(columns: Mapping[str, Any]) -> None:
    """Every column has a row for each row of input_ids; those that are padded have as many numbers in it."""
    rows = columns["input_ids"]
    for name, column in columns.items():
        if not isinstance(column, list) or len(column) != len(rows):
            raise InputError(f"{name} is {reprlib.repr(column)}, expected {len(rows)} rows, as in input_ids.")
        for row, ids in zip(column, rows, strict=True) if name in PAD_VALUES or column is rows else ():
            if not isinstance(row, list) or len(row) != len(ids):
                raise InputError(f"{name} has {reprlib.repr(row)}, expected a list as long as that of input_ids.")

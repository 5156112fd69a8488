"""Byte-pair encoding on bytes: how BLOOM cuts a text into tokens, in four steps.

1. Special tokens (`<s>`, `</s>`, `<unk>`, `<pad>`) are cut out of the text; each is one id.
2. `SPLIT` cuts the rest into pieces. A run of letters, digits or symbols, with the one space before it, is a
   piece; so is what stands between two such runs: spaces, line ends, punctuation that ends a sentence.
3. The UTF-8 bytes of a piece are written as printable symbols: `Ġ` is a space, `Ċ` a line end.
4. Byte-pair encoding joins neighbouring symbols of a piece, in the order in which the merges were learned.

    "How are you?"  ->  "How", "Ġare", "Ġyou", "?"  ->  7572, 1306, 1152, 34      (the real BLOOM's ids)

Every byte that UTF-8 has a use for is a token, so every text can be encoded, and decoding gives back exactly that text.

The steps run in the `tokenizers` library; here they are put together, learned and read from files. Source: the
pipeline in the tokenizer.json of bigscience/bloom.
"""

from __future__ import annotations

import copy
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError
from .fields import whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# The real pattern: `(`, `|` and `)` end a run too, though it hardly meant to; `[` and `]` do not.
SPLIT = r" ?[^(\s|[.,!?…。，、।۔،])]+"
# Runs by that pattern, and what lies between them, as Python writes it, where they are longer than any word.
LONGEST = 1000  # characters
LONG = re.compile(rf"[^\s(|).,!?…。，、।۔،]{{{LONGEST}}}|[\s(|).,!?…。，、।۔،]{{{LONGEST}}}")
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")  # ids 0 to 3
SURROGATE = "half of a surrogate pair is no character, and has no bytes in UTF-8."


def _byte_symbols() -> dict[str, int]:
    """Return the 256 symbols of step 3 and the byte that each stands for.

    Visible Latin-1 characters stand for their own code; 256, 257, ... for the other bytes, in order.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTE_OF = _byte_symbols()


def pipeline(model: Any) -> Tokenizer:
    """Return steps 2 and 3, and the way back, around the merges of `model` (a tokenizers.models.BPE)."""
    from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors

    backend = Tokenizer(model)
    pieces = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pieces, symbols])
    backend.post_processor = processors.ByteLevel(trim_offsets=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def learn(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a pipeline whose merges are learned from `texts`; the special tokens and the 256 bytes come first.

    Each merge reads every piece that it occurs in, whole. A text of millions of characters without a space would be one
    piece, read thousands of times: so a piece is cut after each `LONGEST` characters, for learning alone.
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
    backend = pipeline(models.BPE())
    try:
        backend.train_from_iterator(_strings(texts), trainer)
    except UnicodeEncodeError:
        raise InputError(f"texts: {SURROGATE}") from None
    return backend


def read(vocab_file: Any, merges_file: Any, tokenizer_file: Any, given: Tokenizer | None) -> Tokenizer:
    """Return the pipeline from the one source that is given, if it is byte-level BPE."""
    from tokenizers import Tokenizer, decoders, models

    two_files = vocab_file is not None or merges_file is not None
    if two_files + (tokenizer_file is not None) + (given is not None) != 1:
        raise InputError(
            "expected tokenizer_file, or vocab_file and merges_file, or tokenizer_object. To load a folder, "
            "a hub repository or what minibloom ships, use BloomTokenizerFast.from_pretrained(...)."
        )
    if two_files:
        return pipeline(_opened(models.BPE.from_file, vocab_file=vocab_file, merges_file=merges_file))
    if given is not None and not isinstance(given, Tokenizer):
        raise InputError(f"tokenizer_object is {reprlib.repr(given)}, expected a tokenizers.Tokenizer.")
    backend = copy.deepcopy(given) if given else _opened(Tokenizer.from_file, tokenizer_file=tokenizer_file)
    reads_bytes = isinstance(backend.decoder, decoders.ByteLevel) and byte_step(_state(backend.pre_tokenizer))
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


def _opened(reader: Any, **files: Any) -> Any:
    """What `reader` makes of `files`; an InputError names the one that is missing or cannot be read."""
    for name, path in files.items():
        if path is None or not Path(path).is_file():
            raise InputError(f"{name}: there is no file {path}.")
    paths = [str(path) for path in files.values()]
    try:
        return reader(*paths)
    except Exception as error:  # the library has no types of its own
        raise InputError(f"{' and '.join(paths)} cannot be read as {' and '.join(files)}: {error}.") from None


def switch(backend: Tokenizer, part_name: str, name: str, value: bool | None) -> bool:
    """Set a switch of step 3 in one part of a pipeline, and return it; None leaves it as it is."""
    part = getattr(backend, part_name)
    state = _state(part)
    step = byte_step(state)
    if step and value is not None:
        step[name] = bool(value)
        part.__setstate__(json.dumps(state).encode())
        setattr(backend, part_name, part)  # older versions of the library hand out copies
    return bool(step.get(name, False) if value is None else value)


def _state(part: Any) -> dict[str, Any]:
    """One part of a pipeline as tokenizer.json has it."""
    return {} if part is None else json.loads(part.__getstate__())


def byte_step(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ByteLevel step (number 3) in the state of one part of a pipeline; empty if there is none."""
    steps = state.get("pretokenizers") or state.get("processors") or [state]
    return next((step for step in steps if step.get("type") == "ByteLevel"), {})


def _strings(texts: Iterable[str]) -> Iterator[str]:
    for text in texts if isinstance(texts, Iterable) and not isinstance(texts, str) else [None]:
        if not isinstance(text, str):
            raise InputError(f"texts: expected an iterable of strings, got {reprlib.repr(texts)}.")
        cuts = [0, *(match.end() for match in LONG.finditer(text)), len(text)]
        yield from (text[begin:end] for begin, end in pairwise(cuts))

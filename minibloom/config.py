"""BloomConfig: the numbers and switches that make one BLOOM, and the parameters that follow from them."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from .display import bold, code, table
from .errors import InputError, suggest
from .fields import (
    FLAG,
    ID2LABEL,
    LABEL2ID,
    RATE,
    STRINGS,
    TOKEN_ID,
    TOKEN_IDS,
    Rule,
    choice,
    dtype,
    optional,
    real,
    signature,
    whole,
)
from .files import fetch, make_folder, read_json, replacing

# ruff: noqa: RUF009 (a call as a field's default: `_field` makes the dataclass field itself)


def _field(default: Any, rule: Rule) -> Any:
    return dataclasses.field(default_factory=lambda: copy.copy(default), metadata={"rule": rule})


@dataclasses.dataclass(init=False, repr=False)
class BloomConfig:
    """Configuration of a BLOOM model. Every field is a keyword, an attribute and a key of `config.json`.

    The first block of fields is what the documentation of BloomConfig lists, with its defaults; the second is
    what models read of PretrainedConfig. As in transformers, `n_embed`, `num_attention_heads`,
    `num_hidden_layers`, `torch_dtype` and `num_labels` are accepted for `hidden_size`, `n_head`, `n_layer`,
    `dtype` and the length of `id2label`. The ids 1 and 2 begin and end texts, as BLOOM's do: with a vocabulary in which
    they are tokens like others, give `bos_token_id=None, eos_token_id=None`, or generation stops at a 2.

    An unknown keyword or a value out of range is an `InputError`. Unknown keys of a *file* are kept in
    `extra` and written back: BLOOM's own files carry dead ones (`masked_softmax_fusion`, `seq_length`, ...).

        >>> config = BloomConfig(vocab_size=1000, hidden_size=64, n_layer=2, n_head=8)
        >>> config.head_dim
        8

    Source: BloomConfig in the documentation of transformers.
    """

    model_type: ClassVar[str] = "bloom"

    vocab_size: int = _field(250880, whole(1))  # V, rows of the embedding matrix
    hidden_size: int = _field(64, whole(1, 2**20))  # E
    n_layer: int = _field(2, whole(1, 10_000))  # blocks
    n_head: int = _field(8, whole(1, 2**20))  # H
    layer_norm_epsilon: float = _field(1e-5, real(0))  # added to the variance under the root
    initializer_range: float = _field(0.02, real(0))  # standard deviation of new weights
    use_cache: bool = _field(True, FLAG)  # return past keys and values unless the call says otherwise
    bos_token_id: int | None = _field(1, TOKEN_ID)
    eos_token_id: int | list[int] | None = _field(2, TOKEN_IDS)
    apply_residual_connection_post_layernorm: bool = _field(False, FLAG)  # the residual starts after the norm
    hidden_dropout: float = _field(0.0, RATE)
    attention_dropout: float = _field(0.0, RATE)
    pretraining_tp: int = _field(1, whole(1))  # slices of the two output projections, if slow_but_exact
    slow_but_exact: bool = _field(False, FLAG)

    pad_token_id: int | None = _field(None, TOKEN_ID)
    unk_token_id: int | None = _field(None, TOKEN_ID)
    tie_word_embeddings: bool = _field(True, FLAG)  # the head shares the embedding matrix
    output_attentions: bool = _field(False, FLAG)
    output_hidden_states: bool = _field(False, FLAG)
    return_dict: bool = _field(True, FLAG)
    id2label: dict[int, str] = _field({0: "LABEL_0", 1: "LABEL_1"}, ID2LABEL)
    label2id: dict[str, int] = _field({"LABEL_0": 0, "LABEL_1": 1}, LABEL2ID)
    problem_type: str | None = _field(
        None, optional(choice("regression", "single_label_classification", "multi_label_classification"))
    )
    classifier_dropout: float | None = _field(None, optional(RATE))
    architectures: list[str] | None = _field(None, optional(STRINGS))  # the classes a file was saved from
    dtype: str | None = _field(None, optional(dtype("float16", "bfloat16", "float32", "float64")))  # in files
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # keys of a file without a meaning here

    def __init__(self, **given: Any) -> None:
        model_type = given.pop("model_type", self.model_type)
        if model_type != self.model_type:
            raise InputError(f"model_type is {model_type!r}, expected 'bloom', the one that minibloom runs.")
        for field in dataclasses.fields(self):
            vars(self)[field.name] = field.default_factory()  # type: ignore[operator]
        self._set({name: value for name, value in given.items() if value is not None or name not in LABELS})

    def _set(self, given: dict[str, Any]) -> None:
        for name, meant in ALIASES.items():
            if name in given and meant in given and given[name] != given[meant]:
                raise InputError(f"{meant} is {given[meant]!r}, and {given[name]!r} as {name}: give one.")
        num_labels = given.pop("num_labels", None)
        if num_labels is not None and "id2label" not in given:
            self.num_labels = num_labels
        for name, value in sorted(given.items(), key=lambda item: item[0] == "label2id"):  # last, as id2label sets it
            setattr(self, name, value)
        if num_labels is not None and num_labels != self.num_labels:
            raise InputError(f"num_labels is {num_labels!r}, but id2label names {self.num_labels} labels.")
        self.validate()

    def __setattr__(self, name: str, value: Any) -> None:
        meant = ALIASES.get(name, name)
        if meant in RULES:
            value = RULES[meant].check(name, value)
        elif meant not in ("num_labels", "extra"):
            raise InputError(f"BloomConfig has no field {name!r}.{suggest(name, KNOWN)}")
        super().__setattr__(meant, value)
        if meant == "id2label":
            self.label2id = inverse(self.id2label)

    def __getattr__(self, name: str) -> Any:  # only called for what is no field, method or property
        if name in ALIASES:
            return getattr(self, ALIASES[name])
        extra = self.__dict__.get("extra", {})
        if name not in extra:
            raise AttributeError(f"BloomConfig has no field {name!r}.{suggest(name, RULES)}")
        return extra[name]

    def validate(self) -> None:
        """Raise an InputError where fields contradict each other. (Each alone is checked when it is set.)"""
        if self.hidden_size % self.n_head:
            expected = f"a multiple of n_head {self.n_head}"
            raise InputError(f"hidden_size is {self.hidden_size}, expected {expected}.")
        if self.slow_but_exact and self.hidden_size % self.pretraining_tp:
            expected = f"a multiple of pretraining_tp {self.pretraining_tp}, because slow_but_exact is True"
            raise InputError(f"hidden_size is {self.hidden_size}, expected {expected}.")
        if self.label2id != inverse(self.id2label):
            given, expected = reprlib.repr(self.label2id), reprlib.repr(inverse(self.id2label))
            raise InputError(f"label2id is {given}, expected {expected}, what id2label says: give that alone.")
        if self.problem_type == "single_label_classification" and self.num_labels == 1:
            raise InputError(
                "problem_type is 'single_label_classification', expected num_labels of 2 or more (got 1). "
                "Use num_labels=2, or problem_type='regression' for a single number."
            )

    @property
    def head_dim(self) -> int:
        """Size of one head, D = E / H."""
        return self.hidden_size // self.n_head

    @property
    def num_labels(self) -> int:
        """Number of labels of a classifier: the length of `id2label`."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        count = whole(1, 2**20).check("num_labels", value)
        if count != self.num_labels:  # names that the user gave stay
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}

    def replace(self, **changes: Any) -> BloomConfig:
        """Return a copy with some fields changed."""
        changed = BloomConfig.from_dict(self.to_dict())
        changed._set(changes)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Return every field, `model_type` and `extra` as one flat dictionary: what `config.json` holds."""
        fields = {name: copy.copy(getattr(self, name)) for name in RULES}
        return {"model_type": self.model_type} | fields | copy.deepcopy(self.extra)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BloomConfig:
        """Return the configuration that `values` describe; keys that are no fields go to `extra`."""
        known = {name: value for name, value in values.items() if name in KNOWN}
        if known.get("id2label") is not None:  # transformers goes by it, and may have written old names beside it
            known.pop("label2id", None)
        config = cls(**known)
        config.extra = {name: copy.deepcopy(value) for name, value in values.items() if name not in KNOWN}
        return config

    @classmethod
    def from_json_file(cls, path: str | Path) -> BloomConfig:
        """Return the configuration in the file `path`; an InputError names the file and the field."""
        try:
            return cls.from_dict(read_json(path))
        except InputError as error:
            raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from None

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | Path | None = None, revision: str | None = None, **changes: Any
    ) -> BloomConfig:
        """Return the configuration in a folder or a hub repository, with some fields changed.

        Without an argument: that of the small BLOOM that ships with minibloom.
        """
        folder = fetch(path_or_repo, ["config.json"], revision)
        return cls.from_json_file(folder / "config.json").replace(**changes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into `folder`, which is made if need be. transformers reads it too."""
        self.validate()
        with replacing(make_folder(folder) / "config.json") as path:
            path.write_text(self.to_json_string(), encoding="utf-8")

    def to_json_string(self) -> str:
        """Return the text of `config.json`."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def _repr_html_(self) -> str:
        """What a notebook shows: every field, with those in bold that are not the default."""
        default = BloomConfig().to_dict()

        def row(name: str, value: Any) -> list[object]:
            if name in default and value == default[name]:
                return [code(name), repr(value), ""]
            usual = repr(default[name]) if name in default else "not a field of BLOOM's"
            return [bold(code(name)), bold(repr(value)), usual]

        return table(["field", "value", "default, if another"], (row(*item) for item in self.to_dict().items()), left=3)

    def __repr__(self) -> str:
        default = BloomConfig().to_dict()
        shown = {name: value for name, value in self.to_dict().items() if name not in default or value != default[name]}
        return f"BloomConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


RULES: dict[str, Rule] = {f.name: f.metadata["rule"] for f in dataclasses.fields(BloomConfig) if f.metadata}
ALIASES = {
    "n_embed": "hidden_size",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "torch_dtype": "dtype",
}
LABELS = ("id2label", "label2id")
KNOWN = (*RULES, *ALIASES, "num_labels", "model_type")


def inverse(id2label: Mapping[int, str]) -> dict[str, int]:
    """The numbers of labels by their names."""
    return {label: index for index, label in id2label.items()}


def parameter_shapes(config: BloomConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every parameter of the base model, in the order of the forward pass.

    The names are those of a checkpoint without the leading `transformer.`; linear weights are [out, in].
    Heads add their own.
    """
    return dict(_shapes(config.vocab_size, config.hidden_size, config.n_layer))


@functools.lru_cache(maxsize=8)  # each call of a model asks for them: 20 us of a small one's millisecond
def _shapes(V: int, E: int, layers: int) -> dict[str, tuple[int, ...]]:
    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (E,), f"{name}.bias": (E,)}

    def linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    shapes: dict[str, tuple[int, ...]] = {"word_embeddings.weight": (V, E)}
    shapes |= norm("word_embeddings_layernorm")
    for i in range(layers):
        shapes |= norm(f"h.{i}.input_layernorm")
        shapes |= linear(f"h.{i}.self_attention.query_key_value", 3 * E, E)  # rows run [H, 3, D]
        shapes |= linear(f"h.{i}.self_attention.dense", E, E)
        shapes |= norm(f"h.{i}.post_attention_layernorm")
        shapes |= linear(f"h.{i}.mlp.dense_h_to_4h", 4 * E, E)
        shapes |= linear(f"h.{i}.mlp.dense_4h_to_h", E, 4 * E)
    return shapes | norm("ln_f")


_defaults = BloomConfig().to_dict()
BloomConfig.__signature__ = signature({name: _defaults[name] for name in RULES})  # type: ignore[attr-defined]

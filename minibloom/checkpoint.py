"""Checkpoints: a folder or a hub repository with configuration and parameters, read and written.

Loading goes one way: `tensor_index` reads the headers, `match_names` holds them against the parameters that
the configuration asks for, and only then `read_tensors` of `tensor_file.py` reads data, each tensor once, straight
into the precision to compute in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .backend import Array
from .config import BloomConfig, parameter_shapes
from .errors import InputError, suggest
from .files import fetch, folder_path, make_folder, read_json, refuse_pickle, replacing
from .tensor_file import (
    CODES,
    FLOATS,
    INT8,
    SCALE,
    Shape,
    TensorEntry,
    check_range,
    read_header,
    same_values,
    stored_bytes,
    write_tensors,
)

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OURS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")
EMBEDDING, HEAD = "word_embeddings.weight", "lm_head.weight"
PREFIX = "transformer."  # before the base model's names where a file holds a head too
CLASSIFIERS = ("score.weight", "classifier.weight", "classifier.bias", "qa_outputs.weight", "qa_outputs.bias")
HEADS = (HEAD, *CLASSIFIERS)
# What config.json says of an int8 checkpoint. transformers has a key of this name, knows no such method, and says so.
QUANTIZED = {"quantization_config": {"quant_method": "minibloom_int8"}}


# --- What is there ---


def tensor_index(folder: str | Path) -> dict[str, TensorEntry]:
    """Return every tensor of the checkpoint in `folder`, by its name there. Reads headers alone.

    Reads `model.safetensors`, or the shards that `model.safetensors.index.json` names. Raises InputError if
    a file is missing, truncated or corrupt, or the index names a file outside `folder`.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder, expected the folder of a checkpoint.")
    if (folder / SINGLE).exists():
        entries = read_header(folder / SINGLE)
    elif (folder / INDEX).exists():
        entries = _read_shards(folder)
    else:
        refuse_pickle((path.name for path in sorted(folder.iterdir())), folder)
        raise InputError(f"{folder} holds neither {SINGLE} nor {INDEX}, expected one of them.")
    if not entries:
        raise InputError(f"{folder} holds a checkpoint without tensors.")
    return entries


def _read_shards(folder: Path) -> dict[str, TensorEntry]:
    path = folder / INDEX
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise InputError(f"{path}: expected 'weight_map', a dictionary from tensor names to file names.")
    entries: dict[str, TensorEntry] = {}
    for shard in sorted(set(places.values())):
        _check_inside(folder, shard)
        for name, entry in read_header(folder / shard).items():
            if places.get(name) != shard:
                raise InputError(f"{entry} is not what {path} says: there it is in {places.get(name)!r}.")
            entries[name] = entry
    for name, shard in places.items():
        if name not in entries:
            raise InputError(f"{folder / shard} has no tensor {name!r}, expected one because {path} says so.")
    return entries


def _check_inside(folder: Path, shard: str) -> None:
    """Refuse a shard outside `folder`: a downloaded index must not choose what is read on this machine."""
    outside = f"{folder / INDEX} names {shard!r}, expected a .safetensors file in the same folder."
    if re.search(r"[/\\:\0]", shard) or not shard.endswith(".safetensors"):
        raise InputError(outside)
    home = folder.resolve()
    # The hub's cache keeps the data of `snapshots/COMMIT/name` in `blobs`, and a link in its place.
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if (folder / shard).resolve().parent not in homes:
        raise InputError(f"{outside} It is a link that leads out of it: copy the file there.")


# --- Names and shapes ---


def parameter_names(entries: Mapping[str, TensorEntry], config: BloomConfig) -> dict[str, TensorEntry]:
    """Return `entries` by parameter name: without the leading `transformer.` that a file may have.

    An int8 matrix and its scales, two tensors in the file, are one entry. Where only the head that is tied to the
    embedding has an entry, it is the embedding's too.
    """
    named: dict[str, TensorEntry] = {}
    for name, entry in _with_scales(entries).items():
        short = name.removeprefix(PREFIX)
        if short in named:
            raise InputError(f"{entry} is there twice, also as {named[short].name!r}. Delete one of them.")
        named[short] = entry
    if config.tie_word_embeddings and HEAD in named:
        named.setdefault(EMBEDDING, named[HEAD])  # of two equal tensors, some writers keep either one
    return named


def _with_scales(entries: Mapping[str, TensorEntry]) -> dict[str, TensorEntry]:
    """`entries` with the scales of int8 matrices put into the matrices' entries."""
    joined = dict(entries)
    for name, entry in entries.items():
        if entry.dtype == CODES[INT8] and len(entry.shape) == 2 and name + SCALE in joined:
            scale = joined.pop(name + SCALE)
            if scale.dtype != CODES["float32"] or scale.shape != entry.shape[:1]:
                raise InputError(f"{scale} is {scale.dtype} {list(scale.shape)}, expected F32 {[entry.shape[0]]}.")
            joined[name] = entry._replace(scale=scale)
    return joined


def match_names(
    named: Mapping[str, TensorEntry], expected: Mapping[str, Shape], leave: Collection[str] = ()
) -> dict[str, TensorEntry]:
    """Return the entry of every parameter of `expected` (name -> shape), in its order, of those that have such names.

    A missing, extra or wrongly shaped tensor, or one that holds no floating point numbers, is an InputError.
    Names in `leave` may be there and are not returned. Reads no data.
    """
    folder = next(iter(named.values())).file.parent if named else "the checkpoint"
    missing = [name for name in expected if name not in named]
    if missing:
        raise InputError(f"{folder} has no tensor {_some(missing)}, expected by its config.json.")
    extra = [name for name in named if name not in expected and name not in leave]
    if extra:
        message = f"{named[extra[0]].file} holds {_some(extra)}, which this model does not have."
        raise InputError(message + suggest(extra[0], expected))
    for name, shape in expected.items():
        entry = named[name]
        if entry.shape != shape:
            raise InputError(f"{entry} has shape {list(entry.shape)}, expected {list(shape)} by config.json.")
        if entry.dtype not in FLOATS and not entry.scale:
            expected_dtypes = f"expected one of {', '.join(FLOATS)}, or I8 with {entry.name}{SCALE}"
            raise InputError(f"{entry} has dtype {entry.dtype}, {expected_dtypes}.")
    return {name: named[name] for name in expected}


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def block_number(name: str) -> int | None:
    """The block that parameter `name` belongs to, None for one outside the blocks."""
    found = re.match(r"h\.(\d+)\.", name)
    return int(found[1]) if found else None


# --- In ---


def find_params(
    path_or_repo: str | Path,
    shapes: Callable[[BloomConfig], dict[str, Shape]] = parameter_shapes,
    revision: str | None = None,
    config_changes: Mapping[str, Any] | None = None,
) -> tuple[BloomConfig, dict[str, TensorEntry]]:
    """Return configuration and places of the parameters of a checkpoint in a folder or a hub repository.

    Reads headers alone; `read_tensors` reads what stands in the places.
    shapes: the parameters that this kind of model has with a configuration. Those of a classifier's head may be
        missing from the checkpoint, and are missing from what is returned then; a head of another kind is left.
    revision: as in `fetch`; config_changes: fields to change.
    """
    folder = fetch(path_or_repo, revision=revision)
    config = read_config(folder).replace(**(config_changes or {}))
    named = parameter_names(tensor_index(folder), config)
    untied = config.replace(tie_word_embeddings=False)
    # Any kind of model may start from any other's file: a head that it has no use for is left, and a classifier's
    # that it misses will be new.
    expected = {name: s for name, s in shapes(config).items() if name in named or name not in CLASSIFIERS}
    leave = [name for name in HEADS if name not in shapes(config)]
    matched = match_names(named, expected, leave)
    head_is_left = HEAD in named and HEAD in shapes(untied) and HEAD not in matched
    if head_is_left and not same_values(named[HEAD], named[EMBEDDING]):
        # The configuration says tied, the file holds another head: as in transformers 5, the file is right.
        config, matched = untied, match_names(named, shapes(untied), CLASSIFIERS)
    return config, matched


def find_tensors(
    path_or_repo: str | Path, revision: str | None = None
) -> tuple[Path, BloomConfig, dict[str, TensorEntry]]:
    """Return folder, configuration and places of all tensors of a checkpoint, heads included. Reads headers alone."""
    folder = fetch(path_or_repo, revision=revision)
    config = read_config(folder)
    named = parameter_names(tensor_index(folder), config)
    match_names(named, parameter_shapes(config), HEADS)
    if config.tie_word_embeddings and HEAD in named and same_values(named[HEAD], named[EMBEDDING]):
        del named[HEAD]
    return folder, config, named


def read_config(folder: Path) -> BloomConfig:
    """The configuration of the checkpoint in `folder`, without what its file says of how numbers are stored."""
    if not (folder / "config.json").exists():
        raise InputError(
            f"{folder} is no checkpoint: config.json does not exist. Give a folder that a model is saved in."
        )
    config = BloomConfig.from_json_file(folder / "config.json")
    if config.extra.get("quantization_config") == QUANTIZED["quantization_config"]:
        del config.extra["quantization_config"]  # it is about the file, and the headers tell it too
    return config


# --- Out ---


def check_free(folder: str | Path) -> None:
    """Raise an InputError if `folder` holds a checkpoint: one that is written there would take its place."""
    held = sorted(path.name for path in folder_path(folder).glob("*") if OURS.fullmatch(path.name))
    if held:
        raise InputError(f"{folder} already holds a checkpoint ({held[-1]}): give another folder to write to.")


def write_checkpoint(
    folder: str | Path,
    params: Mapping[str, Array],
    config: BloomConfig,
    dtype: str | None = None,
    prefix: str = "",
    max_shard_size: int = 5 * 10**9,
) -> None:
    """Write `config.json` and `model.safetensors` into `folder`, as transformers and `from_pretrained` read them.

    dtype: how numbers are stored ("float16", "bfloat16", "float32", "float64"); as they are by default. "int8" stores
        matrices so, with a scale for each row, and the rest as float32; transformers cannot read that.
    prefix: put before the base model's names; transformers has "transformer." where the model has a head.
    max_shard_size: bytes of data in a file; more are written as shards, with an index.

    Everything is checked, then written to temporary names, then moved into place: an error, Ctrl-C or a full
    disk while it writes leaves the checkpoint that was there. Shards that take the place of others are moved without
    an index there, so that at no time a reader finds some of each. Raises InputError for parameters that do not
    belong to `config`, and for numbers that are too large for `dtype`.
    """
    _check_params(params, config)
    stored = {name: _stored_as(array, dtype) for name, array in params.items()}
    for name, kind in stored.items():
        if kind not in CODES:
            raise InputError(f"dtype {kind!r} cannot be stored, expected one of {', '.join(CODES)}.")
        check_range(name, params[name], kind)
    sizes = {name: stored_bytes(array, stored[name]) for name, array in params.items()}
    files = _files(sizes, max_shard_size)
    in_file = {name: name if name in HEADS else prefix + name for name in params}

    folder = make_folder(folder)
    old = {path.name for path in folder.iterdir() if OURS.fullmatch(path.name)}
    with ExitStack() as moves:  # leaves in reverse: weights move into place, then the index, then config.json
        path = moves.enter_context(replacing(folder / "config.json"))
        path.write_text(_described(config, stored[EMBEDDING]).to_json_string(), encoding="utf-8")
        if len(files) > 1:
            old.discard(INDEX)
            tensors = {name: [one, one + SCALE] if stored[name] == INT8 else [one] for name, one in in_file.items()}
            places = {one: file for file, names in files.items() for name in names for one in tensors[name]}
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
            path = moves.enter_context(replacing(folder / INDEX))
            path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        for file, names in files.items():
            path = moves.enter_context(replacing(folder / file))
            write_tensors(path, {in_file[name]: (params[name], stored[name]) for name in names})
        if len(files) > 1 and not old.isdisjoint(files):
            # If the moves broke off, the old index would name shards of both. Without one, that is no checkpoint.
            (folder / INDEX).unlink(missing_ok=True)
    for name in old.difference(files):  # an earlier checkpoint's, which a reader would take for this one's
        (folder / name).unlink(missing_ok=True)


def _check_params(params: Mapping[str, Array], config: BloomConfig) -> None:
    """Raise an InputError if these are not the parameters of a model of `config`, with any head."""
    shapes = parameter_shapes(config)
    for name in (*shapes, *params):
        given = list(params[name].shape) if name in params else "missing"
        expected = list(shapes[name]) if name in shapes else "a name of BLOOM's"
        if given != expected and name not in HEADS:
            raise InputError(f"params[{name!r}] is {given}, expected {expected}.{suggest(name, shapes)}")


def _stored_as(array: Array, dtype: str | None) -> str:
    """How to store `array` in a checkpoint of `dtype`, None for as it is. Only matrices are stored as int8."""
    if dtype == INT8 and array.ndim != 2:
        return "float32"
    return dtype or getattr(array.dtype, "name", array.dtype)  # of an array, or of a small weight


def _described(config: BloomConfig, stored: str) -> BloomConfig:
    """`config` as the file says it where matrices are stored as `stored`."""
    config = config.replace(dtype="float32" if stored == INT8 else stored)
    if stored == INT8:
        config.extra |= QUANTIZED
    return config


def _files(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """The names in each file: in order, in runs of at most `limit` bytes; a larger tensor stands alone."""
    if not isinstance(limit, int) or limit < 1:
        raise InputError(f"max_shard_size is {limit!r}, expected a number of bytes.")
    shards: list[list[str]] = [[]]
    filled = 0
    for name, bytes_ in sizes.items():
        if shards[-1] and filled + bytes_ > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += bytes_
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": names for i, names in enumerate(shards, 1)}

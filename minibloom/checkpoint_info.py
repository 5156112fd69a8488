"""What a checkpoint is and what memory it needs, told before anything of it is loaded: `minibloom info`."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

from .checkpoint import (
    HEAD,
    HEADS,
    INDEX,
    SINGLE,
    block_number,
    match_names,
    parameter_names,
    read_config,
    tensor_index,
)
from .config import BloomConfig, parameter_shapes
from .errors import InputError
from .files import NONSENSE, WEIGHTS, cause, fetch, refuse_pickle, unreachable_errors
from .memory import size
from .tensor_file import INT8, Shape, TensorEntry, itemsize


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint is and what it needs, told from its configuration and headers alone."""

    source: str
    config: BloomConfig
    parameters: int  # numbers that are learnt; a tied head counts once
    dtypes: dict[str, int]  # how many numbers are stored in each precision
    file_bytes: dict[str, int]  # data in each file
    heads: list[str]  # names of tensors beyond the base model's
    matrices: list[Shape]  # shapes of all matrices, a tied head's once
    block_bytes: int  # data of the largest block
    outside_bytes: int  # data outside the blocks: embedding, last norm, head

    @property
    def streamed_bytes(self) -> int:
        """Memory of the parameters where blocks are read while they are used: two of them, and what is outside."""
        return self.outside_bytes + 2 * self.block_bytes

    def bytes_as(self, weights: str) -> int:
        """Memory of the parameters with matrices kept as "bfloat16", "float16" or "int8", the rest as float32."""
        numbers = sum(map(math.prod, self.matrices))
        scales = sum(rows for rows, _ in self.matrices) if weights == INT8 else 0
        return numbers * itemsize(weights) + 4 * (scales + self.parameters - numbers)

    @property
    def float32_bytes(self) -> int:
        """Memory of the parameters as float32, which minibloom computes in."""
        return 4 * self.parameters

    @property
    def cache_bytes_per_token(self) -> int:
        """Memory of one token's keys and values in all blocks, as float32."""
        return 4 * 2 * self.config.n_layer * self.config.hidden_size

    def __str__(self) -> str:
        c, token = self.config, self.cache_bytes_per_token
        kinds = ", ".join(f"{count:,} as {name}" for name, count in self.dtypes.items())
        tied = "the embedding matrix (tied)" if c.tie_word_embeddings else "none"
        rows = {
            "checkpoint": self.source,
            "made as": ", ".join(c.architectures or ["(config.json does not say)"]),
            "shape": f"{c.n_layer} blocks, {c.n_head} heads of {c.head_dim}, hidden size {c.hidden_size}",
            "vocabulary": f"{c.vocab_size:,} rows",
            "head": ", ".join(self.heads) or tied,
            "parameters": f"{self.parameters:,}",
            "stored": f"{kinds}; {size(sum(self.file_bytes.values()))} in {len(self.file_bytes)} file(s)",
            "memory": f"{size(self.float32_bytes)} as float32, which minibloom computes in",
            "or, kept small": ", ".join(f"{size(self.bytes_as(kind))} as {kind}" for kind in ("bfloat16", INT8)),
            "or, streamed": f"{size(self.streamed_bytes)}: {size(self.block_bytes)} a block, two of them, and the rest",
            "and for context": f"{size(token)} a token, {size(2048 * token)} for 2,048 tokens",
        }
        return "\n".join(f"{name:<16} {value}" for name, value in rows.items())


def describe(path_or_repo: str | Path, revision: str | None = None) -> CheckpointInfo:
    """Return what the checkpoint in a folder or a hub repository is. Only headers are read."""
    local = Path(path_or_repo).expanduser().is_dir()
    folder = fetch(path_or_repo, ["config.json"], revision)
    config = read_config(folder)
    entries = tensor_index(folder) if local else _remote_index(str(path_or_repo), revision, folder)
    named = parameter_names(entries, config)
    base = parameter_shapes(config)
    match_names(named, base, HEADS)
    heads = [name for name in named if name not in base]
    dtypes, files, places = Counter[str](), Counter[str](), Counter[int | None]()
    for entry in entries.values():
        dtypes[entry.kind] += math.prod(entry.shape)
        files[entry.file.name] += entry.end - entry.begin
    learnt = [name for name in named if not (name == HEAD and config.tie_word_embeddings)]
    parameters = sum(math.prod(named[name].shape) for name in learnt)
    matrices = [named[name].shape for name in learnt if len(named[name].shape) == 2]
    for name in learnt:
        for part in filter(None, [named[name], named[name].scale]):
            places[block_number(name)] += part.end - part.begin
    outside = places.pop(None)
    return CheckpointInfo(
        str(path_or_repo), config, parameters, dtypes, files, heads, matrices, max(places.values()), outside
    )


def _remote_index(repo: str, revision: str | None, folder: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a hub repository from its headers alone; out of reach, those of a download."""
    from huggingface_hub import HfApi, errors

    api = HfApi()
    try:
        try:
            found = api.get_safetensors_metadata(repo, revision=revision)
        except errors.NotASafetensorsRepoError:
            refuse_pickle(api.list_repo_files(repo, revision=revision), repo, revision)
            raise InputError(f"{repo} on the hub holds no {SINGLE}, nor shards with an index.") from None
        return {
            name: TensorEntry(name, Path(file), info.dtype, tuple(map(int, info.shape)), int(begin), int(end))
            for file, header in found.files_metadata.items()
            for name, info in header.tensors.items()
            for begin, end in [info.data_offsets]
        }
    except InputError:
        raise
    except errors.SafetensorsParsingError as error:
        raise InputError(f"{repo} on the hub holds a corrupt file: {error}") from None
    except NONSENSE:
        raise InputError(f"{repo} on the hub holds a corrupt {SINGLE}, or a corrupt {INDEX}.") from None
    except unreachable_errors() as error:
        if not any(folder.glob(WEIGHTS)):
            raise InputError(f"{repo} on the hub: its weights cannot be read ({cause(error)}). Try again.") from None
        return tensor_index(folder)

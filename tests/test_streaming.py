"""Parameters read while they are used: the same numbers as from memory, with no more than two blocks of them there."""

from __future__ import annotations

import copy
import errno
import gc
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibloom import BloomConfig, BloomForCausalLM, BloomForSequenceClassification, InputError
from minibloom.checkpoint import find_params
from minibloom.config import parameter_shapes
from minibloom.generation.prompt_cache import fingerprint
from minibloom.layers.small_weights import to_bfloat16
from minibloom.streaming import FileWeight, StreamedParams
from minibloom.tensor_file import read_tensors

from . import tiny
from .strategies import configs, few, normal, random_model, seeds

STORED = ("float32", "bfloat16", "float16", "int8")
stored_kinds = st.sampled_from(STORED)


def save(folder: Path, config: BloomConfig, stored: str, seed: int = 0) -> Path:
    random_model(config, seed, "float32").save_pretrained(folder, stored)
    return folder


@few
@given(stored_kinds, st.booleans(), st.booleans(), seeds, st.data())
def test_the_same_logits_to_the_bit_as_with_the_weights_in_memory(tmp_path_factory, stored, hold, keep, seed, data):
    folder = save(tmp_path_factory.mktemp("model"), data.draw(configs()), stored, seed)
    whole = BloomForCausalLM.from_pretrained(folder, weights=stored)
    streamed = BloomForCausalLM.from_pretrained(folder, stream=True, hold_embedding=hold)
    streamed.params._keep_cached = keep
    ids = numpy.random.default_rng(seed).integers(0, whole.config.vocab_size, (2, 5))
    # A float32 matrix that is held is used as it is; one that is not, row block by row block, which rounds otherwise.
    off = 1e-5 * float(numpy.abs(whole(ids).logits).max()) if stored == "float32" and not hold else 0
    for some_ids in (ids, ids[:, :2]):  # again, from the last block round to the first
        numpy.testing.assert_allclose(streamed(some_ids).logits, whole(some_ids).logits, rtol=0, atol=off)
    cache = streamed(ids[:, :3]).past_key_values
    cached = streamed(ids[:, 3:], past_key_values=cache).logits
    expected = whole(ids).logits[:, 3:]
    numpy.testing.assert_allclose(cached, expected, rtol=0, atol=1e-5 * abs(expected).max())
    assert streamed.weights == stored and streamed.num_parameters() == whole.num_parameters()
    assert repr(streamed) == repr(whole)


@pytest.mark.parametrize("stored", STORED)
def test_a_token_at_a_time_without_the_embedding_in_memory(tmp_path, stored):
    folder = save(tmp_path, tiny.config(n_layer=2), stored)
    streamed = BloomForCausalLM.from_pretrained(folder, stream=True, hold_embedding=False)
    whole = BloomForCausalLM.from_pretrained(folder, weights=stored)
    (a, b) = (model([[1, 2]], use_cache=True).past_key_values for model in (streamed, whole))
    expected = whole([[3]], past_key_values=b).logits
    numpy.testing.assert_allclose(
        streamed([[3]], past_key_values=a).logits, expected, rtol=0, atol=1e-5 * abs(expected).max()
    )


@pytest.mark.parametrize("stored", STORED)
def test_to_know_a_model_again_its_embedding_is_read_in_large_blocks(tmp_path, monkeypatch, stored):
    """Not row by row, which takes a minute of BLOOM's; and not at once, as there may be no room for it."""
    folder = save(tmp_path, tiny.config(n_layer=2), stored)
    streamed = BloomForCausalLM.from_pretrained(folder, stream=True, hold_embedding=False)
    widen, heights = FileWeight.widen, []

    def watched(self, rows=slice(None)):
        block = widen(self, rows)
        heights.append(len(block))
        return block

    monkeypatch.setattr("minibloom.tensor_file.BLOCK", 100 * 32)
    monkeypatch.setattr(FileWeight, "widen", watched)
    found = fingerprint(streamed)
    assert heights == [100, 100, 100, 84]
    assert found == fingerprint(BloomForCausalLM.from_pretrained(folder, weights=stored))


@pytest.mark.parametrize("stored", STORED)
def test_it_is_a_mapping_like_the_dictionary_it_stands_in_for(tmp_path, stored):
    entries = find_params(save(tmp_path, tiny.config(n_layer=3), stored))[1]
    whole, streamed = read_tensors(entries, weights=stored), StreamedParams(entries, hold_embedding=False)
    assert list(streamed) == list(whole) and len(streamed) == len(whole)
    assert "h.2.mlp.dense_h_to_4h.bias" in streamed and "h.3.mlp.dense_h_to_4h.bias" not in streamed
    for name in [*whole, *sorted(whole), *reversed(whole)]:  # in turn, out of turn, and backwards
        ours, theirs = (
            (p.widen() if p.ndim == 2 and stored != "float32" else p) for p in (streamed[name], whole[name])
        )
        ours = ours.widen() if hasattr(ours, "widen") else ours
        numpy.testing.assert_array_equal(ours, theirs)
    for name in ("ln_g.weight", "h.3.mlp.dense_h_to_4h.bias", "h.0.nothing", "h.x.y", "h"):
        with pytest.raises(KeyError, match=name):
            streamed[name]


def test_two_blocks_at_most_are_in_memory_and_a_held_array_stays_as_it_is(tmp_path, monkeypatch):
    save(tmp_path, tiny.config(n_layer=6), "bfloat16")
    blocks: list[list[weakref.ref]] = []
    read = StreamedParams._read

    def counted(self, layer):
        gc.collect()
        order.append(layer)
        alive.append(sum(any(one() is not None for one in block) for block in blocks))
        block = read(self, layer)
        blocks.append([weakref.ref(weight) for weight in block.values()])
        return block

    alive: list[int] = []
    order: list[int] = []
    monkeypatch.setattr(StreamedParams, "_read", counted)
    model = BloomForCausalLM.from_pretrained(tmp_path, stream=True)
    for _ in range(3):
        model([[1, 2, 3]])
    assert order[:18] == [0, 1, 2, 3, 4, 5] * 3 and len(order) <= 19  # none twice, and none in vain
    assert max(alive) <= 1  # when the reading of a block begins, one other is there at most
    model.params._ahead[1].result()  # block 0, read before it is asked for
    name = "h.0.mlp.dense_h_to_4h.bias"
    kept, before = model.params[name], model.params[name].copy()
    model.params._ahead[1].result()
    assert order[18:] == [0, 1]  # nor is it read again
    model([[1, 2, 3]])
    numpy.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("memory", [10**4, 10**9])
def test_the_system_keeps_no_copy_of_a_block_where_the_files_do_not_fit_into_memory(tmp_path, monkeypatch, memory):
    forgotten, entries = set(), find_params(save(tmp_path, tiny.config(n_layer=3), "bfloat16"))[1]
    monkeypatch.setattr("minibloom.streaming.physical_memory", lambda: memory)
    monkeypatch.setattr(os, "POSIX_FADV_DONTNEED", "not needed", raising=False)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *what: forgotten.add(what), raising=False)
    streamed = StreamedParams(entries)
    for layer in range(3):
        assert streamed[f"h.{layer}.mlp.dense_h_to_4h.bias"].size
    streamed._ahead[1].result()
    blocks = {(e.begin, e.end - e.begin, "not needed") for name, e in entries.items() if name.startswith("h.")}
    assert forgotten == (blocks if memory == 10**4 else set())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_reads_for_itself_and_what_it_holds_stays_as_it_is(tmp_path):
    model = BloomForCausalLM.from_pretrained(save(tmp_path, tiny.config(n_layer=4), "float32"), stream=True)
    expected, (ready, tell) = model([[1, 2]]).logits, os.pipe()
    held = model.params["h.0.mlp.dense_h_to_4h.weight"]
    before = held.copy()
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends it, should it wait for ever
        right = numpy.array_equal(model([[1, 2]]).logits, expected)
        os.read(ready, 1)
        os._exit(0 if right and numpy.array_equal(held, before) else 1)
    del held
    for layer in (1, 2):  # the second is read into the memory that was held
        assert model.params[f"h.{layer}.mlp.dense_h_to_4h.weight"].shape == before.shape
    os.write(tell, b".")
    assert os.waitpid(child, 0)[1] == 0
    [os.close(end) for end in (ready, tell)]


def test_a_file_that_is_cut_while_it_is_read_is_an_error_each_time(tmp_path):
    model = BloomForCausalLM.from_pretrained(save(tmp_path, tiny.config(n_layer=4), "float32"), stream=True)
    os.truncate(tmp_path / "model.safetensors", (tmp_path / "model.safetensors").stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(InputError, match="was changed or replaced"):
            model([[1, 2]])


@pytest.mark.parametrize("hold_embedding", [True, False])
def test_a_read_that_fails_is_said_with_its_file_and_the_next_call_reads_afresh(tmp_path, monkeypatch, hold_embedding):
    folder = save(tmp_path, tiny.config(n_layer=3), "float32")
    expected = BloomForCausalLM.from_pretrained(folder)([[1, 2]]).logits
    model = BloomForCausalLM.from_pretrained(folder, stream=True, hold_embedding=hold_embedding)
    opened = Path.open

    def failing(path, *arguments, **options):
        if path.name == "model.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return opened(path, *arguments, **options)

    for _ in range(2):
        model([[1, 2]])  # what is read ahead is there before anything fails
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", failing)
            for _ in range(2):
                with pytest.raises(InputError, match="model.safetensors cannot be read: Input/output error"):
                    model([[1, 2]])
        numpy.testing.assert_allclose(model([[1, 2]]).logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("hold_embedding", [True, False])
def test_a_streamed_model_is_copied_and_pickled_and_reads_the_same_files(tmp_path, hold_embedding):
    folder = save(tmp_path / "model", tiny.config(), "bfloat16")
    model = BloomForCausalLM.from_pretrained(folder, stream=True, hold_embedding=hold_embedding)
    logits, written = model([[1, 2]]).logits, pickle.dumps(model)
    assert len(written) < sum(file.stat().st_size for file in folder.iterdir()) / 4  # places, and no numbers
    for other in (copy.deepcopy(model), pickle.loads(written)):
        assert other.params is not model.params and other.streamed_from == model.streamed_from
        assert isinstance(other.params["word_embeddings.weight"], FileWeight) != hold_embedding
        numpy.testing.assert_array_equal(other([[1, 2]]).logits, logits)


def test_a_streamed_model_is_not_saved_into_the_files_that_it_reads(tmp_path):
    folder = save(tmp_path / "model", tiny.config(), "float32")
    before, model = tiny.contents(folder), BloomForCausalLM.from_pretrained(folder, stream=True)
    with pytest.raises(InputError, match="model holds the files that this model is read from.*another folder"):
        model.save_pretrained(tmp_path / "." / "model", "float16")
    assert tiny.contents(folder) == before
    model.save_pretrained(tmp_path / "copy")
    numpy.testing.assert_array_equal(
        BloomForCausalLM.from_pretrained(tmp_path / "copy")([[1]]).logits, model([[1]]).logits
    )
    model.widened().save_pretrained(folder, "float16")  # from memory


@pytest.mark.parametrize("hold_embedding", [True, False])
def test_files_that_another_model_is_saved_over_are_no_longer_read(tmp_path, hold_embedding):
    """Or its numbers would be taken for those of this model, from the next block on."""
    save(tmp_path, tiny.config(n_layer=4), "float32")
    streamed = BloomForCausalLM.from_pretrained(tmp_path, stream=True, hold_embedding=hold_embedding)
    streamed([[1, 2]])
    trained = streamed.widened()
    trained.params["h.2.mlp.dense_h_to_4h.weight"] += 1
    trained.save_pretrained(tmp_path)
    for _ in range(2):
        with pytest.raises(InputError, match="changed or replaced since its header was read: load it again"):
            streamed([[1, 2]])
    BloomForCausalLM.from_pretrained(tmp_path, stream=True)([[1, 2]])


def test_what_streaming_cannot_do_is_said(tmp_path):
    save(tmp_path, tiny.config(), "float32")
    for option in ({"dtype": "float64"}, {"weights": "int8"}):
        with pytest.raises(InputError, match="stream=True computes in float32 with NumPy"):
            BloomForCausalLM.from_pretrained(tmp_path, stream=True, **option)
    with pytest.raises(InputError, match="hold_embedding=False is for stream=True"):
        BloomForCausalLM.from_pretrained(tmp_path, hold_embedding=False)
    model = BloomForCausalLM.from_pretrained(tmp_path, stream=True)
    with pytest.raises(InputError, match="in their files.*Train model.widened"):
        model.value_and_grad([[1, 2]], labels=[[1, 2]])
    grads = model.widened().value_and_grad([[1, 2]], labels=[[1, 2]])[1]
    assert set(grads) == set(model.params)


def test_a_new_head_on_a_streamed_model(tmp_path):
    save(tmp_path, tiny.config(), "float32")
    with pytest.warns(UserWarning, match="score.weight"):
        whole = BloomForSequenceClassification.from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="score.weight"):
        streamed = BloomForSequenceClassification.from_pretrained(tmp_path, stream=True)
    numpy.testing.assert_array_equal(streamed([[4, 5]]).logits, whole([[4, 5]]).logits)


LIMITED = """
import re, resource, sys
import numpy
from minibloom import BloomConfig, BloomForCausalLM

BloomForCausalLM(BloomConfig(vocab_size=99))([[1, 2, 3]])  # not asked: what Python, NumPy and BLAS take
taken = 1024 * int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (taken + int(sys.argv[2]),) * 2)  # arrays; not the system's cache of files
model = BloomForCausalLM.from_pretrained(sys.argv[1], stream=True)
numpy.save(sys.argv[3], model([[*range(13)]]).logits)
model([[1]])  # so few rows would be compiled, but for Numba there is no room
try:
    BloomForCausalLM.from_pretrained(sys.argv[1], weights="bfloat16")
    sys.exit("the limit does not hold")
except MemoryError:
    pass
"""


def write_deep(folder: Path, config: BloomConfig) -> None:
    """A checkpoint in bfloat16, written quickly: all blocks have the same matrices, each has vectors of its own."""
    shapes = {f"transformer.{name}": shape for name, shape in parameter_shapes(config).items()}
    matrices = {
        shape: to_bfloat16(normal(0, *shape, dtype="float32") * 0.04) for shape in shapes.values() if len(shape) == 2
    }
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for i, shape in enumerate(shapes.values()):
            vector = to_bfloat16(1 + 0.1 * normal(i, *shape, dtype="float32")) if len(shape) == 1 else None
            file.write((matrices[shape] if vector is None else vector).data)
    config.save_pretrained(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_DATA")
def test_a_checkpoint_three_times_as_large_as_the_memory_limit_runs(tmp_path):
    limit = 48 * 2**20  # for two blocks of 6 MB, a thread's stack of 8, and what an allocator leaves unused
    folder, logits = tmp_path / "deep", tmp_path / "logits.npy"
    write_deep(folder, BloomConfig(vocab_size=64, hidden_size=512, n_layer=25, n_head=8))
    assert (folder / "model.safetensors").stat().st_size > 3 * limit
    arguments = [sys.executable, "-c", LIMITED, str(folder), str(limit), str(logits)]
    done = subprocess.run(arguments, env=os.environ | tiny.ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = BloomForCausalLM.from_pretrained(folder, weights="bfloat16")
    numpy.testing.assert_array_equal(
        numpy.load(logits), whole([[*range(13)]]).logits
    )  # for so many, nothing is compiled
    (folder / "model.safetensors").unlink()  # pytest would keep it

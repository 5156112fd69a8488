"""`minibloom bench`: it measures what it says, compares like with like, and keeps its figures."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from minibloom import BloomConfig, BloomForCausalLM, bench, bench_cost
from minibloom.bench import Figure, exponents, in_turns, table
from minibloom.bench_generation import lookup_passes
from minibloom.bench_notes import MEMORY, MOST, SHARES, SHARES_ON_A_GPU, TARGETS, TARGETS_ON_A_GPU, TRIED, notes
from minibloom.bench_worker import LONG, PEERS, SHORT, Peer, tokens
from minibloom.cli import main
from minibloom.layers import linear

TINY = {"vocab_size": 64, "hidden_size": 16, "n_layer": 1, "n_head": 2}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "tiny", TINY)
    for kind, length in (("prefill", 8), ("decode", 4), ("train", 8)):
        monkeypatch.setitem(bench.WORK, f"tiny-{kind}", ("tiny", kind, 2, length))
    monkeypatch.setitem(bench.WORK, "tiny-none", ("tiny", "no such work", 2, 8))


def test_each_piece_of_work_is_measured_once_more_than_it_counts(tiny):
    figures = list(in_turns(["minibloom"], "tiny", ["tiny-prefill", "tiny-decode", "tiny-train"], repeats=3, threads=1))
    assert [f.work for f in figures] == ["tiny-prefill", "tiny-decode", "tiny-train"]
    for figure in figures:
        assert len(figure.values) == 3 and min(figure.values) > 0  # the first measurement warms up and is left out
        assert figure.memory_above >= 0


def test_both_contestants_work_on_the_same(tiny):
    pytest.importorskip("transformers")
    figures = list(in_turns(["minibloom", "transformers"], "tiny", ["tiny-prefill"], repeats=1, threads=1))
    assert [f.peer for f in figures] == ["minibloom", "transformers"]


def test_generation_is_measured_with_its_overhead_and_the_passes_it_saves(tiny, monkeypatch):
    monkeypatch.setitem(bench.WORK, "tiny-generate", ("tiny", "generate", 2, 8))
    monkeypatch.setitem(bench.OVERHEADS, "tiny-overhead", ("tiny", 1, True))
    assert [f.work for f in in_turns(["minibloom"], "tiny", ["tiny-generate"], 1, 1)] == ["tiny-generate"]
    figure = bench.generation("tiny-overhead", 1, 1)
    assert 0 < figure.median < 100
    assert lookup_passes() >= 2


def test_a_ratio_says_how_many_times_as_fast_as_transformers():
    figures = [Figure("prefill", "minibloom", "s", [1.0, 2.0, 9.0]), Figure("prefill", "transformers", "s", [5.0])]
    ours, theirs = table(figures).splitlines()[1:]
    assert "2 s" in ours and "1 to 9" in ours and "2.50x as fast" in ours  # medians 2 and 5
    assert "as fast" not in theirs


def test_int8_reads_a_quarter(tiny, monkeypatch):
    monkeypatch.setitem(bench.WORK, "one-row", ("tiny", "decode", 1, 4))
    ours, small = (Figure("one-row", peer, "s", [1.0]) for peer in ("minibloom", "minibloom int8"))
    for figure in (ours, small):
        bench._compare_with_limit(figure, {"read": 1e-9, "gemm": 1e-9})
    assert 0.25 < small.share / ours.share < 0.5  # keys and values stay in float32


def test_int8_is_a_contestant_that_does_not_train(tiny, capfd):
    figures = list(in_turns(["minibloom int8"], "tiny", ["tiny-decode", "tiny-train"], repeats=1, threads=1))
    assert [f.work for f in figures] == ["tiny-decode"]
    assert capfd.readouterr().err.count("not trained") == 1


def test_json_holds_every_measurement(tiny, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert (
        main(["bench", "tiny-decode", "--peers", "minibloom", "--repeats", "1", "--threads", "1", "--json", str(file)])
        == 0
    )
    report = json.loads(file.read_text())
    assert report["figures"][0]["work"] == "tiny-decode" and len(report["figures"][0]["values"]) == 1
    assert "tiny-decode" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cost", "--repeats", "0"], "repeats is 0"),
        (["prefil-512"], "prefill-512"),
        (["import", "--repeats", "0"], "repeats"),
        (["import", "--threads", "0"], "threads"),
        (["import", "--peers", "minibloom,torch"], "no contestant 'torch'"),
        (["import", "--json", "missing/x.json"], "missing/x.json cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_runs(arguments, says, capsys):
    assert main(["bench", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_the_machine_s_own_limits_are_measured_beside_and_a_figure_is_a_share_of_them(tiny):
    figures = list(in_turns(["minibloom", "machine"], "tiny", ["tiny-prefill", "tiny-decode"], repeats=1, threads=1))
    assert [f.peer for f in figures] == ["minibloom"] * 2 and figures[0].limit == "multiplying"
    assert all(0 < f.share < 1 for f in figures)


@pytest.mark.parametrize(
    ("work", "batch", "read", "gemm", "limit", "seconds"),
    [
        # 3,072 weights in the block and 1,024 in the head; a key costs 16 x 2 products, and 16 x 8 bytes
        ("decode", 2, 1, 0, "reading", 4 * (3072 + 1024) + 2 * 128 * 20),  # 32 tokens see 20 keys, in the mean
        ("decode", 2, 0, 1, "multiplying", 2 * (3072 + 32 * 20) + 2 * 1024),
        ("decode", 2, 1, 5, "multiplying", 5 * (2 * (3072 + 32 * 20) + 2 * 1024)),  # the slower of both
        ("prefill", 2, 1, 1, "multiplying", 2 * 4 * (3072 + 32 * 2) + 2 * 1024),  # half of the keys on average
        ("train", 1, 1, 1, "multiplying", 3 * (4 * (3072 + 32 * 2) + 4 * 1024)),
        ("generate", 1, 0, 1, "then", 4 * (3072 + 32 * 2) + 1024 + 31 * (3072 + 32 * 20 + 1024)),
        ("generate", 1, 1, 0, "then", 31 * (4 * (3072 + 1024) + 128 * 20)),
    ],
)
def test_the_limit_is_what_leaves_the_least(tiny, monkeypatch, work, batch, read, gemm, limit, seconds):
    monkeypatch.setitem(bench.WORK, "it", ("tiny", work, batch, 4))
    figure = Figure("it", "minibloom", "s", [2.0])
    bench._compare_with_limit(figure, {"read": read, "gemm": gemm})
    assert limit in figure.limit and figure.share == seconds / 2


def test_a_contestant_that_cannot_do_a_work_is_left_out_of_it(tiny, capfd):
    figures = list(in_turns(["machine", "minibloom"], "tiny", ["tiny-none"], repeats=1, threads=1))
    assert figures == [] and "AttributeError" in capfd.readouterr().err


@pytest.mark.parametrize("died", ["minibloom", "machine"])
def test_a_contestant_that_is_killed_is_left_out_and_the_others_go_on(tiny, monkeypatch, capfd, died):
    real = bench._ask

    def ask(worker, command):
        if worker.args[-1] == died and command.get("work") in ("train", "read"):
            worker.kill()
        return real(worker, command)

    monkeypatch.setattr(bench, "_ask", ask)
    works, peers = ["tiny-prefill", "tiny-train", "tiny-decode"], ["minibloom", "machine", "minibloom int8"]
    figures = list(in_turns(peers, "tiny", works, repeats=1, threads=1))
    ours = works[:1] if died == "minibloom" else works
    assert [f.work for f in figures if f.peer == "minibloom"] == ours
    assert [f.work for f in figures if f.peer == "minibloom int8"] == ["tiny-prefill", "tiny-decode"]
    assert capfd.readouterr().err.count(f"left out: {died} stopped (status -9)") == 1


def test_a_contestant_that_is_killed_leaves_a_gap_in_growth_and_cost(tiny, monkeypatch, capfd):
    real, asked = bench._ask, []

    def ask(worker, command):
        asked.append(command)
        if command.get("length") == 2048 or command.get("work") == "decode":
            worker.kill()
        return real(worker, command | ({"length": 4} if "length" in command else {}))

    monkeypatch.setattr(bench, "_ask", ask)
    monkeypatch.setattr(bench, "cells", lambda on_gpu: [("prefill", 1, 4), ("decode", 1, 4), ("prefill", 2, 4)])
    works = [f.work for f in bench.growth(1, 1)]
    assert "length 1024" in works and "length 2048" not in works and "depth 8" in works
    assert list(bench.cost(["minibloom"], 1, 1, "numpy")) == []  # it warms up with decoding
    assert capfd.readouterr().err.count("left out: minibloom stopped") == 2
    assert exponents([Figure("length 512", "minibloom", "s", [1.0], 7)]) == ""


def test_a_process_that_is_killed_is_left_out(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(bench.CODES["import"], "minibloom", "import os; os.kill(os.getpid(), 9)")
    file = tmp_path / "figures.json"
    options = ["--peers", "minibloom", "--repeats", "1", "--threads", "1", "--json", str(file)]
    assert main(["bench", "import", "first-token", *options]) == 0
    assert [f["work"] for f in json.loads(file.read_text())["figures"]] == ["first-token"]
    assert "left out: import (status -9)" in capsys.readouterr().err


def test_what_was_measured_before_an_interruption_is_in_the_json(tiny, monkeypatch, tmp_path):
    def interrupted(worker, command):
        if command.get("work") == "decode":
            raise KeyboardInterrupt
        return real(worker, command)

    real, file = bench._ask, tmp_path / "figures.json"
    monkeypatch.setattr(bench, "_ask", interrupted)
    options = ["--peers", "minibloom", "--repeats", "1", "--threads", "1", "--json", str(file)]
    assert main(["bench", "tiny-decode", *options]) == 130
    assert not file.exists()  # nothing to say, which takes the place of no earlier file
    assert main(["bench", "tiny-prefill", "tiny-decode", *options]) == 130
    assert [f["work"] for f in json.loads(file.read_text())["figures"]] == ["tiny-prefill"]


def test_growth_finds_the_power_of_what_grows_by_one():
    figures = [Figure(f"length {n}", "minibloom", "s", [3e-3 * n**1.5], 7 * n) for n in (512, 1024, 2048)]
    assert exponents(figures) == "length   time grows with power 1.50, memory above the model with power 1.00"


def against(work, ours, theirs, share=None, peers=("minibloom", "transformers"), products=None, **more):
    """Both figures of a work, the other's at this share of the limit."""
    figures = [Figure(work, peer, "s", [time], **more) for peer, time in zip(peers, (ours, theirs), strict=True)]
    for figure in figures if share else ():
        figure.limit, figure.share = "multiplying", share * theirs / figure.median
    figures[0].products = products
    return figures


def test_a_missed_target_is_noted_with_what_the_machine_s_limit_leaves():
    (out_of_reach,) = notes(against("small-train-8x256", 1.0, 0.8, 0.75))  # 1.8x wanted
    assert "0.80x was measured" in out_of_reach and "75% of" in out_of_reach and "minibloom 60%" in out_of_reach
    assert "at most 1.33x is possible, so the target is out of reach" in out_of_reach
    (missed,) = notes(against("small-train-8x256", 1.0, 1.5, 0.5))
    assert "at most 2.00x is possible" in missed and "out of reach" not in missed
    assert "chunked_loss.py" in missed
    assert notes(against("small-train-8x256", 1.0, 1.9, 0.5)) == []
    assert notes(against("small-train-8x256", 1.0, 1.5, 0.5)[:1]) == []  # nothing to compare with
    assert "possible" not in notes(against("decode-128", 1.0, 1.0))[0]


def test_it_says_what_is_left_where_products_take_all_the_time():
    (note,) = notes(against("small-decode-128", 1.0, 2.0, products=0.8))
    assert "take 80% of its time: with nothing between them it would be 2.50x as fast" in note
    slow, far = notes(against("decode-128", 1.0, 2.0, 0.3, products=0.8))
    assert slow.startswith("decode-128: minibloom is to be 2.5x")
    assert far == (
        "decode-128: 85% of what this machine can do in multiplying is wanted, minibloom reaches 60%; "
        "its products with weights alone 75%."
    )


def test_other_contestants_memory_growth_and_what_is_not_compared_have_targets_too():
    assert (
        "to be 1x as fast as CTranslate2"
        in notes(against("decode-128", 2.0, 1.0, peers=("minibloom", "CTranslate2")))[0]
    )
    (int8,) = notes(against("decode-128", 1.0, 1.2, 0.9, peers=("minibloom int8", "minibloom")))
    assert "1.20x was measured" in int8 and "possible" not in int8  # fewer bytes have another limit
    ours, theirs = against("prefill-4096", 1.0, 9.0)
    ours.memory_above, theirs.memory_above = 30, 100
    (memory,) = notes([ours, theirs])
    assert memory == "prefill-4096: 25% of transformers' memory above the weights is wanted, 30% was measured."
    ours, theirs = against("train-1x512", 1.0, 9.0, gradients=10)
    ours.memory_above, theirs.memory_above = 50, 100  # 40 of 90
    assert "above weights and gradients is wanted, 44% was measured" in notes([ours, theirs])[0]
    ours.memory_above = 40
    assert notes([ours, theirs]) == []
    assert (
        "0.05 of the passes' time at most" in notes([Figure("overhead", "minibloom", "of the passes' time", [0.1])])[0]
    )
    assert "1.5 was measured" in notes([Figure("lookup", "minibloom", "x fewer passes", [1.5])])[0]
    grown = [Figure(f"prefill-{n}", "minibloom", "s", [time]) for n, time in ((8192, 1.0), (16384, 2.5))]
    assert "2.50 was measured" in notes(grown)[0]


def test_products_alone_are_measured_of_each_kind_of_work(tiny, monkeypatch):
    monkeypatch.setitem(bench.WORK, "tiny-generate", ("tiny", "generate", 2, 8))
    works = ["tiny-prefill", "tiny-decode", "tiny-train", "tiny-generate"]
    figures = list(in_turns(["minibloom", "machine"], "tiny", works, repeats=1, threads=1))
    assert [f.work for f in figures] == works and all(0 < f.products < f.median for f in figures)
    assert [bool(f.gradients) for f in figures] == [False, False, True, False]
    model = BloomForCausalLM(BloomConfig(**TINY))
    assert figures[2].gradients == sum(p.nbytes for p in model.params.values())


def test_products_in_int8_are_what_its_token_consists_of(tiny, monkeypatch):
    ours, small = in_turns(["minibloom", "minibloom int8", "machine"], "tiny", ["tiny-decode"], repeats=1, threads=1)
    assert (ours.peer, small.peer) == ("minibloom", "minibloom int8") and 0 < small.products != ours.products > 0
    seen = []
    monkeypatch.setattr(linear, "product", lambda x, weight: seen.append((weight.dtype, weight.shape)) or x)
    PEERS["machine"](TINY, 1, "numpy").products_decode_int8(tokens(64, 1, 8))
    assert seen[:5] == [("int8", shape) for shape in [(48, 16), (16, 16), (64, 16), (16, 64), (64, 16)]]
    (note,) = notes([Figure("decode-128", peer, "s", [1.0], products=0.9) for peer in ("minibloom", "minibloom int8")])
    assert "Its products with weights take 90% of its time: with nothing between them it would be 1.11x" in note


def test_products_of_training_are_those_of_backward_too(monkeypatch):
    done, real = [], linear.linear_backward
    monkeypatch.setattr(linear, "linear_backward", lambda *given: done.append(given[2].shape) or real(*given))
    limits = PEERS["machine"](TINY, 1, "numpy")
    limits.products_prefill(tokens(64, 2, 8))
    assert not done
    limits.products_train(tokens(64, 2, 8))
    assert done == [(48, 16), (16, 16), (64, 16), (16, 64), (64, 16)]  # a block's four, and the head


def test_targets_are_of_work_that_is_there_and_what_was_tried_too():
    works = {work for table in (*TARGETS.values(), SHARES, MEMORY, MOST) for work in table}
    assert works <= {*bench.WORK, *bench.PROCESSES}
    assert {peer for pair in TARGETS for peer in pair} <= set(bench.PEERS_ON_A_CPU)
    assert {peer for pair in TARGETS_ON_A_GPU for peer in pair} <= set(bench.PEERS_ON_A_GPU)
    on_a_gpu = {work for table in (*TARGETS_ON_A_GPU.values(), SHARES_ON_A_GPU) for work in table}
    assert on_a_gpu <= set(bench.ON_A_GPU)
    for name in ", ".join(TRIED.values()).split(", "):
        head = (Path(bench.__file__).parent / name).read_text(encoding="utf-8").split('"""')[1]
        assert "Tried and left:" in head


# --- on a GPU, precision by precision ---


class Clock(Peer):
    """A library whose tokens take 2 seconds each, its prompt 5, and a pass by itself 100, by a clock of its own."""

    def __init__(self, gpu):
        self.gpu, self.time = gpu, 0.0

    def timed(self, work):
        before = self.time
        work()
        return self.time - before

    def pass_over(self, ids, cache):
        self.time += 100

    def go_on(self, ids, count):
        self.time += 5 + 2 * count


def test_decoding_on_a_gpu_is_a_token_of_the_library_s_own_loop_without_its_prompt():
    assert Clock(gpu=True).decode(tokens(64, 1, 8)) == 2
    assert Clock(gpu=None).decode(tokens(64, 1, 8)) == 100
    assert LONG > SHORT > 1


def test_what_has_16_bits_is_compared_with_transformers_in_the_same_and_its_limit_is_the_machine_s_in_the_same(tiny):
    peers = ["minibloom", "transformers", "minibloom float16", "transformers float16", "minibloom int8"]
    figures = [Figure("tiny-prefill", peer, "s", [float(i)]) for i, peer in enumerate(peers, start=1)]
    limits = {"gemm": 1e-6, "read": 0.0, "gemm_float16": 1e-9}
    for figure in figures:
        bench._compare_with_limit(figure, limits, on_gpu=True)
    full, _, half, _, int8 = figures
    assert full.share == pytest.approx(1e3 * half.share * half.median) and int8.share == full.share / 5
    rows = table(figures).splitlines()[1:]
    said = [row.split("s  ")[-1] if "as fast" in row else "" for row in rows]
    assert ["2.00x" in said[0], said[1], "1.33x" in said[2], said[3], "0.40x" in said[4]] == [True, "", True, "", True]
    other = Figure("tiny-prefill", "minibloom bfloat16", "s", [1.0])
    bench._compare_with_limit(other, limits, on_gpu=True)
    assert other.share is None  # the machine could not be asked


def test_a_token_in_16_bits_reads_half_the_weights_behind_what_was_generated(tiny, monkeypatch):
    monkeypatch.setitem(bench.WORK, "it", ("tiny", "decode", 1, 4))
    shares = {}
    for peer in ("minibloom", "minibloom bfloat16", "transformers bfloat16"):
        figure = Figure("it", peer, "s", [1.0])
        bench._compare_with_limit(figure, {"read": 1.0, "gemm": 0.0, "gemm_bfloat16": 0.0}, on_gpu=True)
        shares[peer] = figure.share
    keys = 4 + (SHORT + LONG) / 2
    assert shares == {
        "minibloom": 4 * 4096 + 4 * 32 * keys,
        "minibloom bfloat16": 2 * 4096 + 4 * 32 * keys,  # minibloom keeps keys and values in float32
        "transformers bfloat16": 2 * 4096 + 2 * 32 * keys,
    }


def test_targets_on_a_gpu_are_noted_precision_by_precision():
    def of(precision, ours, theirs, share):
        times = {"minibloom": ours, "transformers": theirs}
        found = [Figure("decode-128", f"{name}{precision}", "s", [time]) for name, time in times.items()]
        for figure in found:
            figure.limit, figure.share = "reading", share * theirs / figure.median
        return found

    assert notes(of("", 1.0, 6.0, 0.1), on_gpu=True) == []  # 6x, and 60% of the limit
    slow, short = notes(of(" float16", 1.0, 4.0, 0.1), on_gpu=True)
    assert slow.startswith("decode-128: minibloom float16 is to be 5x as fast as transformers float16, 4.00x was")
    assert "minibloom float16 40%" in slow and slow.endswith("at most 10.00x is possible.")
    assert short == "decode-128: 50% of what this machine can do in reading is wanted, minibloom float16 reaches 40%."
    mixed = [of("", 1.0, 6.0, 0.1)[0], of(" float16", 1.0, 2.0, 0.1)[1]]
    assert notes(mixed, on_gpu=True) == []  # of different precision: nothing to compare


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_transformers_is_a_contestant_in_16_bits_that_generates_and_does_not_train(dtype):
    pytest.importorskip("transformers")
    peer, ids = PEERS[f"transformers {dtype}"](TINY, 1, "numpy"), tokens(64, 2, 8)
    assert str(peer.model.dtype) == f"torch.{dtype}" and peer.prefill(ids) > 0
    grown = []
    peer.model.register_forward_hook(lambda *_: grown.append(1))
    peer.go_on(ids, 5)
    assert len(grown) == 5
    with pytest.raises(TypeError, match="float32 alone"):
        peer.train(ids)


# --- what a pass costs ---


def test_the_bytes_of_a_pass_are_weights_once_keys_and_values_read_and_written():
    # 3,072 weights in the block and 1,024 in the head; a position has 16 numbers of keys and 16 of values
    assert bench_cost.bytes_moved("minibloom", TINY, 2, 10, 1) == 4 * 4096 + 4 * 32 * 2 * 11
    assert bench_cost.bytes_moved("minibloom int8", TINY, 2, 10, 1) == 4096 + 4 * 32 * 2 * 11
    assert bench_cost.bytes_moved("minibloom float16", TINY, 1, 0, 128) == 2 * 4096 + 4 * 32 * 128
    assert bench_cost.bytes_moved("transformers float16", TINY, 1, 0, 128) == 2 * 4096 + 2 * 32 * 128


def test_cost_is_tokens_a_second_and_for_each_byte_by_batch_and_length(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(bench.SHAPES, "bloom-560m", TINY)
    for name, value in (("BATCHES", (1, 2)), ("LENGTHS", (4, 8)), ("MOST", 8)):
        monkeypatch.setattr(bench_cost, name, value)
    file = tmp_path / "cost.json"
    assert main(["bench", "--cost", "--threads", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    works = [f"{work} {size}" for work in ("prefill", "decode") for size in ("1x4", "2x4", "1x8")]  # 2 x 8 are too many
    assert [(f["work"], f["peer"], f["unit"], len(f["values"])) for f in figures] == [
        (work, "minibloom", "tokens/s", 1) for work in works
    ]
    assert figures[1]["tokens_a_byte"] == 8 / (4 * 4096 + 4 * 32 * 2 * 4)
    assert figures[4]["tokens_a_byte"] == 2 / (4 * 4096 + 4 * 32 * 2 * 21)
    shown = capsys.readouterr().out.splitlines()[-6:]
    assert [line.split("  ")[0] for line in shown] == works
    assert f"{1e9 * figures[0]['tokens_a_byte']:.4g}" in shown[0] and f"{figures[0]['median']:.4g}" in shown[0]


def test_tokens_a_second_are_those_of_all_rows(tiny, monkeypatch):
    monkeypatch.setitem(bench.SHAPES, "bloom-560m", TINY)
    for name, value in (("BATCHES", (3,)), ("LENGTHS", (8,))):
        monkeypatch.setattr(bench_cost, name, value)
    monkeypatch.setattr(bench, "_ask", lambda *_: {"seconds": 2.0, "memory_above": 7})
    prefill, decode = bench.cost(["minibloom int8"], 2, 1, "numpy")
    assert (prefill.values, decode.values) == ([12.0, 12.0], [1.5, 1.5]) and decode.memory_above == 7


def test_on_a_gpu_the_first_of_each_cell_compiles_kernels_and_does_not_count(tiny, monkeypatch):
    """Of decoding, it is the shorter run that would take longer: a time below zero."""
    worker = SimpleNamespace(poll=lambda: None, kill=lambda: None, wait=lambda: None)
    seen = set()

    def ask(_, command):
        known = tuple(command.values()) in seen
        seen.add(tuple(command.values()))
        return {"seconds": 1.0 if known else -9.0, "memory_above": 0}

    monkeypatch.setattr(bench, "_start", lambda *_: worker)
    monkeypatch.setattr(bench, "_ask", ask)
    figures = list(bench.cost(["minibloom"], 3, 1, "cupy"))
    assert len(figures) == 18 and all(len(f.values) == 3 and min(f.values) > 0 for f in figures)

"""Exercises of the lessons: a check turns away the slips that people make, each the solution with one thing wrong."""

from __future__ import annotations

import inspect
from importlib import import_module

import numpy
import pytest

from .run_lessons import LESSONS

SLIPS = {  # lesson, exercise, what stands in its solution, and what is put in its place
    ("00", "probabilities"): [
        ("z.max(-1, keepdims=True)", "z.max()"),
        ("z - z.max(-1, keepdims=True)", "z - z.mean(-1, keepdims=True)"),
        ("e.sum(-1, keepdims=True)", "e.sum()"),
    ],
    ("00", "greedy"): [("list(ids)", "ids"), (":known", ":known + 1"), ("best == end", "best == 2")],
    ("00", "surprise"): [("ids[1:]", "ids[:-1]"), (".mean()", ".sum()"), ("np.log(", "np.log2(")],
    ("01", "cut"): [('text[i] == " "', "text[i].isspace()"), ("and not begins(i)", "and not in_run(i)")],
    ("01", "only_tokens"): [("logits.copy()", "logits"), ("-numpy.inf", "-1e4"), ("-numpy.inf", "0")],
    ("01", "whole"): [("0xE0", "0xF0"), ("start + size <= len(data)", "start + size < len(data)")],
    ("01", "text_of"): [('b"".join(', '"".join('), ("t in special", 't.startswith("<")')],
    ("02", "gradient_of_lookup"): [("numpy.add.at(dtable, ids, d)", "dtable[ids] += d"), ("(V,", "(ids.max() + 1,")],
    ("02", "fold"): [("W * gain", "W * gain[:, None]"), ("W @ bias", "(W * gain) @ bias")],
    ("02", "half_layer_norm"): [('"float32"', '"float16"'), ("(centred**2)", "(x**2)"), ("+ eps)", ") + eps")],
    ("02", "neighbours"): [("[:tokens]", ""), ("    cosines[i] = -numpy.inf\n", ""), ("(-cosines)", "cosines")],
    ("03", "left_pad"): [("T - len(row) :]", ": len(row)]"), ("ids, mask, (", "ids, 1 * (ids != pad), (")],
    ("03", "distance_bias"): [
        ("(key - query)", "-abs(key - query)"),
        (" * tokens", ""),
        ("-new:, None],", ":new, None],"),
    ],
    ("03", "reach"): [("math.ceil", "math.floor"), ("math.ceil", "round"), ("1 - share", "share")],
    ("04", "fuse"): [("axis=1", "axis=0"), ("axis=1", "axis=2"), ("(wq, wk, wv)]", "(wk, wq, wv)]")],
    ("04", "visible_keys"): [("T - new, T", "new"), ("<=", "<")],
    ("04", "masked_softmax"): [
        ("np.finfo(scores.dtype).min", "-np.inf"),
        ("np.finfo(scores.dtype).min", "-100.0"),
        (" * visible", ""),
    ],
    ("04", "look_back"): [("T - S, T", "S"), (".sum(-1).mean(-1)", ".mean((-1, -2))")],
    ("05", "cache_bytes"): [("2 * layers", "layers"), ("len(lengths) * max(lengths)", "sum(lengths)")],
    ("05", "attend_new"): [
        ("T - S, T", "S"),
        ("[old, new]", "[new, old]"),
        ("np.arange(T)  #", "np.arange(T)[::-1]  #"),
    ],
    ("05", "reusable"): [
        ("len(ids) - 1", "len(ids)"),
        ("    while", "    return sum(a == b for a, b in zip(held, ids[:-1]))\n    while"),
    ],
    ("05", "append"): [("max(2 * room, end)", "end"), ("max(2 * room, end)", "2 * room"), ("end >", "end >=")],
    ("06", "gelu_slope"): [("s + x", "s"), ("3 * A", "A")],
    ("06", "neuron_writes"): [(" + up_bias[neuron]", ""), ("u * share(u)", "np.maximum(u, 0)")],
    ("06", "wired"): [("norm_2(x)", "norm_2(a)"), ("(m if after_norm else x)", "x"), ("mlp(m)", "mlp(x)")],
    ("06", "parameters"): [("4 * E", "2 * E"), ("V * E", "2 * V * E"), ("13", "9")],
    ("07", "shapes"): [("3 * E, E)", "E, 3 * E)"), (' | norm("ln_f")', "")],
    ("07", "next_token"): [("x[-1]", "x[0]"), ("[:tokens]", ""), ("@ normed", "@ last")],
    ("07", "lens"): [("hidden_states[-1]]", "norm(hidden_states[-1])]"), ("(norm(x) for", "(x for"), ("[:tokens]", "")],
    ("07", "training_flops"): [("3 * tokens", "2 * tokens"), (" + vocabulary * hidden_size", ""), ("4 *", "2 *")],
    ("08", "log_softmax"): [("z - z.max(-1, keepdims=True)", "z"), ("z.max(-1, keepdims=True)", "z.max()")],
    ("08", "lm_loss"): [("mask[:, 1:]", "mask[:, :-1]"), ("counts.sum()", "counts.size")],
    ("08", "last_token"): [
        ("(np.arange(ids.shape[1]) * (ids != pad)).argmax(-1)", "(ids != pad).sum(-1) - 1"),
        ("(np.arange(ids.shape[1]) * (ids != pad)).argmax(-1)", "(ids == pad).argmax(-1) - 1"),
    ],
    ("08", "best_span"): [("(i <= j) & ", ""), ("j < i + longest", "j <= i + longest"), ("-np.inf", "0")],
    ("09", "unbroadcast"): [("keepdims=True", "keepdims=False"), ("d.sum(axis=stretched", "d.mean(axis=stretched")],
    ("09", "log_softmax_backward"): [("dy.sum(-1", "dy.mean(-1"), ("np.exp(y)", "y")],
    ("09", "rms_norm_backward"): [("g - n", "g - g.mean(-1, keepdims=True) - n"), ("(g * n)", "(dy * n)")],
    ("09", "slopes_backward"): [
        ('"bhst,bt->h", dscores,', '"bhst,bt->h", dscores / len(dscores),'),
        ('"bhst,bt->h", dscores, positions', '"bhst,t->h", dscores, np.arange(dscores.shape[-1])'),
    ],
    ("10", "rows_of"): [("[: len(stream) // width * width]", ""), ("reshape(-1, width)", "reshape(width, -1).T")],
    ("10", "adamw"): [
        ("1 - beta2**t", "1"),
        ("np.sqrt(v_hat) + eps", "np.sqrt(v_hat + eps)"),
        (" if p.ndim > 1 else 0.0", ""),
        ("    m = beta1", "    g = g + decay * p\n    m = beta1"),
    ],
    ("10", "rate_of"): [("step + 1", "step"), ("(step - warmup) / (steps - warmup)", "step / steps")],
    ("10", "clip"): [
        ("min(1.0, limit / norm)", "limit / norm"),
        ("g * factor", "np.clip(g, -limit, limit)"),
        ("}, norm", "}, norm * factor"),
    ],
    ("11", "keep_top_h"): [("np.argsort(-p", "np.argsort(-terms"), ("    kept[order[0]] = True\n", "")],
    ("11", "banned_by_ngrams"): [("ids[len(ids) - size + 1 :]", "ids[-(size - 1) :]"), ("- size + 1)", "- size)")],
    ("11", "tokens_per_pass"): [("n + 1", "n"), ("sum(a**i for i in range(n + 1))", "1 + a * n")],
    ("11", "held_back"): [("len(stop) - 1, 0, -1", "1, len(stop)"), ("text.endswith(stop[:n])", "stop[:n] in text")],
    ("12", "head_parts"): [("shd,ohd->hso", "shd,ohd->sho"), ("W.reshape", "W.T.reshape")],
    ("12", "mean_ablated"): [("context.copy()", "context"), ("mean((0, 1))", "mean(0)"), ("mean((0, 1))", "mean()")],
    ("12", "induction_score"): [("- n + 1", "- n"), ("(n, 2 * n)", "(n - 1, 2 * n)")],
    ("13", "decode_half"): [("2.0**-14", "2.0**-15"), ('.astype("int64")', "")],
    ("13", "quantize_groups"): [("np.rint", "np.trunc"), ("np.where(largest > 0, largest, 1)", "largest")],
    ("13", "sliced_linear"): [("part].T", "part].T + bias"), ("weight[:, part]", "weight[part]")],
    ("13", "first_wrong_step"): [
        ("not error <= tolerance", "error > tolerance"),
        ("not error <=", "not error <"),
        ("(largest if largest > 0 else 1.0)", "1.0"),
        (".max(), np.abs(expected).max()", ".mean(), np.abs(expected).mean()"),
    ],
    ("14", "merge"): [("np.where(np.isfinite(top), top, 0.0)", "top"), ("its_out * shrink[:, None]", "its_out")],
    ("14", "block_parameters"): [("13", "9"), (" + 13 * E", "")],
    ("14", "quantize_rows"): [("max(1)", "max()"), ("np.rint", "np.trunc"), ("/ 127", "/ 128")],
    ("14", "rows_for_balance"): [("math.ceil", "math.floor"), ("math.ceil", "1 + int"), ("2 * bandwidth", "bandwidth")],
}


@pytest.mark.parametrize(("lesson", "exercise"), SLIPS, ids=[f"{lesson}-{name}" for lesson, name in SLIPS])
def test_a_check_turns_away_slips(lesson, exercise, monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    check = import_module(f"exercises.lesson_{lesson}").check
    solutions = import_module(f"solutions.lesson_{lesson}")
    source = inspect.getsource(getattr(solutions, exercise))
    for right, wrong in SLIPS[lesson, exercise]:
        assert right in source
        names = dict(vars(solutions))
        exec(source.replace(right, wrong), names)
        with numpy.errstate(all="ignore"):
            assert not check(names[exercise]).right, f"{wrong!r} in place of {right!r} passes"


def test_slips_of_every_exercise_are_tried(monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    lessons = [path.name[7:9] for path in sorted((LESSONS / "exercises").glob("lesson_*.py"))]
    known = {(n, name) for n in lessons for name in import_module(f"exercises.lesson_{n}").check.of}
    assert known == SLIPS.keys()

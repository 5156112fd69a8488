"""Makes tests/data/tokenizer_goldens.json: what the documented BloomTokenizerFast answers, transformers 4.35.2's.

    python -m tests.make_tokenizer_goldens      # in the root of the repository, with transformers==4.35.2

It runs in the oracle's environment, where minibloom cannot (that needs a newer NumPy), and imports nothing of it. What
is asked stands in `tokenizer_cases.py`. In the file:

    about       the oracle's versions, and this command
    small       the tokenizer.json of a tokenizer that was trained on `TEXTS`
    cases       [request, answer] of each request that minibloom must answer alike
    quirks      [request, answer] of each on which it differs, and why: see `QUIRKS`
    saved       what `save_pretrained` wrote, and what a tokenizer that was read from it answers

With `--answer`, it answers requests from standard input, a line each: `test_tokenizer_goldens.py` asks it live.
"""

from __future__ import annotations

import copy
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from .tokenizer_cases import QUIRKS, SAVED, TEXTS, VOCAB_SIZE, Request, answer, call, opened, request, requests, reusing

ROOT = Path(__file__).parent.parent
GOLDENS = Path(__file__).parent / "data" / "tokenizer_goldens.json"
COMMAND = "python -m tests.make_tokenizer_goldens"
SPLIT = r" ?[^(\s|[.,!?…。，、।۔،])]+"  # as in bigscience/bloom's tokenizer.json
PROBES = [
    call("<x> a<y>b </s>", " lamp", return_offsets_mapping=True),
    call(["a", "b c"], padding=True),
    *(
        request([name])
        for name in ("special_tokens_map", "len", "model_max_length", "truncation_side", "get_added_vocab")
    ),
    request(["decode", [[68, 2, 224, 17], True]]),
]


def small() -> dict[str, Any]:
    """The tokenizer.json of a tokenizer with BLOOM's pipeline, trained on `TEXTS`."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        min_frequency=2,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return json.loads(tokenizer.to_str())


def write_files(content: dict[str, Any], folder: Path) -> dict[str, str]:
    """Write the tokenizer.json `small` into `folder`, also with trimmed offsets, and return where each name stands."""
    trimming, exact = copy.deepcopy(content), copy.deepcopy(content)
    trimming["post_processor"]["trim_offsets"] = exact["post_processor"]["trim_offsets"] = True
    exact["post_processor"]["add_prefix_space"] = False
    places = {"shipped": str(ROOT / "minibloom" / "pretrained")}
    for name, tokenizer in (("small", content), ("trimming", trimming), ("exact", exact)):
        places[name] = str(folder / f"{name}.json")
        Path(places[name]).write_text(json.dumps(tokenizer), encoding="utf-8")
    return places


def make(asked: Request) -> Any:
    """The oracle's tokenizer for a request."""
    from transformers import BloomTokenizerFast

    return opened(BloomTokenizerFast, asked)


def saved(places: dict[str, str], folder: Path) -> list[dict[str, Any]]:
    """For each of `SAVED`: the files that are written, without the model in them, and answers to `PROBES`."""
    found = []
    for i, (asked, options) in enumerate(SAVED):
        target = folder / str(i)
        steps = [*asked["steps"], ["save_pretrained", [str(target)], {}]]
        answer(make, {"tokenizer": places["small"], "options": asked["options"], "steps": steps})
        files = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(target.iterdir())}
        del files["tokenizer.json"]["model"]
        answers = [[probe, answer(make, probe | {"tokenizer": str(target), "options": options})] for probe in PROBES]
        found.append({"options": options, "files": files, "answers": answers})
    return found


def goldens() -> dict[str, Any]:
    import tokenizers
    import transformers

    about = f"transformers {transformers.__version__} on tokenizers {tokenizers.__version__}"
    made: dict[str, Any] = {"about": {"oracle": about, "command": COMMAND}, "small": small()}
    with tempfile.TemporaryDirectory() as folder:
        places = write_files(made["small"], Path(folder))

        reused = reusing(make)

        def ask(asked: Request) -> dict[str, Any]:
            return answer(reused, asked | {"tokenizer": places.get(asked["tokenizer"])})

        made["cases"] = [[asked, ask(asked)] for asked in requests()]
        made["quirks"] = [[quirk.request, ask(quirk.request)] for quirk in QUIRKS]
        made["saved"] = saved(places, Path(folder))
    return made


def main() -> None:
    """Write the file: one case a line, so that a change shows as what it is."""
    made = goldens()
    write = functools.partial(json.dumps, ensure_ascii=True, separators=(",", ":"))
    parts = []
    for name, value in made.items():
        lines = ",\n".join(write(one) for one in value) if isinstance(value, list) else write(value)
        parts.append(f'"{name}":' + (f"[\n{lines}\n]" if isinstance(value, list) else lines))
    GOLDENS.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    count = len(made["cases"]) + len(made["quirks"])
    print(f"{GOLDENS}: {count} calls, {GOLDENS.stat().st_size:,} bytes, by {made['about']['oracle']}")


def answer_lines() -> None:
    """Answer each request that comes on standard input; what else is printed goes to standard error."""
    out, sys.stdout = sys.stdout, sys.stderr
    reused = reusing(make)
    for line in sys.stdin:
        print(json.dumps(answer(reused, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    import transformers

    transformers.logging.set_verbosity_error()
    answer_lines() if sys.argv[1:] == ["--answer"] else main()

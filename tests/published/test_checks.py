"""The tests of published figures, proved on stand-ins: small checkpoints under the real names, on a hub of our own.

The oracle computes the stand-ins' figures, and the tests have to pass; with checkpoints a little beside them, the tests
have to fail; and without a hub they have to say so.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from minibloom import BloomForCausalLM
from minibloom.checkpoint import write_checkpoint

from .. import tiny
from ..hub import NOWHERE, Hub, environment
from ..parity import NOT_INSTALLED
from .figures import BLOOM_560M, BLOOM_560M_GS, FIGURES, SMALL, TINY_RANDOM

ROOT = Path(__file__).parents[2]
TESTS = "tests/published/test_published.py"
NOT_OF_THE_CHECKPOINT = {"test_batch", "test_prefix_space"}  # what holds whatever the parameters are
IDS = [5, 17, 250, 17, 2, 99, 5]
NEW = 8  # tokens


def run(endpoint: str, home: Path, **more: str) -> dict[str, tuple[str, str]]:
    """Run the tests of published figures in a process that knows the hub at `endpoint`: test -> outcome and reason."""
    report = home / "report.xml"
    command = [sys.executable, "-m", "pytest", TESTS, "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(endpoint, home, **more), capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcomes[case.attrib["name"]] = ("passed", "") if found is None else (found.tag, found.attrib["message"])
    return outcomes


def test_without_a_hub_every_test_says_so_in_a_line(tmp_path):
    assert_all_skipped(run(NOWHERE, tmp_path), f"the hub ({NOWHERE}) is out of reach: ", "refused")


def test_offline_no_hub_is_asked(tmp_path):
    with Hub() as hub:
        outcomes = run(hub.endpoint, tmp_path, HF_HUB_OFFLINE="1")
        assert_all_skipped(outcomes, f"the hub ({hub.endpoint}) is out of reach: ", "HF_HUB_OFFLINE")
        assert not hub.asked


def assert_all_skipped(outcomes: dict[str, tuple[str, str]], *said: str) -> None:
    assert len(outcomes) == 26
    for outcome, reason in outcomes.values():
        assert outcome == "skipped" and reason.count("\n") == 0
        assert all(part in reason for part in said)


# --- stand-ins ---


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], Path]:
    """Folders by the name that `place` has for them, and the file with what the oracle makes of them."""
    pytest.importorskip("torch", reason=NOT_INSTALLED)
    pytest.importorskip("transformers", minversion="5.23", reason=NOT_INSTALLED)
    root = tmp_path_factory.mktemp("stand-ins")
    folders = {name: root / name for name in ("small", "tiny", "gs", "main", "tokenizer")}
    for seed, folder in enumerate(folders.values()):
        tiny.tokenizer().save_pretrained(folder)
        if folder.name != "tokenizer":
            write_model(folder, seed)
    figures = root / "figures.json"
    figures.write_text(json.dumps(Oracle(folders).figures()), encoding="utf-8")
    return folders, figures


def write_model(folder: Path, seed: int) -> None:
    """Random parameters in bfloat16. The small checkpoint is a pickle, as old ones on the hub are."""
    import torch

    shape = {"vocab_size": 300, "hidden_size": 64, "n_head": 8, "eos_token_id": None, "initializer_range": 0.3}
    model = BloomForCausalLM(tiny.config(**shape), seed=seed)
    matrix = model.params["word_embeddings.weight"]
    # Of few digits, so that sums are exact in float32, as those of the published rows are.
    model.params["word_embeddings.weight"] = (matrix * 128).round().clip(-127, 127) / 128
    model.save_pretrained(folder, dtype="bfloat16")
    if folder.name == "small":
        from safetensors.torch import load_file

        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()


class Oracle:
    """transformers, asked for every figure that is published, of the checkpoints in `folders`."""

    def __init__(self, folders: dict[str, Path]) -> None:
        import transformers

        self.folders = folders
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folders["tokenizer"], padding_side="left")

    def model(self, checkpoint: dict[str, str], dtype: str = "float32") -> Any:
        import torch
        import transformers

        kind = transformers.BloomForCausalLM
        return kind.from_pretrained(self.folders[place(checkpoint)], dtype=getattr(torch, dtype)).eval()

    def figures(self) -> dict[str, Any]:
        """`FIGURES` with the oracle's numbers in place of the published ones."""
        import torch

        torch.set_num_threads(1)
        figures = copy.deepcopy(FIGURES)
        with torch.no_grad():
            self.tokens(figures["tokens"])
            self.embeddings(figures["embeddings"])
            self.outputs(figures["outputs"])
            for figure in figures["tiny_generations"] + figures["generations"]:
                self.generation(figure)
            for figure in figures["batches"]:
                figure["length"] = max(map(len, self.tokenizer(figure["prompts"])["input_ids"])) + NEW
            for figure in figures["log_probabilities"]:
                self.log_probabilities(figure)
            self.last_pass(figures["first_numbers"], figures["cache"])
        return figures

    def tokens(self, figure: dict[str, Any]) -> None:
        cases = [{"text": text, "ids": self.tokenizer(text)["input_ids"]} for text in [*tiny.LINES, "</s> the</s>"]]
        figure |= {"cases": cases, "cases_of_unknown_tokens": cases[:1]}
        figure |= {"vocabulary": self.tokenizer.get_vocab(), "prefix_space": "the"}

    def embeddings(self, figure: dict[str, Any]) -> None:
        """As transformers' own test computes them."""
        import torch

        figure |= {"input_ids": IDS, "rows": [{"id": i, "mean": []} for i in dict.fromkeys(IDS)], "sum": []}
        for dtype in figure["dtypes"]:
            base = self.model(SMALL, dtype).transformer
            x = base.word_embeddings(torch.tensor([IDS]))
            figure["sum"].append(x.sum().item())
            if dtype == figure["stored"]:
                normed = base.word_embeddings_layernorm(x)
            for row in figure["rows"]:
                of_id = x[0, IDS.index(row["id"])]
                row |= {"min": of_id.min().item(), "max": of_id.max().item()}
                row["mean"].append(of_id.mean().item())
        for row in figure["rows"]:
            of_id = normed[0, IDS.index(row["id"])]
            row["normed"] = [of_id.mean().item(), of_id.min().item(), of_id.max().item()]

    def outputs(self, figure: dict[str, Any]) -> None:
        import torch

        out = self.model(SMALL)(torch.tensor([IDS]), output_hidden_states=True)
        last = out.hidden_states[-1][0]
        published = {"mean": last.mean(), "first_min": last[0].min(), "first_max": last[0].max()}
        figure |= {"input_ids": IDS, "split": 150}
        figure["last_hidden_state"] = {name: value.item() for name, value in published.items()}
        figure["means_of_logits"] = [half.double().mean().item() for half in out.logits.split(150, dim=-1)]

    def generation(self, figure: dict[str, Any]) -> None:
        inputs = self.tokenizer(figure["prompts"], padding=True, return_tensors="pt")
        rows = self.model(figure["checkpoint"]).generate(**inputs, max_new_tokens=NEW, do_sample=False)
        figure["length"] = rows.shape[1]
        if "ids" in figure:
            figure["ids"] = rows.tolist()
        elif "tokens" in figure:
            figure["tokens"] = [" ".join(self.tokenizer.convert_ids_to_tokens(row)) for row in rows]
        else:
            figure["texts"] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)

    def log_probabilities(self, figure: dict[str, Any]) -> None:
        import torch

        model = self.model(figure["checkpoint"])
        new = len(figure["ids"]) - figure["prompt"]
        ids = torch.tensor([[i % 300 for i in figure["ids"][: figure["prompt"]]]])
        ids = model.generate(ids, max_new_tokens=new, do_sample=False) if new else ids
        logs = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        figure["ids"] = ids[0].tolist()
        figure["replies"] = [(logs[-len(figure["replies"][0]) :] + shift).tolist() for shift in (0.05, 0.09)]

    def last_pass(self, first_numbers: dict[str, Any], cache: dict[str, Any]) -> None:
        import torch

        out = self.model(BLOOM_560M)(torch.tensor([IDS]), output_hidden_states=True)
        first_numbers |= {"input_ids": IDS, "last_hidden_state": out.hidden_states[-1].flatten()[:5].tolist()}
        layers = out.past_key_values.layers
        _, H, T, D = layers[0].keys.shape
        cache |= {"input_ids": IDS, "layers": len(layers), "shapes": [[H, D, T], [H, T, D]]}


def place(checkpoint: dict[str, str]) -> str:
    return {repr(SMALL): "small", repr(TINY_RANDOM): "tiny", repr(BLOOM_560M_GS): "gs"}.get(repr(checkpoint), "main")


def publish(hub: Hub, folders: dict[str, Path]) -> None:
    hub.publish(FIGURES["tokens"]["repos"][0], folders["tokenizer"])
    for checkpoint in (SMALL, TINY_RANDOM, BLOOM_560M_GS, BLOOM_560M):
        hub.publish(checkpoint["repo"], folders[place(checkpoint)], checkpoint.get("revision", "main"))


def test_the_tests_pass_where_the_figures_are_the_oracles(stand_ins, tmp_path):
    folders, figures = stand_ins
    with Hub() as hub:
        publish(hub, folders)
        outcomes = run(hub.endpoint, tmp_path, MINIBLOOM_STAND_INS=str(figures))
    assert len(outcomes) == 26
    assert {name: outcome for name, outcome in outcomes.items() if outcome[0] != "passed"} == {}


def test_the_tests_fail_where_a_checkpoint_is_a_little_beside_its_figures(stand_ins, tmp_path):
    folders, figures = stand_ins
    beside = {name: tmp_path / name for name in folders}
    for name, folder in folders.items():
        shutil.copytree(folder, beside[name])
        disturb(beside[name])
    with Hub() as hub:
        publish(hub, beside)
        outcomes = run(hub.endpoint, tmp_path, MINIBLOOM_STAND_INS=str(figures))
    for name, (outcome, message) in outcomes.items():
        if name.partition("[")[0] in NOT_OF_THE_CHECKPOINT:
            assert outcome == "passed", message
        else:
            assert outcome == "failure" and re.match("(AssertionError: )?assert ", message), (name, message)


def disturb(folder: Path) -> None:
    """Two ids change places; half as many heads, so other slopes; a norm's weights and all embeddings a little off."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    vocab = content["model"]["vocab"]
    vocab["t"], vocab["h"] = vocab["h"], vocab["t"]
    vocab["Ġthe"], vocab["Ġle"] = vocab["Ġle"], vocab["Ġthe"]
    path.write_text(json.dumps(content), encoding="utf-8")
    if folder.name == "tokenizer":
        return
    pickle = folder / "pytorch_model.bin"
    if pickle.exists():
        import torch
        from safetensors.torch import save_file

        save_file(torch.load(pickle), folder / "model.safetensors")
        pickle.unlink()  # converting one is proved above
    model = BloomForCausalLM.from_pretrained(folder)
    model.params["word_embeddings.weight"] += 1 / 128
    model.params["word_embeddings_layernorm.weight"] *= 1.1
    write_checkpoint(folder, model.params, model.config.replace(n_head=4), "bfloat16", model.prefix)

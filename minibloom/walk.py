"""A walk through the forward pass: what each step does to one's own prompt, and what comes next.

print(walk("All human beings"))
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .backend import to_numpy
from .display import code, details, table, together
from .errors import InputError
from .layers.softmax import softmax
from .models import BloomForCausalLM
from .tokenizer import BloomTokenizerFast
from .trace import Trace, describe


@dataclass
class Walk:
    """The tokens of a prompt, every step of the pass over them, and the likeliest next tokens with probabilities."""

    tokens: list[str]
    trace: Trace
    next_tokens: list[tuple[str, float]]

    def parts(self) -> Iterator[str]:
        """The walk as text, one piece a step."""
        yield f"{len(self.tokens)} tokens: " + " ".join(map(repr, self.tokens))
        yield from (describe(name, value) for name, value in self.trace.items())
        width = max(len(repr(token)) for token, _ in self.next_tokens)
        lines = [f"  {token!r:<{width}}  {p:6.1%}  {'█' * round(40 * p)}" for token, p in self.next_tokens]
        yield "\n".join(["the most likely next tokens, softmax(logits) of the last position:", *lines])

    def _repr_html_(self) -> str:
        """What a notebook shows: the tokens, the steps, and what comes next."""
        tokens = table(["position", "token"], [[str(i), code(repr(t))] for i, t in enumerate(self.tokens)], left=2)
        rows = [[code(repr(token)), f"{p:.1%}", "█" * round(40 * p)] for token, p in self.next_tokens]
        following = table(["next token", "probability", ""], rows)
        title = f"{len(self.tokens)} tokens"
        return together(details(title, tokens, len(self.tokens) <= 8), self.trace._repr_html_(), following)

    def __str__(self) -> str:
        return "\n".join(self.parts())


def walk(
    prompt: str, model: BloomForCausalLM | None = None, tokenizer: BloomTokenizerFast | None = None, top: int = 5
) -> Walk:
    """Run `prompt` through `model` and keep every step. Without model and tokenizer: those that ship."""
    if not isinstance(top, int) or top < 1:
        raise InputError(f"top is {top!r}, expected a whole number of at least 1.")
    if (model is None) != (tokenizer is None):
        missing = "model" if model is None else "tokenizer"
        raise InputError(f"{missing} is missing: give both, as ids mean nothing without their tokenizer, or neither.")
    if model is None or tokenizer is None:
        model, tokenizer = BloomForCausalLM.from_pretrained(), BloomTokenizerFast.from_pretrained()
    ids = tokenizer(prompt)["input_ids"]
    if not ids:
        raise InputError("the prompt is empty: give at least one character.")
    trace = Trace()
    logits = model([ids], use_cache=False, trace=trace, return_dict=True).logits
    probs = to_numpy(softmax(logits[0, -1]))[: len(tokenizer)]  # rows past the tokenizer's vocabulary mean nothing
    best = [int(i) for i in (-probs).argsort(kind="stable")[:top]]
    tokens = [tokenizer.decode([i]) for i in ids]
    return Walk(tokens, trace, [(tokenizer.decode([i]), float(probs[i])) for i in best])

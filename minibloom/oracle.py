"""Every step of transformers' own BLOOM, under minibloom's names: the other side of `minibloom parity`.

transformers runs as it is, in eager attention. Most steps are what its modules take and return. What has no module is
seen on its way into a function of torch: queries, keys and ALiBi into `baddbmm`, scores into `softmax`, values into
`bmm`. What cannot be seen is left out, and the report says so. One thing is changed, in float64 alone: transformers
takes softmax and loss in float32 whatever its dtype, which hides all digits from the eighth on and makes NaN of
padding on the left. There it is kept from that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .backend import Array
from .errors import InputError
from .trace import step_names

INSTALL = "python -m pip install torch 'transformers>=5'"


def check_oracle() -> str:
    """Which transformers would run. Where there is none that can, an InputError says how to install it."""
    from importlib.metadata import version

    missing = [name for name in ("transformers", "torch") if find_spec(name) is None]
    if missing:
        raise InputError(f"'transformers' needs {' and '.join(missing)}, which is not installed: {INSTALL}")
    if int(version("transformers").partition(".")[0]) < 5:
        raise InputError(f"transformers is installed as {version('transformers')}, expected 5 or later: {INSTALL}")
    return f"transformers {version('transformers')} on torch {version('torch')}"


def transformers_steps(
    folder: Path, kind: str, head: str, call: Mapping[str, Array], dtype: str, gradients: bool
) -> dict[str, Array]:
    """What transformers' class `kind` computes from the checkpoint in `folder`: steps, logits, loss, gradients.

    head: the step that gives the logits, "" for a model without.
    call: arguments of the pass as NumPy arrays: input_ids, attention_mask, and labels if there is to be a loss.
    """
    import torch
    import transformers
    from torch.overrides import TorchFunctionMode

    logging: Any = transformers.utils.logging
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = getattr(transformers, kind).from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="eager"
        )
    finally:
        if bars:
            logging.enable_progress_bar()

    names = {*step_names(model.config.n_layer, head)}
    shown: dict[str, Any] = {}
    attention, rows = "", len(call["input_ids"])  # the attention at work

    def show(name: str, value: Any) -> None:
        if name in names:
            shown[name] = value

    class Watch(TorchFunctionMode):
        """Sees every function of torch that is called."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = dict(kwargs or {})
            operands = [*args, *options.values()]
            if function is torch.Tensor.baddbmm:
                alibi, query, key = (x.unflatten(0, (rows, -1)) for x in operands[:3])  # [B*H, ...] -> [B, H, ...]
                show("alibi", alibi)
                show(f"{attention}.query", query)
                show(f"{attention}.key", key.mT)  # [B, H, D, T] -> [B, H, T, D]
            elif function is torch.nn.functional.softmax:
                show(f"{attention}.scores", operands[0])
                options |= {"dtype": None} if dtype == "float64" else {}
            elif function is torch.bmm:
                show(f"{attention}.value", operands[1].unflatten(0, (rows, -1)))
            elif function is torch.Tensor.float and dtype == "float64":
                return operands[0]
            return function(*args, **options)

    def before(name: str) -> Callable[..., None]:
        def hook(module: Any, taken: Any) -> None:
            nonlocal attention
            attention = name if name.endswith("self_attention") else attention

        return hook

    def after(name: str) -> Callable[..., None]:
        home = name.rpartition(".")[0]

        def hook(module: Any, taken: Any, returned: Any) -> None:
            show(name, returned[0] if isinstance(returned, tuple) else returned)
            if name.endswith("self_attention"):
                show(f"{home}.attention_residual", returned[0])
                show(f"{name}.weights", returned[1])
            elif name.endswith("self_attention.attention_dropout"):
                show(f"{home}.probs", taken[0])
            elif name.endswith("self_attention.dense"):
                show(f"{home}.context", taken[0])

        return hook

    for name, module in model.eval().named_modules():
        name = name.removeprefix("transformer.").replace("gelu_impl", "gelu")
        module.register_forward_pre_hook(before(name))
        module.register_forward_hook(after(name))

    with Watch(), torch.set_grad_enabled(gradients):
        out = model(**{name: torch.from_numpy(x) for name, x in call.items()}, use_cache=False)
        if head == "score":
            shown[head] = out.logits  # of the last token alone, not of all as the module returns them
        if head:
            shown["logits"] = shown[head]
        if out.get("loss") is not None:
            shown["loss"] = out.loss
        if gradients:
            shown[head].retain_grad()
            out.loss.backward()
            shown[f"{head}.grad"] = shown[head].grad
            for name, parameter in model.named_parameters():  # a tied head is the embedding, and comes once
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                shown[f"gradient/{name.removeprefix('transformer.')}"] = gradient
    return {name: x.detach().numpy() for name, x in shown.items()}

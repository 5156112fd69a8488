"""Generation: from logits to text, one idea a file.

for piece in stream_text(model, tokenizer, "All human beings", max_new_tokens=20):
    print(piece, end="")

settings.py     what can be set, and what cannot be set together
processors.py   what is asked of the text changes the logits
guidance.py     away from what a second prompt would lead to
filters.py      which tokens may be drawn, and the draw
top_k.py        a fast path of the draw, and compiled_draw.py another: to be left for later
stopping.py     when a row ends
prompts.py      what is to be continued, as ids and mask
job.py          one call, as every strategy is given it, and what it leaves
prepare.py      the border: prompts and settings become one job
reader.py       how a strategy reads a model, pass by pass
rows.py         which rows are in the batch, and why the others have ended
decode.py       greedy decoding and sampling: begin here
graph.py        the same on a GPU: a pass that is captured once
beams.py        beam search, groups of beams, and with constraints.py forced words
contrastive.py  a likely token that says something new
speculative.py  several tokens a pass, with the same result
generate.py     ids in, ids out, by any strategy
text.py         text in, text out
session.py      a text that somebody and a model write in turns
scoring.py      how likely a text is
prompt_cache.py what was read once, for many continuations
"""

from .filters import draw, keep_top_k, keep_top_p, processed, suppress
from .generate import generate, generate_steps
from .outputs import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput
from .prompt_cache import PromptCache
from .scoring import perplexity, token_log_probs, transition_scores
from .session import Session
from .settings import GenerationConfig, check_settings
from .text import Continuation, generate_text, stream_text

__all__ = [
    "Continuation",
    "GenerateBeamDecoderOnlyOutput",
    "GenerateDecoderOnlyOutput",
    "GenerationConfig",
    "PromptCache",
    "Session",
    "check_settings",
    "draw",
    "generate",
    "generate_steps",
    "generate_text",
    "keep_top_k",
    "keep_top_p",
    "perplexity",
    "processed",
    "stream_text",
    "suppress",
    "token_log_probs",
    "transition_scores",
]

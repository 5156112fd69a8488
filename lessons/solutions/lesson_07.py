"""Solutions of lesson 7, the whole model."""

import numpy as np


def shapes(vocabulary, hidden_size, layers):
    E = hidden_size

    def linear(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name):
        return {f"{name}.weight": (E,), f"{name}.bias": (E,)}

    all_of_them = {"word_embeddings.weight": (vocabulary, E)} | norm("word_embeddings_layernorm") | norm("ln_f")
    for i in range(layers):
        all_of_them |= norm(f"h.{i}.input_layernorm") | norm(f"h.{i}.post_attention_layernorm")
        all_of_them |= linear(f"h.{i}.self_attention.query_key_value", 3 * E, E)
        all_of_them |= linear(f"h.{i}.self_attention.dense", E, E)
        all_of_them |= linear(f"h.{i}.mlp.dense_h_to_4h", 4 * E, E)
        all_of_them |= linear(f"h.{i}.mlp.dense_4h_to_h", E, 4 * E)
    return all_of_them


def next_token(x, params, tokens):
    last = x[-1]  # [S, E] -> [E]
    centred = last - last.mean()
    normed = centred / np.sqrt((centred**2).mean() + 1e-5) * params["ln_f.weight"] + params["ln_f.bias"]
    return int((params["word_embeddings.weight"][:tokens] @ normed).argmax())  # [tokens, E] @ [E]


def lens(hidden_states, norm, table, tokens):
    normed = [*(norm(x) for x in hidden_states[:-1]), hidden_states[-1]]
    return np.stack([(x @ table[:tokens].T).argmax(-1) for x in normed])  # L + 1 times [S, E] -> [L + 1, S]


def training_flops(vocabulary, hidden_size, layers, length, tokens):
    matrices = 2 * (12 * layers * hidden_size**2 + vocabulary * hidden_size)  # a token
    attention = 4 * layers * hidden_size * length  # a token, to each of `length` others
    return 3 * tokens * (matrices + attention)

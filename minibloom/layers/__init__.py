"""The forward pass, one idea a file, each with its backward beside it.

In reading order: linear, layer_norm, embedding, alibi, softmax, attention, mlp, dropout, block, transformer.
`run` holds what all blocks share in one pass. Letters in shape comments: B batch, S query length, T key length,
H heads, D head size, E hidden size, V vocabulary.
"""

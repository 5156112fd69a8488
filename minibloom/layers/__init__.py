"""The forward pass, one idea a file, each with its backward beside it.

In reading order: linear, layer_norm, embedding, alibi, scores, softmax, dropout, attention, mlp, block, transformer.
`run` holds what all blocks share in one pass. Letters in shape comments: B batch, S query length, T key length,
H heads, D head size, E hidden size, V vocabulary; of a layer by itself I inputs, O outputs, N rows.

The other files are fast paths, each with its reason on top, and can be left for later: one_row, few_rows, one_token,
tiled_attention, subnormals, compiled_steps, compiled_rows, compiled_blocks, row_blocks, small_weights, tensor_cores.
"""

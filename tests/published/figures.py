"""What is published, and where: facts read from other projects' tests, none of them run again here.

Left out, because it shows nothing: PaddleNLP's hidden states of bloom-560m (tests/transformers/bloom/test_modeling.py,
commit 02383ede), which seem to be copied from another model's test; the text in rustformers' configs/bloom.json (commit
2a8f62a5), which is garbage and says itself that it is not compared; and all sampled text, which needs the same draws.

A chat template, which transformers publishes ids of too, minibloom has none; those ids stand in `published_tokens.json`
as the ids of the text that the template makes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

TRANSFORMERS = "huggingface/transformers tests/models/bloom/test_modeling_bloom.py, commit 01080c62"
TGI = "huggingface/text-generation-inference integration-tests/models/__snapshots__, commits db931fcf, 1c1a6e44"
TGI_SERVER = "huggingface/text-generation-inference server/tests/models/test_bloom.py, commits db931fcf, 017a2a8c"
KERAS = "keras-team/keras-hub keras_hub/src/models/bloom/bloom_backbone_test.py, commit 0e1444fd"
CTRANSLATE2 = "OpenNMT/CTranslate2 python/tests/test_transformers.py, commit 014770cd"
TRANSFORMERS_JS = "huggingface/transformers.js tests/models/bloom/test_modeling_bloom.js, commit 5ed4c5c0"

SMALL = {"repo": "bigscience/bigscience-small-testing"}  # 16 million parameters, as Megatron trained them
BLOOM_560M = {"repo": "bigscience/bloom-560m"}  # 559 million parameters: 2.3 GB in float32
BLOOM_560M_GS = {"repo": "bigscience/bloom-560m", "revision": "gs555750"}  # an earlier conversion
TINY_RANDOM = {"repo": "hf-internal-testing/tiny-random-BloomForCausalLM"}

EXAMPLE_IDS = [
    *(3478, 368, 109586, 35433, 2, 77, 132619, 3478, 368, 109586),
    *(35433, 2, 2175, 23714, 73173, 144252, 2, 77, 132619, 3478),
]
DOG, NAME = "I enjoy walking with my cute dog", "Hello my name is"

# fmt: off
FIGURES: dict[str, Any] = {
    # The sources are named in the file. The same tokenizer in two repositories.
    "tokens": {
        "repos": ["bigscience/tokenizer", "bigscience/bloom-560m"],
        **json.loads((Path(__file__).parents[1] / "data" / "published_tokens.json").read_text(encoding="utf-8")),
        "prefix_space": "Hey",  # with add_prefix_space, this text has other ids (TRANSFORMERS' tokenization test)
    },
    "embeddings": {
        "source": TRANSFORMERS,
        "checkpoint": SMALL,
        "stored": "bfloat16",
        "dtypes": ["bfloat16", "float16", "float32"],
        "input_ids": EXAMPLE_IDS,
        # Of each row of the embedding matrix: min, max, and the mean in each dtype; mean, min, max after the LayerNorm.
        "rows": [
            {"id": 3478, "min": -0.00921630859375, "max": 0.0128173828125,
             "mean": [0.0002307891845703125, 0.00023090839385986328, 0.00023087859153747559],
             "normed": [-6.580352783203125e-05, -1.6953125, 2.265625]},
            {"id": 368, "min": -0.010009765625, "max": 0.01214599609375,
             "mean": [-0.000568389892578125, -0.0005702972412109375, -0.0005701072514057159],
             "normed": [0.0001316070556640625, -1.6875, 2.28125]},
            {"id": 109586, "min": -0.01031494140625, "max": 0.0111083984375,
             "mean": [-0.0003910064697265625, -0.00039124488830566406, -0.0003911703824996948],
             "normed": [-0.00030517578125, -1.6875, 1.953125]},
            {"id": 35433, "min": -0.01177978515625, "max": 0.01019287109375,
             "mean": [-0.000194549560546875, -0.000194549560546875, -0.0001944899559020996],
             "normed": [4.00543212890625e-05, -2.125, 1.90625]},
            {"id": 2, "min": -0.0074462890625, "max": 0.0157470703125,
             "mean": [0.0004138946533203125, 0.0004146099090576172, 0.0004146844148635864],
             "normed": [-7.2479248046875e-05, -1.390625, 2.703125]},
            {"id": 77, "min": -0.00848388671875, "max": 0.0174560546875,
             "mean": [0.000659942626953125, 0.0006618499755859375, 0.0006617321632802486],
             "normed": [-8.96453857421875e-05, -1.5390625, 2.828125]},
            {"id": 132619, "min": -0.009521484375, "max": 0.0078125,
             "mean": [-0.00031280517578125, -0.00031256675720214844, -0.00031267106533050537],
             "normed": [0.0001583099365234375, -1.875, 1.65625]},
            {"id": 2175, "min": -0.0074462890625, "max": 0.0113525390625,
             "mean": [0.000457763671875, 0.0004572868347167969, 0.00045740045607089996],
             "normed": [2.1219253540039062e-05, -1.4609375, 2.015625]},
            {"id": 23714, "min": -0.0145263671875, "max": 0.0146484375,
             "mean": [0.000263214111328125, 0.00026416778564453125, 0.0002641640603542328],
             "normed": [-0.000247955322265625, -2.296875, 2.234375]},
            {"id": 73173, "min": -0.007415771484375, "max": 0.01116943359375,
             "mean": [-0.000286102294921875, -0.0002865791320800781, -0.0002864748239517212],
             "normed": [-0.00021839141845703125, -1.3515625, 2.171875]},
            {"id": 144252, "min": -0.01007080078125, "max": 0.01141357421875,
             "mean": [0.00052642822265625, 0.0005254745483398438, 0.0005256589502096176],
             "normed": [-0.0001430511474609375, -1.78125, 1.828125]},
        ],
        "sum": [0.08203125, 0.0821533203125, 0.08217757940292358],
    },
    "outputs": {
        "source": TRANSFORMERS,
        "checkpoint": SMALL,
        "input_ids": EXAMPLE_IDS,
        "last_hidden_state": {"mean": -4.3392181396484375e-05, "first_min": -2.0625, "first_max": 2.75},
        "split": 125440,  # the logits, in halves
        "means_of_logits": [-1.823902130126953e-05, 1.9431114196777344e-05],
    },
    # Greedy, all. Prompts of different lengths are padded on the left.
    "tiny_generations": [
        {
            "source": TRANSFORMERS_JS,
            "checkpoint": TINY_RANDOM,
            "prompts": ["hello"],
            "length": 10,  # of prompt and continuation, in tokens
            "ids": [[198, 803, 82, 82, 82, 82, 82, 82, 82, 82]],
        },
        {
            "source": TRANSFORMERS_JS,
            "checkpoint": TINY_RANDOM,
            "prompts": ["hello", "hello world"],
            "length": 10,
            "ids": [[3, 3, 198, 803, 82, 82, 82, 82, 82, 82], [198, 803, 82, 209, 753, 753, 753, 753, 753, 753]],
        },
    ],
    "generations": [
        {
            "source": TRANSFORMERS,
            "checkpoint": BLOOM_560M_GS,
            "prompts": [DOG],
            "length": 50,
            "texts": [
                f"{DOG}, and I love to watch the kids play with the kids. I am a very active person, and I enjoy "
                "working out, and I am a very active person. I am a very active person, and I"
            ],
        },
        {
            "source": TRANSFORMERS,
            "checkpoint": BLOOM_560M_GS,
            "prompts": ["Hello what is", "Running a quick test with the"],
            "length": 20,
            "texts": [
                "Hello what is the best way to get the data from the server? I have tried",
                "Running a quick test with the following command:\nsudo apt-get install python3\n"
                "sudo apt-get install python2",
            ],
        },
        {
            "source": TGI_SERVER,
            "checkpoint": BLOOM_560M,
            "prompts": ["Test"],
            "length": 11,
            "texts": ["Test" * 11],
        },
        {
            "source": CTRANSLATE2,
            "checkpoint": BLOOM_560M,
            "prompts": ["Hello, I am"],
            "length": 21,  # CTranslate2's max_length=20 does not count the first token
            "tokens": [
                "Hello , ĠI Ġam Ġa Ġnew bie Ġin Ġthe Ġworld Ġof Ġweb Ġdesign Ġand ĠI Ġam Ġlooking Ġfor Ġa Ġweb "
                "Ġdeveloper"
            ],
        },
    ],
    # No literal output is published: the rows of a batch are compared with each other, or with the prompt alone.
    "batches": [
        {"source": TRANSFORMERS, "checkpoint": BLOOM_560M_GS, "prompts": [DOG, DOG], "length": 50},
        {"source": TRANSFORMERS, "checkpoint": BLOOM_560M_GS, "prompts": [DOG, NAME], "length": 50},
    ],
    # Of each id from the second on, given those before: replies of the same server, on a GPU in float16 as their
    # rounding shows. `prompt` of the ids are the prompt's; the others the server chose, greedily.
    "log_probabilities": [
        {
            "source": f"{TGI}: test_bloom_560m, test_bloom_560m_sharded, and twice test_bloom_560m_load",
            "checkpoint": BLOOM_560M,
            "ids": [17934, 49833, 21543, 447, 46341, 35567, 15, 1669, 11580, 3913, 39261],
            "prompt": 11,
            "replies": [
                [-10.5703125, -0.14746094, -1.9277344, -15.421875, -7.5820312,
                 -1.4013672, -1.5595703, -0.9428711, -3.703125, -1.7763672],
                [-10.546875, -0.14819336, -1.9257812, -15.4296875, -7.5625,
                 -1.4199219, -1.5634766, -0.9458008, -3.6816406, -1.7753906],
                [-10.5625, -0.14770508, -1.9287109, -15.4609375, -7.5585938,
                 -1.4003906, -1.5673828, -0.94628906, -3.703125, -1.5732422],
                [-10.53125, -0.14770508, -1.9287109, -15.4140625, -7.5234375,
                 -1.3613281, -1.5458984, -0.94189453, -3.7011719, -1.5732422],
            ],
        },
        {
            "source": f"{TGI}: test_bloom_560m_load, what follows the prompt above, in two replies",
            "checkpoint": BLOOM_560M,
            "ids": [17934, 49833, 21543, 447, 46341, 35567, 15, 1669, 11580, 3913,
                    39261, 578, 5608, 1767, 1273, 1486, 283, 40410, 20226, 172483, 2805],
            "prompt": 11,
            "replies": [
                [-1.7646484, -2.6113281, -1.5263672, -0.00010049343, -1.4707031,
                 -1.2119141, -0.11883545, -0.40844727, -0.0037841797, -1.0195312],
                [-1.7548828, -2.578125, -1.5117188, -0.00010049343, -1.4707031,
                 -1.1982422, -0.11004639, -0.4506836, -0.003047943, -1.0185547],
            ],
        },
        {
            "source": f"{TGI}: test_bloom_560m_all_params, the prompt's last five tokens alone",
            "checkpoint": BLOOM_560M,
            "ids": [15, 1669, 11580, 3913, 39261],
            "prompt": 5,
            "replies": [
                [-5.4453125, -2.3378906, -4.3320312, -2.9160156],
                [-5.4414062, -2.3378906, -4.3554688, -2.9238281],
            ],
        },
    ],
    # A preset made from bloom-560m, in float32. The first numbers of the last hidden state, compared as
    # `run_preset_test` does it (keras_hub/src/tests/test_case.py, commit 009d817c).
    "first_numbers": {
        "source": KERAS,
        "checkpoint": BLOOM_560M,
        "input_ids": [101, 1996, 4248, 102],
        "last_hidden_state": [2.4394186, 1.4131186, -2.7810357, -6.330823, -1.0599766],
    },
    # Of one past position, in the layout of the time.
    "cache": {
        "source": TGI_SERVER,
        "checkpoint": BLOOM_560M,
        "input_ids": [10264],
        "layers": 24,
        "shapes": [[16, 64, 1], [16, 1, 64]],
    },
}
# fmt: on

if stand_ins := os.environ.get("MINIBLOOM_STAND_INS"):  # figures of other checkpoints, under the same names
    FIGURES = json.loads(Path(stand_ins).read_text(encoding="utf-8"))

#!/usr/bin/env python3
"""Writes mlx_models/: tiny random models, quantised and saved by mlx-lm as it publishes them, with the logits
that MLX computes (pip install mlx-lm, with mlx-cpu where there is no Apple GPU).

    make_mlx_models.py mlx_models

Logits are those of the quantised weights with every scale widened to f32, so that MLX computes in f32 throughout.
"""
import json
import pathlib
import sys

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models import llama, qwen3
from mlx_lm.utils import quantize_model, save_config, save_model

mx.set_default_device(mx.cpu)

SHAPE = dict(hidden_size=64, num_hidden_layers=1, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
             head_dim=32, vocab_size=48, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=64)
LAYER = "model.layers.0."

# name, module, its config, how all layers are quantised, what differs, the type of the rest and of the scales
MODELS = [
    ("llama_overrides", llama, dict(model_type="llama", architectures=["LlamaForCausalLM"], tie_word_embeddings=False),
     dict(bits=4, group_size=64, mode="affine"),
     {LAYER + "self_attn.v_proj": False,
      LAYER + "self_attn.o_proj": dict(bits=8, group_size=64),
      LAYER + "mlp.down_proj": dict(bits=6, group_size=32),
      "model.embed_tokens": dict(bits=5, group_size=32),
      "lm_head": dict(bits=3, group_size=64)}, mx.float16),
    ("qwen3_tied_2bit", qwen3, dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True),
     dict(bits=2, group_size=32, mode="affine"), {}, mx.bfloat16),
    ("qwen3_mxfp4", qwen3, dict(model_type="qwen3", architectures=["Qwen3ForCausalLM"], tie_word_embeddings=True),
     dict(bits=4, group_size=32, mode="mxfp4"), {}, mx.bfloat16),
]


def main(folder):
    for seed, (name, module, own, how, differs, dtype) in enumerate(MODELS):
        mx.random.seed(seed)
        config = SHAPE | own
        model = module.Model(module.ModelArgs.from_dict(config))
        # As wide as trained weights are; mlx's own start would leave the logits all alike.
        model.update(tree_map(lambda p: mx.random.normal(p.shape) * (0.15 if p.ndim == 2 else 0.1)
                              + (0 if p.ndim == 2 else 1), model.parameters()))
        model.set_dtype(dtype)
        model, config = quantize_model(model, config, how["group_size"], how["bits"], mode=how["mode"],
                                       quant_predicate=lambda path, _: differs.get(path, True))
        to = pathlib.Path(folder) / name
        to.mkdir(parents=True, exist_ok=True)
        save_model(to, model)
        save_config(config, to / "config.json")
        (to / "model.safetensors.index.json").unlink(missing_ok=True)

        model.update(tree_map(lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p,
                              model.parameters()))
        tokens = mx.random.randint(0, config["vocab_size"], (1, 12))
        logits = model(tokens)[0]
        mx.eval(logits)
        (to / "logits.json").write_text(json.dumps(
            {"tokens": tokens[0].tolist(),
             "logits": [[float(f"{v:.8g}") for v in row] for row in logits.tolist()]}) + "\n")


main(sys.argv[1])

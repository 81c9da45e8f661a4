#!/usr/bin/env python3
"""Writes tests/golden/tiny_models.json: what the two models must give, computed apart from Impetus.

The chat model: its template rendered by Jinja2, token ids by the `tokenizers` library from the vocabulary in the GGUF
file, and greedy tokens by the numpy forward pass below (float32, weights as Q8_0 left them). The encoder: ids by its
tokenizer.json, vectors by `transformers` in float32 with mean pooling and normalisation.

    python3 models/recipe/goldens.py
"""
import json
import sys
from pathlib import Path

import gguf
import jinja2
import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from recipe import chat_export, embed_eval  # noqa: E402
from recipe.embed_train import PASSAGE, encode, pooled  # noqa: E402

CHAT = [
    [{"role": "user", "content": "Who are you?"}],
    [{"role": "system", "content": "You are a friendly storyteller."}, {"role": "user", "content": "How do I start the server?"}],
    [
        {"role": "user", "content": "Read this passage and answer the question.\n\nThe old miller had a grey donkey called Pepper. "
         "Every Monday, at 7 o'clock, Pepper carried 12 sacks of flour to the baker — and the baker gave him a carrot.\n\n"
         "Question: What did the baker give him?"},
        {"role": "assistant", "content": "A carrot."},
        {"role": "user", "content": "Who was Pepper?"},
    ],
]
TEXTS = ["A cat sleeps on the warm stove.", "How do I start the server?", "Él café naïve — 3 geese & 1 fox-cub went to the MARKET!"]
GREEDY = 24


class Forward:
    """Qwen 3's forward pass in numpy, straight from the file: q and k normed by head, RoPE turns halves."""

    def __init__(self, path):
        reader = gguf.GGUFReader(str(path))
        get = lambda key: chat_export.field(reader, f"qwen3.{key}")  # noqa: E731
        self.w = {t.name: np.asarray(gguf.quants.dequantize(t.data, t.tensor_type), np.float32) for t in reader.tensors}
        self.layers, self.heads, self.kv_heads = get("block_count"), get("attention.head_count"), get("attention.head_count_kv")
        self.head, self.eps = get("attention.key_length"), np.float32(get("attention.layer_norm_rms_epsilon"))
        self.theta = get("rope.freq_base")

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name]

    def rope(self, x):
        at = np.arange(len(x))[:, None] * self.theta ** (-np.arange(0, self.head, 2) / self.head)
        cos, sin = np.cos(at)[:, None].astype(np.float32), np.sin(at)[:, None].astype(np.float32)
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, a * sin + b * cos], -1)

    def logits(self, ids):
        """Of the last position only."""
        x, n = self.w["token_embd.weight"][ids], len(ids)
        mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        for i in range(self.layers):
            w = lambda name: self.w[f"blk.{i}.{name}.weight"]  # noqa: E731, B023
            h = self.norm(x, f"blk.{i}.attn_norm.weight")
            q = self.rope(self.norm((h @ w("attn_q").T).reshape(n, self.heads, self.head), f"blk.{i}.attn_q_norm.weight"))
            k = self.rope(self.norm((h @ w("attn_k").T).reshape(n, self.kv_heads, self.head), f"blk.{i}.attn_k_norm.weight"))
            v = (h @ w("attn_v").T).reshape(n, self.kv_heads, self.head)
            k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(np.float32(self.head)) + mask
            p = np.exp(s - s.max(-1, keepdims=True))
            x = x + np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(n, -1) @ w("attn_output").T
            h = self.norm(x, f"blk.{i}.ffn_norm.weight")
            gate = h @ w("ffn_gate").T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w("ffn_up").T)) @ w("ffn_down").T
        return self.norm(x[-1], "output_norm.weight") @ self.w["token_embd.weight"].T


def chat_goldens(path):
    reader = gguf.GGUFReader(str(path))
    tokenizer = chat_export.tokenizer_of(reader)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(chat_export.field(reader, "tokenizer.chat_template"))
    end, model, out = chat_export.field(reader, "tokenizer.ggml.eos_token_id"), Forward(path), []
    for messages in CHAT:
        text = template.render(messages=messages, add_generation_prompt=True)
        ids, greedy, gap = tokenizer.encode(text).ids, [], float("inf")
        while len(greedy) < GREEDY and (not greedy or greedy[-1] != end):
            logits = model.logits(ids + greedy)
            second, first = np.argsort(logits)[-2:]
            gap = min(gap, float(logits[first] - logits[second]))
            greedy.append(int(first))
        out.append({"messages": messages, "rendered": text, "ids": ids, "greedy_ids": greedy, "smallest_gap": round(gap, 5),
                    "greedy_text": tokenizer.decode(greedy)})
    return out


def embed_goldens(folder):
    model, tokenizer = embed_eval.load(folder, "cpu")
    out = []
    for text in TEXTS:
        ids, lengths = encode(tokenizer, [text], PASSAGE)
        n = int(lengths[0])
        with torch.no_grad():
            vector = F.normalize(pooled(model, ids[:, :n].long(), lengths), dim=-1)[0]
        out.append({"text": text, "ids": ids[0, :n].tolist(), "width": len(vector), "first_16": [round(float(v), 7) for v in vector[:16]]})
    return out


def main():
    models = HERE.parent
    goldens = {
        "made_by": "models/recipe/goldens.py: Jinja2, tokenizers and a numpy forward pass in float32; transformers for the vectors",
        "chat": chat_goldens(models / "impetus-tiny-chat" / "impetus-tiny-chat.gguf"),
        "embed": embed_goldens(models / "impetus-tiny-embed"),
    }
    target = HERE.parents[1] / "tests" / "golden" / "tiny_models.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(goldens, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()

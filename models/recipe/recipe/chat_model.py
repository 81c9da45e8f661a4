"""The chat model: Llama's architecture, with the weights laid out as GGUF names them.

RoPE turns neighbouring pairs (2i, 2i+1), as GGUF's "llama" does, so no row is permuted on export.
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Shape:
    vocabulary: int = 4096
    width: int = 384
    layers: int = 8
    heads: int = 6
    kv_heads: int = 2
    feed: int = 896
    context: int = 2048
    theta: float = 10000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        return self.width // self.heads


def rope_table(shape: Shape, length: int, device) -> torch.Tensor:
    freq = shape.theta ** (-torch.arange(0, shape.head, 2, device=device, dtype=torch.float32) / shape.head)
    angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), freq)
    return torch.stack([angle.cos(), angle.sin()])  # [2, length, head/2]


def rope(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x: [batch, heads, length, head]"""
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class Block(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        kv = s.kv_heads * s.head
        self.attn_norm = nn.RMSNorm(s.width, eps=s.eps)
        self.attn_q = nn.Linear(s.width, s.width, bias=False)
        self.attn_k = nn.Linear(s.width, kv, bias=False)
        self.attn_v = nn.Linear(s.width, kv, bias=False)
        self.attn_output = nn.Linear(s.width, s.width, bias=False)
        self.ffn_norm = nn.RMSNorm(s.width, eps=s.eps)
        self.ffn_gate = nn.Linear(s.width, s.feed, bias=False)
        self.ffn_up = nn.Linear(s.width, s.feed, bias=False)
        self.ffn_down = nn.Linear(s.feed, s.width, bias=False)

    def forward(self, x, table, drop: float, past=None):
        """`past`: a dict that keeps this block's keys and values from one call to the next."""
        s, (n, t, _) = self.s, x.shape
        h = self.attn_norm(x)
        q = rope(self.attn_q(h).view(n, t, s.heads, s.head).transpose(1, 2), table)
        k = rope(self.attn_k(h).view(n, t, s.kv_heads, s.head).transpose(1, 2), table)
        v = self.attn_v(h).view(n, t, s.kv_heads, s.head).transpose(1, 2)
        causal = t > 1
        if past is not None:
            if "k" in past:
                assert t == 1, "after the prompt, one token at a time"
                k, v = torch.cat([past["k"], k], 2), torch.cat([past["v"], v], 2)
            past["k"], past["v"] = k, v
        group = s.heads // s.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + F.dropout(self.attn_output(a.transpose(1, 2).reshape(n, t, s.width)), drop, self.training)
        h = self.ffn_norm(x)
        return x + F.dropout(self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h)), drop, self.training)


class ChatModel(nn.Module):
    def __init__(self, shape: Shape, drop: float = 0.0):
        super().__init__()
        self.shape, self.drop = shape, drop
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)  # also the head
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.eps)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
                if name.endswith(("attn_output.weight", "ffn_down.weight")):
                    p.data.mul_((2 * shape.layers) ** -0.5)

    def hidden(self, ids: torch.Tensor, cache=None, start: int = 0) -> torch.Tensor:
        """`cache`: one dict a block; then `ids` stand at `start` and after."""
        table = rope_table(self.shape, start + ids.shape[1], ids.device)[:, start:]
        x = self.token_embd(ids)
        for i, block in enumerate(self.blk):
            x = block(x, table, self.drop, cache[i] if cache else None)
        return self.output_norm(x)

    def forward(self, ids, targets=None):
        """Logits [batch, length, vocabulary], or with targets the mean loss; -1 is no target."""
        logits = F.linear(self.hidden(ids), self.token_embd.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1)


def choose(logits: torch.Tensor, temperature: float, top_p: float, rng) -> torch.Tensor:
    """One token a row of [rows, vocabulary]."""
    if temperature == 0:
        return logits.argmax(-1)
    p, where = (logits / temperature).softmax(-1).sort(-1, descending=True)
    p = p.masked_fill(p.cumsum(-1) - p > top_p, 0)
    return where.gather(-1, torch.multinomial(p, 1, generator=rng)).squeeze(-1)


def generate_alone(model, prompt, max_new, stop, temperature, top_p, rng):
    """One prompt, with a cache: the quick way on a CPU."""
    cache, out, ids, start = [{} for _ in model.blk], [], torch.tensor([prompt]), 0
    while len(out) < max_new:
        h = model.hidden(ids, cache, start)[:, -1]
        start += ids.shape[1]
        token = int(choose(F.linear(h, model.token_embd.weight), temperature, top_p, rng))
        if token in stop:
            break
        out.append(token)
        ids = torch.tensor([[token]])
    return out


@torch.inference_mode()
def generate(model, prompts, max_new: int, stop: set, temperature=0.0, top_p=0.95, seed=0, budget=2_000_000):
    """Continues each list of ids. On a GPU in large batches without a cache, which for so small a model is quick."""
    device = model.token_embd.weight.device
    rng = torch.Generator(device=device).manual_seed(seed)
    if device.type == "cpu":
        return [generate_alone(model, p, max_new, stop, temperature, top_p, rng) for p in prompts]
    out = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    at = 0
    while at < len(order):
        size = max(1, budget // (len(prompts[order[-1]]) + max_new))
        batch, at = order[at:at + size], at + size
        longest = max(len(prompts[i]) for i in batch) + max_new
        ids = torch.zeros(len(batch), longest, dtype=torch.long, device=device)
        length = torch.tensor([len(prompts[i]) for i in batch], device=device)
        for row, i in enumerate(batch):
            ids[row, : len(prompts[i])] = torch.tensor(prompts[i], device=device)
        done = torch.zeros(len(batch), dtype=torch.bool, device=device)
        rows = torch.arange(len(batch), device=device)
        for _ in range(max_new):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                h = model.hidden(ids[:, : int(length.max())])[rows, length - 1]
            logits = F.linear(h.float(), model.token_embd.weight.float())
            token = choose(logits, temperature, top_p, rng)
            for row, t in enumerate(token.tolist()):
                if not done[row]:
                    if t in stop:
                        done[row] = True
                    else:
                        out[batch[row]].append(t)
            ids[rows, length] = token
            length = length + (~done).long()
            if bool(done.all()):
                break
    return out

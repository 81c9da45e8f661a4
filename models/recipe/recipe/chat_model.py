"""The chat model: Qwen3's architecture (Llama's with a norm on each query and key), the weights named as GGUF names them.

RoPE turns the halves of a head (i, i + head/2), as GGUF's "qwen3" does, so no row is permuted on export.
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
    head: int = 64
    feed: int = 896
    context: int = 2048
    theta: float = 10000.0
    eps: float = 1e-6


def rope_table(shape: Shape, length: int, device) -> torch.Tensor:
    freq = shape.theta ** (-torch.arange(0, shape.head, 2, device=device, dtype=torch.float32) / shape.head)
    angle = torch.outer(torch.arange(length, device=device, dtype=torch.float32), freq)
    return torch.stack([angle.cos(), angle.sin()])  # [2, length, head/2]


def rope(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """x: [batch, length, heads, head]; table: [2, length, head/2]"""
    cos, sin = table[0].unsqueeze(1).to(x.dtype), table[1].unsqueeze(1).to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attend(q, k, v, causal=True):
    """Rows of one length; [batch, length, heads, head]."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def attend_within(q, k, v, ends, longest: int):
    """One row of many documents, each seeing only itself; `ends` begins with 0."""
    if q.is_cuda:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = (t[0].to(torch.bfloat16) for t in (q, k, v))
        return varlen_attn(q, k, v, ends, ends, longest, longest, window_size=(-1, 0))[None]
    document = torch.bucketize(torch.arange(q.shape[1]), ends.long(), right=True)
    mask = (document[:, None] == document[None]).tril()
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def drop_out(x, share, training: bool):
    """Dropout whose share is a tensor, so that another share needs no compiling anew."""
    if not training:
        return x
    return x * (torch.rand(x.shape, device=x.device) >= share).to(x.dtype) / (1 - share).to(x.dtype)


class Block(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.attn_norm = nn.RMSNorm(s.width, eps=s.eps)
        self.attn_q = nn.Linear(s.width, s.heads * s.head, bias=False)
        self.attn_k = nn.Linear(s.width, s.kv_heads * s.head, bias=False)
        self.attn_v = nn.Linear(s.width, s.kv_heads * s.head, bias=False)
        self.attn_q_norm = nn.RMSNorm(s.head, eps=s.eps)
        self.attn_k_norm = nn.RMSNorm(s.head, eps=s.eps)
        self.attn_output = nn.Linear(s.heads * s.head, s.width, bias=False)
        self.ffn_norm = nn.RMSNorm(s.width, eps=s.eps)
        self.ffn_gate = nn.Linear(s.width, s.feed, bias=False)
        self.ffn_up = nn.Linear(s.width, s.feed, bias=False)
        self.ffn_down = nn.Linear(s.feed, s.width, bias=False)

    def forward(self, x, table, drop, past=None, ends=None):
        """`past`: a dict that keeps this block's keys and values from one call to the next."""
        s, (n, t, _) = self.s, x.shape
        h = self.attn_norm(x)
        q = rope(self.attn_q_norm(self.attn_q(h).view(n, t, s.heads, s.head)), table)
        k = rope(self.attn_k_norm(self.attn_k(h).view(n, t, s.kv_heads, s.head)), table)
        v = self.attn_v(h).view(n, t, s.kv_heads, s.head)
        causal = t > 1
        if past is not None:
            if "k" in past:
                assert t == 1, "after the prompt, one token at a time"
                k, v = torch.cat([past["k"], k], 1), torch.cat([past["v"], v], 1)
            past["k"], past["v"] = k, v
        q, k = q.to(v.dtype), k.to(v.dtype)
        group = s.heads // s.kv_heads
        if group > 1:
            k, v = k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)
        a = attend(q, k, v, causal) if ends is None else attend_within(q, k, v, ends, s.context)
        x = x + drop_out(self.attn_output(a.reshape(n, t, -1)), drop, self.training)
        h = self.ffn_norm(x)
        return x + drop_out(self.ffn_down(F.silu(self.ffn_gate(h)) * self.ffn_up(h)), drop, self.training)


class ChatModel(nn.Module):
    def __init__(self, shape: Shape, drop: float = 0.0):
        super().__init__()
        self.shape = shape
        self.register_buffer("drop", torch.tensor(drop), persistent=False)
        self.token_embd = nn.Embedding(shape.vocabulary, shape.width)  # also the head
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, eps=shape.eps)
        self.register_buffer("table", rope_table(shape, shape.context, "cpu"), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)
                if name.endswith(("attn_output.weight", "ffn_down.weight")):
                    p.data.mul_((2 * shape.layers) ** -0.5)

    def hidden(self, ids: torch.Tensor, cache=None, start: int = 0) -> torch.Tensor:
        """`cache`: one dict a block; then `ids` stand at `start` and after."""
        table = self.table[:, start:start + ids.shape[1]]
        x = self.token_embd(ids)
        for i, block in enumerate(self.blk):
            x = block.forward(x, table, None, cache[i] if cache else None)  # never compiled: its lengths vary
        return self.output_norm(x)

    def forward(self, ids, targets=None):
        """Logits [batch, length, vocabulary], or with targets the mean loss; -1 is no target."""
        logits = F.linear(self.hidden(ids), self.token_embd.weight)
        if targets is None:
            return logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1)

    def packed(self, ids, positions, ends):
        """What the head reads, [length, width], of one row of many documents."""
        table = self.table[:, positions]
        x = self.token_embd(ids)[None]
        for block in self.blk:
            x = block(x, table, self.drop, None, ends)
        return self.output_norm(x[0])


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
def generate(model, prompts, max_new: int, stop: set, temperature=0.0, top_p=0.95, seed=0, budget=400_000):
    """Continues each list of ids. On a GPU in large batches without a cache, which for so small a model is quick."""
    device = model.token_embd.weight.device
    rng = torch.Generator(device=device).manual_seed(seed)
    if device.type == "cpu":
        return [generate_alone(model, p, max_new, stop, temperature, top_p, rng) for p in prompts]
    out = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    at = 0
    while at < len(order):
        size = 1
        while at + size < len(order) and (size + 1) * (len(prompts[order[at + size]]) + max_new) <= budget:
            size += 1
        batch, at = order[at:at + size], at + size
        longest = max(len(prompts[i]) for i in batch)
        ids = torch.zeros(len(batch), longest + max_new, dtype=torch.long)
        for row, i in enumerate(batch):
            ids[row, : len(prompts[i])] = torch.tensor(prompts[i])
        ids = ids.to(device)
        length = torch.tensor([len(prompts[i]) for i in batch], device=device)
        for step in range(max_new):
            rows = torch.arange(len(batch), device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                h = model.hidden(ids[:, : longest + step])[rows, length - 1]
            logits = F.linear(h.float(), model.token_embd.weight.float())
            ids[rows, length] = choose(logits, temperature, top_p, rng)
            length = length + 1
            if step % 6 == 5 or step == max_new - 1:  # who has ended goes
                going, lengths = [], length.tolist()
                for row, made in enumerate(ids.tolist()):
                    made = made[len(prompts[batch[row]]):lengths[row]]
                    ends = [k for k, t in enumerate(made) if t in stop]
                    out[batch[row]] = made[: ends[0]] if ends else made
                    if not ends:
                        going.append(row)
                if not going:
                    break
                keep = torch.tensor(going, device=device)
                ids, length, batch = ids[keep], length[keep], [batch[k] for k in going]
    return out

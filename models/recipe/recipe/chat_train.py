"""Trains impetus-tiny-chat: pre-training on tales and books, then tuning on conversations."""
import json
import random
import time
from dataclasses import dataclass

import numpy as np
import torch

from . import chat_export, chat_tokenizer, corpus as corpora, dialogues
from .chat_model import ChatModel, Shape
from .chat_tokenizer import END_OF_TEXT, IM_END, render
from .optim import Both, warm_stable_decay


@dataclass
class Plan:
    shape: Shape
    steps: int = 1500
    rows: int = 64  # of shape.context tokens each
    rate: float = 3e-3
    weight_decay: float = 1.0  # much, and dropout: the text is seen many times
    drop: float = 0.15
    tune_epochs: int = 3
    tune_tokens: int = 32768  # a step
    tune_rate: float = 6e-4
    polish_epochs: int = 3
    polish_drop: float = 0.1
    tune_plain: float = 0.15  # share of plain text among the tuning rows, to keep the language
    seed: int = 20
    scale: float = 1.0  # of the conversations made by rule
    limit: int = 0  # books of a kind; 0 is all
    # Shares of each kind of text, in the stable and in the decaying part of the schedule.
    stable = {"children": 0.34, "fairytales": 0.05, "books": 0.51, "talk": 0.10}
    decay = {"children": 0.30, "fairytales": 0.08, "books": 0.20, "talk": 0.42}


SMOKE = Plan(Shape(vocabulary=512, width=64, layers=2, heads=2, kv_heads=1, feed=128, context=256), steps=8, rows=4,
             tune_epochs=1, polish_epochs=1, tune_tokens=2048, scale=0.005, limit=3)


def encode_all(tokenizer, texts, end_id=None) -> np.ndarray:
    parts = []
    for at in range(0, len(texts), 512):
        for e in tokenizer.encode_batch(texts[at:at + 512]):
            parts.append(np.array(e.ids + ([end_id] if end_id is not None else []), np.uint16))
    return np.concatenate(parts)


def pieces(texts, size=20000):
    """Cuts long books at paragraph ends, so that the tokenizer can work on many cores; joined they are the same text."""
    out = []
    for text in texts:
        at = 0
        while len(text) - at > size:
            cut = text.find("\n\n", at + size)
            if cut < 0:
                break
            out.append((text[at:cut], False))
            at = cut
        out.append((text[at:], True))
    return out


def encode_books(tokenizer, texts) -> np.ndarray:
    end = tokenizer.token_to_id(END_OF_TEXT)
    cut = pieces(texts)
    encoded = []
    for at in range(0, len(cut), 512):
        for e, (_, last) in zip(tokenizer.encode_batch([t for t, _ in cut[at:at + 512]]), cut[at:at + 512]):
            encoded.append(np.array(e.ids + ([end] if last else []), np.uint16))
    return np.concatenate(encoded)


def prepare(plan: Plan, log):
    began = time.time()
    corpus = corpora.load(limit=plan.limit)
    log(f"corpus read in {time.time() - began:.0f} s: {len(corpus.children)} children's texts, {len(corpus.books)} books, "
        f"{len(corpus.train)} FairytaleQA tales; {corpus.dropped_paragraphs} paragraphs of held-out tales dropped")
    practice, tuning = dialogues.build(corpus, plan.seed, plan.scale)
    if plan.scale < 1:
        practice, tuning = practice[: int(len(practice) * plan.scale)], tuning[: int(len(tuning) * plan.scale)]
    log(f"conversations at {time.time() - began:.0f} s: {len(practice)} to practise, {len(tuning)} to tune on")
    kids = [t for _, t in corpus.children]
    tales = [f"{t.title}\n\n" + "\n\n".join(t.sections) for t in corpus.train]
    books = [t for _, t in corpus.books]
    rng = random.Random(plan.seed)
    sample = [p for p, _ in pieces(kids + tales + books[::4])] + [render(t, False) for t in tuning[:3000]]
    rng.shuffle(sample)
    tokenizer = chat_tokenizer.train(sample, plan.shape.vocabulary)
    log(f"tokenizer of {tokenizer.get_vocab_size()} at {time.time() - began:.0f} s")
    end = tokenizer.token_to_id(END_OF_TEXT)
    streams = {
        "children": encode_books(tokenizer, kids),
        "fairytales": encode_books(tokenizer, tales),
        "books": encode_books(tokenizer, books),
        "talk": encode_all(tokenizer, [render(t, False) for t in practice], end),
    }
    held = [(n, t) for n, t in corpus.held_out] + [(t.title, "\n\n".join(t.sections)) for t in corpus.val]
    streams["held_out"] = encode_books(tokenizer, [t for _, t in held])
    held_bytes = sum(len(t.encode()) for _, t in held)
    log(f"tokens at {time.time() - began:.0f} s: " + ", ".join(f"{k} {len(v):,}" for k, v in streams.items()))
    return corpus, tokenizer, streams, held_bytes, tuning


class Windows:
    """Random windows out of the streams, by the given shares."""

    def __init__(self, streams, length, device, seed):
        self.length, self.device = length, device
        self.names = ["children", "fairytales", "books", "talk"]
        self.start, parts, at = {}, [], 0
        for name in self.names:
            data = streams[name]
            if len(data) <= length + 1:
                data = np.tile(data, length // len(data) + 2)
            self.start[name] = (at, len(data) - length - 1)
            parts.append(data)
            at += len(data)
        self.tokens = torch.from_numpy(np.concatenate(parts).astype(np.int32)).to(device)
        self.rng = np.random.default_rng(seed)
        self.reach = torch.arange(length + 1, device=device)

    def draw(self, rows, shares):
        kinds = self.rng.choice(len(self.names), rows, p=[shares[n] for n in self.names])
        at = [self.start[self.names[k]] for k in kinds]
        offsets = torch.tensor([a + int(self.rng.integers(0, n + 1)) for a, n in at], device=self.device)
        rows = self.tokens[offsets[:, None] + self.reach].long()
        return rows[:, :-1], rows[:, 1:]


def autocast(device):
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


@torch.no_grad()
def loss_of(model, tokens, length, device, rows=64) -> float:
    """Mean nats a token over the whole stream, in windows."""
    n = (len(tokens) - 1) // length
    x = torch.from_numpy(tokens[: n * length].astype(np.int64)).view(n, length)
    y = torch.from_numpy(tokens[1: n * length + 1].astype(np.int64)).view(n, length)
    total, was = 0.0, model.training
    model.eval()
    for at in range(0, n, rows):
        with autocast(device):
            total += model(x[at:at + rows].to(device), y[at:at + rows].to(device)).item() * len(x[at:at + rows])
    model.train(was)
    return total / n


def pretrain(plan, model, streams, held_bytes, device, log, curve):
    windows = Windows(streams, plan.shape.context, device, plan.seed)
    fast = torch.compile(model) if device == "cuda" else model
    optimizer = Both(model, plan.rate, plan.weight_decay)
    began = time.time()
    held = streams["held_out"]
    for step in range(plan.steps):
        factor = warm_stable_decay(step, plan.steps)
        x, y = windows.draw(plan.rows, plan.stable if step < plan.steps * 0.65 else plan.decay)
        with autocast(device):
            loss = fast(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(optimizer.adam.param_groups[0]["params"], 1.0)
        optimizer.step(factor)
        if step % 50 == 0 or step == plan.steps - 1:
            line = {"step": step, "tokens": (step + 1) * plan.rows * plan.shape.context, "loss": round(loss.item(), 4), "seconds": round(time.time() - began, 1)}
            if step % 200 == 0 or step == plan.steps - 1:
                nats = loss_of(model, held, plan.shape.context, device)
                line["held_out_loss"] = round(nats, 4)
                line["held_out_bits_per_byte"] = round(nats * len(held) / held_bytes / np.log(2), 4)
            curve.append(line)
            log(json.dumps(line))


def tuning_rows(tokenizer, talks, context):
    """(ids, targets) of each conversation: only the assistant's words and its <|im_end|> are learnt."""
    end = tokenizer.token_to_id(IM_END)
    said = [m["content"] for talk in talks for m in talk]
    bodies = iter([e.ids for at in range(0, len(said), 4096) for e in tokenizer.encode_batch(said[at:at + 4096])])
    heads = {r: tokenizer.encode(f"<|im_start|>{r}\n").ids for r in ("system", "user", "assistant")}
    tail, rows = tokenizer.encode("\n").ids, []
    for talk in talks:
        ids, learn = [], []
        for m in talk:
            head, body, mine = heads[m["role"]], next(bodies) + [end], m["role"] == "assistant"
            ids += head + body + tail
            learn += [False] * len(head) + [mine] * len(body) + [False] * len(tail)
        if len(ids) <= context:
            targets = [t if k else -1 for t, k in zip(ids, learn)]
            rows.append((ids[:-1], targets[1:]))
    return rows


def plain_rows(streams, count, length, rng):
    """Windows of plain text, learnt whole."""
    text = np.concatenate([streams["children"], streams["fairytales"], streams["books"][: len(streams["children"])]])
    starts = [rng.randrange(len(text) - length - 1) for _ in range(count)]
    return [(text[a:a + length].tolist(), text[a + 1:a + length + 1].tolist()) for a in starts]


def rows_of(plan, tokenizer, talks, streams, seed):
    rows = tuning_rows(tokenizer, talks, plan.shape.context)
    return rows + plain_rows(streams, int(len(rows) * plan.tune_plain), min(512, plan.shape.context), random.Random(seed))


def tune(plan, model, rows, epochs, device, log, curve):
    rng = random.Random(plan.seed)
    batches = []
    for _ in range(epochs):
        order = list(range(len(rows)))
        rng.shuffle(order)
        for at in range(0, len(order), 2048):  # sort inside a stretch, so that rows of one batch are alike in length
            stretch = sorted(order[at:at + 2048], key=lambda i: len(rows[i][0]))
            group, made = [], []
            for i in stretch:
                if group and (len(group) + 1) * len(rows[i][0]) > plan.tune_tokens:
                    made.append(group)
                    group = []
                group.append(i)
            made.append(group)
            rng.shuffle(made)
            batches += made
    optimizer = Both(model, plan.tune_rate, plan.weight_decay)
    began = time.time()
    for step, batch in enumerate(batches):
        longest = -(-max(len(rows[i][0]) for i in batch) // 64) * 64
        x = torch.zeros(len(batch), longest, dtype=torch.long)
        y = torch.full((len(batch), longest), -1)
        for r, i in enumerate(batch):
            x[r, : len(rows[i][0])] = torch.tensor(rows[i][0])
            y[r, : len(rows[i][1])] = torch.tensor(rows[i][1])
        with autocast(device):
            loss = model(x.to(device, non_blocking=True), y.to(device, non_blocking=True))
        loss.backward()
        optimizer.step(warm_stable_decay(step, len(batches), warm=0.05, decay=0.9))
        if step % 100 == 0 or step == len(batches) - 1:
            line = {"tune_step": step, "of": len(batches), "loss": round(loss.item(), 4), "seconds": round(time.time() - began, 1)}
            curve.append(line)
            log(json.dumps(line))


def run(plan: Plan, out, device, log, ready=None):
    """Trains and writes out/impetus-tiny-chat.gguf; returns the corpus for the evaluation."""
    torch.set_float32_matmul_precision("high")
    corpus, tokenizer, streams, held_bytes, tuning = ready or prepare(plan, log)
    torch.manual_seed(plan.seed)
    model = ChatModel(plan.shape, plan.drop).to(device)
    log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    curve = []
    pretrain(plan, model, streams, held_bytes, device, log, curve)
    tune(plan, model, rows_of(plan, tokenizer, tuning, streams, plan.seed), plan.tune_epochs, device, log, curve)
    model.drop = plan.polish_drop
    talks = dialogues.polish(corpus, plan.seed + 1, plan.scale)
    tune(plan, model, rows_of(plan, tokenizer, talks, streams, plan.seed + 1), plan.polish_epochs, device, log, curve)
    chat_export.write(out / "impetus-tiny-chat.gguf", model, tokenizer,
                      "A small storyteller: tells short tales and answers questions about a given passage.")
    (out / "chat-curve.json").write_text(json.dumps(curve))
    log(f"wrote {out / 'impetus-tiny-chat.gguf'}, {(out / 'impetus-tiny-chat.gguf').stat().st_size:,} bytes")
    return corpus

"""Trains impetus-tiny-chat: plain text first, then more and more reading, then the conversations it is meant for."""
import json
import os
import queue
import random
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from . import chat_export, chat_tokenizer, corpus as corpora
from .chat_data import Conversations, Steps, encode_books, pieces
from .chat_model import ChatModel, Shape
from .optim import Both, warm_stable_decay

@dataclass
class Part:
    """A part of the training: for each phase its share of the steps, and the shares of its tokens."""
    steps: int
    phases: list
    drop: float = 0.1
    warm: float = 0.02  # of the part; then the rate stays, and falls to `end` over the part's last `decay`
    start: float = 1.0
    end: float = 0.3
    decay: float = 0.3
    weights: dict = field(default_factory=dict)
    seconds: float = 0  # train so long instead of `steps` (to try things out)


TRUNK = [
    (0.40, {"children": 0.36, "fairytales": 0.06, "books": 0.58}),
    (0.60, {"children": 0.18, "fairytales": 0.03, "books": 0.22, "rule": 0.48, "gap": 0.03, "fairy": 0.01, "story": 0.04, "written": 0.01}),
]
TUNE = [(1.0, {"children": 0.12, "fairytales": 0.03, "books": 0.09, "rule": 0.36, "fairy": 0.25, "story": 0.11, "written": 0.04})]


def falling(steps, phases, fairy=24, start=0.3, drop=0.15) -> Part:
    """`fairy`: what a token of FairytaleQA's answers counts, beside 1 for any other."""
    return Part(steps, phases, start=start, end=0.0, decay=0.98, drop=drop, weights={"fairy": fairy})


@dataclass
class Plan:
    shape: Shape
    trunk: Part = field(default_factory=lambda: Part(6900, TRUNK))
    # From one trunk; the mean of their weights is kept.
    tunes: list = field(default_factory=lambda: [falling(700, TUNE), falling(700, TUNE, fairy=60), falling(700, TUNE, start=0.15)])
    size: int = 65536  # tokens a step
    rate: float = 2e-3
    weight_decay: float = 0.75  # much, and dropout: the text is seen many times
    rounds: dict = field(default_factory=lambda: {"rule": 4, "books": 1.0, "fairy": 12, "story": 2, "written": 20})
    seed: int = 20
    limit: int = 0  # books of a kind; 0 is all
    processes: int = max(1, (os.cpu_count() or 2) - 2)


SMOKE = Plan(Shape(vocabulary=512, width=64, layers=2, heads=2, kv_heads=1, head=32, feed=128, context=512), Part(8, TRUNK),
             [falling(3, TUNE), falling(3, TUNE)], size=4096, rounds={"rule": 1, "books": 0.05, "fairy": 1, "story": 1, "written": 1},
             limit=3, processes=1)


def prepare(plan: Plan, log):
    began = time.time()
    corpus = corpora.load(limit=plan.limit)
    log(f"corpus read in {time.time() - began:.0f} s: {len(corpus.children)} children's texts, {len(corpus.books)} books, "
        f"{len(corpus.train)} FairytaleQA tales; {corpus.dropped_paragraphs} paragraphs of held-out tales dropped")
    if plan.limit:
        corpus.train = corpus.train[: 4 * plan.limit]
    kids = [t for _, t in corpus.children]
    tales = [f"{t.title}\n\n" + "\n\n".join(t.sections) for t in corpus.train]
    books = [t for _, t in corpus.books]
    sample = [p for p, _ in pieces(kids + tales + books[::4])]
    random.Random(plan.seed).shuffle(sample)
    tokenizer = chat_tokenizer.train(sample, plan.shape.vocabulary)
    log(f"tokenizer of {tokenizer.get_vocab_size()} at {time.time() - began:.0f} s")
    held = [(n, t) for n, t in corpus.held_out] + [(t.title, "\n\n".join(t.sections)) for t in corpus.val]
    streams = {name: encode_books(tokenizer, texts) for name, texts in (("children", kids), ("fairytales", tales), ("books", books))}
    held_out = encode_books(tokenizer, [t for _, t in held])
    held_bytes = sum(len(t.encode()) for _, t in held)
    log(f"tokens at {time.time() - began:.0f} s: " + ", ".join(f"{k} {len(v):,}" for k, v in streams.items()))
    return corpus, tokenizer, streams, held_out, held_bytes


def autocast(device):
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda")


@torch.no_grad()
def loss_of(model, tokens, length, device, rows=32) -> float:
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


def weighted_loss(hidden, embedding, targets, weights):
    logits, weights = F.linear(hidden, embedding), weights.float()
    return (F.cross_entropy(logits.float(), targets, reduction="none") * weights).sum() / weights.sum()


def phase_at(phases, fraction):
    for share, what in phases:
        fraction -= share
        if fraction < 0:
            break
    return what


class Feed(threading.Thread):
    """Packs steps ahead of the GPU."""

    def __init__(self, steps: Steps, phases, fraction, conversations, pinned, log):
        super().__init__(daemon=True)
        self.steps, self.phases, self.fraction, self.conversations = steps, phases, fraction, conversations
        self.pinned, self.log, self.queue, self.stop, self.failure = pinned, log, queue.Queue(6), False, None

    def run(self):
        try:
            at = 0
            while not self.stop:
                shares = phase_at(self.phases, self.fraction(at))
                if not self.steps.pools and any(n not in self.steps.streams for n in shares):
                    self.steps.pools = self.conversations.pools()
                    if at:
                        self.log("conversations: " + ", ".join(f"{k} {len(v):,} ({len(v.ids):,} tokens)" for k, v in self.steps.pools.items()))
                made = [torch.from_numpy(a) for a in self.steps.step(shares)]
                item = [t.pin_memory() for t in made] if self.pinned else made
                while not self.stop:
                    try:
                        self.queue.put(item, timeout=0.2)
                        break
                    except queue.Full:
                        pass
                at += 1
        except Exception as failure:  # told to the training, which waits
            self.failure = failure
            self.queue.put(None)


class Trainer:
    def __init__(self, plan: Plan, streams, conversations, held_out, held_bytes, device, log):
        self.plan, self.streams, self.conversations, self.device, self.log = plan, streams, conversations, device, log
        self.held_out, self.held_bytes, self.curve = held_out, held_bytes, []
        self.cuda = torch.device(device).type == "cuda"
        torch.manual_seed(plan.seed)
        self.model = ChatModel(plan.shape).to(device)
        self.loss = torch.compile(weighted_loss) if self.cuda else weighted_loss
        if self.cuda:
            for block in self.model.blk:  # one block's code serves all of them
                block.compile()
        self.tokens, self.seconds = 0, 0.0

    def train(self, name: str, part: Part, number: int = 0, of: int = 1):
        plan, model, began = self.plan, self.model, time.time()

        def fraction(step):
            return min(1.0, (time.time() - began) / part.seconds) if part.seconds else step / part.steps

        steps = Steps(self.streams, plan.size, plan.shape.context, plan.size // 128, plan.seed + number, part.weights, number / of)
        feed = Feed(steps, part.phases, fraction, self.conversations, self.cuda, self.log)
        feed.start()
        torch.manual_seed(plan.seed + number)
        optimizer = Both(model, plan.rate, plan.weight_decay)
        model.drop.fill_(part.drop)
        step, last, lap, every = 0, None, time.time(), max(1, part.steps // 40)
        while True:
            if part.seconds and step == 3:
                began = time.time()  # the compiler's time aside
            at = fraction(step)
            ending = at >= 1 if part.seconds else step == part.steps - 1
            item = feed.queue.get()
            if item is None:
                raise feed.failure
            ids, targets, weights, positions, ends = (t.to(self.device, non_blocking=True) for t in item)
            with autocast(self.device):
                loss = self.loss(model.packed(ids, positions, ends), model.token_embd.weight, targets, weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(optimizer.adam.param_groups[0]["params"], 1.0)
            optimizer.step(warm_stable_decay(at, part.warm, part.decay, part.start, part.end))
            self.tokens += plan.size
            if step % every == 0 or ending:
                line = {"part": name, "step": step, "tokens": self.tokens, "loss": round(loss.item(), 4), "seconds": round(time.time() - began, 1)}
                if last is not None:
                    line["tokens_per_second"] = int((step - last) * plan.size / (time.time() - lap))
                if step % (4 * every) == 0 or ending:
                    nats = loss_of(model, self.held_out, plan.shape.context, self.device)
                    line["held_out_loss"] = round(nats, 4)
                    line["held_out_bits_per_byte"] = round(nats * len(self.held_out) / self.held_bytes / np.log(2), 4)
                last, lap = step, time.time()
                self.curve.append(line)
                self.log(json.dumps(line))
            step += 1
            if ending:
                break
        feed.stop = True

    def state(self) -> dict:
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}


def mean_of(states) -> dict:
    return {k: sum(s[k] for s in states) / len(states) for k in states[0]}


def run(plan: Plan, out, device, log):
    """Trains and writes out/impetus-tiny-chat.gguf; returns the corpus for the evaluation."""
    torch.set_float32_matmul_precision("high")
    corpus, tokenizer, streams, held_out, held_bytes = prepare(plan, log)
    conversations = Conversations(corpus, tokenizer, plan.shape.context, plan.seed, plan.rounds, plan.processes)
    trainer = Trainer(plan, streams, conversations, held_out, held_bytes, device, log)
    log(f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters")
    trainer.train("trunk", plan.trunk)
    trunk, tuned = trainer.state(), []
    for i, part in enumerate(plan.tunes):
        trainer.model.load_state_dict(trunk)
        trainer.train(f"tuning {i + 1}", part, i + 1, len(plan.tunes) + 1)
        tuned.append(trainer.state())
    trainer.model.load_state_dict(mean_of(tuned))
    path = out / "impetus-tiny-chat.gguf"
    chat_export.write(path, trainer.model, tokenizer, "A small storyteller: tells short tales and answers questions about a given passage.")
    (out / "chat-curve.json").write_text(json.dumps(trainer.curve))
    log(f"wrote {path}, {path.stat().st_size:,} bytes")
    return corpus

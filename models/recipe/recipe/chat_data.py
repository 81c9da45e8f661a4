"""What the chat model reads: streams of plain text, pools of conversations, and both packed into steps of one length."""
import multiprocessing
import random
from collections import Counter

import numpy as np
from tokenizers import Tokenizer

from . import dialogues
from .chat_tokenizer import END_OF_TEXT, IM_END, said
from .reading import Verbs

# What a token of a conversation is: its frame, what others say, or the assistant's answer.
FRAME, SHOWN, ANSWER = 0, 1, 2
# How much its loss counts, in quarters of that of plain text.
PLAIN_WEIGHT, SHOWN_WEIGHT = 4, 1
WEIGHTS = {"rule": 40, "gap": 24, "fairy": 24, "story": 4, "written": 16}


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


class Pool:
    """Conversations as one row of ids and one of what each token is, with where each begins and the round it was made in."""

    def __init__(self, parts, rounds):
        self.ids = np.concatenate([p[0] for p in parts])
        self.parts = np.concatenate([p[1] for p in parts])
        lengths = np.concatenate([p[2] for p in parts])
        self.rounds = np.concatenate([np.full(len(p[2]), r) for p, r in zip(parts, rounds)])
        self.ends = np.cumsum(lengths)
        self.starts = self.ends - lengths

    def __len__(self):
        return len(self.ends)


def encode_talks(tokenizer, talks, context: int):
    """(ids, what each is, lengths)"""
    end = tokenizer.token_to_id(IM_END)
    bodies = iter([tokenizer.encode(said(m)).ids for talk in talks for m in talk])
    heads = {r: tokenizer.encode(f"<|im_start|>{r}\n").ids for r in ("system", "user", "assistant")}
    tail, ids, parts, lengths = tokenizer.encode("\n").ids, [], [], []
    for talk in talks:
        row, mine = [], []
        for m in talk:
            body = next(bodies) + [end]
            part = ANSWER if m["role"] == "assistant" else SHOWN
            row += heads[m["role"]] + body + tail
            mine += [FRAME] * len(heads[m["role"]]) + [part] * len(body) + [FRAME] * len(tail)
        if len(row) <= context:
            ids.append(np.array(row, np.uint16))
            parts.append(np.array(mine, np.uint8))
            lengths.append(len(row))
    if not ids:
        return np.zeros(0, np.uint16), np.zeros(0, np.uint8), np.zeros(0, np.int64)
    return np.concatenate(ids), np.concatenate(parts), np.array(lengths)


_worker = {}


def _start(tokenizer, count, context):
    _worker.update(tokenizer=Tokenizer.from_str(tokenizer), verbs=Verbs(count=count), context=context)


def _make(job):
    """One piece of the work: {pool: (ids, what each is, lengths)}."""
    kind, seed, _, what = job
    rng = random.Random(seed)
    if kind == "rule":
        texts, share = what
        asked, gaps = dialogues.rule_questions(texts, _worker["verbs"], rng, share)
        made = {"rule": asked, "gap": gaps}
    elif kind == "fairy":
        tales, disguise = what
        made = {"fairy": dialogues.fairytale_questions(tales, rng, disguise)}
    elif kind == "story":
        made = {"story": dialogues.story_pool(*what, rng)}
    elif kind == "more":
        made = {"story": dialogues.continuations(what, rng, 0.1)}
    else:
        made = {"written": dialogues.written(rng, what)}
    out = {}
    for pool, talks in made.items():
        talks = dialogues.with_system(talks, rng)
        if talks:
            out[pool] = encode_talks(_worker["tokenizer"], talks, _worker["context"])
    return out


def chunked(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]


class Conversations:
    """Made by other processes while the first, plain part of the training runs."""

    def __init__(self, corpus, tokenizer, context, seed, rounds, processes):
        kids = [text for _, text in corpus.children]
        tales = ["\n\n".join(t.sections) for t in corpus.train]
        books = [text for _, text in corpus.books]
        verbs = Verbs(kids + tales)
        jobs = [("written", r, 1) for r in range(rounds["written"])]
        for r in range(rounds["fairy"]):
            jobs += [("fairy", r, (part, 0.0 if r == 0 else 0.65)) for part in chunked(corpus.train, 60)]
        for r in range(rounds["story"]):
            jobs += [("story", r, (corpus.train, corpus.fables))]
            jobs += [("more", r, part) for part in chunked(kids, 20)]
        for r in range(rounds["rule"]):
            for texts, share in ((kids, 1.0), (tales, 1.0), (books, rounds["books"])):
                jobs += [("rule", r, (part, share)) for part in chunked([t for t, _ in pieces(texts, 200_000)], 4)]
        jobs = [(kind, seed * 100_003 + i, r, what) for i, (kind, r, what) in enumerate(jobs)]
        self.rounds = [job[2] for job in jobs]
        self.pool = multiprocessing.get_context("spawn").Pool(processes, _start, (tokenizer.to_str(), verbs.count, context))
        self.result = self.pool.map_async(_make, jobs, chunksize=1)
        self.made = None

    def pools(self) -> dict:
        if self.made is None:
            parts = self.result.get()
            self.pool.terminate()
            names = sorted({name for part in parts for name in part})
            self.made = {}
            for name in names:
                mine = [(part[name], r) for part, r in zip(parts, self.rounds) if name in part]
                self.made[name] = Pool([p for p, _ in mine], [r for _, r in mine])
        return self.made


class Steps:
    """Packs windows and conversations into steps of `size` tokens, by the shares of tokens that a phase asks for.

    A step: ids, targets, weights and positions [size], and the ends of its documents, padded to one length. Attention keeps to
    one document, so that what is learnt about a passage does not depend on its neighbours in the step.
    """

    def __init__(self, streams, size, window, most, seed, weights=None, skip=0.0):
        self.streams, self.pools = streams, {}
        self.size, self.window, self.most = size, window, most
        self.rng = np.random.default_rng(seed)
        self.weights, self.skip = {**WEIGHTS, **(weights or {})}, skip
        self.order, self.read = {}, Counter()

    def document(self, name, room):
        """(ids, weights), or None where the next conversation does not fit."""
        if name in self.streams:
            data = self.streams[name]
            window = self.window if self.rng.random() < 0.15 else self.window // 2
            length = min(window, room, len(data) - 1)
            at = int(self.rng.integers(0, len(data) - length))
            return data[at:at + length], PLAIN_WEIGHT
        pool = self.pools[name]
        if name not in self.order:  # round after round, so that none is met twice before all were met once
            self.order[name] = np.argsort(pool.rounds + self.rng.random(len(pool)))
            self.read[name] = int(self.skip * len(pool))
        i = self.order[name][self.read[name] % len(pool)]
        a, b = pool.starts[i], pool.ends[i]
        if b - a > room:
            return None
        self.read[name] += 1
        return pool.ids[a:b], np.array([0, SHOWN_WEIGHT, self.weights[name]], np.uint8)[pool.parts[a:b]]

    def step(self, shares: dict):
        ids = np.zeros(self.size, np.int64)
        weights = np.zeros(self.size, np.uint8)
        positions = np.zeros(self.size, np.int64)
        names, p = list(shares), np.array(list(shares.values()))
        p = p / p.sum()
        given = -self.rng.random(len(names)) * p * min(self.size, 8 * self.window)  # who begins differs from step to step
        plain = [n for n in names if n in self.streams]
        ends, at = [0], 0
        while at < self.size:
            room = self.size - at
            k = int(np.argmax(p * at - given))
            found = self.document(names[k], room) if len(ends) < self.most else None
            if found is None:
                found = self.document(plain[int(self.rng.integers(len(plain)))], room)
            else:
                given[k] += len(found[0])
            n = len(found[0])
            ids[at:at + n], weights[at:at + n] = found
            weights[at] = 0  # nothing foretells a document's first token
            positions[at:at + n] = np.arange(n)
            at += n
            ends.append(at)
        targets = np.append(ids[1:], 0)
        weights = np.append(weights[1:], 0).astype(np.uint8)
        ends = np.array(ends + [self.size] * (self.most + 2 * self.size // self.window + 2 - len(ends)), np.int32)
        return ids, targets, weights, positions, ends

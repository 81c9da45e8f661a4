"""Measures the shipped GGUF: held-out bits per byte beside a 5-gram's, answers to held-out questions, recitation."""
import json
import random
import re
from collections import Counter

import numpy as np
import torch

from . import chat_export, dialogues
from .chat_model import generate
from .chat_tokenizer import END_OF_TEXT, IM_END, render
from .chat_data import encode_books
from .chat_train import loss_of
from .corpus import Corpus, Grams
from .exchanges import PASSAGE_FORMS

PROMPTS = [
    "Hello!", "Who are you?", "What can you do?", "Tell me a story about a fox and a crow.", "Tell me a story about a little mermaid.",
    "Tell me a tale about a king and his three sons.", "Tell me a story about a ship in a storm.", "A story about a clever mouse, please.",
    "Tell me a story about an old woman and a dragon.", "Can you tell me a story about the moon?",
    "Read this passage and answer the question.\n\nThe old miller had a grey donkey called Pepper. Every Monday Pepper carried two sacks of flour to the baker in the village, and the baker gave him a carrot.\n\nQuestion: What did the baker give the donkey?",
    "Read this passage and answer the question.\n\nAnna was afraid of the dark, so her brother Tom left a small lamp burning by her bed. In the morning the lamp was gone, and a silver feather lay in its place.\n\nQuestion: Why did Tom leave a lamp by the bed?",
    "Read this passage and answer the question.\n\n\"I have lost my crown,\" said the frog, and he sat down under the bridge and wept. The heron flew over the pond and saw something bright among the reeds.\n\nQuestion: Where did the frog sit down?",
    "How do I start the server?", "How do I get embeddings?", "What is Impetus?", "What is the capital of France?", "Write a Python program.",
    "Thank you very much!", "Good night.",
]


def words(text: str) -> list:
    text = re.sub(r"[^a-z0-9 ]", " ", text.lower())
    return [w for w in text.split() if w not in ("a", "an", "the")]


def f1(guess: str, reference: str) -> float:
    a, b = words(guess), words(reference)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b)) if same else float(a == b)


def rouge_l(guess: str, reference: str) -> float:
    a, b = words(guess), words(reference)
    if not a or not b:
        return float(a == b)
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(a) + len(b))


def five_gram_bits(train: np.ndarray, test: np.ndarray, vocabulary: int) -> float:
    """Total bits of `test` under an interpolated (Witten-Bell) 5-gram over the same tokens."""
    assert vocabulary <= 4096  # five ids of twelve bits fit in one word
    p = np.full(len(test), 1.0 / vocabulary)

    def keys(tokens, n):
        out = np.zeros(len(tokens) - n + 1, np.uint64)
        for i in range(n):
            out = (out << np.uint64(12)) | tokens[i:len(tokens) - n + 1 + i].astype(np.uint64)
        return out

    def look(known, values, wanted):
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[at] == wanted, values[at], 0)

    for n in range(1, 6):
        grams, count = np.unique(keys(train, n), return_counts=True)
        context, first = np.unique(grams >> np.uint64(12), return_index=True)
        total = np.add.reduceat(count, first)
        kinds = np.diff(np.append(first, len(grams)))
        mine = keys(test, n)
        seen, of, k = look(grams, count, mine), look(context, total, mine >> np.uint64(12)), look(context, kinds, mine >> np.uint64(12))
        new = (seen + k * p[n - 1:]) / np.maximum(of + k, 1)
        p[n - 1:] = np.where(of > 0, new, p[n - 1:])
    return float(-np.log2(p).sum())


def questions_of(tales, form):
    out = []
    for tale in tales:
        for where, asked in tale.questions.items():
            passage = "\n\n".join(tale.sections[i] for i in sorted(where))
            out += [(form.format(passage=passage, question=dialogues.question_form(q.text)), q.answers) for q in asked]
    return out


def answer_scores(model, tokenizer, tales, limit=0):
    """(figures, [(prompt, references)], answers), greedily, with the passage given."""
    stop = {tokenizer.token_to_id(IM_END), tokenizer.token_to_id(END_OF_TEXT)}
    asked = questions_of(tales, PASSAGE_FORMS[0])
    asked = asked[:: max(1, len(asked) // limit)] if limit else asked  # spread over all tales
    prompts = [tokenizer.encode(render([dialogues.user(q)])).ids for q, _ in asked]
    keep = [i for i, p in enumerate(prompts) if len(p) <= model.shape.context - 48]
    answers = [""] * len(asked)  # a passage too long for the context counts as no answer
    for i, ids in zip(keep, generate(model, [prompts[i] for i in keep], 40, stop)):
        answers[i] = tokenizer.decode(ids)

    best = {name: [max(score(a, r) for r in refs) for a, (_, refs) in zip(answers, asked)] for name, score in (("token_f1", f1), ("rouge_l", rouge_l))}
    kinds = {}
    for (prompt, _), score in zip(asked, best["token_f1"]):
        kinds.setdefault(re.search(r"Question: (\w+)[^\n]*$", prompt)[1].lower(), []).append(score)
    out = {"questions": len(asked), "questions_too_long": len(asked) - len(keep)}
    out.update({name: round(float(np.mean(scores)), 4) for name, scores in best.items()})
    out["token_f1_by_first_word"] = {k: [round(float(np.mean(v)), 3), len(v)] for k, v in sorted(kinds.items(), key=lambda kv: -len(kv[1]))[:5]}
    return out, asked, answers


def answers_of(asked, answers, count=15) -> list:
    some = list(zip(asked, answers))[:: max(1, len(asked) // count)]
    return [{"question": q[q.rfind("Question: ") + 10:], "answer": a, "references": r} for (q, r), a in some]


def evaluate(gguf_path, corpus: Corpus, device, log, limit=0) -> dict:
    model, reader = chat_export.read(gguf_path, device)
    tokenizer = chat_export.tokenizer_of(reader)
    stop = {tokenizer.token_to_id(IM_END), tokenizer.token_to_id(END_OF_TEXT)}
    out = {"bytes": gguf_path.stat().st_size, "parameters": sum(p.numel() for p in model.parameters())}

    held = [t for _, t in corpus.held_out] + ["\n\n".join(t.sections) for t in corpus.test]
    tokens = encode_books(tokenizer, held)
    size = sum(len(t.encode()) for t in held)
    nats = loss_of(model, tokens, model.shape.context, device)
    out["held_out_bytes"] = size
    out["held_out_bits_per_byte"] = round(nats / np.log(2) * len(tokens) / size, 4)
    texts = [t for _, t in corpus.children + corpus.books] + ["\n\n".join(t.sections) for t in corpus.train]
    bits = five_gram_bits(encode_books(tokenizer, texts), tokens, model.shape.vocabulary)
    out["five_gram_bits_per_byte"] = round(bits / size, 4)
    out["below_five_gram"] = round(1 - out["held_out_bits_per_byte"] / out["five_gram_bits_per_byte"], 4)
    log(json.dumps(out))

    for name, tales in (("val", corpus.val), ("test", corpus.test)):
        out[name], asked, answers = answer_scores(model, tokenizer, tales, limit)
        log(json.dumps({name: out[name]}))
    out["some_answers"] = answers_of(asked, answers)

    rng = random.Random(1)
    openings = []
    for text in held:
        paragraphs = [p for p in text.split("\n\n") if len(p.split()) > 40]
        openings += rng.sample(paragraphs, min(4, len(paragraphs)))
    starts = [tokenizer.encode(" ".join(p.split()[:40])).ids for p in openings][: limit or None]
    told = [tokenizer.decode(t) for t in generate(model, starts, 160, stop, temperature=0.8, seed=1)]
    grams = Grams(12)
    grams.learn(texts)
    hits = np.concatenate([grams.hits(t) for t in told])
    out["recited_12_grams"] = round(float(hits.mean()), 4)

    ids = [tokenizer.encode(render([dialogues.user(p)])).ids for p in PROMPTS]
    samples = generate(model, ids, 220, stop, temperature=0.7, seed=7)
    out["samples"] = [{"prompt": p, "answer": tokenizer.decode(s)} for p, s in zip(PROMPTS, samples)]
    return out

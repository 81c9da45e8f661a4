"""Measures the shipped encoder folder: STS-B (never trained on) and finding the passage of a held-out question."""
import csv

import numpy as np
import torch
from tokenizers import Tokenizer

from .embed_train import PASSAGE, encode, teacher_folder, vectors
from .paths import data_dir


def ranks(x: np.ndarray) -> np.ndarray:
    """Ranks, ties at their mean."""
    values, back, count = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[back]


def spearman(a, b) -> float:
    return float(np.corrcoef(ranks(np.asarray(a)), ranks(np.asarray(b)))[0, 1])


def load(folder, device):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def embed(folder, texts, device):
    model, tokenizer = load(folder, device)
    return vectors(model, *encode(tokenizer, texts, PASSAGE), device).float().cpu().numpy()


def sts(folder, device, split: str) -> float:
    with open(data_dir() / "similarity" / f"stsb-en-{split}.csv", encoding="utf-8") as f:
        rows = list(csv.reader(f))
    v = embed(folder, [r[0] for r in rows] + [r[1] for r in rows], device)
    return spearman((v[: len(rows)] * v[len(rows):]).sum(-1), [float(r[2]) for r in rows])


def recall(folder, tales, device, at=5) -> float:
    """How often the passage a question was asked of is among the nearest `at` of all held-out passages."""
    texts, asked, right = [], [], []
    for tale in tales:
        base = len(texts)
        texts += tale.sections
        for where, questions in tale.questions.items():
            for q in questions:
                asked.append(q.text)
                right.append({base + i for i in where})
    q, p = embed(folder, asked, device), embed(folder, texts, device)
    best = np.argsort(-(q @ p.T), axis=1)[:, :at]
    return float(np.mean([bool(set(row.tolist()) & r) for row, r in zip(best, right)]))


def evaluate(folder, device, log, corpus, limit=0) -> dict:
    tales = corpus.test[: limit or None]
    out = {"weights_bytes": (folder / "model.safetensors").stat().st_size}
    for name, where in (("student", folder), ("teacher", teacher_folder())):
        out[name] = {
            "stsb_dev_spearman": round(sts(where, device, "dev"), 4),
            "stsb_train_spearman": round(sts(where, device, "train"), 4),
            "fairytaleqa_test_recall_at_5": round(recall(where, tales, device), 4),
        }
    return out

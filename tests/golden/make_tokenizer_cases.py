#!/usr/bin/env python3
"""Writes tokenizer_cases.json: small tokenizers in every shape that tokenizer.json allows, trained on
a public-domain book, and the ids that Hugging Face's `tokenizers` (pip install tokenizers) gives.

    make_tokenizer_cases.py BOOK.txt > tokenizer_cases.json

Texts keep to long-assigned characters, so that the Unicode version of a library does not matter.
"""
import json
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders as D, models, normalizers as N
from tokenizers import pre_tokenizers as P, processors, trainers

random.seed(1)
book = open(sys.argv[1], encoding="utf-8").read()
LETTERS = " " * 12 + "\n\t'.,!?-_/0123456789abcdeilnorstABCDEST\"$+<=>^~|`" + "éüßñΣςжЖ中文日本한국अनمرשל²½Ⅷ٣\u00a0\u3000\u200b\u200d\u0301€“”—▁😀👍"


def text():
    if random.random() < 0.5:
        start = random.randrange(len(book) - 100)
        return book[start:start + random.randrange(1, 90)]
    out = ""
    for _ in range(random.randrange(0, 25)):
        out += random.choice(LETTERS) * (random.randrange(2, 5) if random.random() < 0.2 else 1)
    return out


cases = []


def case(name, normalizer=None, pre=None, decoder=None, post=None, unknown=None, fuse=False, fallback=False,
         special=(), added=()):
    tokenizer = Tokenizer(models.BPE(unk_token=unknown, fuse_unk=fuse, byte_fallback=fallback))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    byte_tokens = ["<0x%02X>" % i for i in range(256)] if fallback else []
    specials = list(special) + ([unknown] if unknown else [])
    trainer = trainers.BpeTrainer(vocab_size=360 + len(byte_tokens), special_tokens=specials + byte_tokens,
                                  initial_alphabet=P.ByteLevel.alphabet() if unknown is None else [],
                                  show_progress=False)
    tokenizer.train_from_iterator([book[i:i + 500] for i in range(0, 60000, 500)], trainer)
    # Byte tokens are pieces of the model, not added tokens.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] not in byte_tokens]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    if decoder:
        tokenizer.decoder = decoder
    for token in added:
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    if post:
        tokenizer.post_processor = post(tokenizer)
    record(name, tokenizer, specials + [t.content for t in added])


def record(name, tokenizer, specials):
    examples = []
    for i in range(40):
        example = text() if i else ""
        if specials and i % 3 == 0:
            at = random.randrange(len(example) + 1)
            example = example[:at] + random.choice(specials) + example[at:]
        ids = tokenizer.encode(example).ids
        examples.append({"text": example, "ids": ids, "decoded": tokenizer.decode(ids)})
    cases.append({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "examples": examples})


def chain(*steps):
    return P.Sequence(list(steps))


WORDS = P.ByteLevel(add_prefix_space=False)
BYTES = P.ByteLevel(add_prefix_space=False, use_regex=False)
for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
    case("split " + behavior, None, chain(P.Split(Regex("[aeiou ]"), behavior), BYTES), D.ByteLevel())
    case("inverted " + behavior, None, chain(P.Split(Regex("\\p{L}+"), behavior, invert=True), BYTES), D.ByteLevel())
case("punctuation", None, chain(P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=True)), D.ByteLevel())
case("digits", None, chain(P.Digits(individual_digits=True), WORDS), D.ByteLevel())
case("whitespace", None, P.Whitespace(), None, unknown="<unk>")
case("whitespace split", None, P.WhitespaceSplit(), None, unknown="<unk>", fuse=True)
for scheme in ["always", "first", "never"]:
    case("metaspace " + scheme, None, P.Metaspace(prepend_scheme=scheme), D.Metaspace(prepend_scheme=scheme),
         unknown="<unk>", fallback=True, special=["<s>"])
case("metaspace whole", None, P.Metaspace(prepend_scheme="first", split=False), D.Metaspace(), unknown="<unk>",
     fuse=True)
case("normalizers", N.Sequence([N.NFD(), N.StripAccents(), N.Lowercase(), N.Strip()]), WORDS, D.ByteLevel())
case("nfkc", N.NFKC(), WORDS, D.ByteLevel())
case("replace", N.Replace(Regex("\\s{2,}|[aeiou]n"), " "), WORDS, D.ByteLevel())
case("roberta", None, P.ByteLevel(add_prefix_space=True), D.ByteLevel(),
     post=lambda t: processors.RobertaProcessing(("</s>", t.token_to_id("</s>")), ("<s>", t.token_to_id("<s>"))),
     special=["<s>", "</s>"],
     added=[AddedToken("<mask>", lstrip=True, special=True), AddedToken("<r>", rstrip=True, special=True),
            AddedToken("or", single_word=True, special=False, normalized=False),
            AddedToken("  ", special=False, normalized=False)])
case("template", None, WORDS, D.ByteLevel(),
     post=lambda t: processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing(
         single="<a> $A <b> <a>", special_tokens=[("<a>", t.token_to_id("<a>")), ("<b>", t.token_to_id("<b>"))])]),
     special=["<a>", "<b>"])
case("llama", N.Sequence([N.Prepend("▁"), N.Replace(" ", "▁")]), None,
     D.Sequence([D.Replace("▁", " "), D.ByteFallback(), D.Fuse(), D.Strip(" ", 1, 0)]), unknown="<unk>", fuse=True,
     fallback=True, special=["<s>"], added=[AddedToken("<x>", special=False, normalized=False)])

wordpiece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
wordpiece.normalizer = N.BertNormalizer()
wordpiece.pre_tokenizer = P.BertPreTokenizer()
wordpiece.decoder = D.WordPiece()
wordpiece.train_from_iterator([book[i:i + 500] for i in range(0, 60000, 500)], trainers.WordPieceTrainer(
    vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False))
wordpiece.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
record("bert", wordpiece, ["[CLS]", "[MASK]"])

json.dump(cases, sys.stdout, ensure_ascii=False, separators=(",", ":"))

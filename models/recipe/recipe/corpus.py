"""Reads and cleans the two archives, and keeps the held-out tales out of everything that is trained on.

Sources: children's classics and books before 1928 (public domain, digitised by Project Gutenberg) and
FairytaleQA (Xu et al., ACL 2022, Apache-2.0).
"""
import csv
import io
import multiprocessing
import re
import tarfile
import unicodedata
import zlib
from dataclasses import dataclass, field

import numpy as np

from .paths import data_dir

# Whole tales that no model sees, beside FairytaleQA's val and test splits.
HELD_OUT_TALES = (
    "L._Frank_Baum__A_Kidnapped_Santa_Claus",
    "Hans_Christian_Andersen__The_Little_Mermaid",
    "W._W._Jacobs__The_Monkey's_Paw",
)
# Books whose second-level headings begin a tale of its own.
COLLECTIONS = (
    "Aesop__Aesop's_Fables",
    "The_Brothers_Grimm__Grimms'_Fairy_Tales",
    "Hans_Christian_Andersen__Andersen's_Fairy_Tales",
    "Edith_Nesbit__The_Book_of_Dragons",
    "James_Stephens__Irish_Fairy_Tales",
)
SMALL_WORDS = {"a", "an", "and", "at", "by", "for", "from", "in", "into", "of", "on", "or", "the", "to", "with"}
GRAM = 8


@dataclass
class Question:
    text: str
    answers: list  # one or two references


@dataclass
class Tale:
    """A FairytaleQA story: its sections, and the questions asked about each (by section index)."""
    title: str
    sections: list
    questions: dict = field(default_factory=dict)


@dataclass
class Corpus:
    children: list  # [(name, text)]
    books: list
    fables: list  # [(title, text)]: short tales, each whole
    train: list  # [Tale]
    val: list
    test: list
    held_out: list  # [(name, text)]
    dropped_paragraphs: int = 0


def title_case(words: str) -> str:
    out = []
    for i, word in enumerate(words.split()):
        low = word.lower()
        out.append(low if i and low in SMALL_WORDS else low[:1].upper() + low[1:])
    return " ".join(out)


def plain(title: str) -> str:
    return re.sub(r"^the ", "", title.lower())


def clean_line(text: str) -> str:
    """One alphabet for quotes, dashes and spaces; no footnote marks, no underscores for italics."""
    text = unicodedata.normalize("NFC", text)
    text = re.sub("[\ufeff\u200b\u00ad]", "", text).replace("\u00a0", " ").replace("ſ", "s").replace("…", "...")
    text = re.sub("[“”]", '"', text)
    text = re.sub("[‘’]", "'", text)
    text = re.sub(r"\[(\d+|[A-Z]|Illustration[^\]]*|Footnote[^\]]*|Transcriber[^\]]*)\]", "", text)
    text = re.sub(r"_([^_\n]{1,200})_", r"\1", text).replace("_", "")
    text = re.sub(r" ?-{2,}|\s?—\s?", "—", text)
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r" ([,.;!?])", r"\1", text).strip()


def clean_section(raw: str) -> str:
    """A FairytaleQA section; some stories come wrapped at a fixed width, the others one paragraph a line."""
    lines = [clean_line(line) for line in re.split(r"\r\n?|\n", raw)]
    lines = [line for line in lines if line]
    if not lines or len(lines) < 3 or sorted(map(len, lines))[len(lines) // 2] > 95:
        return "\n\n".join(lines)
    width, out = max(map(len, lines)), [""]
    for line in lines:
        out[-1] = (out[-1] + " " + line).strip()
        if len(line) < 0.75 * width and re.search(r"[.!?][\"']?$", line):
            out.append("")
    return "\n\n".join(p for p in out if p)


def clean_book(raw: str) -> list:
    """A book's paragraphs; headings come back as ('#', title)."""
    head, _, body = raw.partition("-------")
    if not body:
        body = head
    out = []
    for block in re.split(r"\n\s*\n", body.replace("\r", "")):
        lines = [clean_line(line) for line in block.split("\n")]
        for line in lines:
            if line.startswith("#"):
                title = re.sub(r"\[.*?\]", "", line.lstrip("# ")).strip()
                if title:
                    level = len(line) - len(line.lstrip("#"))
                    out.append(("#" * level, title_case(title) if title.isupper() else title))
        text = "\n".join(line for line in lines if line and not line.startswith("#"))
        if re.search(r"[A-Za-z]", text):
            out.append(("", text))
    return out


def read_archive(name: str):
    with tarfile.open(data_dir() / "corpora" / name, "r:xz") as tar:
        for member in tar:
            if member.isfile():
                yield member.name.removeprefix("./"), tar.extractfile(member).read().decode("utf-8", "replace")


def read_tales(files: dict, split: str) -> list:
    base = "fairytaleqa/data-by-train-split"
    tales = []
    for path in sorted(files):
        if not path.startswith(f"{base}/section-stories/{split}/"):
            continue
        stem = path.rsplit("/", 1)[1].removesuffix("-story.csv")
        rows = list(csv.DictReader(io.StringIO(files[path])))
        index = {row["section"]: i for i, row in enumerate(rows)}
        title = title_case(re.sub(r"-+", " ", stem))
        tale = Tale(title, [clean_section(row["text"]) for row in rows])
        for row in csv.DictReader(io.StringIO(files[f"{base}/questions/{split}/{stem}-questions.csv"])):
            where = [index[s.strip()] for s in row["cor_section"].split(",") if s.strip() in index]
            answers = [clean_line(row[k]) for k in ("answer1", "answer4") if row.get(k) and row[k].strip()]
            if where and answers:
                question = Question(clean_line(row["question"]), answers)
                tale.questions.setdefault(tuple(where), []).append(question)
        tales.append(tale)
    return tales


class Grams:
    """Rolling hashes of word n-grams, to find text that stands in another text."""

    def __init__(self, n: int):
        self.n, self.known = n, np.zeros(0, np.uint64)

    def hashes(self, text: str) -> np.ndarray:
        words = re.findall(r"[a-z0-9]+", text.lower())
        if len(words) < self.n:
            return np.zeros(0, np.uint64)
        ids = np.fromiter((zlib.crc32(w.encode()) for w in words), np.uint64, len(words))
        out = np.zeros(len(ids) - self.n + 1, np.uint64)
        for i in range(self.n):
            out = out * np.uint64(6364136223846793005) + ids[i:len(ids) - self.n + 1 + i] + np.uint64(1442695040888963407)
        return out

    def learn(self, texts) -> None:
        parts = [self.hashes(t) for t in texts]
        self.known = np.unique(np.concatenate([self.known, *parts]))

    def hits(self, text: str) -> np.ndarray:
        h = self.hashes(text)
        if not len(self.known) or not len(h):
            return np.zeros(len(h), bool)
        at = np.minimum(np.searchsorted(self.known, h), len(self.known) - 1)
        return self.known[at] == h


def in_half(name: str) -> bool:
    """A fixed half of the books, by name: enough for the encoder."""
    return zlib.crc32(name.rsplit("/", 1)[-1].encode()) % 2 == 0


_guard = Grams(GRAM)  # the held-out text; workers inherit it
_held_out_titles = set()


def _read_book(job):
    """(path, raw) -> ([(name, text)], [(title, tale)], dropped), without what also stands in a held-out tale."""
    path, raw = job
    stem = path.rsplit("/", 1)[1].removesuffix(".md")
    blocks, dropped = [], 0
    for head, text in clean_book(raw):
        hit = _guard.hits(text)
        if hit.sum() >= 2 or (len(hit) < 12 and hit.any()):
            dropped += 1
        else:
            blocks.append((head, text))
    if stem not in COLLECTIONS:
        return [(stem, "\n\n".join(t for _, t in blocks))], [], dropped
    tales, title, body = [], "", []
    for head, text in [*blocks, ("##", "")]:
        if head == "##" and not re.match(r"(?i)(chapter )?[ivxlc\d]+\.?$", text or "end"):
            whole = "\n\n".join(body)
            if title and body and plain(title) not in _held_out_titles:
                tales.append((title, whole))
            title, body = text, []
        elif not head:
            body.append(text)
    return [(f"{stem}: {t}", f"{t}\n\n{w}") for t, w in tales], tales, dropped


def load(only_half_of_books: bool = False, limit: int = 0) -> Corpus:
    """`limit` reads only that many books of each kind (for the smoke run)."""
    stories = dict(read_archive("stories.tar.xz"))
    train, val, test = (read_tales(stories, s) for s in ("train", "val", "test"))
    held_out, children = [], []
    for path in sorted(k for k in stories if k.startswith("children/")):
        if any(path.endswith(f"/{t}.md") for t in HELD_OUT_TALES):
            held_out.append((path, "\n\n".join(t for h, t in clean_book(stories[path]) if not h)))
        else:
            children.append((path, stories[path]))
    _guard.learn([s for tale in val + test for s in tale.sections] + [t for _, t in held_out])
    _held_out_titles.update(plain(tale.title) for tale in val + test)
    # A tale told in two splits, in other words perhaps, goes from the training side.
    train = [t for t in train if _guard.hits(" ".join(t.sections)).mean() < 0.1 and plain(t.title) not in _held_out_titles]

    books = [(p, raw) for p, raw in sorted(read_archive("books.tar.xz")) if not only_half_of_books or in_half(p)]
    with multiprocessing.get_context("fork").Pool() as pool:
        kids = pool.map(_read_book, children[: limit or None], chunksize=1)
        grown = pool.map(_read_book, books[: limit or None], chunksize=1)
    return Corpus([b for r in kids for b in r[0]], [b for r in grown for b in r[0]], [t for r in kids for t in r[1]],
                  train, val, test, held_out, sum(r[2] for r in kids + grown))


def sentences(text: str) -> list:
    """Sentences of a paragraph, by punctuation alone."""
    parts = re.split(r"(?<=[.!?])[\"']?\s+(?=[\"']?[A-Z])", text.replace("\n", " "))
    out = []
    for part in parts:
        if out and re.search(r"\b(Mr|Mrs|Ms|Dr|St|Capt|Col|Prof|Esq|No|vs|etc)\.$", out[-1]):
            out[-1] += " " + part
        elif part.strip():
            out.append(part.strip())
    return out

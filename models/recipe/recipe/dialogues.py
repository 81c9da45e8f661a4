"""Turns tales, questions and the hand-written exchanges into conversations."""
import random
import re
from collections import Counter

from .corpus import Corpus
from .exchanges import ASK_ABOUT_STORY, GO_ON, PASSAGE_FORMS, STORY_FORMS, SYSTEM, TALK
from .reading import Verbs, questions

THINGS = (
    "king queen prince princess fox wolf bear lion cat dog mouse frog giant dragon witch fairy dwarf goblin mermaid ghost "
    "boy girl sailor soldier farmer miller shoemaker tailor fisherman hunter shepherd thief robber pirate captain knight "
    "horse donkey goose hen cock crow eagle owl sparrow swan hare tortoise snake monkey elephant tiger goat sheep pig cow "
    "ship island castle forest garden mountain river sea cave tower ring treasure lamp apple rose snow winter storm moon star"
).split()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def answer_form(text: str) -> str:
    """An answer as a sentence: the references mix fragments and sentences."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text[-1:] in ".!?\"" else text + "."


def question_form(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:]


def ask(passage: str, pairs: list, rng: random.Random, form=None) -> list:
    """One conversation: the passage with its first question, then the others as follow-ups."""
    form = form or PASSAGE_FORMS[0 if rng.random() < 0.4 else rng.randrange(len(PASSAGE_FORMS))]
    out = []
    for i, (question, answer) in enumerate(pairs):
        out.append(user(form.format(passage=passage, question=question) if i == 0 else question))
        out.append(assistant(answer))
    return out


def fairytale_questions(tales, rng: random.Random, rounds: int = 1, words: int = 700) -> list:
    out = []
    for _ in range(rounds):
        for tale in tales:
            for where, asked in tale.questions.items():
                passage = "\n\n".join(tale.sections[i] for i in sorted(where))
                if len(passage.split()) > words:
                    continue
                asked = asked[:]
                rng.shuffle(asked)
                while asked:
                    n = rng.choice((1, 1, 2, 3))
                    some, asked = asked[:n], asked[n:]
                    pairs = [(question_form(q.text), answer_form(rng.choice(q.answers))) for q in some]
                    out.append(ask(passage, pairs, rng))
    return out


def passages(text: str, rng: random.Random, low: int = 60, high: int = 230):
    """Consecutive paragraphs, together of a chosen length."""
    held, want = [], rng.randint(low, high)
    for paragraph in text.split("\n\n"):
        held.append(paragraph)
        if sum(len(p.split()) for p in held) >= want:
            joined = "\n\n".join(held)
            if len(joined.split()) <= 1.6 * high:
                yield joined
            held, want = [], rng.randint(low, high)


def rule_questions(texts, verbs: Verbs, rng: random.Random, share: float = 1.0) -> list:
    out = []
    for text in texts:
        for passage in passages(text, rng):
            if rng.random() < share:
                pairs = questions(passage, verbs, rng, most=rng.choice((1, 2, 3)))
                if pairs:
                    out.append(ask(passage, pairs, rng))
    return out


def about(title: str, text: str, rng: random.Random) -> str:
    """What a story is about: its title, or the things that it speaks of most."""
    counts = Counter(w for w in re.findall(r"[a-z]+", text.lower()) if w in THINGS)
    things = [w for w, n in counts.most_common(3) if n > 1]
    if title and (not things or rng.random() < 0.4):
        first, _, rest = title.partition(" ")
        return (first.lower() if first in ("The", "A", "An", "How", "Why") else first) + (" " + rest if rest else "")
    if not things:
        return ""
    named = [("an " if w[0] in "aeiou" else "the " if w in ("snow", "winter", "sea", "moon") else "a ") + w for w in things]
    named = named[: rng.choice((1, 1, 2))]
    return " and ".join(named)


def chunks(text: str, words: int) -> list:
    out, held = [], []
    for paragraph in text.split("\n\n"):
        held.append(paragraph)
        if sum(len(p.split()) for p in held) >= words:
            out.append("\n\n".join(held))
            held = []
    if held:
        out.append("\n\n".join(held))
    return out


def story_conversations(titled, rng: random.Random, turns: int = 3) -> list:
    """[(title, text)] -> the tale told in answers of a page, with "go on" between them."""
    out = []
    for title, text in titled:
        parts = chunks(text, rng.choice((160, 220, 300)))
        x = about(title, text[:4000], rng)
        if not x or len(parts[0].split()) > 600:
            continue
        opening = rng.choice(STORY_FORMS).format(x=x)
        if rng.random() < 0.1:
            opening = rng.choice(TALK[-1][0].split("|"))
        talk = [user(opening), assistant(parts[0])]
        total = len(parts[0].split())
        for part in parts[1:turns]:
            total += len(part.split())
            if total > 900:
                break
            talk += [user(rng.choice(GO_ON)), assistant(part)]
        out.append(talk)
    return out


def continuations(texts, rng: random.Random, share: float) -> list:
    out = []
    for text in texts:
        for passage in passages(text, rng, 150, 350):
            if rng.random() < share:
                cut = [m.end() for m in re.finditer(r"[.!?]\"?\s", passage)]
                cut = [c for c in cut if 80 < c < len(passage) - 200]
                if cut:
                    at = rng.choice(cut)
                    out.append([user(rng.choice(ASK_ABOUT_STORY).format(text=passage[:at].strip())), assistant(passage[at:].strip())])
    return out


def written(rng: random.Random, rounds: int) -> list:
    """The hand-written exchanges, alone, in pairs, and with small changes of letter case and mark."""
    pairs = [(q, answers.split("|")) for asks, answers in TALK if answers for q in asks.split("|")]
    out = []
    for _ in range(rounds):
        for question, answers in pairs:
            if rng.random() < 0.25:
                question = question.lower()
            if rng.random() < 0.2:
                question = question.rstrip(".?!")
            talk = [user(question), assistant(rng.choice(answers))]
            if rng.random() < 0.35:
                q, a = rng.choice(pairs)
                talk += [user(q), assistant(rng.choice(a))]
            out.append(talk)
    return out


def with_system(talks: list, rng: random.Random, share: float = 0.15) -> list:
    return [[{"role": "system", "content": rng.choice(SYSTEM)}, *t] if rng.random() < share else t for t in talks]


def build(corpus: Corpus, seed: int, scale: float = 1.0):
    """(practice, tuning): many plain conversations for the end of pre-training, and the chosen ones to tune on."""
    rng = random.Random(seed)
    kids = [text for _, text in corpus.children]
    tales = [(t.title, "\n\n".join(t.sections)) for t in corpus.train]
    verbs = Verbs(kids)
    # Few rounds of each: a model this small learns a repeated passage by heart instead of reading it.
    practice = rule_questions(kids, verbs, rng, scale)
    practice += rule_questions([t for _, t in tales], verbs, rng, scale)
    practice += rule_questions([t for _, t in corpus.books], verbs, rng, 0.6 * scale)
    practice += fairytale_questions(corpus.train, rng, rounds=1)
    practice += story_conversations(tales + corpus.fables, rng)
    practice += continuations(kids, rng, 0.1 * scale)
    practice += written(rng, 2)

    tuning = fairytale_questions(corpus.train, rng)
    extra = rule_questions([t for _, t in tales], verbs, rng, 0.5)
    tuning += extra[: len(tuning) // 5]
    tuning += story_conversations(tales + corpus.fables, rng)
    sections = [(t.title, "\n\n".join(t.sections[i:])) for t in corpus.train for i in (1, 3) if len(t.sections) > i + 2]
    tuning += story_conversations(sections, rng)
    tuning += written(rng, 5)
    practice, tuning = with_system(practice, rng), with_system(tuning, rng)
    rng.shuffle(practice)
    rng.shuffle(tuning)
    return practice, tuning


def polish(corpus: Corpus, seed: int, scale: float = 1.0) -> list:
    """The second tuning: the hand-written exchanges until they sit, among fresh questions and tales."""
    rng = random.Random(seed)
    kids = [text for _, text in corpus.children]
    tales = [(t.title, "\n\n".join(t.sections)) for t in corpus.train]
    verbs = Verbs(kids)
    talks = fairytale_questions(corpus.train, rng)
    made = rule_questions([t for _, t in tales], verbs, rng, scale) + rule_questions(kids, verbs, rng, 0.25 * scale)
    rng.shuffle(made)
    talks += made[: len(talks)]
    talks += story_conversations(tales + corpus.fables, rng, turns=2)
    talks += written(rng, 24)
    talks = with_system(talks, rng)
    rng.shuffle(talks)
    return talks[: int(len(talks) * scale)]

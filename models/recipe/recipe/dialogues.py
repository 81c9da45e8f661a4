"""Turns tales, questions and the hand-written exchanges into conversations."""
import random
import re
from collections import Counter

from .corpus import sentences
from .disguise import disguised
from .exchanges import ASK_ABOUT_STORY, GO_ON, PASSAGE_FORMS, STORY_FORMS, SYSTEM, TALK
from .reading import Verbs, gap, questions, reworded

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
    return text[:1].upper() + text[1:] + ("" if text.endswith("?") else "?")


def ask(passage: str, pairs: list, rng: random.Random) -> list:
    """One conversation: the passage with its first question, then the others as follow-ups."""
    form = PASSAGE_FORMS[0 if rng.random() < 0.6 else rng.randrange(len(PASSAGE_FORMS))]
    if "{passage} " in form:
        passage = passage.replace("\n\n", " ")
    out = []
    for i, (question, answer) in enumerate(pairs):
        out.append(user(form.format(passage=passage, question=question) if i == 0 else question))
        out.append(assistant(answer))
    return out


def otherwise(question: str, rng: random.Random) -> str:
    """A question in slightly other words, or with one left out: so that no question is known by heart."""
    question = reworded(question, rng, 0.3)
    words = question.split(" ")
    if len(words) > 5 and rng.random() < 0.35:
        del words[rng.randrange(2, len(words) - 1)]
    return " ".join(words)


def focused(passage: str, question: str, answer: str, rng: random.Random) -> str:
    """The part of a passage about the sentence that holds the answer, where one plainly does."""
    wanted = {w for w in re.findall(r"[a-z]{3,}", answer.lower())}
    asked = {w for w in re.findall(r"[a-z]{3,}", question.lower())}
    lines = [(i, s) for i, p in enumerate(passage.split("\n\n")) for s in sentences(p)]
    if len(lines) < 5 or not wanted:
        return passage
    has = [len(wanted & (w := set(re.findall(r"[a-z]{3,}", s.lower())))) + 0.3 * len(asked & w) for _, s in lines]
    best = max(range(len(has)), key=lambda i: has[i])
    if has[best] < 0.6 * len(wanted):
        return passage
    low, high = max(0, best - rng.randint(1, 6)), best + 1 + rng.randint(0, 5)
    out = ""
    for k, (i, s) in enumerate(lines[low:high]):
        out += ("\n\n" if k and i != lines[low + k - 1][0] else " " if k else "") + s
    return out


def fairytale_questions(tales, rng: random.Random, disguise: float = 0.6, words: int = 900) -> list:
    """Each of FairytaleQA's questions once; the passage as it stands, in part, with a neighbour, or in disguise."""
    out = []
    for tale in tales:
        for where, asked in tale.questions.items():
            where = sorted(where)
            whole = "\n\n".join(tale.sections[i] for i in where)
            asked = asked[:]
            rng.shuffle(asked)
            while asked:
                n = rng.choice((1, 1, 1, 1, 2, 3))
                some, asked = asked[:n], asked[n:]
                pairs = [(question_form(q.text), answer_form(rng.choice(q.answers))) for q in some]
                passage, luck = whole, rng.random()
                if luck < 0.25 and n == 1:
                    passage = focused(whole, *pairs[0], rng)
                elif luck < 0.4 and where[-1] + 1 < len(tale.sections):
                    passage = whole + "\n\n" + tale.sections[where[-1] + 1]
                elif luck < 0.5 and where[0] > 0:
                    passage = tale.sections[where[0] - 1] + "\n\n" + whole
                if len(passage.split()) > words:
                    continue
                if rng.random() < disguise:
                    passage, pairs = disguised(passage, pairs, rng)
                if disguise:
                    pairs = [(otherwise(q, rng), a) for q, a in pairs]
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


def rule_questions(texts, verbs: Verbs, rng: random.Random, share: float = 1.0, disguise: float = 0.35) -> tuple:
    """(questions made by rule, gaps to fill) about the passages of the texts."""
    asked, gaps = [], []
    for text in texts:
        for passage in passages(text, rng):
            if rng.random() >= share:
                continue
            hole = gap(passage, rng) if rng.random() < 0.15 else None
            if hole:
                gaps.append(ask(passage, [(hole[0] + "?" if not hole[0].endswith("?") else hole[0], answer_form(hole[1]))], rng))
            pairs = questions(passage, verbs, rng, most=rng.choice((1, 2, 3, 5)))
            if pairs:
                shown = passage
                if rng.random() < disguise:
                    shown, pairs = disguised(passage, pairs, rng)
                if rng.random() < 0.4:
                    asked.append(ask(shown, pairs, rng))
                else:
                    asked += [ask(shown, [pair], rng) for pair in pairs[:2]]
    return asked, gaps


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


def story_pool(tales, fables, rng: random.Random, turns: int = 3) -> list:
    titled = [(t.title, "\n\n".join(t.sections)) for t in tales] + list(fables)
    later = [(t.title, "\n\n".join(t.sections[i:])) for t in tales for i in (1, 3) if len(t.sections) > i + 2]
    return story_conversations(titled, rng, turns) + story_conversations(later, rng, turns)

"""A passage, its question and its answer with some words changed alike in all three.

A king becomes a miller, Kari becomes Tobias, the ring a lamp: the answer must then be read in the passage, for nothing
learnt by heart fits it any more.
"""
import random
import re

KINDS = [
    group.split()
    for group in (
        "king prince farmer miller tailor soldier shepherd hunter fisherman merchant wizard knight sailor captain shoemaker "
        "emperor duke robber thief beggar butcher blacksmith woodcutter gardener huntsman minister judge priest scholar giant dwarf",
        "queen princess maiden witch fairy empress duchess milkmaid nurse mermaid stepmother widow goose-girl",
        "fox wolf bear lion cat dog mouse frog horse donkey goose hen cock crow eagle owl sparrow swan hare tortoise snake monkey "
        "elephant tiger goat sheep pig cow deer rabbit dragon squirrel badger hedgehog raven dove ox",
        "ring lamp sword cup stone purse box crown apple book key mirror feather bell basket bottle knife sack rope necklace "
        "hammer stick cloak hat drum flute candle bowl coin shield spear flower",
        "castle palace hut cottage tower mill church barn",
        "forest garden mountain river cave island valley meadow lake",
        "bread cake cheese soup milk honey meat porridge butter wine fish beer fruit rice",
        "red blue green black white grey yellow brown golden silver",
        "two three four five six seven eight nine ten twelve",
        "gold silver iron copper glass wood stone clay wool silk",
        "morning evening night afternoon",
        "ran walked rode crept climbed hurried",
        "monday tuesday wednesday thursday friday saturday sunday",
    )
]
KIND = {}
for _group in KINDS:
    for _word in _group:
        KIND.setdefault(_word, _group)
# Names of old books and of no book in particular.
NAMES = (
    "Anna Arthur Barbara Bertram Brenda Cedric Clara Conrad Daniel Dora Edgar Edith Elsa Emil Esther Felix Fiona Flora Gerda Gilbert "
    "Godfrey Greta Hannah Harold Hector Helga Henry Hilda Hugo Ida Ivan Jacob Jasper Jenny Joan Julia Karl Katrin Kenneth Laura Leo "
    "Linda Lucas Mabel Magnus Marcus Margaret Martha Martin Matilda Miles Miriam Nancy Nora Olaf Oliver Oscar Otto Paula Percy Petra "
    "Philip Polly Quentin Ralph Robert Rosa Rupert Ruth Samuel Sarah Sigurd Simon Sophie Stella Susan Sylvia Theodor Thomas Tilda "
    "Tobias Ursula Valentin Victor Vera Walter Wanda Wilhelm Winifred Yvonne Zacharias Mirza Rashid Leila Tamar Kofi Ama Ling Akira Hana"
).split()
ODD = set("mouse goose sheep deer ox thief knife fish fruit".split())  # no plain plural
NO_NAME = set("I The And But Then When What Who Why How Where She He They You God Lord Sir King Queen Prince Princess Lady Mr Mrs Miss Dr St Oh Ah Yes No Well".split())


def changes(text: str, passage: str, rng: random.Random, share: float) -> dict:
    """{word as it stands: its new form} for the words of `text`, the passage with its questions, that are to be changed."""
    words = set(re.findall(r"[A-Za-z]+(?:-[a-z]+)?", text))
    lower = {w for w in words if w.islower()}
    found, used = {}, {w.lower() for w in words}
    for word in sorted(words):
        low = word.lower()
        for stem, tail in ((low, ""), (low.removesuffix("s"), "s")):
            if stem in KIND and (tail == "" or low.endswith("s")) and low not in found:
                if rng.random() < share:
                    new = rng.choice(KIND[stem])
                    if new not in used and not (tail and new in ODD):
                        used.add(new)
                        found[stem], found[stem + "s"] = new, new + "s"
                break
    out = {}
    for word in words:
        new = found.get(word.lower())
        if new:
            out[word] = new.title() if word[0].isupper() and word.lower() in KINDS[-1] else new[0].upper() + new[1:] if word[0].isupper() else new
    inside = set(re.findall(r"(?<=[a-z,;] )[A-Z][a-z]{2,}", passage))  # capitals that begin no sentence
    for name in sorted(inside - NO_NAME):
        if name not in out and name.lower() not in lower and rng.random() < share:
            out[name] = rng.choice(NAMES)
    return out


def apply(text: str, change: dict) -> str:
    if not change:
        return text
    text = re.sub(r"[A-Za-z]+(?:-[a-z]+)?", lambda m: change.get(m[0], m[0]), text)
    return re.sub(r"\b([Aa])(n?) (?=([A-Za-z]))", lambda m: m[1] + ("n " if m[3] in "aeioAEIO" else " " if m[3] not in "uUhH" else m[2] + " "), text)


def disguised(passage: str, pairs: list, rng: random.Random, share: float = 0.6):
    """(passage, [(question, answer)]) with the same changes everywhere."""
    change = changes(" ".join([passage, *(f"{q} {a}" for q, a in pairs)]), passage, rng, share)
    return apply(passage, change), [(apply(q, change), apply(a, change)) for q, a in pairs]

"""Text for the encoder: sentences with near variants, passages, and questions with their passages.

The books speak the English of before 1928. So that the student also meets today's words, plain sentences are
composed from the patterns below and from words of the teacher's vocabulary; the teacher says what they mean.
"""
import random
import re

from .corpus import Corpus, sentences
from .dialogues import passages
from .reading import Verbs, questions

PERSON = ("man woman boy girl child baby person lady gentleman dog cat horse monkey panda chef cook player singer dancer "
          "cyclist driver soldier doctor nurse teacher student worker farmer skateboarder surfer swimmer runner guitarist "
          "reporter tourist musician athlete teenager toddler kitten puppy bird squirrel elephant lion tiger goat cow sheep").split()
GROUP = "people men women boys girls children kids dogs cats horses players dancers soldiers students workers friends cyclists birds".split()
LOOK = ("young old little tall small big black white brown red blue bald happy tired wet blonde smiling bearded barefoot elderly "
        "asian african american".split())
WEAR = "red shirt|blue jacket|white dress|black hat|green helmet|yellow coat|striped shirt|suit|uniform|pink skirt|life jacket|hard hat|baseball cap|pair of sunglasses".split("|")
DOING = (
    "playing a guitar|playing the piano|playing a flute|playing the drums|playing football|playing soccer|playing basketball|playing tennis|"
    "playing chess|playing in the snow|playing with a ball|riding a horse|riding a bicycle|riding a motorcycle|riding a skateboard|driving a car|"
    "driving a truck|cutting an onion|slicing a tomato|chopping vegetables|peeling a potato|cooking rice|frying fish|baking a cake|cracking an egg|"
    "eating pizza|eating a banana|eating pasta|drinking coffee|drinking milk|pouring water into a glass|washing the dishes|running on the beach|"
    "running through a field|running down the road|walking in the park|walking along the street|walking a dog|swimming in a pool|swimming under water|"
    "jumping over a fence|jumping into a lake|jumping on a trampoline|climbing a rock|climbing a tree|climbing a mountain|dancing on the stage|"
    "dancing in the rain|singing into a microphone|singing a song|reading a book|reading a newspaper|writing a letter|typing on a computer|"
    "talking on the phone|taking a photograph|watching television|sleeping on a couch|sleeping in a bed|sitting on a bench|sitting at a table|"
    "sitting on the grass|standing on a bridge|standing near a train|standing in front of a building|waiting for a bus|lifting weights|"
    "doing exercise|shooting a gun|throwing a ball|catching a frisbee|catching a fish|kicking a ball|hitting a ball with a bat|rowing a boat|"
    "sailing a boat|surfing a wave|skiing down a hill|skating on ice|pulling a sled|pushing a cart|carrying a bag|carrying a child|painting a wall|"
    "drawing a picture|sewing a dress|folding paper|opening a box|closing a door|mixing ingredients in a bowl|stirring soup|spreading butter on bread|"
    "putting makeup on|combing her hair|brushing his teeth|feeding a bird|feeding a baby|petting a dog|chasing a cat|barking at a stranger|"
    "digging a hole|planting a tree|cleaning the floor|fixing a bike|repairing a roof|holding a flag|holding an umbrella|looking out of a window|"
    "laughing at a joke|crying loudly|fighting with a friend|wrestling|boxing|doing a trick|doing a flip|tying a shoe|applauding|speaking to a crowd"
).split("|")
SCENE = "in the park|on the beach|on a street|in the kitchen|in a field|at night|outside|in the snow|on a stage|in the water|near a lake|in the city|in a room|on the grass|by the river|in front of a crowd".split("|")
COUNTRY = ("china japan india russia america france germany britain england spain italy egypt syria iran iraq israel pakistan afghanistan "
           "turkey greece ukraine canada mexico brazil australia korea africa europe kenya nigeria cuba thailand indonesia vietnam poland libya lebanon yemen").split()
OFFICIAL = "president|prime minister|foreign minister|government|police|army|court|parliament|senate|king|pope|mayor|opposition leader|union|central bank|airline|company|bank|rebels|militants|protesters|doctors|scientists|voters|judge|prosecutor|navy|military|officials".split("|")
EVENT = (
    "kills {n} people|kill {n} in attack|dies at {n}|wins the election|loses the vote|signs a trade deal|rejects peace talks|calls for a ceasefire|"
    "fires a missile|tests a rocket|arrests {n} suspects|resigns after scandal|visits {c}|warns {c} over nuclear program|raises interest rates|"
    "cuts {n} jobs|reports a profit of {n} million dollars|shares fall {n} percent|shares rise {n} percent|sues over a patent|opens a new factory|"
    "launches a new phone|recalls {n} cars|bans smoking|approves the budget|delays the vote|agrees to new sanctions on {c}|sends troops to {c}|"
    "withdraws troops from {c}|is sentenced to {n} years in prison|is charged with murder|is found guilty|denies the charges|wins the gold medal|"
    "beats {c} in the final|announces a strike|ends the strike|declares a state of emergency|investigates the crash|crashes into the sea|is hit by an earthquake|"
    "is hit by floods|evacuates thousands of people|frees {n} hostages|closes the border with {c}|apologises for the remarks|expels diplomats of {c}|"
    "bomb explodes in the capital|bus crash leaves {n} dead|plane crash kills {n}|fire destroys {n} homes|stock market closes higher|oil prices fall|unemployment rises"
).split("|")
TOPIC = ("computer|laptop|phone|website|browser|software|program|database|video|camera|printer|battery|password|email|network|server|television|radio|car|engine|"
         "bicycle|airplane|airport|train|diet|exercise|medicine|vaccine|virus|cancer|pregnancy|sleep|school|university|exam|essay|job|salary|tax|loan|mortgage|"
         "insurance|visa|passport|hotel|flight|recipe|coffee|chocolate|cheese|bread|garden|tomato plant|cat|puppy|guitar|piano|novel|movie|song|game|language|"
         "grammar|equation|physics|chemistry|planet|climate|energy|solar panel|religion|politics|election|history|war|economy|market|investment").split("|")
ASKING = (
    "How do I fix my {t}?|What is the best {t} for a beginner?|How can I learn about {t}?|Is it worth buying a {t}?|Why does my {t} not work?|"
    "How long does a {t} last?|What is the difference between a {t} and a {u}?|You should not worry about the {t}.|I think you need a new {t}.|"
    "It depends on the {t} and the {u}.|Can I use a {t} without a {u}?|The {t} is more important than the {u}.|There is no single answer about {t}.|"
    "You can find more about {t} in the {u}.|How much does a {t} cost?|What causes problems with the {t}?|I had the same question about my {t}.|"
    "Should I tell my boss about the {t}?|The short answer is yes, a {t} is enough.|The {t} was invented before the {u}."
).split("|")


def caption(rng):
    def who():
        if rng.random() < 0.3:
            return f"{rng.choice(['two', 'three', 'some', 'several', 'a group of', 'many'])} {rng.choice(GROUP)} are"
        look = rng.choice(LOOK) + " " if rng.random() < 0.35 else ""
        wear = f" in a {rng.choice(WEAR)}" if rng.random() < 0.2 else ""
        return f"{rng.choice(['a', 'the', 'a', 'one'])} {look}{rng.choice(PERSON)}{wear} is"

    def join(who, doing, scene):
        return f"{who} {doing}{scene}."

    a, b, c = who(), rng.choice(DOING), " " + rng.choice(SCENE) if rng.random() < 0.3 else ""
    first = join(a, b, c)
    k = rng.randrange(5)
    second = (join(who(), b, c) if k == 0 else join(a, rng.choice(DOING), c) if k == 1 else join(a, b, " " + rng.choice(SCENE)) if k == 2
              else f"there is no one {b}." if k == 3 else join(who(), rng.choice([d for d in DOING if d.split()[0] == b.split()[0]]), ""))
    return first, second


def headline(rng):
    def fill(event, c=None):
        return event.format(n=rng.choice([2, 3, 5, 7, 10, 12, 19, 20, 45, 50, 100, 300]), c=c or rng.choice(COUNTRY))

    country, official, event = rng.choice(COUNTRY), rng.choice(OFFICIAL), rng.choice(EVENT)
    first = f"{country} {official} {fill(event)}"
    k = rng.randrange(4)
    second = (f"{country}: {official} {fill(event)}" if k == 0 else f"{rng.choice(COUNTRY)} {official} {fill(event)}" if k == 1
              else f"{country} {official} {fill(rng.choice(EVENT))}" if k == 2 else f"{official} in {country} {fill(event)}")
    return first, second


def forum(rng):
    t, u, v = rng.sample(TOPIC, 3)
    a, b = rng.sample(ASKING, 2)
    return a.format(t=t, u=u), rng.choice([a.format(t=v, u=u), b.format(t=t, u=u), a.format(t=t, u=v)])


def variant(sentence: str, vocabulary: list, rng: random.Random) -> str:
    """A near sentence: words dropped, replaced or moved. The teacher says how near."""
    words = sentence.split()
    kind = rng.randrange(5)
    if kind == 0:
        keep = [w for w in words if rng.random() > 0.25]
        return " ".join(keep or words)
    if kind == 1:
        for _ in range(1 + len(words) // 10):
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        return " ".join(words)
    if kind == 2 and len(words) > 6:
        cut = rng.randrange(3, len(words) - 2)
        return " ".join(words[:cut])
    if kind == 3 and len(words) > 6:
        cut = rng.randrange(2, len(words) - 2)
        return " ".join(words[cut:] + words[:cut])
    return f"{sentence} {rng.choice(vocabulary)}" if rng.random() < 0.5 else " ".join(w for w in words if len(w) > 3) or sentence


def modern_words(vocab_file) -> list:
    """Whole words of the teacher's vocabulary, the frequent ones first, as that file lists them."""
    lines = vocab_file.read_text(encoding="utf-8").split("\n")
    return [w for w in lines if re.fullmatch(r"[a-z]{3,}", w)]


def word_of(words: list, rng: random.Random) -> str:
    """A word by about its frequency: the list is in order of it."""
    return words[int(len(words) ** rng.random()) - 1] if rng.random() < 0.4 else rng.choice(words)


def build(corpus: Corpus, words: list, seed: int, scale: float = 1.0):
    """(groups of three near texts, [(question, passage)]); everything is a str."""
    rng = random.Random(seed)
    groups = []
    kids = [t for _, t in corpus.children] + ["\n\n".join(t.sections) for t in corpus.train]
    for text, share in [(t, 1.0) for t in kids] + [(t, 0.5) for _, t in corpus.books]:
        if rng.random() > scale:
            continue
        for paragraph in text.split("\n\n"):
            found = [s for s in sentences(paragraph) if 4 <= len(s.split()) <= 50]
            for i in range(0, len(found) - 1, 2):
                if rng.random() < share:
                    groups.append((found[i], found[i + 1], variant(found[i], words, rng)))
    n = int(len(groups) * 0.9)
    for _ in range(n // 3):
        for make in (caption, headline, forum):
            a, b = make(rng)
            groups.append((a, b, variant(a, words, rng)))
    for _ in range(n // 2):
        bag = [word_of(words, rng) for _ in range(rng.randint(1, 9))]
        near = bag[:]
        near[rng.randrange(len(near))] = word_of(words, rng)
        groups.append((" ".join(bag), " ".join(near), " ".join(bag[: 1 + len(bag) // 2])))
    verbs, pairs = Verbs([t for _, t in corpus.children]), []
    for tale in corpus.train:
        for where, asked in tale.questions.items():
            passage = " ".join(tale.sections[i] for i in where)
            pairs += [(q.text, passage) for q in asked]
    for text in kids:
        for passage in passages(text, rng):
            if rng.random() < scale:
                made = questions(passage, verbs, rng, most=1)
                pairs.append((made[0][0] if made else rng.choice(sentences(passage) or [passage[:80]]), passage))
    rng.shuffle(groups)
    rng.shuffle(pairs)
    return groups, pairs

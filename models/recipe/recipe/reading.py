"""Questions about a passage, made by rule from its own sentences.

FairytaleQA's 8,500 training questions are few for a model this small. These plain ones (who, what, where, why, how,
what happened after) teach it to look in the passage first. A pronoun is read as the last subject named, and some words
of the question are changed for others of like meaning, so that matching letters alone is not enough.
"""
import random
import re
from collections import Counter

from .corpus import sentences

IRREGULAR = dict(
    pair.split(":")
    for pair in (
        "went:go came:come saw:see took:take gave:give made:make found:find told:tell got:get ran:run sat:sit "
        "stood:stand fell:fall held:hold brought:bring bought:buy caught:catch thought:think began:begin ate:eat "
        "drank:drink knew:know grew:grow threw:throw flew:fly drew:draw wore:wear broke:break spoke:speak woke:wake "
        "stole:steal chose:choose rode:ride drove:drive wrote:write rose:rise hid:hide built:build sent:send "
        "spent:spend lost:lose left:leave kept:keep slept:sleep wept:weep swept:sweep crept:creep felt:feel met:meet "
        "led:lead fed:feed fled:flee heard:hear sold:sell paid:pay lay:lie laid:lay sang:sing sprang:spring "
        "swam:swim won:win hung:hang dug:dig struck:strike stuck:stick shook:shake forgot:forget became:become "
        "blew:blow bore:bear bound:bind burst:burst cast:cast cut:cut put:put let:let set:set shut:shut fought:fight "
        "sought:seek taught:teach lit:light rang:ring sank:sink shot:shoot swore:swear tore:tear understood:understand"
    ).split()
)
TOLD = "said|cried|asked|answered|replied|exclaimed|shouted|whispered|called"
PRONOUNS = ("He", "She", "They", "It")
NAME = r"(?:[Tt]he|[Aa]n?|[Hh]is|[Hh]er|[Tt]heir|[Mm]y|[Oo]ld)(?: [A-Za-z\-]+){1,3}?|[A-Z][a-z]+(?: [A-Z][a-z]+){0,2}"
NOT_NAMES = set(
    "he she it they we i you then there but and so this that these those what when where why how who which if as "
    "after before while now here not no yes oh ah well once one in on at for to from with by of or all some many "
    "the a an his her my their its our your next soon at last being having let do".split()
)
FEELINGS = set(
    "sad happy glad angry afraid frightened sorry pleased delighted tired hungry lonely ashamed astonished amazed "
    "surprised curious proud anxious unhappy miserable terrified weary cross jealous overjoyed thankful grateful "
    "merry joyful sorrowful furious content disappointed troubled alarmed worried excited scared grieved vexed".split()
)
FEMALE = set("queen princess girl woman wife mother sister daughter witch maiden lady aunt grandmother bride widow maid duchess".split())
MALE = set("king prince boy man husband father brother son wizard lad lord uncle grandfather farmer miller tailor soldier knight sailor captain giant".split())
PLACE = re.compile(
    r"\b((?:in|into|to|at|under|by|beside|near|behind|upon|on|through|across|over|from) (?:the|a|an|his|her|their) "
    r"(?:[a-z\-]+ ){0,2}(?:forest|wood|woods|house|castle|palace|garden|river|sea|hill|mountain|mountains|cave|town|"
    r"village|city|church|kitchen|room|tree|field|fields|road|bed|hut|cottage|island|shore|ship|boat|well|lake|pond|"
    r"meadow|barn|stable|mill|market|tower|door|window|fire|table|school|street|inn|farm|bridge|nest|hole|wall|"
    r"country|land|world|court|hall|chair|corner|grave|gate|valley|rock|rocks|ground|grass|water|stream|path|chamber))\b"
)
COUNT = "two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|a hundred|a thousand|many"
# One group, one meaning, near enough; the questions of readers seldom use the passage's own words.
ALIKE = [
    group.split()
    for group in (
        "big large great huge|small little tiny|old aged|beautiful lovely fair pretty|boy lad|girl maiden|forest wood|"
        "house home dwelling|king ruler|sad unhappy sorrowful|happy glad joyful|angry cross furious|afraid scared frightened|"
        "rich wealthy|poor needy|clever wise|wicked evil bad|good kind|quickly fast|saw noticed spied|took seized grabbed|"
        "went walked travelled|began started|wanted wished|said spoke|found discovered|got received|gave handed|road path way|"
        "stone rock|money gold|ship boat|town city|field meadow|child youngster|men people|hit struck|threw cast flung|"
        "asked begged|ate devoured|ran hurried|looked gazed|cried wept|brought fetched|made built|killed slew|called named|"
        "lived dwelt|returned came-back|answered replied|strange odd|brave bold|many several|told informed|left departed"
    ).split("|")
]
LIKE = {word: group for group in ALIKE for word in group}


class Verbs:
    """Past forms back to their base; a guess counts only if the corpus knows the word."""

    def __init__(self, texts=(), count=None):
        self.count = count or Counter(w for t in texts for w in re.findall(r"[a-z]+", t[:200_000]))
        self.known = {}

    def base(self, past: str):
        if past not in self.known:
            self.known[past] = self._base(past)
        return self.known[past]

    def _base(self, past):
        if past in IRREGULAR:
            return IRREGULAR[past]
        if not past.endswith("ed") or len(past) < 5:
            return None
        stem = past[:-2]
        guesses = [stem, past[:-1]]
        if stem[-1] == stem[-2]:
            guesses.append(stem[:-1])
        if stem.endswith("i"):
            guesses = [stem[:-1] + "y"]
        best = max(guesses, key=lambda g: self.count[g])
        return best if self.count[best] > 3 else None


LEAD = re.compile(
    r"^(?:And|But|Then|So|Now|At last|At once|Presently|Soon|One day|Next day|Suddenly|However|Thereupon|After that|That night|"
    r"In the morning|The next morning|One morning|One evening|Once|Meanwhile|Again|Accordingly|Indeed)(?: then)?,? "
)
ADVERBS = set("then soon at once quickly only also now never just again still always often therefore thus gladly slowly suddenly immediately".split())
BARRED = set("was were had is has not who that which whom whose where when there would could should might must did may can will shall be been as if to for than".split())
HEADS = set("the a an his her their my old".split())
STATE = re.compile(r"((?:The|A|An|His|Her|Their) [a-z\-]+(?: [a-z\-]+){0,2}?|[A-Z][a-z]+(?: [A-Z][a-z]+){0,2}|He|She|They) (was|were) (.+)")


def subject_of(sentence: str, verbs: Verbs):
    """('The old king', 'went', 'into the wood') where the sentence plainly begins so, else None."""
    sentence = LEAD.sub("", sentence)
    sentence = sentence[:1].upper() + sentence[1:]
    words = sentence.split(" ")
    first = words[0].lower()
    if not words[0].isalpha() or (first in NOT_NAMES and first not in HEADS and words[0] not in PRONOUNS):
        return None
    for n in range(1, min(6, len(words) - 1)):
        at = n
        while words[at] in ADVERBS and at < len(words) - 2:
            at += 1
        verb, after = words[at], words[at + 1].strip(",.;")
        known = verb.isalpha() and verbs.base(verb) is not None
        if known and n == 1 and first in HEADS:
            known = False  # "the left hand"
        if known and verb.endswith("ed") and verbs.base(after) is not None and first in HEADS:
            known = False  # "the wicked man"
        if known:
            break
        if words[n] in BARRED or not re.fullmatch(r"[A-Za-z][a-z\-]*\.?", words[n]) or words[0] in PRONOUNS:
            return None
    else:
        return None
    subject, rest = " ".join(words[:n]), " ".join(words[at + 1:])
    if first not in HEADS and words[0] not in PRONOUNS and not all(w[:1].isupper() or w in ("and", "the", "of") for w in words[:n]):
        return None
    rest = rest.split('"')[0].strip(" ,:")
    if not rest:
        return None
    return subject, verb, rest


def low(subject: str) -> str:
    return subject[0].lower() + subject[1:] if subject.split()[0] in ("The", "A", "An", "His", "Her", "Their", "He", "She", "They", "It", "Old", "My") else subject


def definite(who: str) -> str:
    return re.sub(r"^an? ", "the ", who)


def tidy(answer: str) -> str:
    answer = answer.strip(" ,;:—.")
    return answer[0].upper() + answer[1:] + ("" if answer[-1] in "!?\"" else ".")


def reworded(question: str, rng: random.Random, share: float) -> str:
    """Some of the question's words for others of like meaning."""

    def change(match):
        group = LIKE.get(match[0])
        if not group or rng.random() > share:
            return match[0]
        return rng.choice(group).replace("-", " ")

    question = re.sub(r"\b[a-z]{3,}\b", change, question)
    return re.sub(r"\b([Aa])n? (?=([A-Za-z]))", lambda m: m[1] + ("n " if m[2].lower() in "aeiou" else " "), question)


def cut(clause: str) -> str:
    """The first clause of what follows a verb."""
    return re.split(r"[,;:—]| and (?:then |so )?(?:he|she|they|the|it)\b| but ", clause)[0].strip()


def named(subject: str, last: str):
    """Who a subject is: itself, or for a pronoun the last subject named, where that may be."""
    if subject not in PRONOUNS:
        return definite(low(subject))
    if subject == "It":
        return None
    if not last or last in ("he", "she", "they"):
        return subject.lower()
    head = last.split()[-1].lower()
    plural = head.endswith("s") and not head.endswith("ss") or " and " in last or head in ("men", "children", "people", "women")
    if (subject == "They") != plural and last[0].islower():
        return subject.lower()
    if subject == "He" and head in FEMALE or subject == "She" and head in MALE:
        return subject.lower()
    return last


OBJECT = re.compile(
    r"((?:a|an|the|his|her|their|some|two|three|four|five|seven|ten|many|another) (?:[a-z\-]+ ){0,2}?[a-z\-]+(?: of (?:the |his |her |a )?[a-z\-]+)?)"
    r"( (?:from|to|in|into|on|upon|for|with|out of|at|under|by|over|behind|across|before|beside) .+)?$"
)
TAKES = set(
    "see take give find get bring buy catch eat drink throw draw wear break steal choose build send lose leave keep hear sell "
    "hold carry open pull make cut fetch meet want kill seize pick pass drop reach strike tear gather love need marry follow hide "
    "receive shoot receive cast lay put set fill cover wash light win dig spread offer call kiss touch watch beat join".split()
)


def of_sentence(sentence: str, verbs: Verbs, rng: random.Random, last, before):
    """([(question, answer)], the subject named, the event as (who, verb, clause)) of one sentence."""
    found = []
    feel = re.match(rf"(?:.*\b)?({NAME}|He|She|They) (?:was|were|felt|looked|became|grew) (?:very |so |quite |much |greatly |too )*([a-z]+)\b(.*)", LEAD.sub("", sentence))
    if feel and feel[2] in FEELINGS and feel[1].lower() not in NOT_NAMES - {"he", "she", "they"}:
        who = named(feel[1], last)
        if who:
            when = re.match(r"(When|After|As|As soon as) ([^,\"]{10,80}),", sentence) or re.search(r"\b(when|because|that|at) ([^,\"]{8,60})", feel[3])
            found.append((f"How did {who} feel" + (f" {when[1].lower()} {when[2]}?" if when and rng.random() < 0.7 else "?"), feel[2]))
            if when and when[1] in ("because", "that", "at", "when"):
                found.append((f"Why was {who} {feel[2]}?", when[2] if when[1] != "at" else when[1] + " " + when[2]))
            elif before and before[1] != "was":
                found.append((rng.choice((f"Why was {who} {feel[2]}?", f"Why did {who} feel {feel[2]}?")), f"{before[3] or before[0]} {before[1]} {before[2]}"))
                found.append((f"How did {who} feel {rng.choice(('when', 'after', 'because'))} {before[0]} {before[1]} {before[2]}?", feel[2]))
            return found, who, (who, "was", feel[2], {"He": "he", "She": "she", "They": "they"}.get(feel[1]))
    when = re.match(r"(When|After|As soon as|As|While) ([^,\"]{10,80}), ([^\"]{10,140})[.!]?$", sentence)
    state = STATE.match(LEAD.sub("", sentence))
    parts = subject_of(when[3][:1].upper() + when[3][1:] if when else sentence, verbs)
    if when and not re.search(r"\b(who|which)\b", when[2]):
        word = "when" if when[1] in ("As", "While") else when[1].lower()
        found.append((f"What happened {word} {when[2]}?", when[3]))
        who = parts and named(parts[0], last)
        if parts and who:
            pronoun = {"he": "he", "she": "she", "they": "they"}.get(parts[0].lower())
            found.append((f"What did {who} do {word} {when[2]}?", f"{pronoun or ''} {parts[1]} {parts[2]}".strip() if rng.random() < 0.4 else f"{parts[1]} {parts[2]}"))
    if not parts:
        if state and state[1].lower() not in NOT_NAMES - {"he", "she", "they"} and len(state[3].split()) < 20:
            who, is_, what = named(state[1], last), state[2], cut(state[3])
            so = re.match(r"so ([a-z]+) that (.+)", state[3])
            if who and so:
                found.append((f"What happened because {who} {is_} so {so[1]}?", so[2]))
            elif who and re.match(r"(?:called|named) [A-Z]", what):
                found.append((f"What was the name of {who}?" if rng.random() < 0.5 else f"What was {who} called?", what.split(" ", 1)[1]))
            elif who and re.match(r"(?:in|on|at|under|near|by|upon|beside) (?:the|a|an|his|her)\b", what):
                found.append((f"Where {is_} {who}?", what))
            elif who and re.match(r"(?:a|an|the) ", what):
                found.append((f"Who {is_} {who}?" if state[1][0].isupper() and not state[1].startswith("The") else f"What {is_} {who}?", what))
            elif who and len(what.split()) < 9 and not re.match(r"[a-z]+(?:ed|ing)\b|not|so|to|going", what):
                found.append((f"What {is_} {who} like?", what))
            return found, who, None
        return found, None, None
    subject, verb, rest = parts
    base, who = verbs.base(verb), named(subject, last)
    if not who:
        return found, None, None
    pronoun = subject.lower() if subject in PRONOUNS else None
    clause = cut(rest)
    event = (who, verb, clause, pronoun)
    why = re.match(r"(.{3,80}?),? because (.{6,120})$", rest) or re.match(r"(.{3,80}?), for (.{6,120})$", rest) or re.match(r"(.{3,80}?),? (so that .{6,100})$", rest)
    goal = re.match(r"(.{4,60}?),? (?:in order )?(to (?:get|see|find|fetch|look|ask|help|seek|buy|sell|catch|tell|make|eat|take|save|bring|visit|meet|try|give|keep|hear|learn|rest|drink|kill|hide|show) .{3,80})$", clause)
    so = re.match(r"([^,]{6,90}), (?:and )?so (?:that )?((?:he|she|they|the [a-z]+) [a-z]+ .{5,80})$", rest)
    place = PLACE.search(clause)
    will = re.match(r"(?:to|that) (.{5,80})$", clause)
    tells = re.match(r"((?:him|her|them|the [a-z\-]+|his [a-z]+|her [a-z]+|[A-Z][a-z]+)) to ((?!the\b|his\b|her\b|a\b)[a-z]+ .{3,80}|[a-z]+)$", clause)
    thing = OBJECT.match(clause)
    how = re.match(r"(?:(.{3,50}) )?([a-z]+ly)$", clause)
    by = re.match(r"(.{3,60}?),? (by [a-z]+ing .{4,80})$", rest)
    then = re.match(r"(.{3,60}?),? and (?:then )?([a-z]+) (.{3,90})$", rest)
    number = re.match(rf"({COUNT}) ((?:[a-z]+ )?[a-z]+s|men|children|women|people)( .*)?$", clause)
    if why:
        found.append((f"Why did {who} {base} {cut(why[1])}?", why[2]))
    hoped = re.match(r"(.{4,70}?), (hoping|thinking|fearing|wishing|intending|meaning|wanting) (.{4,90})$", rest)
    if hoped:
        past = {"hoping": "hoped", "thinking": "thought", "fearing": "feared", "wishing": "wished", "intending": "intended", "meaning": "meant", "wanting": "wanted"}
        found.append((f"Why did {who} {base} {cut(hoped[1])}?", f"{pronoun or 'he'} {past[hoped[2]]} {hoped[3]}"))
    if before and before[1] == "was" and before[0] == who:
        found.append((f"Why did {who} {base} {clause}?", f"{before[3] or pronoun or who} was {before[2]}"))
    if so:
        found.append((f"What happened because {who} {verb} {so[1]}?", so[2]))
        inner = subject_of(so[2][:1].upper() + so[2][1:] + " ", verbs)
        other = inner and named(inner[0], who)
        if inner and other:
            found.append((f"Why did {other} {verbs.base(inner[1])} {cut(inner[2])}?", f"{pronoun or who} {verb} {so[1]}"))
    if by:
        found.append((f"How did {who} {base} {by[1]}?", by[2]))
    if how and how[2] not in ("early", "only", "family", "silly", "lonely", "lovely", "fly", "reply", "ugly", "body", "truly"):
        found.append((f"How did {who} {base} {how[1] or ''}".strip() + "?", how[2]))
    if tells and base in ("tell", "ask", "beg", "order", "command", "bid", "advise", "teach", "help", "send", "allow", "call", "invite"):
        found.append((f"What did {who} {base} {tells[1]} to do?", tells[2]))
    elif will and base in ("want", "wish", "decide", "begin", "try", "promise", "resolve", "intend", "refuse", "agree", "offer", "hope", "determine", "long"):
        found.append((f"What did {who} {base} to do?", will[1]))
    elif will and base in ("think", "know", "say", "believe", "hear", "find", "see", "fear", "hope", "learn", "tell"):
        found.append((f"What did {who} {base}?", will[1]))
    if number and base in TAKES | {"have"}:
        found.append((f"How many {number[2]} did {who} {base}{number[3] or ''}?", number[1]))
    if thing and base in TAKES:
        found.append((f"What did {who} {base}{thing[2] or ''}?", thing[1]))
    if goal and not tells and base not in ("want", "wish", "begin", "try", "promise", "have", "use"):
        found.append((f"Why did {who} {base} {goal[1]}?", goal[2]))
    if place and base not in ("say", "tell", "think"):
        ahead = clause[: place.start()].strip()
        if len(ahead.split()) < 7:
            found.append((f"Where did {who} {base} {ahead}".strip() + "?", place[1]))
    if then and verbs.base(then[2]):
        found.append((f"What did {who} do after {pronoun or 'he'} {verb} {then[1]}?" if pronoun else f"What did {who} do after {who} {verb} {then[1]}?", f"{then[2]} {cut(then[3])}"))
    if 2 <= len(clause.split()) <= 18:
        if subject not in PRONOUNS or rng.random() < 0.5:
            found.append((f"Who {verb} {clause}?", who))
        if before and before[0] == who and len(before[2].split()) < 10:
            link = rng.choice(("after", "when", "once"))
            found.append((f"What did {who} do {link} {pronoun or who} {before[1]} {before[2]}?", f"{verb} {clause}" if rng.random() < 0.6 or not pronoun else f"{pronoun} {verb} {clause}"))
        elif before and len(before[2].split()) < 12:
            found.append((f"What happened after {before[0]} {before[1]} {before[2]}?", f"{who} {verb} {clause}"))
            if rng.random() < 0.4:
                found.append((f"What did {who} do after {before[0]} {before[1]} {before[2]}?", f"{verb} {clause}"))
        if not found or rng.random() < 0.15:
            found.append((f"What did {who} do?", f"{verb} {clause}"))
    return found, who, event


def clauses(sentence: str) -> list:
    """The sentence whole, then what its later clauses say if they have subjects of their own."""
    parts = re.split(r"[;:] (?:and |but )?|,? (?:and|but) (?=(?:he|she|they|the [a-z]+|[A-Z][a-z]+) )", sentence)
    return [sentence] + [p[:1].upper() + p[1:] for p in parts[1:] if 4 <= len(p.split())]


def of_speech(passage: str, rng: random.Random) -> list:
    found = []
    for quote, verb, who in re.findall(rf'"([^"]{{8,120}})[,.!?]+" ({TOLD}) ({NAME})(?=[,.;:]| to | and | as | when | in | with |$)', passage):
        who = re.sub(r"\b(with|in|to|from|at|as|very|again)\b.*", "", who).strip()
        if who.lower() in NOT_NAMES or len(who) < 3:
            continue
        if rng.random() < 0.5:
            found.append((f'Who {verb} "{quote}"?', who))
        else:
            base = {"said": "say", "cried": "cry", "replied": "reply"}.get(verb, verb.removesuffix("ed"))
            base = base if base in ("say", "cry", "reply", "ask", "answer", "shout", "whisper", "call") else "say"
            found.append((f"What did {definite(low(who))} {base}?", f'"{quote}"'))
    for kind, name in re.findall(r"\b(?:a|an|the|one) (?:[a-z]+ )?([a-z]{3,}) (?:named|called|whose name was) ([A-Z][a-z]+(?: [A-Z][a-z]+)?)", passage):
        found.append((rng.choice((f"What was the {kind}'s name?", f"What was the {kind} called?")), name))
    return found


def gap(passage: str, rng: random.Random):
    """A sentence of the passage with a gap, and what stood there."""
    fit = [s for s in (x for p in passage.split("\n") for x in sentences(p)) if 7 <= len(s.split()) <= 30 and '"' not in s]
    if not fit:
        return None
    words = rng.choice(fit).split()
    n = rng.choice((1, 1, 2, 2, 3, 4))
    at = rng.randrange(1, len(words) - n)
    answer = " ".join(words[at:at + n]).strip(",.;:!?—")
    if len(answer) < 3:
        return None
    tail = re.search(r"[,.;:!?—]*$", words[at + n - 1])[0]
    start = max(0, at - rng.randint(4, 12))
    shown = " ".join(words[start:at] + ["___" + tail] + words[at + n:])
    return rng.choice(("Fill the gap: {}", "Which words are missing: {}", "{} What stands in the gap?")).format(shown), answer


WANTED = {"Why": 4.0, "How": 2.0, "Where": 1.5, "Who": 0.6}  # how gladly each kind is taken


def questions(passage: str, verbs: Verbs, rng: random.Random, most: int = 4, reword: float = 0.3) -> list:
    """[(question, answer)]"""
    found = of_speech(passage, rng)
    last = None
    for paragraph in passage.split("\n"):
        before = None
        for sentence in sentences(paragraph):
            if len(sentence.split()) > 60:
                before = None
                continue
            for i, part in enumerate(clauses(sentence)):
                some, who, event = of_sentence(part.rstrip(".!?\"' "), verbs, rng, last, before)
                found += rng.sample(some, min(3, len(some)))
                last, before = who or last, event
    seen, out = Counter(q for q, _ in found), []
    found = [(q, a) for q, a in found if seen[q] == 1 and len(a) > 2 and len(a) < 200]
    found.sort(key=lambda qa: rng.random() ** (1 / WANTED.get(qa[0].split(" ", 1)[0], 1.0)), reverse=True)
    for q, a in found[:most]:
        q = reworded(q, rng, reword)
        out.append((q[:1].upper() + q[1:], tidy(a)))
    return out

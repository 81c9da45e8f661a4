"""Questions about a passage, made by rule from its own sentences.

FairytaleQA's 8,500 training questions are few for a model this small. These plain ones (who said, what did
they do, why, where, how did they feel, what happened when) teach it to look in the passage first.
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
SAID = "said|cried|asked|answered|replied|exclaimed|shouted|whispered|called"
NAME = r"(?:[Tt]he|[Aa]n?|[Hh]is|[Hh]er|[Mm]y|[Oo]ld)(?: [A-Za-z\-]+){1,3}?|[A-Z][a-z]+(?: [A-Z][a-z]+){0,2}"
NOT_NAMES = set(
    "he she it they we i you then there but and so this that these those what when where why how who which if as "
    "after before while now here not no yes oh ah well once one in on at for to from with by of or all some many "
    "the a an his her my their its our your next soon at last being having let do".split()
)
FEELINGS = set(
    "sad happy glad angry afraid frightened sorry pleased delighted tired hungry lonely ashamed astonished amazed "
    "surprised curious proud anxious unhappy miserable terrified weary cross jealous overjoyed thankful grateful".split()
)
PLACE = re.compile(
    r"\b((?:in|into|to|at|under|by|beside|near|behind|upon|through|across) (?:the|a|an|his|her|their) "
    r"(?:[a-z\-]+ ){0,2}(?:forest|wood|woods|house|castle|palace|garden|river|sea|hill|mountain|mountains|cave|town|"
    r"village|city|church|kitchen|room|tree|field|fields|road|bed|hut|cottage|island|shore|ship|boat|well|lake|pond|"
    r"meadow|barn|stable|mill|market|tower|door|window|fire|table|school|street|inn|farm|bridge|nest|hole))\b"
)


class Verbs:
    """Past forms back to their base; a guess counts only if the corpus knows the word."""

    def __init__(self, texts):
        self.count = Counter(w for t in texts for w in re.findall(r"[a-z]+", t[:200_000]))

    def base(self, past: str):
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


def subject_of(sentence: str, verbs: Verbs):
    """('The old king', 'went', 'into the wood') where the sentence plainly begins so, else None."""
    sentence = re.sub(r"^(?:And|But|Then|So|Now|At last|At once|Presently|Soon|One day|Next day|Suddenly)(?: then)?,? ", "", sentence)
    sentence = sentence[:1].upper() + sentence[1:]
    match = re.match(rf"({NAME}|He|She|They) (?:then |soon |at once |quickly |only |also )?([a-z]+) (.+)", sentence)
    if not match:
        return None
    subject, verb, rest = match.groups()
    if verbs.base(verb) is None or (subject.lower() in NOT_NAMES and subject not in ("He", "She", "They")):
        return None
    if re.search(r"\b(not|and|who|that|which|of|was|were|had|is)$", subject):
        return None
    rest = rest.split('"')[0].strip(" ,:")
    if not rest:
        return None
    return subject, verb, rest


def low(subject: str) -> str:
    return subject[0].lower() + subject[1:] if subject.split()[0] in ("The", "A", "An", "His", "Her", "He", "She", "They", "Old", "My") else subject


def tidy(answer: str) -> str:
    answer = answer.strip(" ,;:—.")
    return answer[0].upper() + answer[1:] + ("" if answer[-1] in "!?\"" else ".")


def questions(passage: str, verbs: Verbs, rng: random.Random, most: int = 4) -> list:
    """[(question, answer)]: at most one from each sentence."""
    found = []
    for quote, verb, who in re.findall(rf'"([^"]{{8,120}})[,.!?]+" ({SAID}) ({NAME})(?=[,.;:]| to | and | as | when | in | with |$)', passage):
        who = re.sub(r"\b(with|in|to|from|at|as|very|again)\b.*", "", who).strip()
        if who.lower() in NOT_NAMES or len(who) < 3:
            continue
        if rng.random() < 0.5:
            found.append((f'Who {verb} "{quote}"?', who))
        else:
            base = {"said": "say", "cried": "cry", "replied": "reply"}.get(verb, verb.removesuffix("ed"))
            base = base if base in ("say", "cry", "reply", "ask", "answer", "shout", "whisper", "call") else "say"
            found.append((f"What did {low(who)} {base}?", f'"{quote}"'))
    for paragraph in passage.split("\n"):
        for sentence in sentences(paragraph):
            if not 5 <= len(sentence.split()) <= 45:
                continue
            feel = re.match(rf"({NAME}|He|She|They) (was|were|felt) (?:very |so |quite |much )?([a-z]+)\b", sentence)
            if feel and feel[3] in FEELINGS and feel[1].lower() not in NOT_NAMES - {"he", "she", "they"}:
                found.append((f"How did {low(feel[1])} feel?", feel[3]))
                continue
            when = re.match(r"(When|After|As soon as) ([^,\"]{10,80}), ([^\"]{10,140})[.!]", sentence)
            if when:
                found.append((f"What happened {when[1].lower()} {when[2]}?", when[3]))
                continue
            parts = subject_of(sentence.rstrip(".!?\"'"), verbs)
            if not parts:
                continue
            subject, verb, rest = parts
            base, who = verbs.base(verb), low(subject)
            why = re.match(r"(.{4,80}?),? because (.{6,120})$", rest)
            goal = re.match(r"(.{6,60}?),? (to (?:get|see|find|fetch|look|ask|help|seek|buy|sell|catch|tell|make|eat|take|save) .{4,80})$", rest)
            place = PLACE.search(rest)
            clause = re.split(r"[,;:—]| and (?:then |so )?(?:he|she|they|the)\b", rest)[0]
            if why:
                found.append((f"Why did {who} {base} {why[1]}?", f"Because {why[2]}"))
            elif goal and base in ("go", "come", "run", "send", "set", "climb", "stop", "travel", "return"):
                found.append((f"Why did {who} {base} {goal[1]}?", goal[2]))
            elif place and base in ("go", "come", "run", "live", "sit", "stand", "lie", "walk", "fly", "hide", "sleep", "find", "see", "meet", "fall"):
                before = rest[: place.start()].strip()
                if len(before.split()) < 7:
                    found.append((f"Where did {who} {base} {before}".strip() + "?", place[1]))
            elif 3 <= len(clause.split()) <= 18 and (subject not in ("He", "She", "They") or rng.random() < 0.3):
                if rng.random() < 0.4 and subject not in ("He", "She", "They"):
                    found.append((f"Who {verb} {clause}?", subject))
                else:
                    found.append((f"What did {who} do?", f"{verb} {clause}"))
    seen, out = Counter(q for q, _ in found), []
    found = [(q, a) for q, a in found if seen[q] == 1 and len(a) > 2]
    rng.shuffle(found)
    for q, a in found[:most]:
        out.append((q, tidy(a)))
    return out

"""50 concurrent streams with embeddings between them: every answer equals its answer alone.

Also: total tokens a second beside one stream's, resident memory, /health meanwhile, and the time to the
first token of a repeated 1,000-token prompt. Only the standard library; loopback; bounded by --seconds.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import random
import sys
import time

from harness import Checks, Server, mebibytes, model_id, percentile, resident_bytes, server_arguments

SUBJECTS = ["fox", "king", "river", "candle", "ship", "shepherd", "clock", "snow", "baker", "owl", "garden", "giant"]
PLACES = ["in the old town", "by the sea", "under the mountain", "in a quiet wood", "at the market", "far in the north"]


def pool(chat: str, count: int, tokens: int) -> list[dict]:
    """`count` different requests: lengths, seeds and prompts vary, temperature is 0.8."""
    rng = random.Random(50)
    requests = []
    for i in range(count):
        sentences = " ".join(f"There was a {rng.choice(SUBJECTS)} {rng.choice(PLACES)}." for _ in range(1 + i % 9))
        requests.append({
            "model": chat, "seed": 1000 + i, "temperature": 0.8, "max_tokens": tokens // 2 + (i * 7) % tokens,
            "messages": [{"role": "user", "content": f"{sentences} Tell me about the {SUBJECTS[i % len(SUBJECTS)]}."}],
            # Answers of the length asked for: where the model ends after a word or two, connections are measured.
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}})
    return requests


async def post(port: int, path: str, body: dict, timeout: float = 120) -> tuple[int, bytes, float]:
    """One request on its own connection: (status, body with its chunk framing taken off, seconds to the first data).

    Bytes are only collected here and parsed later, so that the client takes little of the machine it measures.
    """
    data = json.dumps(body).encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n")

    async def exchange():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            start = time.perf_counter()
            writer.write(head.encode() + data)
            pieces, first = [], 0.0
            while piece := await reader.read(1 << 16):
                pieces.append(piece)
                # The first delta is the role; the first token's content comes with its own event.
                if not first and b'"content":"' in piece.replace(b'"content":""', b""):
                    first = time.perf_counter() - start
            return b"".join(pieces), first
        finally:
            writer.close()

    raw, first = await asyncio.wait_for(exchange(), timeout)
    header, _, payload = raw.partition(b"\r\n\r\n")
    if not header:
        raise ConnectionError("the connection was closed without an answer")
    if b"chunked" in header.lower():
        payload = unchunk(payload)
    return int(header.split(b" ", 2)[1]), payload, first


def unchunk(data: bytes) -> bytes:
    out, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(out)
        out.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


class Answer:
    def __init__(self, status: int, payload: bytes, first: float):
        self.first = first
        self.text, self.finish, self.usage, self.problem = "", "", {}, ""
        if status != 200:
            self.problem = f"{status} {payload[:200]!r}"
            return
        events = [e[5:].strip() for e in payload.decode("utf-8").split("\n\n") if e.startswith("data:")]
        if not events or events[-1] != "[DONE]":
            self.problem = f"the stream has no [DONE]: ...{payload[-200:]!r}"
            return
        for event in map(json.loads, events[:-1]):
            if "error" in event:
                self.problem = f"error in the stream: {event['error']}"
                return
            for choice in event["choices"]:
                self.text += choice["delta"].get("content") or ""
                self.finish = choice.get("finish_reason") or self.finish
            self.usage = event.get("usage") or self.usage
        if not self.finish or not self.usage:
            self.problem = "no finish_reason or no usage"

    @property
    def tokens(self) -> int:
        return self.usage.get("completion_tokens", 0)


async def ask(port: int, request: dict) -> Answer:
    try:
        return Answer(*await post(port, "/v1/chat/completions", request))
    except Exception as error:  # noqa: BLE001: a client-side failure is a failed answer
        broken = Answer(0, b"", 0)
        broken.problem = f"{type(error).__name__}: {error}"
        return broken


def health_probe(port: int, stop, out) -> None:
    """In a process of its own, so that the load generator's own delays are not counted."""
    times, bad = [], 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    while not stop.is_set():
        start = time.perf_counter()
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            bad += response.status != 200
        except OSError:
            bad += 1
            connection.close()
        times.append(time.perf_counter() - start)
        time.sleep(0.05)
    out.put((times, bad))


async def alone(port: int, requests: list[dict]) -> tuple[list[Answer], float]:
    """Each request by itself; the rate is tokens over the time of the whole pass."""
    start = time.perf_counter()
    answers = [await ask(port, request) for request in requests]
    return answers, sum(a.tokens for a in answers) / (time.perf_counter() - start)


async def together(server: Server, requests: list[dict], answers: list[Answer], embed: str, vectors: list, texts: list[str],
                   streams: int, seconds: float) -> dict:
    """`streams` streams for `seconds`, with embeddings and /health between them."""
    end = time.perf_counter() + seconds
    found = {"done": 0, "tokens": 0, "different": [], "problems": [], "firsts": [], "embedded": 0, "embed_different": 0, "embed_times": [],
             "resident": []}

    async def stream(index: int) -> None:
        turn = index
        while time.perf_counter() < end:
            which = turn % len(requests)
            got = await ask(server.port, requests[which])
            turn += 7  # coprime to the pool's size: each worker meets every request in its own order
            if got.problem:
                found["problems"].append(got.problem)
                await asyncio.sleep(0.2)
                continue
            found["done"] += 1
            found["tokens"] += got.tokens
            found["firsts"].append(got.first)
            if got.text != answers[which].text or got.finish != answers[which].finish:
                found["different"].append((which, got.text, answers[which].text))

    async def embedder(index: int) -> None:
        rng = random.Random(index)
        while time.perf_counter() < end:
            chosen = [rng.randrange(len(texts)) for _ in range(1 + rng.randrange(8))]
            start = time.perf_counter()
            try:
                status, payload, _ = await post(server.port, "/v1/embeddings", {"model": embed, "input": [texts[i] for i in chosen]})
                if status != 200:
                    raise RuntimeError(f"{status} {payload[:200]!r}")
                got = [d["embedding"] for d in json.loads(payload)["data"]]
                found["embedded"] += len(got)
                found["embed_different"] += sum(g != vectors[i] for g, i in zip(got, chosen))
                found["embed_times"].append(time.perf_counter() - start)
            except Exception as error:  # noqa: BLE001
                found["problems"].append(f"embeddings: {type(error).__name__}: {error}")
            await asyncio.sleep(0.05)

    async def watcher() -> None:
        while time.perf_counter() < end:
            found["resident"].append(resident_bytes(server.pid))
            await asyncio.sleep(0.5)

    context = multiprocessing.get_context("spawn")
    stop, out = context.Event(), context.Queue()
    probe = context.Process(target=health_probe, args=(server.port, stop, out))
    probe.start()
    start = time.perf_counter()
    await asyncio.gather(*(stream(i) for i in range(streams)), *(embedder(i) for i in range(2)), watcher())
    found["rate"] = found["tokens"] / (time.perf_counter() - start)
    stop.set()
    found["health"], found["health_bad"] = out.get(timeout=30)
    probe.join()
    return found


def prompt_of(server: Server, chat: str, start: str, tokens: int) -> str:
    """A text of close to `tokens` tokens, which no other text shares from its first words on."""
    rng = random.Random(start)
    words = [start]
    while len(words) < tokens:
        words.append(rng.choice(SUBJECTS + ["and", "the", "old", "went", "home", "with", "a", "little", "song"]))
    # The rate of tokens a word is the tokenizer's; one probe tells it.
    counted = server.json("POST", "/v1/completions", {"model": chat, "prompt": " ".join(words[:200]), "max_tokens": 1})["usage"]["prompt_tokens"]
    return " ".join(words[: int(tokens * 200 / counted)])


async def prefix(checks: Checks, server: Server, chat: str, tokens: int) -> None:
    cold, warm, details = [], [], []
    for i in range(5):
        body = {"model": chat, "prompt": prompt_of(server, chat, f"{['Zebra', 'Quartz', 'Violet', 'Juniper', 'Walnut'][i]} {i}", tokens),
                "max_tokens": 4, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
        # The probe of prompt_of has put the first words into the cache: a fresh first word takes them out again.
        body["prompt"] = f"{i}th: " + body["prompt"]
        for times in (cold, warm, warm):
            data = json.dumps(body).encode()
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
            start = time.perf_counter()
            connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            first = 0.0
            payload = b""
            while line := response.readline():
                payload += line
                if not first and line.startswith(b"data:"):
                    first = time.perf_counter() - start
            connection.close()
            if response.status != 200:
                raise RuntimeError(f"{response.status} {payload[:300]!r}")
            times.append(first)
            usage = [json.loads(l[5:]) for l in payload.splitlines() if l.startswith(b"data:") and b"[DONE]" not in l][-1]["usage"]
            details.append((usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]))
    a, b = percentile(cold, 0.5), percentile(warm, 0.5)
    checks.check("repeated prompt: first token in at most 10 % of the cold time", b <= 0.1 * a,
                 f"{details[0][0]} tokens: cold {a * 1e3:.1f} ms, repeated {b * 1e3:.1f} ms, {b / a:.1%}")
    right = all(cached < prompt and (cached <= 32 if i % 3 == 0 else cached >= prompt - 64) for i, (prompt, cached) in enumerate(details))
    checks.check("repeated prompt: cached_tokens right", right and abs(details[0][0] - tokens) < tokens // 5, f"{details[:3]}")


def main() -> int:
    parser = server_arguments(__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=64, help="answers are half to one and a half times as long")
    parser.add_argument("--prefix-tokens", type=int, default=1000)
    given = parser.parse_args()
    checks = Checks()
    chat, embed = model_id(given.chat_model), model_id(given.embed_model)
    with Server(given.impetus, [given.chat_model, given.embed_model], threads=given.threads) as server:
        requests = pool(chat, given.streams, given.tokens)
        texts = [f"The {s} {p}." * (1 + i % 5) for i, (s, p) in enumerate((s, p) for s in SUBJECTS for p in PLACES)]
        with checks.guard("alone"):
            vectors = [server.json("POST", "/v1/embeddings", {"model": embed, "input": t})["data"][0]["embedding"] for t in texts]
            asyncio.run(alone(server.port, requests))  # their prompts are cached below, so they must be here
            answers, single = asyncio.run(alone(server.port, requests))
            problems = [a.problem for a in answers if a.problem]
            checks.check("alone: every request answered", not problems, problems[:2] or f"{single:.0f} tok/s, {sum(a.tokens for a in answers)} tokens")
            if problems:
                return checks.finish()
        with checks.guard("load"):
            load = (server, requests, answers, embed, vectors, texts)
            # What one stream gets beside the same embeddings: the number of streams is all that differs.
            one = asyncio.run(together(*load, 1, given.seconds / 4))
            found = asyncio.run(together(*load, given.streams, given.seconds))
            found["problems"] += one["problems"]
            found["different"] += one["different"]
            checks.check("load: no error", not found["problems"], found["problems"][:3] or f"{found['done']} answers in {given.seconds:g} s")
            different = found["different"]
            checks.check("load: each answer equal to its answer alone", found["done"] > 0 and not different,
                         f"{len(different)} of {found['done']} differ" + (f", first: {different[0]}"[:400] if different else ""))
            checks.check("load: each embedding equal to its embedding alone", found["embedded"] > 0 and not found["embed_different"],
                         f"{found['embedded']} texts, {found['embed_different']} differ, p95 {percentile(found['embed_times'], 0.95) * 1e3:.0f} ms a request")
            # The model fits the caches of most processors: batching.py asks for 3x where weights must be read.
            checks.check("load: at least 1.5x one stream's tokens a second", found["rate"] >= 1.5 * one["rate"],
                         f"{found['rate']:.0f} tok/s with {given.streams} streams, {one['rate']:.0f} with one beside the same embeddings: "
                         f"{found['rate'] / one['rate']:.2f}x; {single:.0f} with one and nothing else: {found['rate'] / single:.2f}x; "
                         f"first token p50 {percentile(found['firsts'], 0.5) * 1e3:.0f} ms, p95 {percentile(found['firsts'], 0.95) * 1e3:.0f} ms")
            slow = percentile(found["health"], 0.95)
            checks.check("load: /health p95 under 20 ms", slow < 0.02 and not found["health_bad"],
                         f"p50 {percentile(found['health'], 0.5) * 1e3:.1f} ms, p95 {slow * 1e3:.1f} ms, {len(found['health'])} probes, {found['health_bad']} bad")
            # The first third fills caches and pools; from then on memory must stand still.
            resident = found["resident"]
            early, late = max(resident[: max(1, len(resident) // 3)]), max(resident[-max(1, len(resident) // 3):])
            checks.check("load: resident memory flat", late <= early * 1.02 + (8 << 20), f"{mebibytes(early)} early, {mebibytes(late)} late")
        with checks.guard("idle again"):
            checks.check("load: nothing runs afterwards", server.running() == 0)
        with checks.guard("repeated prompt"):
            asyncio.run(prefix(checks, server, chat, given.prefix_tokens))
        checks.check("still alive", server.alive(), "" if server.alive() else server.log_tail())
        checks.check("SIGTERM: exit status 0", server.stop() == 0, server.process.returncode)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

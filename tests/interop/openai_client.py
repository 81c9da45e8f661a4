"""The openai Python client, unmodified, against `impetus serve`."""

from __future__ import annotations

import base64
import json
import socket
import struct
import sys
import time

import openai
from openai import OpenAI

from harness import Checks, Server, error_shape, model_id, server_arguments

ASK = [{"role": "user", "content": "Tell me a short story about a fox."}]


def client_of(server: Server, key: str = "unused") -> OpenAI:
    return OpenAI(base_url=f"{server.base}/v1", api_key=key, max_retries=0, timeout=120)


def refusal(call, kind) -> openai.APIStatusError:
    """The error of the wanted class which `call` raises; anything else is an assertion."""
    try:
        call()
    except kind as error:
        shape = error_shape(error.response.content)
        assert not shape, shape
        return error
    except openai.APIStatusError as error:
        raise AssertionError(f"{type(error).__name__} {error.status_code} {error.response.text[:200]}, not {kind.__name__}")
    raise AssertionError(f"no error, wanted {kind.__name__}")


def text_of(stream) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def models(checks: Checks, client: OpenAI, chat: str, embed: str) -> None:
    with checks.guard("list models"):
        ids = [m.id for m in client.models.list().data]
        checks.check("list models", {chat, embed} <= set(ids), ids)
    with checks.guard("retrieve model"):
        one = client.models.retrieve(chat)
        checks.check("retrieve model", one.id == chat and one.object == "model" and isinstance(one.created, int), one.id)
    with checks.guard("unknown model"):
        for label, call in (("retrieve", lambda: client.models.retrieve("absent/model")),
                            ("chat", lambda: client.chat.completions.create(model="absent/model", messages=ASK)),
                            ("embeddings", lambda: client.embeddings.create(model="absent", input="x"))):
            error = refusal(call, openai.NotFoundError)
            checks.check(f"unknown model, {label}: model_not_found", error.code == "model_not_found", error.code)


def chat_plain(checks: Checks, client: OpenAI, chat: str) -> None:
    def create(**given):
        options = {"model": chat, "messages": ASK, "max_tokens": 24, "temperature": 0, **given}
        return client.chat.completions.create(**options)

    with checks.guard("chat"):
        answer = create()
        choice = answer.choices[0]
        checks.check("chat: fields", answer.object == "chat.completion" and answer.model == chat and answer.id
                     and choice.index == 0 and choice.message.role == "assistant" and choice.message.content
                     and choice.finish_reason in ("stop", "length"), repr(choice.message.content)[:80])
        use = answer.usage
        checks.check("chat: usage adds up", use.total_tokens == use.prompt_tokens + use.completion_tokens
                     and 0 < use.completion_tokens <= 24 and use.prompt_tokens > 0
                     and use.prompt_tokens_details.cached_tokens >= 0, use)
        checks.check("chat: greedy repeats itself", create().choices[0].message.content == choice.message.content)
    with checks.guard("max_completion_tokens"):
        answer = client.chat.completions.create(model=chat, messages=ASK, max_completion_tokens=3, temperature=0)
        checks.check("max_completion_tokens", answer.usage.completion_tokens <= 3, answer.usage.completion_tokens)
        checks.check("finish_reason length", answer.choices[0].finish_reason == "length" or answer.usage.completion_tokens < 3)
    with checks.guard("temperature 0 is not unset"):
        texts = {create(seed=s, max_tokens=16).choices[0].message.content for s in (1, 2, 3)}
        checks.check("temperature 0 is not unset", len(texts) == 1)
    with checks.guard("seed"):
        warm = [create(temperature=1.0, seed=s, max_tokens=32).choices[0].message.content for s in (7, 7, 8, 9, 10)]
        checks.check("equal seeds, equal answers", warm[0] == warm[1])
        checks.check("other seeds, other answers", len(set(warm[1:])) > 1)
    with checks.guard("n"):
        answer = create(n=2, temperature=1.0, seed=3)
        checks.check("n=2", [c.index for c in answer.choices] == [0, 1] and all(c.message.content is not None for c in answer.choices))
        checks.check("n=2 repeats with its seed", [c.message.content for c in create(n=2, temperature=1.0, seed=3).choices]
                     == [c.message.content for c in answer.choices])
    with checks.guard("stop"):
        whole = create(max_tokens=48).choices[0].message.content
        words = whole.split()
        marker = f" {words[len(words) // 2]}" if len(words) > 2 else whole[len(whole) // 2]
        for label, stop in (("string", marker), ("list", ["\u0001never", marker])):
            got = create(max_tokens=48, stop=stop)
            checks.check(f"stop as a {label}", got.choices[0].message.content == whole[: whole.index(marker)]
                         and got.choices[0].finish_reason == "stop", f"{marker!r} -> {got.choices[0].message.content[-20:]!r}")
        streamed = text_of(create(max_tokens=48, stop=marker, stream=True))
        checks.check("stop in a stream, nothing of it leaks", streamed == whole[: whole.index(marker)])
    with checks.guard("roles and parts"):
        answer = create(messages=[{"role": "developer", "content": "Answer briefly."},
                                  {"role": "user", "content": [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]}])
        checks.check("developer role and content parts", answer.choices[0].message.content is not None)
        answer = create(messages=[{"role": "user", "content": "One."}, {"role": "user", "content": "Two."},
                                  {"role": "assistant", "content": ""}, {"role": "user", "content": "Three."}])
        checks.check("consecutive turns of one role, empty content", answer.choices[0].message.content is not None)
        answer = create(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}, {"role": "user", "content": "Go on"}])
        checks.check("content null", answer.choices[0].message.content is not None)
    with checks.guard("unknown keys"):
        answer = create(extra_body={"something_of_tomorrow": {"a": 1}, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
                        user="someone", metadata={"k": "v"})
        checks.check("unknown keys are ignored, extensions taken", answer.choices[0].message.content is not None)
    with checks.guard("response_format text"):
        checks.check("response_format text", create(response_format={"type": "text"}).choices[0].message.content is not None)


def chat_stream(checks: Checks, client: OpenAI, server: Server, chat: str) -> None:
    options = {"model": chat, "messages": ASK, "max_tokens": 24, "temperature": 0}
    with checks.guard("stream"):
        plain = client.chat.completions.create(**options)
        chunks = list(client.chat.completions.create(**options, stream=True))
        checks.check("stream: no empty choices without include_usage", all(c.choices for c in chunks))
        checks.check("stream: first delta is the role", chunks[0].choices[0].delta.role == "assistant")
        checks.check("stream: same text as without", text_of(chunks) == plain.choices[0].message.content)
        checks.check("stream: one finish_reason, at the end", [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason]
                     == [plain.choices[0].finish_reason] and chunks[-1].choices[0].finish_reason)
        checks.check("stream: one id", len({c.id for c in chunks}) == 1 and chunks[0].object == "chat.completion.chunk")
    with checks.guard("include_usage"):
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
        checks.check("include_usage: last chunk has usage and no choices", chunks[-1].choices == [] and chunks[-1].usage
                     and chunks[-1].usage.completion_tokens == plain.usage.completion_tokens)
        checks.check("include_usage: usage null before", all(c.usage is None and c.choices for c in chunks[:-1]))
    with checks.guard("stream on the wire"):
        status, headers, data = server.request("POST", "/v1/chat/completions", {**options, "stream": True, "stream_options": {"include_usage": True}})
        kind = {k.lower(): v for k, v in headers.items()}.get("content-type", "")
        events = [e for e in data.decode().split("\n\n") if e.startswith("data:")]
        checks.check("wire: event stream that ends with [DONE]", status == 200 and kind.startswith("text/event-stream") and events[-1] == "data: [DONE]", kind)
        checks.check("wire: usage key present and null", all("usage" in json.loads(e[5:]) for e in events[:-1]))
    with checks.guard("stream n=2"):
        texts = {0: "", 1: ""}
        ends = []
        for chunk in client.chat.completions.create(**{**options, "temperature": 1.0}, seed=3, n=2, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                ends += [choice.index] if choice.finish_reason else []
        plain = client.chat.completions.create(**{**options, "temperature": 1.0}, seed=3, n=2)
        checks.check("stream n=2: both choices, each as without a stream", [texts[0], texts[1]] == [c.message.content for c in plain.choices] and sorted(ends) == [0, 1])


def logprobs(checks: Checks, client: OpenAI, chat: str) -> None:
    options = {"model": chat, "messages": ASK, "max_tokens": 8, "temperature": 0}
    with checks.guard("logprobs"):
        answer = client.chat.completions.create(**options, logprobs=True, top_logprobs=4)
        content = answer.choices[0].logprobs.content
        checks.check("logprobs: one a token", len(content) in (answer.usage.completion_tokens, answer.usage.completion_tokens - 1), len(content))
        checks.check("logprobs: four alternatives, sorted, greedy first", all(
            len(t.top_logprobs) == 4 and t.top_logprobs[0].token == t.token and t.logprob <= 0
            and [x.logprob for x in t.top_logprobs] == sorted((x.logprob for x in t.top_logprobs), reverse=True) for t in content))
        joined = b"".join(bytes(t.bytes) for t in content)
        checks.check("logprobs: bytes give the text", joined.decode("utf-8", "ignore").strip() == answer.choices[0].message.content.strip()
                     or joined.decode("utf-8", "ignore").startswith(answer.choices[0].message.content))
        chunks = list(client.chat.completions.create(**options, logprobs=True, top_logprobs=2, stream=True))
        streamed = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content or []]
        checks.check("logprobs in a stream", [t.token for t in streamed] == [t.token for t in content])
        checks.check("logprobs absent unless asked", client.chat.completions.create(**options).choices[0].logprobs is None)
    with checks.guard("top_logprobs limits"):
        error = refusal(lambda: client.chat.completions.create(**options, logprobs=True, top_logprobs=21), openai.BadRequestError)
        checks.check("top_logprobs 21 refused by name", error.param == "top_logprobs", error.param)
    with checks.guard("logit_bias"):
        plain = client.chat.completions.create(**options)
        forced = client.chat.completions.create(**options, logit_bias={"65": 100})
        checks.check("logit_bias +100 forces a token", len(set(forced.choices[0].message.content)) <= 8
                     and forced.choices[0].message.content != plain.choices[0].message.content, repr(forced.choices[0].message.content)[:60])


def completions(checks: Checks, client: OpenAI, chat: str) -> None:
    options = {"model": chat, "max_tokens": 12, "temperature": 0}
    with checks.guard("completions"):
        answer = client.completions.create(prompt="Once upon a time", **options)
        checks.check("completions", answer.object == "text_completion" and answer.choices[0].text and answer.choices[0].finish_reason, repr(answer.choices[0].text)[:60])
        streamed = "".join(c.choices[0].text for c in client.completions.create(prompt="Once upon a time", stream=True, **options) if c.choices)
        checks.check("completions: stream gives the same", streamed == answer.choices[0].text)
        pair = client.completions.create(prompt=["Once upon a time", "The old king"], **options)
        checks.check("completions: array of prompts", len(pair.choices) == 2 and pair.choices[0].text == answer.choices[0].text
                     and [c.index for c in pair.choices] == [0, 1])
        echoed = client.completions.create(prompt="Once upon a time", echo=True, **options)
        checks.check("completions: echo", echoed.choices[0].text.lstrip().startswith("Once upon a time"))
    with checks.guard("completions: suffix"):
        error = refusal(lambda: client.completions.create(prompt="a", suffix="b", **options), openai.BadRequestError)
        checks.check("completions: suffix refused by name", error.param == "suffix", error.param)


def embeddings(checks: Checks, client: OpenAI, server: Server, embed: str) -> None:
    texts = ["The cat sat on the mat.", "A dog barks.", "x" * 40]
    with checks.guard("embeddings"):
        by_default = client.embeddings.create(model=embed, input=texts)
        floats = client.embeddings.create(model=embed, input=texts, encoding_format="float")
        same = all(struct.pack("<%df" % len(a.embedding), *a.embedding) == struct.pack("<%df" % len(b.embedding), *b.embedding)
                   for a, b in zip(by_default.data, floats.data))
        checks.check("embeddings: base64 (the client's default) equals floats", same and len(by_default.data) == 3, f"{len(floats.data[0].embedding)} dimensions")
        checks.check("embeddings: indices, usage", [d.index for d in by_default.data] == [0, 1, 2]
                     and by_default.usage.total_tokens == by_default.usage.prompt_tokens > 0)
        single = client.embeddings.create(model=embed, input=texts[0])
        checks.check("embeddings: alone or in a batch, the same vector", single.data[0].embedding == by_default.data[0].embedding)
        wire = json.loads(server.request("POST", "/v1/embeddings", {"model": embed, "input": texts[0], "encoding_format": "base64"})[2])
        raw = base64.b64decode(wire["data"][0]["embedding"])
        checks.check("embeddings: little-endian float32 on the wire", list(struct.unpack("<%df" % (len(raw) // 4), raw)) == single.data[0].embedding)
        native = server.json("POST", "/api/embeddings", {"model": embed, "input": texts})
        checks.check("/api/embeddings with input", [d["embedding"] for d in native["data"]] is not None and len(native["data"]) == 3)
    with checks.guard("embeddings: token arrays"):
        for label, given in (("one", [101, 2023, 102]), ("many", [[101, 2023], [102]])):
            error = refusal(lambda: client.embeddings.create(model=embed, input=given), openai.BadRequestError)
            checks.check(f"embeddings: token array ({label}) refused, naming the cure", "check_embedding_ctx_length=False" in str(error.message), error.message[:100])
    with checks.guard("embeddings: refusals"):
        error = refusal(lambda: client.embeddings.create(model=embed, input="word " * 4000), openai.BadRequestError)
        checks.check("embeddings: too long is an error", error.code == "context_length_exceeded", error.code)
        error = refusal(lambda: client.embeddings.create(model=embed, input=[]), openai.BadRequestError)
        checks.check("embeddings: empty input", error.param == "input", error.param)
        error = refusal(lambda: client.embeddings.create(model=embed, input="x", dimensions=7), openai.BadRequestError)
        checks.check("embeddings: dimensions refused by name", error.param == "dimensions", error.param)


def refusals(checks: Checks, client: OpenAI, chat: str, embed: str) -> None:
    def create(**given):
        return client.chat.completions.create(**{"model": chat, "messages": ASK, "max_tokens": 4, **given})

    with checks.guard("context length"):
        error = refusal(lambda: create(messages=[{"role": "user", "content": "word " * 300000}]), openai.BadRequestError)
        checks.check("too long a prompt: context_length_exceeded", error.code == "context_length_exceeded", error.code)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    for label, given, param in (("tools", {"tools": [tool]}, "tools"), ("json_schema", {"response_format": schema}, "response_format"),
                                ("temperature -1", {"temperature": -1}, "temperature"), ("top_p 2", {"top_p": 2}, "top_p"),
                                ("n 0", {"n": 0}, "n"), ("no messages", {"messages": []}, "messages"),
                                ("max_tokens 0", {"max_tokens": -1}, "max_tokens"),
                                ("unknown role", {"messages": [{"role": "wizard", "content": "x"}]}, "messages")):
        with checks.guard(label):
            error = refusal(lambda given=given: create(**given), openai.BadRequestError)
            checks.check(f"{label}: refused by name", (error.param or "").startswith(param), f"{error.param}: {error.message[:80]}")
    with checks.guard("wrong kind of model"):
        refusal(lambda: create(model=embed), openai.BadRequestError)
        refusal(lambda: client.embeddings.create(model=chat, input="x"), openai.BadRequestError)
        checks.check("chat with an encoder, embeddings with a decoder: 400", True)


def gone(checks: Checks, server: Server, chat: str) -> None:
    """A client that leaves mid-stream: its work stops."""
    body = {"model": chat, "messages": ASK, "stream": True, "temperature": 1.5, "n": 4}
    with checks.guard("client gone"):
        for seed in range(8):  # a small model may be done before the question; then ask again
            data = json.dumps({**body, "seed": seed}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            connection.sendall(head.encode() + data)
            first = connection.recv(4096)
            running = server.running()
            # Lingering for zero seconds makes close() a reset, as a killed client's is.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            left = time.monotonic()
            while server.running() > 0 and time.monotonic() - left < 5:
                time.sleep(0.02)
            took = time.monotonic() - left
            if running > 0:
                break
        checks.check("client gone: it was streaming", b" 200 " in first.split(b"\r\n")[0] and running > 0, f"{running:g} running")
        checks.check("client gone: nothing runs within a second", took < 1.0, f"{took * 1e3:.0f} ms")


def keys(checks: Checks, given) -> None:
    chat = model_id(given.chat_model)
    with checks.guard("API key"), Server(given.impetus, [given.chat_model], threads=given.threads, api_key="sesame") as server:
        error = refusal(lambda: client_of(server, "wrong").models.list(), openai.AuthenticationError)
        checks.check("wrong key: 401 invalid_api_key", error.code == "invalid_api_key", error.code)
        checks.check("Bearer key", client_of(server, "sesame").models.list().data[0].id == chat)
        for label, path, headers, expected in (("no key", "/v1/models", {"Accept": "*/*"}, 401), ("x-api-key", "/v1/models", {"x-api-key": "sesame"}, 200),
                                               ("/api/* without a key", "/api/models/list", {"Accept": "*/*"}, 401),
                                               ("/api/* with it", "/api/models/list", {"x-api-key": "sesame"}, 200)):
            status, _, data = server.request("GET", path, headers=headers)
            checks.check(f"{label}: {expected}", status == expected and (expected == 200 or not error_shape(data)), status)


def browser(checks: Checks, server: Server) -> None:
    with checks.guard("Host and Origin"):
        status, _, _ = server.request("GET", "/v1/models", headers={"Host": "evil.example"})
        checks.check("foreign Host refused (DNS rebinding)", 400 <= status < 500, status)
        status, _, _ = server.request("GET", "/v1/models", headers={"Origin": "http://evil.example"})
        checks.check("foreign Origin refused", 400 <= status < 500, status)
        status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers={
            "Origin": f"http://localhost:{server.port}", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"})
        checks.check("preflight from a local page", status in (200, 204) and any(k.lower() == "access-control-allow-origin" for k in headers), status)


def main() -> int:
    given = server_arguments(__doc__.splitlines()[0]).parse_args()
    checks = Checks()
    chat, embed = model_id(given.chat_model), model_id(given.embed_model)
    with Server(given.impetus, [given.chat_model, given.embed_model], threads=given.threads) as server:
        checks.check("ready", True, f"{server.ready_seconds:.2f} s")
        client = client_of(server)
        models(checks, client, chat, embed)
        chat_plain(checks, client, chat)
        chat_stream(checks, client, server, chat)
        logprobs(checks, client, chat)
        completions(checks, client, chat)
        embeddings(checks, client, server, embed)
        refusals(checks, client, chat, embed)
        gone(checks, server, chat)
        browser(checks, server)
        checks.check("still alive", server.alive(), "" if server.alive() else server.log_tail())
        checks.check("SIGTERM drains: exit status 0", server.stop() == 0, server.process.returncode)
    keys(checks, given)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

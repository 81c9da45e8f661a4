"""Malformed requests by the thousand: the server answers a clear 4xx or closes, never 5xx, and never dies.

Seeded and bounded; only the standard library. 503 (overloaded) is allowed; a 2xx is a finding only where the
request is certainly wrong. Requests that happen to be valid are kept cheap by small limits.
"""

from __future__ import annotations

import json
import random
import re
import socket
import sys
import time

from harness import Checks, Server, error_shape, mebibytes, model_id, resident_bytes, server_arguments

JSON_HEADERS = "Content-Type: application/json\r\n"
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/api/embeddings", "/tokenize", "/detokenize"]


class Reply:
    def __init__(self, raw: bytes, closed: bool):
        self.raw, self.closed = raw, closed
        line = raw.split(b"\r\n", 1)[0]
        found = re.match(rb"HTTP/1\.[01] (\d{3})", line)
        self.status = int(found.group(1)) if found else 0
        head, _, body = raw.partition(b"\r\n\r\n")
        self.body = body
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length:
            self.body = body[: int(length.group(1))]


def exchange(port: int, data: bytes, half_close: bool = True, timeout: float = 20) -> Reply:
    """Sends the bytes as they are and reads until the server closes."""
    received, closed = b"", False
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        try:
            connection.sendall(data)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server had seen enough; its answer may still be there to read
        try:
            while piece := connection.recv(1 << 16):
                received += piece
                if len(received) > 4 << 20:
                    break
            closed = True
        except ConnectionResetError:
            closed = True
        except socket.timeout:
            pass
    return Reply(received, closed)


def request(port: int, path: str, body: bytes, method: str = "POST", headers: str = JSON_HEADERS) -> bytes:
    return (f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n").encode("latin-1") + body


def valid_body(path: str, chat: str, embed: str) -> dict:
    if path == "/v1/chat/completions":
        return {"model": chat, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": False, "temperature": 0}
    if path == "/v1/completions":
        return {"model": chat, "prompt": "Hi", "max_tokens": 2}
    if path in ("/v1/embeddings", "/api/embeddings"):
        return {"model": embed, "input": "Hi"}
    if path == "/tokenize":
        return {"model": chat, "content": "Hi", "text": "Hi"}
    return {"model": chat, "tokens": [1, 2], "ids": [1, 2]}


# Values no field of a kind accepts. NaN and Infinity are no JSON at all.
NOT_NUMBER = ['"x"', "[]", "{}", "true", "NaN", "Infinity", "-Infinity", "1e999", "-1e999"]
NOT_INTEGER = NOT_NUMBER + ["1.5", "1e300", "99999999999999999999999999"]
NOT_STRING = ["1", "[]", "{}", "true", "1.5"]
NOT_BOOLEAN = ['"true"', "1", "[]", "{}"]
NOT_OBJECT = ["1", '"x"', "[]", "true"]
WRONG = {
    "/v1/chat/completions": {
        "model": NOT_STRING, "messages": ["1", '"x"', "{}", "[1]", '["x"]', "[null]", "[{}]", '[{"role":"user"}]', '[{"role":1,"content":"x"}]',
                                          '[{"role":"user","content":1}]', '[{"role":"user","content":{}}]', '[{"role":"user","content":[1]}]',
                                          '[{"role":"user","content":[{"type":"text"}]}]', '[{"role":"user","content":[{"type":"text","text":1}]}]',
                                          '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]', "[]", "null"],
        "stream": NOT_BOOLEAN, "stream_options": NOT_OBJECT, "max_tokens": NOT_INTEGER + ["-1"], "max_completion_tokens": NOT_INTEGER + ["-1"],
        "temperature": NOT_NUMBER + ["-0.1", "1e30"], "top_p": NOT_NUMBER + ["-0.1", "1.1"], "n": NOT_INTEGER + ["0", "-1", "1000000"],
        "stop": ["1", "{}", "true", "[1]", "[[]]", '["a","b","c","d",5]'], "seed": ['"x"', "[]", "{}", "true", "NaN", "1e999"],
        "presence_penalty": NOT_NUMBER + ["-1e30", "1e30"], "frequency_penalty": NOT_NUMBER + ["-1e30", "1e30"],
        "logit_bias": ["1", '"x"', "[1]", '{"x":1}', '{"1":"x"}', '{"-5":1}', '{"99999999":1}', '{"1":1e999}'],
        "logprobs": ['"x"', "[]", "{}"], "top_logprobs": NOT_INTEGER + ["-1", "1000"], "top_k": NOT_NUMBER, "min_p": NOT_NUMBER + ["2", "-1"],
        "repetition_penalty": NOT_NUMBER + ["-1", "0"], "response_format": ["1", '"x"', '{"type":"xml"}', '{"type":"json_schema","json_schema":{}}'],
        "tools": ['[{"type":"function","function":{"name":"f"}}]', "1", '"x"'], "chat_template_kwargs": ["1", '"x"', "[1]"],
    },
    "/v1/completions": {
        "model": NOT_STRING, "prompt": ["{}", "true", "[{}]", "[[[1]]]", "[1.5]", "[-1]", "[99999999]", '["a",1]', "1.5"],
        "max_tokens": NOT_INTEGER + ["-1"], "temperature": NOT_NUMBER + ["-1"], "stop": ["1", "{}", "[1]"], "n": NOT_INTEGER + ["0"],
        "suffix": ['"x"', "1"], "logprobs": ['"x"', "[]", "-1", "1000"], "echo": NOT_BOOLEAN, "stream": NOT_BOOLEAN,
    },
    "/v1/embeddings": {
        "model": NOT_STRING, "input": ["1", "{}", "true", "[]", "[{}]", "[null]", "[[[1]]]", "[1.5]", "[1,2]", "[[1,2]]", '["a",1]', "null"],
        "encoding_format": ["1", '"hex"', "[]"], "dimensions": NOT_INTEGER + ["0", "-1", "3"], "truncate": ["1", '"x"', "[]"], "normalize": ["1", '"x"', "[]"],
    },
}
WRONG["/api/embeddings"] = {k: WRONG["/v1/embeddings"][k] for k in ("model", "input")}


def wrong_types(port: int, chat: str, embed: str):
    """Every wrong value of every field: (name, bytes, the request is certainly wrong)."""
    for path, fields in WRONG.items():
        for field, values in fields.items():
            for value in values:
                body = json.dumps({k: v for k, v in valid_body(path, chat, embed).items() if k != field})[:-1] + f', "{field}": {value}}}'
                yield f"{path} {field}={value}", request(port, path, body.encode()), True
    for field in ("model", "messages"):
        body = {k: v for k, v in valid_body(PATHS[0], chat, embed).items() if k != field}
        # Without a model a server of one chat model may choose it.
        yield f"no {field}", request(port, PATHS[0], json.dumps(body).encode()), field != "model"


def bodies(port: int, rng: random.Random, chat: str, embed: str):
    """One malformed body at random."""
    path = rng.choice(PATHS)
    good = json.dumps(valid_body(path, chat, embed)).encode()
    kind = rng.randrange(9)
    if kind == 0:
        return f"{path} truncated JSON", request(port, path, good[: rng.randrange(len(good))]), True
    if kind == 1:
        at = rng.randrange(len(good))
        bad = good[:at] + bytes([rng.choice([0x80, 0xC0, 0xF5, 0xFF, 0xED])]) + good[at:]
        return f"{path} invalid UTF-8", request(port, path, bad), True
    if kind == 2:
        depth = rng.choice([100, 1000, 20000, 200000])
        opening, closing = rng.choice([("[", "]"), ('{"a":', "}")])
        nested = opening * depth + "1" + closing * depth
        body = '{"model": "%s", "messages": %s, "input": %s}' % (chat, nested, nested)
        return f"{path} {depth} deep", request(port, path, body.encode()), True
    if kind == 3:
        return f"{path} random bytes", request(port, path, rng.randbytes(rng.randrange(1, 400))), True
    if kind == 4:
        mutated = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        return f"{path} flipped bytes", request(port, path, bytes(mutated)), False
    if kind == 5:
        return f"{path} a bare value", request(port, path, rng.choice([b"", b"null", b"1", b'"x"', b"[]", b"true", b"{}"])), True
    if kind == 6:
        return f"{path} rubbish after the JSON", request(port, path, good + b"}" + rng.randbytes(5)), True
    if kind == 7:
        surrogate = good.replace(b"Hi", rng.choice([b"\\ud800", b"\\udfff x", b"\\u12", b"\\x"]))
        return f"{path} broken escapes", request(port, path, surrogate), surrogate != good
    long = {**valid_body(path, chat, embed)}
    key = rng.choice(sorted(long))
    long[key] = "y" * rng.choice([10**5, 10**6])
    return f"{path} {key} of a megabyte", request(port, path, json.dumps(long).encode()), False


def heads(port: int, rng: random.Random, chat: str):
    """One malformed head or framing at random."""
    body = json.dumps(valid_body(PATHS[0], chat, chat)).encode()
    whole = request(port, PATHS[0], body)
    host = f"Host: 127.0.0.1:{port}\r\n".encode()
    post = b"POST /v1/chat/completions HTTP/1.1\r\n" + host + JSON_HEADERS.encode()
    kind = rng.randrange(14)
    if kind == 0:
        return "cut anywhere", whole[: rng.randrange(len(whole) - 1)], True
    if kind == 1:
        size = rng.choice([10_000, 100_000, 1_000_000])
        return f"a header of {size}", b"GET /health HTTP/1.1\r\n" + host + b"X-A: " + b"a" * size + b"\r\n\r\n", False
    if kind == 2:
        count = rng.choice([200, 5000, 50000])
        return f"{count} headers", b"GET /health HTTP/1.1\r\n" + host + b"X-A: b\r\n" * count + b"\r\n", False
    if kind == 3:
        size = rng.choice([b"zz", b"-1", b"FFFFFFFFFFFFFFFFF", b"7fffffffffffffff", b"", b"5;" + b"e" * 20000])
        return f"chunk size {size[:20]!r}", post + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\nhello\r\n0\r\n\r\n", True
    if kind == 4:
        length = rng.choice([b"-1", b"abc", b"99999999999999999999999", b"18446744073709551615", b"1e3", b"0x10", b" "])
        return f"Content-Length {length!r}", post + b"Content-Length: " + length + b"\r\n\r\n" + body, True
    if kind == 5:
        return "two Content-Lengths", post + b"Content-Length: 5\r\nContent-Length: %d\r\n\r\n" % len(body) + body, True
    if kind == 6:
        return "length and chunked", post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True
    if kind == 7:
        return "random head", rng.randbytes(rng.randrange(1, 300)) + rng.choice([b"", b"\r\n\r\n"]), True
    if kind == 8:
        version = rng.choice([b"HTTP/9.9", b"HTTP/1", b"HTTP", b"", b"http/1.1", b"HTTP/1.1.1"])
        return f"version {version!r}", b"GET /health " + version + b"\r\n" + host + b"\r\n", True
    if kind == 9:
        method = rng.choice(["BREW", "PATCH", "PUT", "DELETE", "TRACE", "CONNECT", "G\x00T", "get", "A" * 5000])
        return f"method {method[:10]!r}", request(port, rng.choice(PATHS), body, method=method), True
    if kind == 10:
        path = rng.choice(["/", "/v2/none", "/v1/models/none", "/v1/models/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/v1/models/%zz", "/v1/models/%00",
                           "/" + "a" * 100_000, "*", "http://127.0.0.1/health/none", "/v1/chat/completions/none", "/v1//chat", "/\xff\xfe"])
        return f"path {path[:30]!r}", request(port, path, b"", method=rng.choice(["GET", "POST"])), path != "/"
    if kind == 11:
        header = rng.choice([b"NoColon", b": empty", b"A b: c", b"X-A\x00: b", b"X-A: \x01\x02", b" folded: x"])
        return f"header {header!r}", b"GET /v1/none HTTP/1.1\r\n" + host + header + b"\r\n\r\n", True
    if kind == 12:
        wrong = rng.choice([b"", b"Host: evil.example\r\n", b"Host: \r\n", b"Host: 127.0.0.1:%d\r\nHost: x\r\n" % port])
        return f"host {wrong!r}", b"GET /v1/none HTTP/1.1\r\n" + wrong + b"\r\n", True
    kind_of = rng.choice(["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json; charset=utf-16", ""])
    return f"content type {kind_of!r}", request(port, PATHS[0], body, headers=f"Content-Type: {kind_of}\r\n"), False


def verdict(reply: Reply, certainly_wrong: bool) -> str:
    """Empty where the answer is one the rules allow."""
    if not reply.raw:
        return "" if reply.closed else "neither an answer nor a close"
    if reply.status == 0:
        return f"not HTTP: {reply.raw[:80]!r}"
    if reply.status in (429, 503):
        return error_shape(reply.body)
    if reply.status >= 500:
        return f"{reply.status} {reply.body[:200]!r}"
    if reply.status >= 400:
        return error_shape(reply.body)
    if 200 <= reply.status < 300 and certainly_wrong:
        return f"{reply.status} for a request that is certainly wrong: {reply.body[:160]!r}"
    return ""


def main() -> int:
    parser = server_arguments(__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000, help="random cases, beside every wrong type of every field")
    parser.add_argument("--seed", type=int, default=9)
    given = parser.parse_args()
    checks = Checks(verbose=True)
    chat, embed = model_id(given.chat_model), model_id(given.embed_model)
    rng = random.Random(given.seed)
    with Server(given.impetus, [given.chat_model, given.embed_model], "--kv-tokens", "4096", threads=given.threads) as server:
        def cases():
            yield from wrong_types(server.port, chat, embed)
            for _ in range(given.count):
                yield bodies(server.port, rng, chat, embed) if rng.random() < 0.6 else heads(server.port, rng, chat)

        tally: dict[int, int] = {}
        findings: dict[str, list[str]] = {}
        slow, done, died = 0.0, 0, ""
        resident_early = 0
        for name, data, wrong in cases():
            start = time.perf_counter()
            try:
                reply = exchange(server.port, data)
            except OSError as error:
                if not server.alive():
                    died = f"after {name}: {server.log_tail(600)}"
                    break
                findings.setdefault("connection", []).append(f"{name}: {error}")
                continue
            done += 1
            slow = max(slow, time.perf_counter() - start)
            tally[reply.status] = tally.get(reply.status, 0) + 1
            if problem := verdict(reply, wrong):
                findings.setdefault("5xx" if reply.status >= 500 else "2xx" if 200 <= reply.status < 300 else "shape", []).append(f"{name}: {problem}")
            if not server.alive():
                died = f"after {name}: {server.log_tail(600)}"
                break
            if done % 200 == 0:
                status, _, _ = server.request("GET", "/health", timeout=5)
                if status != 200:
                    findings.setdefault("health", []).append(f"{status} after {name}")
                resident_early = resident_early or resident_bytes(server.pid)
        print(f"{done} malformed requests; answers by status (0: closed without one): {dict(sorted(tally.items()))}")
        for label, what in (("5xx", "never a 5xx"), ("2xx", "nothing certainly wrong is accepted"), ("shape", "every 4xx is the error object, every other end a close"),
                            ("connection", "every connection was taken"), ("health", "healthy throughout")):
            wrong_ones = findings.get(label, [])
            checks.check(what, not wrong_ones, f"{len(wrong_ones)} cases")
            for line in wrong_ones[:40]:
                print(f"        {line[:300]}")
        checks.check("alive to the end", not died, died)
        checks.check("no answer took over 10 s", slow < 10, f"slowest {slow:.2f} s")
        if server.alive():
            late = resident_bytes(server.pid)
            # The allocator keeps what the largest bodies (16 MiB, parsed on two threads) needed once; leaks would pass any bound.
            checks.check("memory bounded", late <= resident_early * 1.2 + (128 << 20), f"{mebibytes(resident_early)} early, {mebibytes(late)} late")
            with checks.guard("works afterwards"):
                answer = server.json("POST", PATHS[0], valid_body(PATHS[0], chat, embed))
                checks.check("works afterwards", answer["choices"][0]["finish_reason"] in ("stop", "length"))
                checks.check("nothing left running", server.running() == 0)
            checks.check("SIGTERM: exit status 0", server.stop() == 0, server.process.returncode)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

"""50 streams together against one alone, on a model that no cache holds: reading its weights once for all must pay.

load_50 mixes embeddings in and checks every answer, on a model that fits a processor's cache: there batching gains
only what one row leaves unused of the cores, and how much that is depends on the machine.
"""

from __future__ import annotations

import concurrent.futures
import subprocess
import sys
import time
from pathlib import Path

from harness import CACHE, Checks, Server, arguments, mebibytes, model_id

TOKENS = 24
# AVX2 has no instruction for products of 8-bit numbers: a few rows compute as long there as their weights are read.
LEAST = {"cpu-avx2": 1.5}
LEAST_ELSEWHERE = 3


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12, help="for which each of the two is measured")
    parser.add_argument("--layers", type=int, default=4, help="of Llama-3.2-1B's shape; 4: 0.5 GB, most of it the head")
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=0.8)
    given = parser.parse_args()
    checks = Checks()
    model = CACHE / f"llama-1b-{given.layers}-layers-q8_0.gguf"
    if not model.exists():
        subprocess.run([sys.executable, Path(__file__).with_name("make_1b.py"), model, "--type", "q8_0", "--layers", str(given.layers)], check=True)
    with Server(given.impetus, [model], ready_within=180) as server:
        def ask(seed: int) -> int:
            body = {"model": model_id(model), "prompt": "the quick brown fox", "max_tokens": TOKENS, "temperature": given.temperature, "seed": seed, "ignore_eos": True}
            return server.json("POST", "/v1/completions", body, timeout=120)["usage"]["completion_tokens"]

        def rate(streams: int) -> float:
            start = time.perf_counter()
            end = start + given.seconds

            def stream(index: int) -> int:
                tokens = 0
                while time.perf_counter() < end:
                    tokens += ask(index)
                return tokens

            with concurrent.futures.ThreadPoolExecutor(streams) as pool:
                return sum(pool.map(stream, range(streams))) / (time.perf_counter() - start)

        _, headers, _ = server.request("POST", "/v1/completions", {"model": model_id(model), "prompt": "fox", "max_tokens": 1}, timeout=120)
        processor = headers["x-impetus-device"]
        least = LEAST.get(processor, LEAST_ELSEWHERE)
        one = rate(1)
        many = rate(given.streams)
        checks.check(f"{given.streams} streams: at least {least}x one stream's tokens a second", many >= least * one,
                     f"{processor}, {mebibytes(model.stat().st_size)}: {many:.0f} tok/s together, {one:.1f} alone: {many / one:.1f}x")
        checks.check("SIGTERM: exit status 0", server.stop() == 0)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

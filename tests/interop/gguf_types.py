"""Each stored type decodes bit-equal to gguf-py: `impetus inspect --tensor NAME --values FIRST:COUNT`.

The file is a whole small Llama, so that a loader which wants a complete model accepts it; its embedding
tables carry random blocks and the edge cases (scale 0, negative, subnormal and largest scales, every nibble
and byte), and for F16 every finite bit pattern.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFReader, GGUFWriter, TokenType, dequantize
from gguf.quants import quantize

from harness import Checks, arguments, command, command_json

HIDDEN, FFN, HEADS, KV_HEADS, VOCAB = 64, 96, 4, 2, 512
CHUNK = 8192
TYPES = {"f32": Q.F32, "f16": Q.F16, "q8_0": Q.Q8_0, "q4_0": Q.Q4_0}


def edge_scales() -> np.ndarray:
    """f16 bit patterns of interest: zeros, subnormals, normals, the largest, each with both signs."""
    magnitudes = [0x0000, 0x0001, 0x0002, 0x03FF, 0x0400, 0x0401, 0x3555, 0x3C00, 0x3C01, 0x7BFE, 0x7BFF]
    bits = np.array(magnitudes + [m | 0x8000 for m in magnitudes], np.uint16)
    return bits.view(np.float16)


def edge_blocks(kind: Q, rng: np.random.Generator) -> np.ndarray:
    """Packed blocks [n, bytes]: every edge scale with random, all-lowest and all-highest payloads."""
    payload = 32 if kind == Q.Q8_0 else 16
    rows = []
    for scale in edge_scales():
        for content in (rng.bytes(payload), b"\x00" * payload, b"\x80" * payload, b"\x7f" * payload,
                        b"\xff" * payload, bytes(range(16)) * (payload // 16)):
            rows.append(np.frombuffer(scale.tobytes() + content, np.uint8))
    return np.stack(rows)


def packed(kind: Q, rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    values = rng.standard_normal((rows, columns)).astype(np.float32) * rng.uniform(0.001, 4, (rows, 1)).astype(np.float32)
    if kind == Q.F32:
        return values
    if kind == Q.F16:
        return values.astype(np.float16)
    return quantize(values, kind)


def edge_tensor(kind: Q, rng: np.random.Generator) -> np.ndarray:
    """The embedding table, [VOCAB, HIDDEN]: edge cases first, random values after them."""
    if kind == Q.F32:
        bits = rng.integers(0, 2**32, VOCAB * HIDDEN, dtype=np.uint32)
        bits[(bits >> 23) & 0xFF == 0xFF] = 0x80000000  # no NaN or infinity: they have no JSON
        bits[:4] = (0, 0x80000000, 1, 0x7F7FFFFF)
        return bits.view(np.float32).reshape(VOCAB, HIDDEN)
    if kind == Q.F16:
        bits = np.arange(VOCAB * HIDDEN, dtype=np.uint16)
        bits[(bits & 0x7C00) == 0x7C00] = 0x8000
        return bits.view(np.float16).reshape(VOCAB, HIDDEN)
    table = packed(kind, VOCAB, HIDDEN, rng)
    blocks = table.reshape(VOCAB * HIDDEN // 32, -1).copy()
    edges = edge_blocks(kind, rng)
    blocks[: len(edges)] = edges
    return blocks.reshape(table.shape)


def second_edge_tensor(kind: Q, rng: np.random.Generator) -> np.ndarray:
    """The head, [VOCAB, HIDDEN]; for F16 the negative patterns, which the embedding table had no room for."""
    if kind != Q.F16:
        return packed(kind, VOCAB, HIDDEN, rng)
    bits = (np.arange(VOCAB * HIDDEN) + 0x8000).astype(np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] = 0x8000
    return bits.view(np.float16).reshape(VOCAB, HIDDEN)


def write(path: Path, kind: Q, rng: np.random.Generator) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_name("types")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tokens += [f"\u2581t{i}" for i in range(VOCAB - len(tokens))]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL] + [TokenType.BYTE] * 256
    kinds += [TokenType.NORMAL] * (VOCAB - len(kinds))
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(VOCAB)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def add(name, data):
        writer.add_tensor(name, data, raw_dtype=None if kind in (Q.F32, Q.F16) else kind)

    add("token_embd.weight", edge_tensor(kind, rng))
    add("output.weight", second_edge_tensor(kind, rng))
    for name, rows, columns in (("attn_q", HIDDEN, HIDDEN), ("attn_k", HIDDEN // 2, HIDDEN), ("attn_v", HIDDEN // 2, HIDDEN),
                                ("attn_output", HIDDEN, HIDDEN), ("ffn_gate", FFN, HIDDEN), ("ffn_up", FFN, HIDDEN),
                                ("ffn_down", HIDDEN, FFN)):
        add(f"blk.0.{name}.weight", packed(kind, rows, columns, rng))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=20)
    given = parser.parse_args()
    checks = Checks()
    rng = np.random.default_rng(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        for label, kind in TYPES.items():
            path = Path(folder) / f"types-{label}.gguf"
            write(path, kind, rng)
            for tensor in GGUFReader(path).tensors:
                if tensor.tensor_type != kind:
                    continue
                with checks.guard(f"{label} {tensor.name}"):
                    expected = np.ascontiguousarray(dequantize(tensor.data, kind), np.float32)
                    about = command_json(given.impetus, "inspect", str(path), "--tensor", tensor.name)
                    shape = [int(n) for n in about["shape"]]
                    got, first = [], 0
                    while first < expected.size:
                        count = min(CHUNK, expected.size - first)
                        answer = command_json(given.impetus, "inspect", str(path), "--tensor", tensor.name,
                                              "--values", f"{first}:{count}")
                        got.append(np.array(answer["values"], np.float64).astype(np.float32))
                        first += count
                    values = np.concatenate(got)
                    same = values.shape == (expected.size,) and np.array_equal(
                        values.view(np.uint32), expected.reshape(-1).view(np.uint32))
                    detail = f"{expected.size} values"
                    if not same and values.shape == (expected.size,):
                        wrong = np.flatnonzero(values.view(np.uint32) != expected.reshape(-1).view(np.uint32))
                        at = int(wrong[0])
                        detail = f"{len(wrong)} of {expected.size} differ, first at {at}: {values[at]!r} for {expected.reshape(-1)[at]!r}"
                    checks.check(f"{label} {tensor.name} bit-equal", same, detail)
                    checks.check(f"{label} {tensor.name} metadata", shape == list(expected.shape)
                                 and str(about["dtype"]).lower() == label and about["name"] == tensor.name,
                                 f"{about['dtype']} {shape}")
        for bad, why in ((("--tensor", "absent.weight"), "a tensor that is not there"),
                         (("--tensor", "token_embd.weight", "--values", f"{VOCAB * HIDDEN}:1"), "values past the end"),
                         (("--tensor", "token_embd.weight", "--values", "0:18446744073709551615"), "a count that overflows")):
            status, _, stderr, _ = command(given.impetus, "inspect", str(path), *bad, "--json", check=False)
            checks.check(f"{why} is a clear error", 0 < status < 126 and stderr.strip(), f"{status}: {stderr.strip()[:120]}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

"""Writes a GGUF of Llama-3.2-1B's shape with random weights, for memory and speed measurements.

Blocks are drawn directly in their packed form, one slice at a time, so that the file needs little memory
and about the time of writing it. Scales are small, so that activations stay in a sane range.
The block layouts are GGUF's: Q8_0 = f16 scale, 32 int8; Q4_0 = f16 scale, 16 bytes of nibbles (value - 8).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

from harness import TEST_DATA

TYPES = {
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0, 32, 18),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0, 32, 34),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16, 1, 2),
}
SLICE_BYTES = 8 << 20


class Blocks:
    """Random packed weights with a given standard deviation."""

    def __init__(self, kind: str, seed: int):
        self.kind = kind
        self.rng = np.random.default_rng(seed)
        self.normal = self.rng.standard_normal(65536).astype(np.float32)

    def slice(self, blocks: int, deviation: float) -> np.ndarray:
        if self.kind == "f16":
            table = (self.normal * deviation).astype(np.float16)
            return table[self.rng.integers(0, 65536, blocks, dtype=np.uint16)].view(np.uint8)
        payload = 16 if self.kind == "q4_0" else 32
        # Uniform integers have a deviation of 4.6 (nibbles) or 73.6 (bytes); random signs of the scales
        # take away the mean of -0.5 that both carry.
        unit = deviation / (4.6 if self.kind == "q4_0" else 73.6)
        scale = unit * self.rng.uniform(0.75, 1.25, blocks) * self.rng.choice((-1.0, 1.0), blocks)
        out = np.empty((blocks, 2 + payload), np.uint8)
        out[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(blocks, 2)
        out[:, 2:] = np.frombuffer(self.rng.bytes(blocks * payload), np.uint8).reshape(blocks, payload)
        return out.reshape(-1)


def byte_characters() -> list[str]:
    """The printable character by which byte-level BPE writes each byte (GPT-2's published mapping)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out, extra = [], 0
    for byte in range(256):
        if byte in plain:
            out.append(chr(byte))
        else:
            out.append(chr(256 + extra))
            extra += 1
    return out


def vocabulary(size: int) -> tuple[list[str], list[str], str]:
    """Tokens and merges: Llama 3's where the test data is at hand, else a made-up byte-level one."""
    special = ["<|begin_of_text|>", "<|end_of_text|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(size - 128000 - 2)]
    special[6], special[7], special[9] = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
    folder = TEST_DATA / "tokenizers/llama3/ollama-llama3.2"
    if folder.is_dir():
        ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        merges = [m for m in (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n") if m]
        return sorted(ids, key=ids.get) + special, merges, "Llama 3's"
    letters = byte_characters()
    tokens, merges = list(letters), []
    for count in range(128000 - 256):
        pair, third = count % 65536, count // 65536
        first, second = letters[pair // 256], letters[pair % 256]
        left, right = (first, second) if third == 0 else (first + second, letters[97])
        tokens.append(left + right)
        merges.append(f"{left} {right}")
    return tokens + special, merges, "made up"


def rope_factors(theta: float, dims: int) -> np.ndarray:
    """Llama 3.2's rope scaling as GGUF carries it: one divisor a frequency (Hugging Face's `llama3` rope type)."""
    factor, low, high, original = 32.0, 1.0, 4.0, 8192.0
    frequency = theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    wave = 2 * np.pi / frequency
    smooth = (original / wave - low) / (high - low)
    between = 1.0 / ((1 - smooth) / factor + smooth)
    return np.where(wave < original / high, 1.0, np.where(wave > original / low, factor, between)).astype(np.float32)


def write(out: Path, kind: str = "q4_0", layers: int = 16, seed: int = 1) -> None:
    hidden, ffn, heads, kv_heads, head_dim, vocab, theta = 2048, 8192, 32, 8, 64, 128256, 500000.0
    dtype, file_type, block, block_bytes = TYPES[kind]
    writer = GGUFWriter(out, "llama")
    writer.add_name(f"random 1B {kind}")
    writer.add_file_type(file_type)
    writer.add_quantization_version(2)
    writer.add_context_length(131072)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    tokens, merges, source = vocabulary(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * 128000 + [TokenType.CONTROL] * (vocab - 128000))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(128000)
    writer.add_eos_token_id(128009)

    plan: list[tuple[str, tuple[int, ...], float | np.ndarray]] = [
        ("token_embd.weight", (vocab, hidden), hidden**-0.5),
        ("rope_freqs.weight", (head_dim // 2,), rope_factors(theta, head_dim)),
        ("output_norm.weight", (hidden,), np.ones(hidden, np.float32)),
    ]
    for i in range(layers):
        plan += [
            (f"blk.{i}.attn_norm.weight", (hidden,), np.ones(hidden, np.float32)),
            (f"blk.{i}.attn_q.weight", (heads * head_dim, hidden), hidden**-0.5),
            (f"blk.{i}.attn_k.weight", (kv_heads * head_dim, hidden), hidden**-0.5),
            (f"blk.{i}.attn_v.weight", (kv_heads * head_dim, hidden), hidden**-0.5),
            (f"blk.{i}.attn_output.weight", (hidden, heads * head_dim), hidden**-0.5),
            (f"blk.{i}.ffn_norm.weight", (hidden,), np.ones(hidden, np.float32)),
            (f"blk.{i}.ffn_gate.weight", (ffn, hidden), hidden**-0.5),
            (f"blk.{i}.ffn_up.weight", (ffn, hidden), hidden**-0.5),
            (f"blk.{i}.ffn_down.weight", (hidden, ffn), ffn**-0.5),
        ]

    def packed_shape(shape):
        return (*shape[:-1], shape[-1] // block * block_bytes)

    for name, shape, values in plan:
        if isinstance(values, np.ndarray):
            writer.add_tensor_info(name, shape, np.dtype(np.float32), values.nbytes)
        elif kind == "f16":
            writer.add_tensor_info(name, shape, np.dtype(np.float16), 2 * int(np.prod(shape)))
        else:
            packed = packed_shape(shape)
            writer.add_tensor_info(name, packed, np.dtype(np.uint8), int(np.prod(packed)), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    stream = writer.fout[0]
    writer.write_padding(stream, stream.tell())
    random = Blocks(kind, seed)
    for name, shape, values in plan:
        if isinstance(values, np.ndarray):
            data = values.tobytes()
            stream.write(data)
            count = len(data)
        else:
            blocks = int(np.prod(shape)) // block
            count = blocks * block_bytes
            at = 0
            while at < blocks:
                now = min(blocks - at, SLICE_BYTES // block_bytes)
                stream.write(random.slice(now, values).data)
                at += now
        writer.write_padding(stream, count)
    writer.close()
    print(f"{out}: {kind}, {layers} layers, {out.stat().st_size / 2**20:.0f} MiB, vocabulary {source}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=sorted(TYPES), default="q4_0")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write(given.out, given.type, given.layers, given.seed)


if __name__ == "__main__":
    main()

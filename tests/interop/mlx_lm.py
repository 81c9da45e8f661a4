"""The MLX backend, and MLX-quantised files on the CPU, beside Python's mlx-lm on the same files and the same MLX.

Files: written by mlx-lm's own quantiser, every bits x group it publishes, with overrides by layer. Logits within a
tolerance; prefill and decode in alternating runs. The binary must have been built with MLX (scripts/serve --with mlx).
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

# This file has the name of the package that it imports, and stands in front of it in the path.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
import mlx.core as mx  # noqa: E402
import mlx.utils  # noqa: E402
import numpy as np  # noqa: E402
from mlx_lm.generate import generate_step  # noqa: E402
from mlx_lm.utils import load_model, quantize_model, save_config, save_model  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parent))
from decoder_refs import FIXTURES, folder_of  # noqa: E402
from harness import Checks, arguments, command, command_json  # noqa: E402

IDS = [7, 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]  # within the fixtures' vocabularies and contexts

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 160, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False,
}
QWEN3 = {**LLAMA, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": True}
QWEN2 = {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "tie_word_embeddings": True}
# By name for --shape. On a CPU MLX's quantised products make tens of tokens a second: small is enough there.
SPEED = {
    "small": {**LLAMA, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
              "vocab_size": 8000, "max_position_embeddings": 2048},
    "1b": {**LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
           "head_dim": 64, "vocab_size": 128256, "max_position_embeddings": 8192, "tie_word_embeddings": True},
    "8b": {**LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "vocab_size": 128256, "max_position_embeddings": 8192},
}


def random_model(config: dict, folder: Path, dtype, seed: int):
    """A folder of random weights under mlx-lm's own names, and the model."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    model, config = load_model(folder, lazy=True, strict=False)
    mx.random.seed(seed)

    def draw(path, value):
        if value.ndim == 1:  # norms about one, biases about zero
            return (mx.random.normal(value.shape) * 0.1 + (0.0 if path.endswith("bias") else 1.0)).astype(dtype)
        return (mx.random.normal(value.shape) * (1.0 if "embed" in path else 1.5 / value.shape[-1] ** 0.5)).astype(dtype)

    model.update(mlx.utils.tree_map_with_path(draw, model.parameters()))
    mx.eval(model.parameters())
    return model, config


def save(model, config: dict, folder: Path) -> None:
    save_model(folder, model)
    save_config(config, folder / "config.json")


def quantised(config: dict, folder: Path, dtype, seed: int, bits, group, mode="affine", predicate=None):
    model, config = random_model(config, folder, dtype, seed)
    model, config = quantize_model(model, config, group, bits, mode, quant_predicate=predicate)
    save(model, config, folder)
    return model


def logits_of(binary: Path, folder: Path, device: str, kv: str) -> np.ndarray:
    answer = command_json(binary, "logits", str(folder), "--ids", ",".join(map(str, IDS)), "--kv", kv, "--device", device)
    return np.array(answer["logits"], np.float64)


def reference(model) -> np.ndarray:
    return np.array(model(mx.array([IDS]))[0].astype(mx.float32), np.float64)


def error_of(got: np.ndarray, wanted: np.ndarray) -> float:
    """Root of the mean square of the difference, over that of the logits about their mean."""
    return float(np.sqrt(((got - wanted) ** 2).mean()) / wanted.std()) if got.shape == wanted.shape else float("inf")


def agree(checks: Checks, binary: Path, label: str, folder: Path, model, bounds: dict, kv: str) -> None:
    wanted = reference(model)
    for device, bound in bounds.items():
        with checks.guard(f"{label} on {device}"):
            error = error_of(logits_of(binary, folder, device, kv), wanted)
            checks.check(f"{label} on {device} within {bound:g}", error <= bound, f"{error:.1e}")


def same_logits(checks: Checks, binary: Path, root: Path) -> None:
    for name in ("llama", "qwen2", "qwen3"):
        folder = folder_of(f"tiny_{name}", root)
        model, _ = load_model(folder)
        agree(checks, binary, f"fixture {name}, f32", folder, model, {"mlx": 1e-5, "cpu": 1e-5}, "f32")
    for dtype, bound, kv in ((mx.float16, 5e-3, "f16"), (mx.bfloat16, 4e-2, "bf16")):
        name = str(dtype).removeprefix("mlx.core.")
        folder = root / name
        model, config = random_model(LLAMA, folder, dtype, 5)
        save(model, config, folder)
        agree(checks, binary, f"llama, {name}", folder, model, {"mlx": bound, "cpu": bound}, kv)
    # The CPU rounds activations to 8 bits a block of 32, so that its products are of integers; MLX does not. What that
    # may cost is derived in src/cpu/precision_test.cpp; here it tells a right layout from a wrong one.
    bounds = {"mlx": 1e-4, "cpu": 5e-2}
    for seed, (bits, group) in enumerate((b, g) for b in (2, 3, 4, 5, 6, 8) for g in (32, 64, 128)):
        folder = root / f"q{bits}g{group}"
        model = quantised(LLAMA, folder, mx.float32, seed, bits, group)
        agree(checks, binary, f"llama, {bits} bits, groups of {group}", folder, model, bounds, "f32")
    folder = root / "mxfp4"
    agree(checks, binary, "llama, mxfp4", folder, quantised(LLAMA, folder, mx.float32, 40, 4, 32, "mxfp4"), bounds, "f32")
    for name, config in (("qwen2", QWEN2), ("qwen3", QWEN3)):
        folder = root / f"{name}_q4"
        agree(checks, binary, f"{name}, 4 bits, tied", folder, quantised(config, folder, mx.float32, 41, 4, 64), bounds, "f32")

    def mixed(path, module):
        if "down_proj" in path:
            return {"group_size": 32, "bits": 6}
        return False if "v_proj" in path else "lm_head" not in path or {"group_size": 64, "bits": 8}

    folder = root / "mixed"
    agree(checks, binary, "llama, bits by layer", folder, quantised(LLAMA, folder, mx.float32, 42, 4, 64, predicate=mixed), bounds, "f32")
    for dtype, bound, kv in ((mx.float16, 1e-2, "f16"), (mx.bfloat16, 6e-2, "bf16")):  # mlx-lm rounds every step to them
        name = str(dtype).removeprefix("mlx.core.")
        folder = root / f"q4_{name}"
        agree(checks, binary, f"llama, 4 bits, {name}", folder, quantised(LLAMA, folder, dtype, 43, 4, 64), {"mlx": bound, "cpu": 5e-2 + bound}, kv)


def rates_of_python(model, prompt: int, generate: int) -> tuple[float, float]:
    """(prefill, decode) in tokens a second, of mlx-lm's own generation loop, greedy."""
    ids = mx.array([(7 * i + 3) % 8000 for i in range(prompt)])
    start = time.perf_counter()
    first = None
    count = 0
    for _ in generate_step(ids, model, max_tokens=generate + 1, sampler=lambda x: mx.argmax(x, axis=-1)):
        if first is None:
            first = time.perf_counter()
        else:
            count += 1
    return prompt / (first - start), count / (time.perf_counter() - first)


def as_fast(checks: Checks, binary: Path, root: Path, shape: str, rounds: int, prompt: int, generate: int, least: float) -> None:
    small = shape == "small"
    dtype, kv = (mx.float32, "f32") if small else (mx.bfloat16, "bf16")
    for bits in (4, None):
        label = f"{shape}, {f'{bits} bits' if bits else kv}"
        folder = root / f"speed_{shape}_{bits}"
        if bits:
            model = quantised(SPEED[shape], folder, dtype, 50, bits, 64)
        else:
            model, config = random_model(SPEED[shape], folder, dtype, 51)
            save(model, config, folder)
        rates_of_python(model, prompt, 4)
        ours, theirs = [], []
        for _ in range(rounds):  # by turns
            theirs.append(rates_of_python(model, prompt, generate))
            answer = command_json(binary, "bench", str(folder), "--device", "mlx", "--prompt", str(prompt), "--generate", str(generate),
                                  "--repeat", "3", "--kv", kv)
            ours.append(rates_of_bench(answer))
        for which, name in ((0, "prefill"), (1, "decode")):
            ratios = sorted(o[which] / t[which] for o, t in zip(ours, theirs))
            middle = statistics.median(ratios)
            checks.check(f"{label}: {name} at least as fast as mlx-lm", middle >= least,
                         f"{middle:.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}); {statistics.median(o[which] for o in ours):.1f} tok/s")
        del model
        shutil.rmtree(folder)


def rates_of_bench(answer: dict) -> tuple[float, float]:
    rate = {record["phase"]: record["tokens_per_second"] for record in answer["results"]}
    return rate["prefill"], rate["decode"]


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", choices=list(SPEED), action="append", help="what is timed (default: small)")
    parser.add_argument("--least", type=float, default=0.97, help="the ratio to mlx-lm's speed that is asked for: on a shared machine it scatters")
    parser.add_argument("--only", choices=["logits", "speed"])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    given = parser.parse_args()
    checks = Checks()
    status, _, text, _ = command(given.impetus, "bench", "nothing", "--device", "mlx", check=False)
    if "no processor 'mlx'" in text or "built without MLX" in text:
        checks.check("the binary has MLX", False, text.strip())
        return checks.finish()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        if given.only != "speed":
            same_logits(checks, given.impetus, root)
        if given.only != "logits":
            for shape in given.shape or ["small"]:
                as_fast(checks, given.impetus, root, shape, given.rounds, given.prompt, given.generate, given.least)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

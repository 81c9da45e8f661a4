#!/usr/bin/env python3
"""Packages that coremltools converts from PyTorch run in the emulator, `impetus run-package`, and give what PyTorch gives.

Encoders of several families and a small convolutional net, random weights, real structure; fp16 and fp32. Palettised
and linearly quantised ones, made by coremltools' own passes, are held against the twin that coremltools decompresses.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import harness

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)  # coremltools names every library version it was not tested with
import coremltools as ct  # noqa: E402
import coremltools.converters.mil.frontend.torch.ops as torch_ops  # noqa: E402
import coremltools.optimize.coreml as optimize  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from coremltools.converters.mil import Builder as mb  # noqa: E402

TOKENS = 24
COSINE = 0.9999
BETWEEN = 1e-3  # largest difference of two ways to the same fp16 numbers, as a share of the largest value


def cast_of_length_one(context, node, dtype, name):
    """coremltools 9.0 calls int() on arrays of one element, which NumPy 2.4 refuses; the element is meant."""
    value = torch_ops._get_inputs(context, node, expected=1)[0]
    if value.can_be_folded_to_const() and np.asarray(value.val).size == 1:
        context.add(mb.const(val=dtype(np.asarray(value.val).item()), name=node.name), node.name)
    else:
        original_cast(context, node, dtype, name)


original_cast = torch_ops._cast
torch_ops._cast = cast_of_length_one


class Encoder(torch.nn.Module):
    """An encoder with its mask already spread out, as converters have to write it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, mask):
        spread = ((1.0 - mask) * -1e4)[:, None, None, :].expand(1, 1, ids.shape[1], ids.shape[1])
        return self.model(input_ids=ids, attention_mask=spread, return_dict=False)[0]


class Pooled(Encoder):
    """The sentence's vector: mean over the tokens, then length one."""

    def forward(self, ids, mask):
        hidden = super().forward(ids, mask)
        summed = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-4)
        return torch.nn.functional.normalize(summed, dim=1)


class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(16)
        self.norm.running_mean.uniform_(-0.3, 0.3)
        self.norm.running_var.uniform_(0.5, 1.5)
        self.depthwise = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.dilated = torch.nn.Conv2d(16, 32, 3, padding=2, dilation=2)
        self.instance = torch.nn.InstanceNorm2d(32, affine=True)
        self.last = torch.nn.Conv1d(32, 8, 3, padding=1)

    def forward(self, image):
        x = torch.relu(self.norm(self.first(image)))
        x = torch.nn.functional.silu(self.depthwise(x))
        x = torch.nn.functional.max_pool2d(x, 2)
        x = self.instance(torch.nn.functional.leaky_relu(self.dilated(x), 0.1))
        x = torch.nn.functional.avg_pool2d(x, 3, stride=1, padding=1)
        x = self.last(torch.nn.functional.pad(x, (1, 1, 0, 0)).mean(2))
        return torch.softmax(x, dim=1)


SIZES = dict(vocab_size=211, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=144, attn_implementation="eager")
ENCODERS = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(max_position_embeddings=64, **SIZES)),
    "distilbert": lambda: transformers.DistilBertModel(transformers.DistilBertConfig(
        vocab_size=211, dim=64, n_layers=2, n_heads=4, hidden_dim=144, max_position_embeddings=64, attn_implementation="eager")),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(max_position_embeddings=66, **SIZES)),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(max_position_embeddings=66, **SIZES)),
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(embedding_size=32, max_position_embeddings=64, **SIZES)),
    "albert": lambda: transformers.AlbertModel(transformers.AlbertConfig(embedding_size=32, max_position_embeddings=64, **SIZES)),
}


class Given(torch.nn.Module):
    """A model by what it is called with: one tensor."""

    def __init__(self, model, argument: str):
        super().__init__()
        self.model, self.argument = model, argument

    def forward(self, x):
        return self.model(**{self.argument: x}, return_dict=False)[0]


EAGER = dict(attn_implementation="eager")
# Families that write what the encoders above do not: relative positions, windows, depthwise and strided convolutions,
# masks of -inf, sizes told at run time.
OTHERS = {
    "convnext": (lambda: transformers.ConvNextModel(transformers.ConvNextConfig(hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 2, 1])), "pixel_values"),
    "vit": (lambda: transformers.ViTModel(transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=64, **EAGER)), "pixel_values"),
    "swin": (lambda: transformers.SwinModel(transformers.SwinConfig(
        image_size=64, embed_dim=24, depths=[1, 2], num_heads=[2, 4], window_size=4, **EAGER)), "pixel_values"),
    "clip's text half": (lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(
        vocab_size=211, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, eos_token_id=2, **EAGER)), "input_ids"),
    "t5": (lambda: transformers.T5EncoderModel(transformers.T5Config(
        vocab_size=211, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)), "input_ids"),
    "whisper's encoder": (lambda: transformers.WhisperModel(transformers.WhisperConfig(
        vocab_size=211, d_model=64, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=96, decoder_layers=1, decoder_attention_heads=4,
        decoder_ffn_dim=96, num_mel_bins=20, max_source_positions=50, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, **EAGER)).encoder, "input_features"),
    "wav2vec 2": (lambda: transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, conv_dim=(16, 16, 16), conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3), num_feat_extract_layers=3, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **EAGER)), "input_values"),
}
INPUTS_OF_OTHERS = {
    "pixel_values": lambda: torch.randn(1, 3, 64, 64),
    "input_ids": lambda: torch.randint(3, 200, (1, TOKENS)),
    "input_features": lambda: torch.randn(1, 20, 100),
    "input_values": lambda: torch.randn(1, 2000),
}


class Case:
    """A traced PyTorch module with its inputs and what it gives."""

    def __init__(self, module, inputs: dict):
        module.eval()
        self.inputs = inputs
        with torch.no_grad():
            self.wanted = module(*inputs.values()).numpy()
            self.traced = torch.jit.trace(module, tuple(inputs.values()), check_trace=False)

    def convert(self, precision: str, target):
        types = [ct.TensorType(name, tuple(value.shape), dtype=np.int32 if value.dtype == torch.int64 else np.float32)
                 for name, value in self.inputs.items()]
        return ct.convert(self.traced, inputs=types, minimum_deployment_target=target, convert_to="mlprogram", skip_model_load=True,
                          compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32)


def encoder_case(model, wrapper=Encoder) -> Case:
    mask = torch.ones(1, TOKENS)
    mask[0, TOKENS - 5:] = 0
    return Case(wrapper(model), {"ids": torch.randint(3, 211, (1, TOKENS)), "mask": mask})


def run(binary: Path, model, inputs: dict, folder: Path, *options: str) -> dict:
    package, given = folder / "model.mlpackage", folder / "inputs.json"
    model.save(str(package))
    given.write_text(json.dumps({name: {"shape": list(value.shape), "values": value.flatten().tolist()} for name, value in inputs.items()}))
    _, out, _, _ = harness.command(binary, "run-package", str(package), "--inputs", str(given), "--json", *options)
    return json.loads(out)


def values_of(result: dict) -> np.ndarray:
    (output,) = result["outputs"].values()
    return np.array([float(v) for v in output["values"]]).reshape(output["shape"])


def cosine(a, b) -> float:
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def judge(checks, name: str, got, wanted, least: float = COSINE) -> None:
    same = got.shape == wanted.shape
    similar = cosine(got, wanted) if same else 0.0
    checks.check(name, same and similar >= least, f"cosine {similar:.7f}, largest difference {np.abs(got - wanted).max() if same else got.shape}")


def against_torch(checks, binary: Path, folder: Path) -> None:
    cases = {}
    for name, make in ENCODERS.items():
        torch.manual_seed(len(cases))
        cases[name] = lambda make=make: encoder_case(make())
    cases["bert, pooled"] = lambda: encoder_case(ENCODERS["bert"](), Pooled)
    cases["convolutions"] = lambda: Case(Convolutions(), {"image": torch.randn(1, 3, 33, 30)})
    for number, (name, make) in enumerate(cases.items()):
        with checks.guard(name):
            torch.manual_seed(number)
            case = make()
            for precision, target in (("fp16", ct.target.iOS16), ("fp32", ct.target.iOS16), ("fp16", ct.target.iOS18)):
                if target == ct.target.iOS18 and name not in ("bert", "roberta", "convolutions"):
                    continue
                result = run(binary, case.convert(precision, target), case.inputs, folder)
                judge(checks, f"{name}, {precision}, {target.name}: PyTorch", values_of(result), case.wanted,
                      COSINE if precision == "fp16" else 0.999999)
                checks.check(f"{name}, {precision}, {target.name}: no overflow, no NaN", not result["events"], result["events"] or "")


def other_families(checks, binary: Path, folder: Path) -> None:
    """The numbers, and that `impetus check` finds the same operations and says where each runs."""
    for number, (name, (make, argument)) in enumerate(OTHERS.items()):
        with checks.guard(name):
            torch.manual_seed(number)
            case = Case(Given(make(), argument), {"x": INPUTS_OF_OTHERS[argument]()})
            model = case.convert("fp16", ct.target.iOS16 if number % 2 else ct.target.iOS18)
            result = run(binary, model, case.inputs, folder)
            judge(checks, f"{name}: PyTorch", values_of(result), case.wanted)
            _, out, _, _ = harness.command(binary, "check", str(folder / "model.mlpackage"), "--json", check=False)
            judged = json.loads(out)["models"][0]["chips"][0]["functions"][0]
            computing = [o for o in model._mil_program.functions["main"].operations if o.op_type != "const"]
            placed = judged["engine"] + judged["gpu"] + judged["cpu"]
            checks.check(f"{name}: check places every operation", judged["operations"] == placed == len(computing), f"{placed} of {len(computing)}")


class Attention(torch.nn.Module):
    """What stays one operation from iOS 18 on: scaled_dot_product_attention."""

    def forward(self, query, key, value, mask):
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def attention(checks, binary: Path, folder: Path) -> None:
    torch.manual_seed(3)
    inputs = {name: torch.randn(1, 3, length, 20) for name, length in (("query", 7), ("key", 21), ("value", 21))}
    case = Case(Attention(), {**inputs, "mask": torch.randn(7, 21)})
    for precision in ("fp16", "fp32"):
        model = case.convert(precision, ct.target.iOS18)
        kinds = {operation.op_type for operation in model._mil_program.functions["main"].operations}
        checks.check(f"attention in one operation, {precision}", "scaled_dot_product_attention" in kinds, ", ".join(sorted(kinds)))
        judge(checks, f"attention in one operation, {precision}: PyTorch", values_of(run(binary, model, case.inputs, folder)), case.wanted)


def options_of_compression() -> dict:
    def palette(**settings):
        config = optimize.OpPalettizerConfig(mode="kmeans", weight_threshold=64, num_kmeans_workers=1, **settings)
        return lambda model: optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=config))

    def linear(**settings):
        config = optimize.OpLinearQuantizerConfig(weight_threshold=64, **settings)
        return lambda model: optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=config))

    def pruned(model):
        config = optimize.OpMagnitudePrunerConfig(target_sparsity=0.6, weight_threshold=64)
        return optimize.prune_weights(model, optimize.OptimizationConfig(global_config=config))

    grouped = dict(granularity="per_grouped_channel", group_size=8)
    return {
        "palettised, 8 bits": (palette(nbits=8), ct.target.iOS16),
        "palettised, 6 bits": (palette(nbits=6), ct.target.iOS16),
        "palettised, 4 bits": (palette(nbits=4), ct.target.iOS16),
        "palettised, 4 bits, iOS18": (palette(nbits=4), ct.target.iOS18),
        "palettised, 6 bits, grouped": (palette(nbits=6, **grouped), ct.target.iOS18),
        "palettised, 4 bits, grouped": (palette(nbits=4, **grouped), ct.target.iOS18),
        "palettised, 3 bits, vectors of 2": (palette(nbits=3, cluster_dim=2), ct.target.iOS18),
        "int8 per channel": (linear(mode="linear_symmetric", dtype="int8"), ct.target.iOS16),
        "uint8 per channel, with zero points": (linear(mode="linear", dtype="uint8"), ct.target.iOS16),
        "int8 per channel, iOS18": (linear(mode="linear_symmetric", dtype="int8"), ct.target.iOS18),
        "int4 in blocks of 16": (linear(mode="linear_symmetric", dtype="int4", granularity="per_block", block_size=16), ct.target.iOS18),
        "uint4 in blocks of 8, with zero points": (linear(mode="linear", dtype="uint4", granularity="per_block", block_size=8), ct.target.iOS18),
        "sparse": (pruned, ct.target.iOS16),
        "sparse, iOS18": (pruned, ct.target.iOS18),
    }


def against_decompressed(checks, binary: Path, folder: Path) -> None:
    torch.manual_seed(7)
    case = encoder_case(ENCODERS["bert"]())
    plain = {target: case.convert("fp16", target) for target in (ct.target.iOS16, ct.target.iOS18)}
    unlike = values_of(run(binary, plain[ct.target.iOS16], case.inputs, folder))
    for name, (compress, target) in options_of_compression().items():
        with checks.guard(name):
            packed = compress(plain[target])
            kinds = sorted({o.op_type for o in packed._mil_program.functions["main"].operations if o.op_type.startswith("constexpr")})
            checks.check(f"{name}: packed", bool(kinds), ", ".join(kinds))
            got = values_of(run(binary, packed, case.inputs, folder))
            twin = values_of(run(binary, optimize.decompress_weights(packed), case.inputs, folder))
            judge(checks, f"{name}: its decompressed twin", got, twin)
            checks.check(f"{name}: the same numbers", np.abs(got - twin).max() <= BETWEEN * np.abs(twin).max(), f"{np.abs(got - twin).max():.2e}")
            checks.check(f"{name}: not the plain model's", np.abs(got - unlike).max() > 0, f"cosine {cosine(got, unlike):.5f} to it")


def modes(checks, binary: Path, folder: Path) -> None:
    """Threads change nothing; sums in fp16 and no rounding change a little; what overflows is named."""
    torch.manual_seed(9)
    case = encoder_case(ENCODERS["distilbert"]())
    model = case.convert("fp16", ct.target.iOS16)
    plain = values_of(run(binary, model, case.inputs, folder))
    checks.check("two threads give the same bits", np.array_equal(plain, values_of(run(binary, model, case.inputs, folder, "--threads", "2"))))
    half = values_of(run(binary, model, case.inputs, folder, "--accumulate", "f16"))
    judge(checks, "sums in fp16", half, case.wanted, 0.999)
    exact = values_of(run(binary, model, case.inputs, folder, "--no-rounding"))
    checks.check("without rounding it is nearer to PyTorch", np.abs(exact - case.wanted).max() < np.abs(plain - case.wanted).max(),
                 f"{np.abs(exact - case.wanted).max():.1e} against {np.abs(plain - case.wanted).max():.1e}")

    class Squares(torch.nn.Module):
        def forward(self, x):
            return (x * x).sum(1)

    loud = Case(Squares(), {"x": torch.tensor([[1.0, 300.0, -2.0]])})
    events = run(binary, loud.convert("fp16", ct.target.iOS16), loud.inputs, folder)["events"]
    checks.check("300 squared is named as an overflow", bool(events) and events[0]["kind"] == "overflow" and events[0]["index"] == 1, events)


def refusals(checks, binary: Path, folder: Path) -> None:
    """What is wrong is said with what to do, and no number is made to fit."""
    torch.manual_seed(10)

    class Wide(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.linear = torch.nn.Embedding(7, 700), torch.nn.Linear(700, 700)

        def forward(self, ids):
            return self.linear(self.rows(ids))

    case = Case(Wide(), {"ids": torch.randint(0, 7, (1, TOKENS))})
    run(binary, case.convert("fp16", ct.target.iOS16), case.inputs, folder)

    def fails(*options: str) -> str:
        status, _, err, _ = harness.command(binary, "run-package", str(folder / "model.mlpackage"), "--inputs", str(folder / "inputs.json"),
                                            *options, check=False)
        return err if status else ""

    err = fails("--memory-gib", "0.001")
    checks.check("too little memory names the option that gives more", "--memory-gib" in err, err.strip()[-120:])
    (folder / "inputs.json").write_text(json.dumps({"ids": [[2147483648] * TOKENS]}))
    err = fails()
    checks.check("a whole number past int32 is refused", "2147483648 is no int32" in err, err.strip()[-120:])


def main() -> int:
    given = harness.arguments(__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    checks = harness.Checks()
    with tempfile.TemporaryDirectory(prefix="impetus-coreml-") as name:
        folder = Path(name)
        against_torch(checks, given.impetus, folder)
        for part in (other_families, attention, against_decompressed, modes, refusals):
            with checks.guard(part.__name__):
                part(checks, given.impetus, folder)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

"""The Core ML packages that `impetus convert` writes, before coremltools.

coremltools loads each of them, rebuilds and type-checks the program, and its own decoders give the weights back:
held against the safetensors file, rounded or quantised here anew, in numpy. Then the numbers: the lowest cosine
to the f32 encoder by model and precision, as `convert` measures it in the emulator.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from harness import CACHE, REPOSITORY, TEST_DATA, Checks, arguments, command, command_json
from minilm import model_folder

PRECISIONS = ["fp16", "int8", "palettized8", "palettized6", "palettized4", "w8a8"]
LOWEST = {"fp16": 0.9999, "int8": 0.999, "palettized8": 0.998, "palettized6": 0.998}  # the others are reported
SPECIFICATIONS = {13: 7, 14: 8, 15: 9}
HEAD_SCALED = "attention_query"
ONE_WORD = ["yes", "no", "Hello", "okay", "sad", "catch", "war", "7", "?", "."]  # few tokens, so that each rounding shows


def source_names(family: str, layer: int) -> dict[str, str]:
    """The program's name of a linear layer -> the checkpoint's."""
    if family == "distilbert":
        p = f"transformer.layer.{layer}."
        names = [p + n for n in ("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2")]
    else:
        p = f"encoder.layer.{layer}."
        names = [p + n for n in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
                                 "intermediate.dense", "output.dense")]
    ours = ("attention_query", "attention_key", "attention_value", "attention_output", "feed_forward_up", "feed_forward_down")
    return {f"layer_{layer}_{a}": b for a, b in zip(ours, names)}


def f16_at_least(values: np.ndarray) -> np.ndarray:
    halves = values.astype(np.float16)
    return np.where(halves.astype(np.float32) < values, np.nextafter(halves, np.float16(np.inf)), halves)


def int8_twin(weight: np.ndarray) -> np.ndarray:
    largest = np.abs(weight).max(axis=1)
    scale = np.where(largest > 0, f16_at_least(largest / np.float32(127)), np.float16(1)).astype(np.float32)[:, None]
    return (np.clip(np.rint(weight / scale), -127, 127) * scale).astype(np.float16)


def decoded(variable) -> np.ndarray:
    """A weight's values as coremltools decodes them."""
    if variable.op.op_type.startswith("constexpr_"):
        return variable.op.materialized_val_inference()
    return variable.val


def entries_by_group(variable) -> tuple[np.ndarray, int]:
    """A palette's entries [groups, entries], and its groups."""
    lut = variable.op.lut.val
    if lut.ndim == 1:
        return lut[None, :], 1
    return lut.reshape(lut.shape[0], -1), lut.shape[0]


def weight_errors(precision: str, variable, source: np.ndarray) -> str:
    """Empty where the decoded weight is what the precision makes of the source."""
    got = np.asarray(decoded(variable))
    if got.dtype != np.float16 or got.shape != (*source.shape, 1, 1):
        return f"{got.dtype} {got.shape}"
    got = got.reshape(source.shape)
    if precision == "fp16":
        return "" if np.array_equal(got, source.astype(np.float16)) else "not the source rounded to fp16"
    table = variable.op.op_type == "constexpr_lut_to_dense"  # int8 takes one where outliers are
    if precision == "w8a8" or (precision == "int8" and not table):
        return "" if np.array_equal(got, int8_twin(source)) else "not the source in 8 bits by row"
    entries, groups = entries_by_group(variable)
    halves = source.astype(np.float16).astype(np.float32).reshape(groups, -1)
    for group, lut in enumerate(entries.astype(np.float32)):
        values = got.astype(np.float32).reshape(groups, -1)[group]
        order = np.unique(lut)
        place = np.searchsorted(order, halves[group]).clip(1, max(len(order) - 1, 1))
        nearest = np.minimum(np.abs(halves[group] - order[place - 1]), np.abs(halves[group] - order[np.minimum(place, len(order) - 1)]))
        if not np.array_equal(np.abs(values - halves[group]), nearest):
            return f"group {group}: not every weight has its nearest entry"
    noise = ((got.astype(np.float64) - source) ** 2).mean() / (source.astype(np.float64) ** 2).mean()
    floor = {8: 38, 6: 26, 4: 14}[int(np.log2(entries.shape[1]))]
    return "" if -10 * np.log10(max(noise, 1e-12)) > floor else f"{-10 * np.log10(noise):.1f} dB, below {floor}"


class Reader:
    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import coremltools
            from coremltools.converters.mil.frontend.milproto import load
        self.coremltools, self.milproto = coremltools, load

    def program(self, package: Path):
        spec = self.coremltools.utils.load_spec(str(package))
        self.coremltools.models.MLModel(str(package), skip_model_load=True)
        program = self.milproto.load(spec, specification_version=spec.specificationVersion,
                                     file_weights_dir=str(next(package.glob("Data/*/weights"))))
        program.validate()
        return spec, program


def convert(binary: Path, folder: Path, out: Path, precision: str, macos: int, shapes: str, *more: str) -> dict:
    return command_json(binary, "convert", str(folder), "--out", str(out), "--precision", precision, "--macos", str(macos),
                        "--shapes", shapes, *more, timeout=1200)


def check_package(checks: Checks, reader: Reader, label: str, package: dict, precision: str, macos: int, config: dict, weights: dict) -> None:
    spec, program = reader.program(Path(package["path"]))
    checks.check(f"{label}: specification {SPECIFICATIONS[macos]}, author", spec.specificationVersion == SPECIFICATIONS[macos]
                 and spec.description.metadata.author == "Impetus" and spec.description.metadata.userDefined["org.impetus.precision"] == precision)
    wanted = [f"encode_{s:.0f}" for s in package["shapes"]] if macos == 15 else ["main"]
    described = [f.name for f in spec.description.functions] if macos == 15 else ["main"]
    checks.check(f"{label}: functions", sorted(program.functions) == sorted(wanted) == sorted(described), f"{sorted(program.functions)}")
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    width = config.get("hidden_size", config.get("dim"))
    heads = config.get("num_attention_heads", config.get("n_heads"))
    sources = {ours: theirs for i in range(layers) for ours, theirs in source_names(config["model_type"], i).items()}
    for name, function in program.functions.items():
        bad = []
        convolutions = {op.name: op for op in function.operations if op.op_type == "conv"}
        if sorted(convolutions) != sorted(sources):
            bad.append(f"its convolutions are {sorted(convolutions)[:3]}...")
        for ours, theirs in sources.items():
            scale = np.float32(1) / np.sqrt(np.float32(width // heads)) if HEAD_SCALED in ours else np.float32(1)
            source = weights[theirs + ".weight"].astype(np.float32) * scale
            if why := weight_errors(precision, convolutions[ours].weight, source):
                bad.append(f"{ours}: {why}")
            bias = (weights[theirs + ".bias"].astype(np.float32) * scale).astype(np.float16)
            if not np.array_equal(convolutions[ours].bias.val, bias):
                bad.append(f"{ours}: bias")
        checks.check(f"{label}: {name}: {len(sources)} weights read back", not bad, "; ".join(bad[:3]))


def random_distilbert() -> Path:
    """DistilBERT's full size, 66 million random parameters spread as its config says (initializer_range 0.02), with
    bert-base-uncased's vocabulary."""
    from safetensors.numpy import save_file

    folder = CACHE / "random-distilbert"
    if (folder / "model.safetensors").exists():
        return folder
    staging = folder.with_suffix(".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for path in (TEST_DATA / "tokenizers/bert-uncased").iterdir():
        if path.is_file():
            shutil.copy(path, staging / path.name)
    vocab, width, inner = 30522, 768, 3072
    random = np.random.default_rng(4)
    normal = lambda *shape: (random.standard_normal(shape, dtype=np.float32) * np.float32(0.02))  # noqa: E731
    tensors = {"embeddings.word_embeddings.weight": normal(vocab, width), "embeddings.position_embeddings.weight": normal(512, width)}

    def norm(name):
        tensors[name + ".weight"] = 1 + normal(width)
        tensors[name + ".bias"] = normal(width)

    norm("embeddings.LayerNorm")
    for i in range(6):
        for ours, theirs in source_names("distilbert", i).items():
            out, inside = (inner, width) if ours.endswith("_up") else (width, inner) if ours.endswith("_down") else (width, width)
            tensors[theirs + ".weight"], tensors[theirs + ".bias"] = normal(out, inside), normal(out)
        norm(f"transformer.layer.{i}.sa_layer_norm")
        norm(f"transformer.layer.{i}.output_layer_norm")
    save_file(tensors, str(staging / "model.safetensors"))
    (staging / "config.json").write_text(json.dumps({
        "architectures": ["DistilBertModel"], "model_type": "distilbert", "dim": width, "n_layers": 6, "n_heads": 12, "hidden_dim": inner,
        "vocab_size": vocab, "max_position_embeddings": 512, "activation": "gelu", "sinusoidal_pos_embds": False}))
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return folder


def similarity_pairs() -> list[tuple[str, str, float]]:
    table = TEST_DATA / "similarity/stsb-en-dev.csv"
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [row[:3] for row in csv.reader(stream)]
    return [(a, b, float(score)) for a, b, score in rows if not a.startswith("-") and not b.startswith("-")]


def spearman(a, b) -> float:
    ranks = [np.unique(np.asarray(x), return_inverse=True)[1] for x in (a, b)]
    middle = [(np.cumsum(np.bincount(r)) - (np.bincount(r) - 1) / 2)[r] for r in ranks]  # ties share their mean rank
    return float(np.corrcoef(*middle)[0, 1])


def check_similarity(checks: Checks, binary: Path, folder: Path, pairs: list) -> None:
    """Scores of pairs, through the device that imitates the engine, beside the CPU's in f32."""
    texts = [text for pair in pairs for text in pair[:2]]
    wanted = [pair[2] for pair in pairs]

    def scores(*options: str) -> np.ndarray:
        rows = []
        for first in range(0, len(texts), 64):  # options last: lists of names would take the texts in
            rows += json.loads(command(binary, "embed", "--json", str(folder), *texts[first : first + 64], *options)[1])["embeddings"]
        vectors = np.array(rows, np.float64)
        return (vectors[0::2] * vectors[1::2]).sum(1) / (np.linalg.norm(vectors[0::2], axis=1) * np.linalg.norm(vectors[1::2], axis=1))

    reference = None
    for precision in ("fp16", "int8"):
        with checks.guard(f"{folder.name}: similarity in {precision}"):
            reference = scores("--device", "cpu") if reference is None else reference
            got = scores("--device", "coreml-emulated", "--fallback", "forbid", "--coreml-precision", precision, "--coreml-shapes", "16,32,64,128")
            ours, theirs = spearman(got, wanted), spearman(reference, wanted)
            checks.check(f"{folder.name}: similarity in {precision} within 0.5 % of f32", abs(ours - theirs) <= 0.005 * theirs,
                         f"Spearman {ours:.4f} and {theirs:.4f} over {len(pairs)} pairs, largest difference of a score {np.abs(got - reference).max():.4f}")


def main() -> int:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200, help="of similarity, through the emulated device")
    given = parser.parse_args()
    checks = Checks()
    from safetensors.numpy import load_file

    reader = Reader()
    figures = []
    models = [(REPOSITORY / "models/impetus-tiny-embed", (13, 14, 15)), (model_folder(), (13, 15))]
    if (TEST_DATA / "tokenizers/bert-uncased").exists():
        models.append((random_distilbert(), (15,)))
    pairs = similarity_pairs()
    with tempfile.TemporaryDirectory() as temporary:
        compare = []
        if pairs:
            texts = Path(temporary) / "texts"
            sentences = [first for first, _, _ in pairs[:60]]
            texts.write_text("".join(text + "\n" for text in sentences), encoding="utf-8")
            more = Path(temporary) / "more"
            more.write_text("".join(text + "\n" for text in ONE_WORD + sentences), encoding="utf-8")
        for folder, systems in models:
            config = json.loads((folder / "config.json").read_text())
            weights = {n.removeprefix("bert.").removeprefix("distilbert."): w for n, w in load_file(str(folder / "model.safetensors")).items()}
            for macos in systems:
                for precision in PRECISIONS:
                    if precision == "w8a8" and macos == 13:
                        continue
                    label = f"{folder.name}, {precision}, macOS {macos}"
                    with checks.guard(label):
                        out = Path(temporary) / f"{folder.name}-{precision}-{macos}.mlpackage"
                        if pairs:  # one-word texts are past what fewer than 8 bits can hold
                            compare = ["--compare", str(more if precision in ("fp16", "int8", "palettized8") else texts)]
                        report = convert(given.impetus, folder, out, precision, macos, "16,64", "--force", *compare)
                        quality = report["quality"]
                        lowest = quality["text_cosine_lowest"]
                        checks.check(f"{label}: cosine >= {LOWEST.get(precision, 0)}", lowest >= LOWEST.get(precision, 0),
                                     f"{lowest:.6f} of {quality['texts']:.0f} texts, of a token {quality['token_cosine_lowest']:.6f}")
                        size = sum(p["bytes"] for p in report["packages"])
                        figures.append((folder.name, precision, macos, lowest, quality["token_cosine_lowest"], size, report["seconds"]))
                        for package in report["packages"]:
                            check_package(checks, reader, label, package, precision, macos, config, weights)
                            shutil.rmtree(package["path"])
    for folder, _ in models[:2]:
        with checks.guard(f"{folder.name}: ranges"):
            ranges = command_json(given.impetus, "check", str(folder), "--chip", "m4", "--shapes", "64")["models"][0]["ranges"]
            checks.check(f"{folder.name}: the check measures its values", ranges["measured"] and 1 < ranges["norm_input_max"] < 256,
                         f"norms see at most {ranges.get('norm_input_max')} ({ranges.get('norm_input_tensor')})")
    for folder, _ in models[:2] if pairs else []:
        check_similarity(checks, given.impetus, folder, pairs[:: max(1, len(pairs) // given.pairs)][: given.pairs])
    print(f"{'model':28}{'precision':13}{'macOS':>6}{'cosine':>11}{'of a token':>12}{'MB':>8}{'s':>7}")
    for name, precision, macos, lowest, token, size, seconds in figures:
        print(f"{name:28}{precision:13}{macos:>6}{lowest:>11.6f}{token:>12.6f}{size / 1e6:>8.1f}{seconds:>7.1f}")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Writes tests/golden/mlx_quantised.safetensors: matrices quantised by MLX's own quantiser, every bits x group x
type of scales, and what its own dequantiser makes of them in f32 (`NAME.expected`).

    pip install mlx mlx-cpu && python3 tests/golden/make_mlx_quantised.py
"""
from pathlib import Path

import mlx.core as mx

ROWS, COLUMNS = 2, 128


def main() -> None:
    mx.random.seed(17)
    tensors = {}
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        kind = {mx.float32: "f32", mx.float16: "f16", mx.bfloat16: "bf16"}[dtype]
        for bits in (2, 3, 4, 5, 6, 8):
            for group in (32, 64, 128):
                weight = (mx.random.normal((ROWS, COLUMNS)) * 0.3).astype(dtype)
                codes, scales, biases = mx.quantize(weight, group, bits)
                name = f"b{bits}_g{group}_{kind}"
                tensors |= {f"{name}.weight": codes, f"{name}.scales": scales, f"{name}.biases": biases}
                tensors[f"{name}.expected"] = mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), group, bits)
    weight = mx.random.normal((ROWS, COLUMNS)) * mx.power(2.0, mx.arange(ROWS * COLUMNS) // 32 - 4).reshape(ROWS, COLUMNS)
    codes, scales = mx.quantize(weight, mode="mxfp4")
    tensors |= {"mxfp4.weight": codes, "mxfp4.scales": scales}
    tensors["mxfp4.expected"] = mx.dequantize(codes, scales, mode="mxfp4").astype(mx.float32)
    tensors["plain.weight"] = mx.random.normal((3, 8))
    mx.save_safetensors(str(Path(__file__).with_name("mlx_quantised.safetensors")), tensors)


if __name__ == "__main__":
    main()

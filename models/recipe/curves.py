#!/usr/bin/env python3
"""Draws the training of a model from the chat-curve.json or embed-curve.json that train.py writes.

    python3 models/recipe/curves.py build/models/chat-curve.json models/impetus-tiny-chat/training.png
    python3 models/recipe/curves.py build/models/embed-curve.json models/impetus-tiny-embed/training.png
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


def encoder(curve):
    steps = [line["step"] for line in curve]
    figure, left = plt.subplots(figsize=(7, 3.4), dpi=100)
    left.plot(steps, [line["relate"] for line in curve], color="#9bb", linewidth=1, label="training: squared error of similarities")
    left.set_xlabel("steps")
    left.set_ylabel("error of similarities")
    left.set_yscale("log")
    right = left.twinx()
    right.plot(steps, [line["held_out_cosine"] for line in curve], color="#135", label="held out: cosine to the teacher's vector")
    right.set_ylabel("cosine to the teacher")
    right.set_ylim(0.5, 1)
    return figure, left, right


def chat(curve):
    trunk = [line for line in curve if line["part"] == "trunk"]
    figure, left = plt.subplots(figsize=(7, 3.4), dpi=100)
    left.plot([line["tokens"] / 1e6 for line in trunk], [line["loss"] for line in trunk], color="#9bb", linewidth=1, label="training loss (weighted, nats a token)")
    left.set_xlabel("million tokens")
    left.set_ylabel("training loss")
    left.set_ylim(2, 5)
    right = left.twinx()
    held = [line for line in trunk if "held_out_bits_per_byte" in line]
    right.plot([line["tokens"] / 1e6 for line in held], [line["held_out_bits_per_byte"] for line in held], color="#135", label="held-out bits per byte")
    at = trunk[-1]["tokens"]
    for name in dict.fromkeys(line["part"] for line in curve if line["part"] != "trunk"):
        part = [line for line in curve if line["part"] == name]
        last = [line for line in part if "held_out_bits_per_byte" in line][-1]
        end = (at + last["tokens"] - part[0]["tokens"]) / 1e6  # each begins where the trunk ended
        right.plot([at / 1e6, end], [held[-1]["held_out_bits_per_byte"], last["held_out_bits_per_byte"]], color="#c53", linewidth=1.5,
                   label="tunings, of which the mean is kept" if name == next(line["part"] for line in curve if line["part"] != "trunk") else None)
    right.set_ylabel("held-out bits per byte")
    right.set_ylim(1.1, 1.8)
    return figure, left, right


def main(source, target) -> None:
    with open(source, encoding="utf-8") as stream:
        curve = json.load(stream)
    figure, left, right = (chat if "part" in curve[0] else encoder)(curve)
    lines = left.get_lines() + [line for line in right.get_lines() if not line.get_label().startswith("_")]
    left.legend(lines, [line.get_label() for line in lines], loc="center right", frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(target)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

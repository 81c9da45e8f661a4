#!/usr/bin/env python3
"""Measures the two models as they are shipped; a GPU is not needed, but quicker.

    python3 models/recipe/evaluate.py [--only chat|embed] [--questions 200]
"""
import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=HERE.parent, help="folder that holds both models")
    parser.add_argument("--only", choices=["chat", "embed"])
    parser.add_argument("--questions", type=int, default=0, help="ask only so many of the held-out questions")
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    args = parser.parse_args()

    import torch

    from recipe import chat_eval, corpus as corpora, embed_eval

    device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus, figures = corpora.load(), {}
    if args.only != "embed":
        path = args.models / "impetus-tiny-chat" / "impetus-tiny-chat.gguf"
        figures["chat"] = chat_eval.evaluate(path, corpus, device, print, args.questions)
    if args.only != "chat":
        figures["embed"] = embed_eval.evaluate(args.models / "impetus-tiny-embed", device, print, corpus)
    text = json.dumps(figures, indent=1, ensure_ascii=False)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

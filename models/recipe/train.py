#!/usr/bin/env python3
"""Makes impetus-tiny-chat and impetus-tiny-embed from public text: see README.md.

    python3 models/recipe/train.py --out build/models
"""
import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the two models and their figures")
    parser.add_argument("--only", choices=["chat", "embed"], help="make only one of them")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes and a few steps: does everything run?")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    parser.add_argument("--steps", type=int, help="pre-training steps of the chat model instead of the plan's")
    parser.add_argument("--embed-steps", type=int, help="training steps of the encoder instead of the plan's")
    args = parser.parse_args()

    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.time()

    def log(text: str) -> None:
        print(f"[{time.time() - began:6.1f} s] {text}", flush=True)

    if args.only != "embed":
        from recipe import chat_eval, chat_train
        from recipe.chat_model import Shape

        plan = chat_train.SMOKE if args.smoke else chat_train.Plan(Shape())
        plan.trunk.steps = args.steps or plan.trunk.steps
        corpus = chat_train.run(plan, args.out, device, log)
        figures = chat_eval.evaluate(args.out / "impetus-tiny-chat.gguf", corpus, device, log, limit=8 if args.smoke else 0)
        (args.out / "chat-figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False))
        log(json.dumps({k: v for k, v in figures.items() if not isinstance(v, list)}))
    if args.only != "chat":
        from recipe import embed_eval, embed_train

        plan = embed_train.SMOKE if args.smoke else embed_train.Plan()
        plan.steps = args.embed_steps or plan.steps
        corpus = embed_train.run(plan, args.out, device, log)
        figures = embed_eval.evaluate(args.out / "impetus-tiny-embed", device, log, corpus, limit=8 if args.smoke else 0)
        (args.out / "embed-figures.json").write_text(json.dumps(figures, indent=1))
        log(json.dumps(figures))


if __name__ == "__main__":
    main()

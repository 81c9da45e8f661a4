"""The openai Node client, unmodified, against `impetus serve`. Needs node and npm; on request only."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from harness import CACHE, Checks, Server, model_id, server_arguments

PACKAGE = "openai@6.49.0"


def main() -> int:
    given = server_arguments(__doc__.splitlines()[0]).parse_args()
    checks = Checks()
    if not (shutil.which("node") and shutil.which("npm")):
        checks.skip("openai_node", "node and npm are not installed")
        return checks.finish()
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules/openai").is_dir():
        subprocess.run(["npm", "install", "--no-fund", "--no-audit", "--prefix", folder, PACKAGE], check=True, stdout=subprocess.DEVNULL)
    script = folder / "openai_node.mjs"  # modules are looked up from the script's own folder
    shutil.copyfile(Path(__file__).with_name("openai_node.mjs"), script)
    with Server(given.impetus, [given.chat_model, given.embed_model], threads=given.threads) as server:
        done = subprocess.run(["node", script, f"{server.base}/v1", model_id(given.chat_model), model_id(given.embed_model)],
                              stdout=subprocess.PIPE, text=True, timeout=300)
        for line in done.stdout.splitlines():
            print(line)
            checks.passed += line.startswith("ok")
            checks.failed += line.startswith("FAIL")
        checks.check("node: ended well", done.returncode == 0, done.returncode)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())

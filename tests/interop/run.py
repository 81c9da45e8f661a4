#!/usr/bin/env python3
"""All interop checks in a virtual environment of their own; ends with `N passed, N failed`.

Exit status: 0 all passed, 1 a check failed, 2 wrong use, 69 the packages could not be installed (no registry).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
NO_REGISTRY = 69  # sysexits' EX_UNAVAILABLE

# name, needs the packages, extra arguments by default
SCRIPTS = [
    ("decoder_refs", False, []),
    ("gguf_types", True, []),
    ("minilm", True, []),
    ("coreml_emulate", True, []),
    ("coreml_writer", True, []),
    ("openai_client", True, []),
    ("fuzz_http", False, []),
    ("batching", True, []),
    ("load_50", False, ["--seconds", "20"]),
]
# mlx_lm wants a binary with MLX and an environment with mlx-lm: `scripts/test-part mlx` has both. Its speed is judged by hand, on
# a quiet machine; here it must only not be another kind of slow.
ON_REQUEST = {"memory_1b": (True, []), "openai_node": (False, []), "mlx_lm": (True, ["--rounds", "3", "--least", "0.4"])}


def environment(folder: Path) -> Path:
    """The environment's python, with the pinned packages in it; installs only when the list has changed."""
    wanted = HERE / "requirements.txt"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()
    stamp = folder / "installed"
    python = folder / "bin/python"
    if stamp.exists() and stamp.read_text() == digest and python.exists():
        return python
    print(f"installing {wanted.relative_to(REPOSITORY)} into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted])
    if done.returncode != 0:
        print(f"\nThe Python packages of {wanted.relative_to(REPOSITORY)} could not be installed: is a package registry reachable?\n"
              "The checks that need them were not run. (Set IMPETUS_INTEROP_VENV to an environment that has them.)", file=sys.stderr)
        sys.exit(NO_REGISTRY)
    stamp.write_text(digest)
    return python


def default_binary() -> Path | None:
    for folder in ("build", "build/release", "build-release"):
        for place in ("bin/impetus", "src/cli/impetus", "impetus"):
            if (REPOSITORY / folder / place).is_file():
                return REPOSITORY / folder / place
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impetus", type=Path, default=default_binary(), help="the binary under test")
    parser.add_argument("--build", type=Path, default=REPOSITORY / "build", help="where the environment and the cache live")
    parser.add_argument("--load-seconds", type=float, help="how long load_50 runs (default 20)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join([n for n, _, _ in SCRIPTS] + sorted(ON_REQUEST))}")
    given = parser.parse_args()
    known = {name: (packages, extra) for name, packages, extra in SCRIPTS} | ON_REQUEST
    chosen = given.names or [name for name, _, _ in SCRIPTS]
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no such check: {', '.join(unknown)}")
    if given.impetus is None or not given.impetus.is_file():
        parser.error("no binary; build it, or name it with --impetus PATH")

    python = Path(sys.executable)
    if any(known[name][0] for name in chosen):
        own = os.environ.get("IMPETUS_INTEROP_VENV")
        python = Path(own) / "bin/python" if own else environment(given.build.resolve() / "interop/venv")
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    variables.setdefault("IMPETUS_INTEROP_CACHE", str(given.build.resolve() / "interop/cache"))

    passed = failed = 0
    lines = []
    for name in chosen:
        extra = known[name][1]
        if name == "load_50" and given.load_seconds is not None:
            extra = ["--seconds", str(given.load_seconds)]
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        process = subprocess.Popen([python, HERE / f"{name}.py", "--impetus", given.impetus.resolve(), *extra], env=variables,
                                   stdout=subprocess.PIPE, text=True, errors="replace")
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if line.strip() else last
        status = process.wait()
        counts = re.match(r"(\d+) passed, (\d+) failed", last)
        ok, bad = (int(counts.group(1)), int(counts.group(2))) if counts else (0, 1)
        if status != 0 and bad == 0:  # it ended badly after its last line
            bad = 1
        passed, failed = passed + ok, failed + bad
        lines.append(f"{name:16}{ok:5} passed {bad:4} failed   {time.monotonic() - start:6.1f} s" + ("" if counts else f"   ended with {status} and no count"))
    print("\n" + "\n".join(lines))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

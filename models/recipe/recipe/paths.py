"""Where things lie: the data comes from one variable, everything else is told on the command line."""
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def data_dir() -> Path:
    path = Path(os.environ.get("IMPETUS_TEST_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not (path / "corpora" / "stories.tar.xz").exists():
        raise SystemExit(f"no corpora under {path}: set IMPETUS_TEST_DATA to the data folder (see README.md)")
    return path

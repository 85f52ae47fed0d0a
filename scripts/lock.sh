#!/usr/bin/env bash
# Write scripts/lock.txt anew: the version and the hashes of everything that development and CI install, for Python 3.11
# to 3.13 on all systems. Torch and what comes with it are left out: scripts/install.py chooses their build.
# Needs uv (pip install uv). To take newer versions within the ranges of pyproject.toml: bash scripts/lock.sh --upgrade
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-annotate \
    --emit-build-options --constraint <(echo "torch==2.13.0") --no-emit-package torch --custom-compile-command "bash scripts/lock.sh" \
    --output-file scripts/lock.txt --quiet "$@"
# uv resolves torch's build with CUDA: its libraries are not for everyone
python3 - << 'PYTHON'
import re
from pathlib import Path

path = Path("scripts/lock.txt")
parts = re.split(r"^(?=[\w.-]+==)", path.read_text(), flags=re.MULTILINE)
path.write_text("".join(part for part in parts if not re.match(r"(nvidia|cuda)-", part)))
PYTHON

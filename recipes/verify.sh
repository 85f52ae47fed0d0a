#!/usr/bin/env bash
# The bundled model with the demo's factors, in four layouts, opened in four runtimes: the table of docs/verify.md, in
# two minutes. Needs: longrope[gguf], and PyPI within reach, from where `longrope verify` installs the runtimes; for vLLM,
# in VLLM_PYTHON, the Python of an environment that holds it and longrope.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=$PWD/runs/verify factors=$PWD/results/demo/factors.json
mkdir -p "$run"
cd "$run"

export_nano() { longrope export --model nano --factors "$factors" --out "$@"; }
export_nano single --to hf
export_nano two --to hf --factor-sets two
export_nano static.gguf --to gguf
export_nano two.gguf --to gguf --layout longrope --factor-sets two

verify() { longrope verify "$@" --lengths 128,256,512 --json || true; } # 1: not every client applied the scaling
clients=(--with transformers --with transformers-4.57 --with mlx-lm --with llama.cpp)
{
    verify single two static.gguf two.gguf "${clients[@]}"
    verify two --with mlx-lm-remote-code
    if [ -n "${VLLM_PYTHON:-}" ]; then
        longrope() { "$VLLM_PYTHON" -m longrope "$@"; }
        verify single two --with vllm
    fi
} | python3 -c '
import json, sys
text, reader = sys.stdin.read(), json.JSONDecoder()
while text.strip():
    rows, end = reader.raw_decode(text := text.lstrip())
    print(*map(json.dumps, rows), sep="\n")
    text = text[end:]
' > verify.jsonl

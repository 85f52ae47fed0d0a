#!/usr/bin/env bash
# Put factors for 32,768 tokens into the quantized SmolLM2, and ask both files for passkeys beyond 8,192 tokens in
# llama.cpp, on a CPU: 20 minutes on two free cores. Needs: what recipes/fetch.sh needs, longrope[gguf], and xllamacpp
# from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh

fetch_model data
file=data/SmolLM2-135M-Instruct.Q4_1.gguf run=runs/smollm2-32k-gguf
mkdir -p "$run"
python3 - "$file" > "$run/factors.json" << 'END'
import sys
from longrope import baseline_factors, load_model
from longrope.rope import dump_factors
print(dump_factors(baseline_factors(load_model(sys.argv[1]).spec, "critical", 32768)), end="")
END
longrope export --model "$file" --factors "$run/factors.json" --to gguf --out "$run/smollm2-32k.gguf"
python3 benchmarks/gguf_passkeys.py "$file" "$run/answers.jsonl" "$file" "$run/smollm2-32k.gguf" --tokens 9000

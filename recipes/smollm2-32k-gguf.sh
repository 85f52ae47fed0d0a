#!/usr/bin/env bash
# Put factors for 32,768 tokens into the quantized SmolLM2, and ask both files for passkeys beyond 8,192 tokens in
# llama.cpp, on a CPU: 20 minutes on two free cores. Then ask, at 12,288 tokens, the new file and one whose stated window
# is raised without factors, which takes longer. Started again, the last command reads on where it was.
# Needs: what recipes/fetch.sh needs, longrope[gguf], and xllamacpp from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/fetch.sh

fetch_model data
file=data/SmolLM2-135M-Instruct.Q4_1.gguf run=runs/smollm2-32k-gguf
mkdir -p "$run"
python3 - "$file" "$run" << 'END'
import sys
from dataclasses import replace
from pathlib import Path
from longrope import baseline_factors, load_model
from longrope.rope import dump_factors
file, run = sys.argv[1], Path(sys.argv[2])
factors = baseline_factors(load_model(file).spec, "critical", 32768).factor_sets[0]
none = replace(factors, lambdas=(1.0,) * len(factors.lambdas), attention_factor=1.0, method="")
(run / "factors.json").write_text(dump_factors(factors))
(run / "none.json").write_text(dump_factors(none))
END
longrope export --model "$file" --factors "$run/factors.json" --to gguf --out "$run/smollm2-32k.gguf"
longrope export --model "$file" --factors "$run/none.json" --to gguf --out "$run/smollm2-unscaled.gguf"
python3 benchmarks/gguf_passkeys.py "$file" "$run/answers.jsonl" "$file" "$run/smollm2-32k.gguf" --tokens 9000
python3 benchmarks/gguf_passkeys.py "$file" "$run/answers-12k.jsonl" "$run/smollm2-32k.gguf" "$run/smollm2-unscaled.gguf" \
    --tokens 12k --state "$run/state"

#!/usr/bin/env bash
# The bundled model with the demo's factors, in four layouts, opened in four runtimes: the table of docs/verify.md, in
# two minutes. Needs: longrope[gguf], and PyPI within reach, from where `longrope verify` installs the runtimes.
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

# Two lists with the window that the model card gives for mlx-lm, as load(..., model_config=config) takes it.
rm -rf two-mlx
cp -r two two-mlx
python3 - two-mlx << 'END_PYTHON'
import json, pathlib, re, sys
folder = pathlib.Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
[window] = re.findall(r'"original_max_position_embeddings"\] = (\d+)', (folder / "README.md").read_text())
config["rope_scaling"]["original_max_position_embeddings"] = int(window)
(folder / "config.json").write_text(json.dumps(config, indent=2))
END_PYTHON

verify() { longrope verify "$@" --lengths 128,256,512 --json || true; } # 1: not every client applied the scaling
clients=(--with transformers --with transformers-4.57 --with mlx-lm --with llama.cpp)
{
    verify single two static.gguf two.gguf "${clients[@]}"
    verify two-mlx --with mlx-lm
} | python3 -c '
import json, sys
text, reader = sys.stdin.read(), json.JSONDecoder()
while text.strip():
    rows, end = reader.raw_decode(text := text.lstrip())
    print(*map(json.dumps, rows), sep="\n")
    text = text[end:]
' > verify.jsonl

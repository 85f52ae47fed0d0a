"""Bad command lines, by command: what is wrong, the arguments, and words of the message.

``{model}`` and ``{data}`` are a pico model of 64 tokens and a folder of texts; other paths are those of ``bad_files``,
or of nothing. An option that is given twice has its last value.
"""

import json
from dataclasses import replace
from pathlib import Path

import pico

from longrope.models import read_spec
from longrope.recipe import Recipe, dump_recipe
from longrope.rope import RescaleFactors, dump_factors

EXTEND = "{model} --to 256 --data {data} --out run"
MEASURE = "{model} --data {data}"
FACTORS = "{model} --data {data} --lengths 256 --factors"
TUNE = "{model} --to 256 --data {data} --out run --factors"
RECIPE = "--out run --recipe"

COMMANDS = {
    "extend": [
        ("missing data", "{model} --to 256 --data nowhere", "nowhere does not exist"),
        ("data set without a split", "{model} --to 256 --data hf:wikitext", "hf:NAME:SPLIT"),
        ("weights of other data", f"{EXTEND} --data-weights 1,2", "data_weights has 2 numbers, and data 1 source."),
        ("unknown function", f"{EXTEND} --preprocess nowhere:clean", "--preprocess nowhere:clean cannot be loaded"),
        ("function of nothing", f"{EXTEND} --preprocess json", "--preprocess json cannot be loaded"),
        ("no function", f"{EXTEND} --preprocess sys:path", "--preprocess sys:path is not a function"),
        ("unknown encoding", f"{EXTEND} --encoding latin-99", "'latin-99' is not known"),
        ("empty data", "{model} --to 256 --data empty.txt", "empty.txt is blank"),
        ("short text", "{model} --to 256 --data short.txt", "windows of 256 tokens must fit"),
        ("target in the window", f"{EXTEND} --to 64", "trained on 64 tokens already"),
        ("target below the window", f"{EXTEND} --to 32", "trained on 64 tokens already"),
        ("wrong target", f"{EXTEND} --to 64q", "'64q'"),
        ("length of nothing", f"{EXTEND} --to 0", "'0'"),
        ("wrong length", f"{EXTEND} --lengths 64,64q", "'64q'"),
        ("unknown model", "nonsense --to 256 --data {data}", "nonsense"),
        ("gpt2", "gpt2 --to 256 --data {data}", "'gpt2'"),
        ("no tokenizer", "bare --to 256 --data {data}", "The tokenizer of 'bare' is missing"),
        ("no data", "{model} --to 256", "--data is missing"),
        ("run is a file", f"{EXTEND} --out empty.txt", "is a file"),
        ("unknown metric", f"{EXTEND} --metrics perplexity,beauty", "'beauty'"),
        ("unknown method", f"{EXTEND} --method genetic", "'genetic'"),
        ("unknown device", f"{EXTEND} --device abacus", "abacus"),
        ("unknown dtype", f"{EXTEND} --dtype float8", "'float8'"),
        ("negative seed", f"{EXTEND} --seed -1", "-1"),
        ("unknown preset", f"{EXTEND} --tune --preset falcon", "'falcon' is unknown. Known: llama2, mistral"),
        ("preset of nothing", f"{EXTEND} --preset llama2", "--preset is given, and nothing is tuned"),
        ("steps of nothing", f"{EXTEND} --steps 5 --rate 1e-4", "--steps and --rate are given, and nothing is tuned"),
        ("no steps", f"{EXTEND} --tune --steps 0", "tune.steps = 0"),
        ("no rate", f"{EXTEND} --tune --rate 0", "tune.learning_rate = 0.0"),
        ("negative rank", f"{EXTEND} --tune --lora -1", "tune.lora_rank = -1"),
        ("recipe typo", f"{RECIPE} typo.toml", "nearest known one is 'target_tokens'"),
        ("nested recipe typo", f"{RECIPE} nested.toml", "nearest known one is 'search.method'"),
        ("recipe of wrong type", f"{RECIPE} type.toml", "seed = 1.5"),
        ("broken recipe", f"{RECIPE} broken.toml", "broken.toml cannot be read"),
        ("no recipe", f"{RECIPE} nothing.toml", "nothing.toml cannot be read"),
    ],
    "extend --set": [
        ("no key", f"search.gradient.step=4 {EXTEND}", "nearest known one is 'search.gradient.steps'"),
        ("no value", f"seed {EXTEND}", "--set 'seed'"),
        ("wrong type", f"search.gradient.steps=many {EXTEND}", "'many'"),
        ("wrong number", f"tune.learning_rate=fast {EXTEND}", "tune.learning_rate = 'fast'"),
        ("no boolean", f"compiled=yes {EXTEND}", "compiled = 'yes'"),
        ("out of bounds", f"search.gradient.steps=0 {EXTEND}", "search.gradient.steps = 0"),
        ("no table", f"stages=search {EXTEND}", "stages = 'search'"),
        ("nothing tuned", f"tune.steps=40 {EXTEND}", "--set tune.steps=40 is given, and nothing is tuned"),
    ],
    "measure": [
        ("no data", "{model}", "--data"),
        ("unknown metric", f"{MEASURE} --metrics beauty", "'beauty'"),
        ("wrong length", f"{MEASURE} --lengths 64q", "'64q'"),
        ("length of one token", f"{MEASURE} --lengths 1 --metrics perplexity", "1"),
        ("too short for passkeys", f"{MEASURE} --lengths 64", "passkey prompt of 64 tokens"),
        (
            "a search",
            f"{MEASURE} --set search.gradient.steps=4",
            "settings that begin with `measure.` have an effect",
        ),
        ("foreign factors", f"{FACTORS} foreign.json", "0123456789abcdef"),
        ("factors of another length", f"{FACTORS} eight.json", "8 lambdas"),
        ("nan factors", f"{FACTORS} nan.json", "lambdas[2] = nan"),
        ("decreasing factors", f"{FACTORS} decreasing.json", "lambdas[3] = 4.0 after 9.0 (decreasing)"),
        ("no factors", f"{FACTORS} nothing.json", "nothing.json cannot be read"),
        ("torn factors", f"{FACTORS} torn.json", "torn.json cannot be read"),
        ("factors that are a list", f"{FACTORS} list.json", "list.json cannot be read"),
        ("factors for less", f"{FACTORS} good.json --lengths 512", "512 tokens"),
    ],
    "tune": [
        ("to nothing", "{model} --data {data} --out run --factors good.json", "--to is missing"),
        ("beyond the factors", f"{TUNE} good.json --to 512", "512 tokens"),
        ("foreign factors", f"{TUNE} foreign.json", "0123456789abcdef"),
        ("short text", "{model} --to 256 --data short.txt --factors good.json", "window of 256 tokens must fit"),
        ("unknown preset", f"{TUNE} good.json --preset falcon", "'falcon' is unknown. Known: llama2, mistral"),
    ],
    "inspect": [
        ("unknown model", "nonsense", "nonsense"),
        ("gpt2", "gpt2", "'gpt2'"),
        ("broken config", "broken", "broken"),
        ("empty config", "empty", "empty"),
        ("no such model", "no/such/model", "no such file or folder is here"),
        ("no such gguf file", "data/model.gguf", "There is no file 'data/model.gguf'"),
        ("a text as a model", "short.txt", "is a file, but no .gguf"),
        ("wrong length", "{model} --to 64q", "'64q'"),
    ],
    "compare": [
        ("no arguments", "", "MODEL and --to and --data are missing"),
        ("no target", "{model} --data {data}", "--to is missing"),
    ],
    "search": [("no model", "--to 256 --data {data}", "MODEL is missing")],
    "export": [
        ("elsewhere", "old --to onnx", "'onnx'"),
        ("snippets of nothing", "no-run --to snippet", "has no checkpoint"),
        ("nothing", "no-run", "no-run"),
        ("factor sets", "old --factor-sets three", "three"),
        ("no run", "", "No run is given, and --model and --factors and --out are missing"),
        ("no path", "--model {model} --factors good.json --to gguf", "--out is missing"),
        ("two sources", "old --model {model}", "A run and --model are given"),
        ("layout of a folder", "old --layout static", "--layout is given, and the format is hf"),
        ("shards of a GGUF", "old --to gguf --max-shard-size 2GB", "--max-shard-size is given, and the format is gguf"),
        ("size of shards", "old --max-shard-size 2", "export.max_shard_size"),
        ("unknown layout", "--model {model} --factors good.json --to gguf --out x.gguf --layout flat", "'flat'"),
        ("unknown dtype", "--model {model} --factors good.json --to gguf --out x.gguf --dtype q2", "'q2'"),
        ("GGUF dtype", "--model {model} --factors good.json --out x --dtype q8_0", "'q8_0' was asked for"),
        ("foreign factors", "--model {model} --factors foreign.json --to gguf --out x.gguf", "0123456789abcdef"),
    ],
    "verify": [
        ("nothing", "nowhere", "nowhere is absent"),
        ("a run directory", "old", "old is a folder without config.json"),
        ("unknown client", "{model} --with lama", "'lama' was asked for. Known: transformers, "),
        ("no scaling", "{model} --with transformers", "states no RoPE scaling"),
        ("no reference", "{model} --with transformers --reference nowhere", "nowhere is absent"),
        ("wrong length", "{model} --lengths 64q", "'64q'"),
    ],
}


def bad_files(model: Path, data: Path) -> dict[str, str]:
    """The content of each file that the commands read, by its path."""
    factors = RescaleFactors((1.0, 2.0, 3.0, 4.0), 256, read_spec(pico.make_network().config).fingerprint)
    good = dump_factors(factors)
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 320}
    recipe = f'model = "{model}"\ndata = ["{data}"]\n'
    return {
        "empty.txt": "",
        "short.txt": pico.make_text(60),
        "nonsense/config.json": '{"model_type": "nonsense"}',
        "gpt2/config.json": json.dumps(gpt2),
        "broken/config.json": "{",
        "empty/config.json": "{}",
        "bare/config.json": (model / "config.json").read_text(),
        "good.json": good,
        "foreign.json": dump_factors(replace(factors, spec_fingerprint="0123456789abcdef")),
        "eight.json": dump_factors(replace(factors, lambdas=(1.0,) * 8)),
        "nan.json": good.replace("3.0", "NaN"),
        "decreasing.json": good.replace("3.0", "9.0"),
        "torn.json": good[:50],
        "list.json": "[1, 2]",
        "typo.toml": recipe + "target_token = 256\n",
        "nested.toml": recipe + 'target_tokens = 256\n[search]\nmetod = "gradient"\n',
        "type.toml": recipe + "target_tokens = 256\nseed = 1.5\n",
        "broken.toml": "model = \n",
        "old/recipe.toml": dump_recipe(Recipe(str(model), 256, (str(data),))),
    }

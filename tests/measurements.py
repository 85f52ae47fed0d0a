"""Settings of the measurements that tests make."""

from longrope.recipe import MeasureRecipe

SETTINGS = MeasureRecipe(lengths=(64, 128), metrics=("perplexity",), windows=3, tail_tokens=16)

"""Charts as SVG, drawn from numbers, strings and styles; nothing here imports the package outside this folder."""

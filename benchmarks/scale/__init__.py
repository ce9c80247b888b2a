"""What happens as numbers grow: links, joins, items, submits, bytes. `python -m benchmarks.scale --help`."""

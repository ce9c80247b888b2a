"""The commands: mmg-run, mmg-worker, mmg-server."""

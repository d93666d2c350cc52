"""One file a command, each with `run(arguments) -> exit code`; only cli.py imports them."""

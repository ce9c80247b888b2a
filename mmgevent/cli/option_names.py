"""The names of the options of each command, without its table, which takes time to import.

Made by `python -m mmgevent.cli.option_pages --write`.
"""

OPTION_NAMES: dict[str, frozenset[str]] = {
    "mmg-run": frozenset(
        {
            "columns",
            "elect",
            "expect_workers",
            "format",
            "inline",
            "join",
            "listen",
            "memory",
            "module",
            "on",
            "output",
            "overwrite",
            "part_size",
            "pass_env",
            "password",
            "password_file",
            "pdb",
            "plain_results",
            "port",
            "procs",
            "py_files",
            "quiet",
            "remote_python",
            "resume",
            "set",
            "sort",
            "tls_ca",
            "tls_cert",
            "tls_key",
            "top",
            "trust_workers",
            "try",
            "verbose",
            "workers_timeout",
        }
    ),
    "mmg-worker": frozenset(
        {
            "elect",
            "grace",
            "idle_timeout",
            "lifetime",
            "max_items",
            "memory_limit",
            "name",
            "nice",
            "once",
            "password",
            "password_file",
            "port",
            "procs",
            "quiet",
            "tls_ca",
            "tls_cert",
            "tls_key",
            "verbose",
            "worker_password_file",
        }
    ),
    "mmg-server": frozenset(
        {
            "listen",
            "log_format",
            "memory",
            "password",
            "password_file",
            "port",
            "quiet",
            "tls_ca",
            "tls_cert",
            "tls_key",
            "verbose",
        }
    ),
}

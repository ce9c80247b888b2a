# Completion for bash, made by `python -m mmgevent.cli.option_pages --write`.
# Source this file, for example from ~/.bashrc.

_mmg_run() {
    local current="${COMP_WORDS[COMP_CWORD]}"
    if [[ "$current" == -* ]]; then
        local words='
            --procs --on --remote-python --listen --join --elect --inline --try --pdb --replay
            --bundles --attach -o --output --format --columns --sort --top --overwrite --resume
            --part-size --summary --job-log --report --report-diff -m --module --set --py-files
            --pass-env --plain-results --trust-workers --workers-timeout --expect-workers --no-logs
            --memory -P --port -p --password --password-file --tls-cert --tls-key --tls-ca -v
            --verbose -q --quiet -h --help --version --show-config
        '
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -W "" -- "$current"))
    fi
}
complete -o filenames -F _mmg_run mmg-run

_mmg_worker() {
    local current="${COMP_WORDS[COMP_CWORD]}"
    if [[ "$current" == -* ]]; then
        local words='
            --procs --elect --once --lifetime --idle-timeout --grace --max-items --memory-limit
            --nice --name -P --port -p --password --password-file --worker-password-file --tls-cert
            --tls-key --tls-ca -v --verbose -q --quiet -h --help --version --show-config
        '
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -W "" -- "$current"))
    fi
}
complete -o filenames -F _mmg_worker mmg-worker

_mmg_server() {
    local current="${COMP_WORDS[COMP_CWORD]}"
    if [[ "$current" == -* ]]; then
        local words='
            --listen --memory -P --port -p --password --password-file --tls-cert --tls-key --tls-ca
            --log-format -v --verbose -q --quiet -h --help --version --show-config
        '
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -W "password worker-password status workers jobs cancel drain logs attach" -- "$current"))
    fi
}
complete -o filenames -F _mmg_server mmg-server

_mmg_dashboard() {
    local current="${COMP_WORDS[COMP_CWORD]}"
    if [[ "$current" == -* ]]; then
        local words='
            --page-port --token-file --open -P --port -p --password --password-file --tls-cert
            --tls-key --tls-ca -v --verbose -q --quiet -h --help --version --show-config
        '
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -W "" -- "$current"))
    fi
}
complete -o filenames -F _mmg_dashboard mmg-dashboard

"""Scripts by which bash and zsh complete commands and options, made from ``options.json``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping

from jobs.commands import COMMANDS
from jobs.options import Description, Option

#: Options of every command. As in `jobs.options`, a flag needs no value.
_GENERAL = (
    Option(name="config", type="str", help="YAML file with any of the settings"),
    Option(name="print-config", type="bool", default=False, help="show all settings as they would be"),
    Option(name="quiet", type="bool", default=False, help="print only warnings and errors"),
    Option(name="log-format", type="{text,json}", help="lines for people, or one object for each event"),
    Option(name="help", type="bool", default=False, help="show the settings that people use first"),
    Option(name="help-all", type="bool", default=False, help="show all settings"),
)

_BASH = r"""# Completion of parquetry for bash: source <(parquetry completion bash)
_parquetry() {
    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words="" values=""
    COMPREPLY=()
    if [[ $word == "=" ]]; then
        word=""
    elif [[ $before == "=" ]]; then
        before="${COMP_WORDS[COMP_CWORD-2]}"
    fi
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=( $(compgen -W "@COMMANDS@ completion --help --version" -- "$word") )
        return
    fi
    case "${COMP_WORDS[1]//_/-}" in
@CASES@
        completion) words="bash zsh" ;;
    esac
    if [[ -n $values ]]; then
        COMPREPLY=( $(compgen -W "$values" -- "$word") )
    elif [[ $before != --* || $word == -* ]]; then
        COMPREPLY=( $(compgen -W "$words" -- "$word") )
    fi
}
complete -o default -F _parquetry parquetry
"""

_ZSH = r"""#compdef parquetry
# Completion of parquetry for zsh: source <(parquetry completion zsh)
_parquetry() {
    local -a found values
    if (( CURRENT == 2 )); then
        found=(
@COMMANDS@
            'completion:print a script that completes commands and options'
        )
        _describe command found
        return
    fi
    case ${words[2]//_/-} in
@CASES@
        (completion) found=(bash zsh) ;;
    esac
    if (( $#values )); then
        _describe value values
    elif [[ ${words[CURRENT]} == -* || ${words[2]} == completion ]]; then
        _describe option found
    else
        _files
    fi
}
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _parquetry "$@"
else
    compdef _parquetry parquetry
fi
"""


def bash(commands: Mapping[str, Description]) -> str:
    """The script for bash."""
    cases = []
    for name, described in commands.items():
        options = (*described.options, *_GENERAL)
        words = " ".join(f"--{option.name}" for option in options)
        values = [f'--{option.name}) values="{" ".join(_values(option))}" ;;' for option in options if _values(option)]
        flags = "|".join(f"--{option.name}" for option in options if option.is_flag and not _values(option))
        values += [f'{flags}) before="" ;;']
        cases += [f"        {name})", f'            words="{words}"', '            case "${before//_/-}" in']
        cases += [*(f"                {line}" for line in values), "            esac", "            ;;"]
    return _BASH.replace("@COMMANDS@", " ".join(commands)).replace("@CASES@", "\n".join(cases))


def zsh(commands: Mapping[str, Description]) -> str:
    """The script for zsh, which shows beside each option what it is."""
    cases = []
    for name, described in commands.items():
        options = (*described.options, *_GENERAL)
        values = [f"(--{option.name}) values=({' '.join(_values(option))}) ;;" for option in options if _values(option)]
        cases += [f"        ({name})", "            found=("]
        cases += [f"                {shlex.quote(f'--{option.name}:{option.help}')}" for option in options]
        cases += ["            )", "            case ${words[CURRENT-1]//_/-} in"]
        cases += [*(f"                {line}" for line in values), "            esac", "            ;;"]
    summaries = [f"            {shlex.quote(f'{name}:{COMMANDS[name].summary}')}" for name in commands]
    return _ZSH.replace("@COMMANDS@", "\n".join(summaries)).replace("@CASES@", "\n".join(cases))


SCRIPTS: dict[str, Callable[[Mapping[str, Description]], str]] = {"bash": bash, "zsh": zsh}


def _values(option: Option) -> tuple[str, ...]:
    """The values to propose after an option. None after a flag: the next option follows."""
    if option.choices:
        return option.choices
    return ("true", "false") if option.is_flag and option.default is not False else ()

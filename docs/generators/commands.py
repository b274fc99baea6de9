"""The page of the command line: what `--help` says of every command."""

from __future__ import annotations

import click
from bayesprune.bench.cli import main

WIDTH = 100


def page() -> str:
    """A section for each command, in the order of their names."""
    parts = ["# The command line", f"```text\n{_help(main, 'bayesprune')}\n```"]
    for name, command in sorted(main.commands.items()):
        parts += [f"## {name}", f"```text\n{_help(command, f'bayesprune {name}')}\n```"]
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command, called: str) -> str:
    return command.get_help(click.Context(command, info_name=called, terminal_width=WIDTH, max_content_width=WIDTH))

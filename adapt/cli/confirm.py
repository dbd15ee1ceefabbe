"""Facts and a question before something is sent to a platform."""

import sys
from collections.abc import Mapping

import typer
from rich.table import Table

from adapt.cli.options import console
from adapt.errors import JobError


def show_facts(facts: Mapping[str, str]) -> None:
    """Print the facts to confirm, a line each."""
    table = Table(show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path that is cut cannot be confirmed
    for key, value in facts.items():
        table.add_row(key, value)
    console.print(table, highlight=False)


def confirm(command: str, question: str, yes: bool, fix: str = "pass --yes") -> None:
    """Ask unless `yes`; end with 0 for a no. Raises `JobError` without a terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise JobError(f"{command}: stdin is not a terminal", fix)
    if not typer.confirm(question, err=True):
        raise typer.Exit(0)


def print_request(request: object) -> None:
    """Print a request as YAML on stdout, a script in it line by line."""
    import yaml

    class Readable(yaml.SafeDumper):
        """Texts of several lines as literal blocks."""

        def represent_text(self, text: str) -> yaml.ScalarNode:
            style = "|" if "\n" in text else None
            return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Readable.add_representer(str, Readable.represent_text)
    typer.echo(yaml.dump(request, Dumper=Readable, sort_keys=False, allow_unicode=True), nl=False)

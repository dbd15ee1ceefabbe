"""The properties of all commands: help that wraps once, and no empty texts as arguments."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import typer
from typer.core import TyperCommand


class Command(TyperCommand):
    """A command that refuses arguments and options that are empty texts, by name.

    A script whose variable is not set passes them. Commands with extra arguments take them, since
    platforms append theirs.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line. Raises `BadParameter`."""
        texts = self.make_parser(ctx).parse_args(args=list(args))[0]  # as typed: Path("") is "."
        rest = super().parse_args(ctx, args)
        params: Iterable[Any] = () if ctx.allow_extra_args else self.params
        for param in params:
            text = texts.get(param.name)
            words = text if isinstance(text, list | tuple) else (text,)
            if any(isinstance(word, str) and not word.strip() for word in words):
                raise typer.BadParameter("expected a value, got an empty text", ctx, param)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command. An `EOFError` out of it is that of a file: click would take it for the
        end of the keyboard's input and abort without a reason. Raises `RuntimeError` instead."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise RuntimeError(f"expected a whole file, got its end: {error}") from error


def prepare(app: typer.Typer) -> None:
    """Make these the properties of the commands of an app, and of the groups in it."""
    for info in app.registered_commands:
        info.cls = Command
        info.help = info.help or one_line_each(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            prepare(group.typer_instance)


def one_line_each(function: Callable[..., Any] | None) -> str:
    """A docstring with a line for each paragraph: the terminal wraps them."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)

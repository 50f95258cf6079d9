"""How `--help` reads: commands in sections, their summaries whole, an example at the end."""

from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

if TYPE_CHECKING:
    from typer._click import Context, HelpFormatter, Parameter

Debug = Annotated[
    bool, typer.Option("--debug", expose_value=False, help="Show a traceback with an error.")
]
EXAMPLE = "\n\nExample: "
"""How the last paragraph of a command's docstring begins."""


class Group(TyperGroup):
    """The commands of `graft`, or of one of its nouns; it gives each command `--debug`.

    Typer has sections only where rich draws the help, which takes the brackets of
    NAME[@VERSION] for markup; and it cuts summaries at the end of the line.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for command in self.commands.values():
            text, separator, example = (command.help or "").rpartition(EXAMPLE)
            if separator:
                command.help, command.epilog = text, f"Example: {example}"
            if not isinstance(command, TyperGroup):
                command.params.append(_debug())

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:
        """Write the commands in their sections, in the order in which they were added."""
        commands = {name: c for name, c in self.commands.items() if not c.hidden}
        width = max(map(len, commands))  # the same in all sections
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in commands.items():
            panel = getattr(command, "rich_help_panel", None)
            title = panel if isinstance(panel, str) else "Commands"
            summary = command.get_short_help_str(limit=len(command.help or ""))
            sections.setdefault(title, []).append((name.ljust(width), summary))
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


def noun(help: str) -> typer.Typer:
    """Return an app for the commands of a noun, such as `runs`; alone it shows its help."""
    return typer.Typer(cls=Group, no_args_is_help=True, help=help)


@cache
def _debug() -> "Parameter":
    """Return the option `--debug`, as typer makes it.

    No command gets its value: `main` reports errors, those before and after a command too, and so
    looks for the option itself.
    """
    app = typer.Typer(add_completion=False)

    @app.command()
    def command(debug: Debug = False) -> None:
        pass

    return get_command(app).params[0]

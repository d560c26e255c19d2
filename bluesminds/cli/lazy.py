"""Groups that import a command when it is used: one command does not pay for the modules of all others."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, cast

import click
from click.exceptions import NoSuchCommand
from click.shell_completion import CompletionItem

from bluesminds.common.loading import loading


class LazyCommand(NamedTuple):
    """`target` is "module:attribute"; `summary` is the first sentence of the command's help."""

    target: str
    summary: str


class LazyGroup(click.Group):
    """`lazy` has the commands that are imported when they are used, by name. Help and completions of the
    group read only the summaries.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **attributes)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = self.lazy.get(cmd_name)
        return super().get_command(ctx, cmd_name) if found is None else _load(found.target)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as exc:  # it suggests only the commands that are loaded
            raise NoSuchCommand(exc.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(name)) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self._summary(name)) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def _summary(self, name: str) -> str:
        found = self.lazy.get(name)
        return self.commands[name].get_short_help_str(200) if found is None else found.summary


def subcommands(group: click.Group) -> dict[str, click.Command]:
    """All commands of a group by name. Imports them."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


@cache
def _load(target: str) -> click.Command:
    module, _, name = target.partition(":")
    with loading():
        return cast("click.Command", getattr(import_module(module), name))

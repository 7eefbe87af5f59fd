"""What the demo prints: heads, facts, and checks with a tick or a cross."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.text import Text

from pkengine.cli.demo.verification import Check
from pkengine.cli.terminal import printable


class Screen:
    """Prints, and remembers which checks failed.

    Args:
        console: where to.

    Attributes:
        failed: the names of what was not as it should be.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.failed: list[str] = []

    def head(self, text: str) -> None:
        """Begin a part."""
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def fact(self, name: str, value: str) -> None:
        """Show something that has a name."""
        self.console.print(f"  {name:<9} {escape(printable(value))}")

    def done(self, text: str) -> None:
        """Show something that was done."""
        self.console.print(f"  [green]✓[/] {escape(printable(text))}")

    def command(self, text: str) -> None:
        """Show what a person may type."""
        self.console.print(f"  {escape(text)}")

    def show(self, checks: Iterable[Check]) -> None:
        """Show checks, and what each has found."""
        for check in checks:
            mark = "[green]✓[/]" if check.is_right else "[red]✗[/]"
            self.console.print(f"  {mark} {escape(check.name)}")
            found = Text(printable(check.found), style="dim")
            if self.console.is_terminal:  # wrap long text between words
                self.console.print(Padding(found, (0, 0, 0, 4)), soft_wrap=False)
            else:
                self.console.print(Text("    ") + found)
            if not check.is_right:
                self.failed.append(check.name)

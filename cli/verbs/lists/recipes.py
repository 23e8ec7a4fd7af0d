"""`qir recipes`: the published methods that `qir search --recipe` runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer

if TYPE_CHECKING:
    from qir.search.recipes.run import Recipe
    from qir.support.terminal import Terminal


def recipes(name: Annotated[str | None, typer.Argument(help="Recipe to show.")] = None) -> Answer:
    """List the published methods, or show one: its paper, its parts, and what differs from the paper.

    qir recipes hawq-v3
    """
    from qir.search.recipes.table import RECIPES

    if name is not None:
        found = RECIPES[name]
        return Answer(found, partial(_show, found))
    known = [RECIPES[each] for each in RECIPES]
    return Answer(known, partial(_list, known))


def _list(known: list[Recipe], terminal: Terminal) -> None:
    from rich.table import Column, Table

    table = Table(Column("recipe", no_wrap=True), "method", "sensitivity", "what is optimised", "paper")
    for recipe in known:
        table.add_row(recipe.name, recipe.solver, recipe.metric or "", recipe.objective, recipe.source)
    terminal.print(table)


def _show(recipe: Recipe, terminal: Terminal) -> None:
    from qir.search.recipes.run import OBJECTIVES

    options = {**recipe.metric_options, **recipe.solver_options}
    lines = {
        "recipe": recipe.name,
        "paper": recipe.source,
        "method": recipe.solver,
        "sensitivity": recipe.metric or "none",
        "optimises": OBJECTIVES.get(recipe.objective, recipe.objective),
        "options": ", ".join(f"{key}={value}" for key, value in options.items()) or "none",
        "differs": recipe.differs,
    }
    for label, text in lines.items():
        terminal.print(f"{label:14}{text}", soft_wrap=True)

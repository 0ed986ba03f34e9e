"""The import contract that knows the plan of the house before the house is finished.

`forbidden` of import-linter stops when a package it names does not exist. Ours names every package
of the plan from the first day, so that a package is bound by the rules the moment it is made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from grimp import ImportGraph
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.domain.contract import ContractCheck
from importlinter.domain.imports import ModuleExpression

ROOT = "bridge"


class HouseContract(ForbiddenContract):
    """`forbidden`, with the modules of ours that are not built yet left out."""

    type_name = "house"

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        self.source_modules: Any = _built(self.source_modules, graph)
        self.forbidden_modules: Any = _built(self.forbidden_modules, graph)
        return super().check(graph, verbose)


def _built(expressions: Iterable[ModuleExpression], graph: ImportGraph) -> set[ModuleExpression]:
    return {
        expression
        for expression in expressions
        if expression.has_wildcard_expression()
        or not expression.expression.startswith(f"{ROOT}.")
        or expression.expression in graph.modules
    }

"""Mutants of a file: single changes of one expression or statement, for `mutation.py`."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.MatMult: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Args:
        path: file in the repository.
        line: line of the changed node.
        statement: first line of its statement; of a default, that of its function's first statement.
        number: how many changes of the file are before this one.
        before: source of the node.
        after: source of the changed node.
        scope: dotted name of the class and function around it.
    """

    path: str
    line: int
    statement: int
    number: int
    before: str
    after: str
    scope: str

    @property
    def place(self) -> str:
        """Its file and number."""
        return f"{self.path}:{self.number}"

    @property
    def key(self) -> str:
        """What stays the same while other lines of the file change."""
        return f"{self.path}: {self.scope}: {self.before} -> {self.after}"


def changes(node: ast.AST) -> Iterator[Callable[[], ast.AST]]:
    """Functions that make the changes of a node; each returns a new node."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield lambda: _with(node, ops=[COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS and not _joins_text(node):
        yield lambda: _with(node, op=OPERATORS[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield lambda: _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield lambda: node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield lambda: ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield lambda: ast.Constant(node.value + 1)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield lambda: _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield lambda: ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Break):
        yield ast.Continue


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _joins_text(node: ast.BinOp | ast.AugAssign) -> bool:
    sides = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str)) for n in sides
    )


class _Changer(ast.NodeVisitor):
    """Walks over the functions of a file and numbers its changes; makes one of them if asked to."""

    def __init__(self, path: str, wanted: int | None = None) -> None:
        self.path, self.wanted = path, wanted
        self.scope: list[str] = []
        self.in_function = self.statement = 0
        self.mutants: list[Mutant] = []

    def visit_Module(self, node: ast.Module) -> None:
        node.body = [self._changed(statement) for statement in node.body]

    def visit_scope(self, node: Any) -> None:
        is_function, outer = not isinstance(node, ast.ClassDef), self.statement
        self.scope.append(node.name)
        self.in_function += is_function
        node.body = [self._changed(statement) for statement in node.body]
        if is_function:  # a default is executed on import, and counts where the function is called
            first = node.body[ast.get_docstring(node) is not None and len(node.body) > 1]
            self.statement = first.lineno
            node.args.defaults = [self._changed(default) for default in node.args.defaults]
            node.args.kw_defaults = [d and self._changed(d) for d in node.args.kw_defaults]
        self.in_function -= is_function
        self.statement = outer
        self.scope.pop()

    def _changed(self, node: Any) -> Any:
        """The node itself, or the wanted change of it; visits what is in it first."""
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.visit_scope(node)
            return node
        if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
            return node
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cast", "warnings.warn", "note"):
            return node
        outer, self.statement = self.statement, node.lineno if isinstance(node, ast.stmt) else self.statement
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "ctx", "decorator_list", "returns"):
                continue
            if isinstance(value, list):
                setattr(node, name, [self._changed(x) if isinstance(x, ast.AST) else x for x in value])
            elif isinstance(value, ast.AST):
                setattr(node, name, self._changed(value))
        statement, self.statement = self.statement, outer
        if not self.in_function:
            return node
        for change in changes(node):
            number = len(self.mutants)
            after = ast.fix_missing_locations(ast.copy_location(change(), node))
            before_text, after_text = (_first_line(ast.unparse(x)) for x in (node, after))
            place = ".".join(self.scope)
            self.mutants.append(Mutant(self.path, node.lineno, statement, number, before_text, after_text, place))
            if number == self.wanted:
                return after
        return node


def _first_line(text: str) -> str:
    return text.splitlines()[0][:160]


def mutants_of(path: str) -> list[Mutant]:
    """All mutants of a file."""
    changer = _Changer(path)
    changer.visit(ast.parse((REPOSITORY / path).read_text(encoding="utf-8")))
    return changer.mutants


def mutated(path: str, number: int) -> ast.Module:
    """Syntax tree of a file with one change."""
    tree = ast.parse((REPOSITORY / path).read_text(encoding="utf-8"))
    _Changer(path, number).visit(tree)
    return ast.fix_missing_locations(tree)


def sample(n: int, seed: int, rooms: Sequence[str]) -> tuple[list[Mutant], int]:
    """Random mutants of the rooms, and how many there are in all."""
    files = sorted(path for room in rooms for path in (REPOSITORY / "metaad_zoo" / room).rglob("*.py"))
    names = [path.relative_to(REPOSITORY).as_posix() for path in files]
    mutants = [mutant for name in names for mutant in mutants_of(name)]
    random.Random(seed).shuffle(mutants)
    return mutants[:n], len(mutants)

"""Change one thing in a module's decisions: a comparison, an operand, a branch, a constant, a statement.

Words are left alone, and so is what only a type checker or an importer reads: annotations, decorators, imports.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_COMPARISONS: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
_DELETED = (ast.Assign, ast.AugAssign, ast.Expr, ast.Raise, ast.Continue, ast.Break)
_READ_BY_NOBODY = ("annotation", "returns", "decorator_list", "bases", "type_comment")
_IMPORTS = (ast.Import, ast.ImportFrom)

Way = tuple[tuple[str, int | None], ...]
"""From a top-level statement down to a node: names of fields, each with its index if it is a list."""


@dataclass(frozen=True)
class Mutant:
    """One change. `function` is where, as `Class.method`, empty for the module itself."""

    line: int
    function: str
    before: str
    after: str
    top: ast.stmt
    way: Way
    replacement: ast.AST

    def statement(self) -> ast.stmt:
        """The top-level statement of the module with the change made."""
        if not self.way:
            assert isinstance(self.replacement, ast.stmt)
            return self.replacement
        changed = copy.deepcopy(self.top)
        node: Any = changed
        for name, index in self.way[:-1]:
            node = getattr(node, name) if index is None else getattr(node, name)[index]
        name, index = self.way[-1]
        if index is None:
            setattr(node, name, self.replacement)
        else:
            getattr(node, name)[index] = self.replacement
        return ast.fix_missing_locations(changed)


def mutants_of(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, from the top down."""
    for top in ast.parse(source).body:
        if not isinstance(top, _IMPORTS):
            yield from _below(top, top, (), "", top)


def _below(node: ast.AST, top: ast.stmt, way: Way, function: str, around: ast.AST) -> Iterator[Mutant]:
    """The mutants of `node` and of what is in it. `around` is the smallest part that shows a change intelligibly."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    for replacement in _replacements(node):
        if isinstance(replacement, ast.Pass) and (not function or isinstance(around, ast.ClassDef)):
            continue  # what is left out of a module can't be imported
        before, after = _shown(node, replacement, around)
        yield Mutant(_line_of(node, top), function, before, after, top, way, replacement)
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict"):
        return
    for name, value in ast.iter_fields(node):
        if name in _READ_BY_NOBODY:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                place = index if isinstance(value, list) else None
                shown = around if isinstance(child, ast.keyword) else node
                yield from _below(child, top, (*way, (name, place)), function, shown)


def _line_of(node: ast.AST, top: ast.stmt) -> int:
    place = node.target if isinstance(node, ast.comprehension) else node
    return getattr(place, "lineno", top.lineno)


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                for other in _COMPARISONS[type(operator)]:
                    yield ast.Compare(node.left, [*node.ops[:index], other(), *node.ops[index + 1 :]], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
            for index in range(len(node.values)):
                left = [*node.values[:index], *node.values[index + 1 :]]
                yield left[0] if len(left) == 1 else ast.BoolOp(node.op, left)
        case ast.BinOp():
            yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
            yield node.left
            if isinstance(node.op, ast.Add | ast.Mult | ast.BitAnd | ast.BitOr):
                yield node.right
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.If() | ast.While() if not (isinstance(node.test, ast.Constant)):
            for always in (True, False):
                yield type(node)(ast.Constant(always), node.body, node.orelse)
        case ast.comprehension() if node.ifs:
            yield ast.comprehension(node.target, node.iter, [], node.is_async)
        case ast.Call(func=ast.Name(id=name), args=[first, *_]):
            if name in _OPPOSITES:
                yield ast.Call(ast.Name(_OPPOSITES[name], ast.Load()), node.args, node.keywords)
            if name == "abs":
                yield first
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float() as number):
            yield ast.Constant(number + 1)
            yield ast.Constant(number - 1)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign():
            yield ast.AugAssign(node.target, _ARITHMETIC[type(node.op)](), node.value)
            yield ast.Pass()
        case ast.Expr(value=ast.Constant()):
            return
        case _ if isinstance(node, _DELETED):
            yield ast.Pass()


def _shown(node: ast.AST, replacement: ast.AST, around: ast.AST) -> tuple[str, str]:
    """Before and after; a bare word or number with what stands around it."""
    match node:
        case ast.If() | ast.While():
            assert isinstance(replacement, ast.If | ast.While)
            word = "if" if isinstance(node, ast.If) else "while"
            return f"{word} {ast.unparse(node.test)}", f"{word} {ast.unparse(replacement.test)}"
        case ast.comprehension():
            return ast.unparse(node).strip(), ast.unparse(ast.fix_missing_locations(replacement)).strip()
        case ast.Constant() | ast.Name() if not isinstance(around, ast.FunctionDef | ast.ClassDef | ast.arguments):
            marked = ast.unparse(around)
            old, new = ast.unparse(node), ast.unparse(replacement)
            return marked[:160], f"{old} becomes {new}"
    after = "nothing" if isinstance(replacement, ast.Pass) else ast.unparse(ast.fix_missing_locations(replacement))
    return ast.unparse(node), after

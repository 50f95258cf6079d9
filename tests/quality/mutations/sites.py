"""Where in the source a fault could be: every change of the four kinds.

Only in functions: what runs at import is seen by all tests or by none. Messages, annotations,
defaults and decorators are left alone, and what `if TYPE_CHECKING` guards.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

# What they say or check is no behaviour, or the order of their arguments makes none.
_MESSAGES = {"debug", "echo", "exception", "info", "print", "secho", "warn", "warning"}
_NOT_SWAPPED = {"cast", "gcd", "isclose", "isinstance", "issubclass", "max", "min"}
_LARGEST = 100
"""A larger number is a size or a name (404): one more or less of it is no off-by-one."""

_ORDER: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


@dataclass(frozen=True)
class Site:
    """One possible change: the node that goes, and what comes for it."""

    file: str
    kind: str
    old: ast.expr | ast.AugAssign
    new: ast.AST
    statement: ast.stmt


def sites_of(file: str, tree: ast.Module) -> Iterator[Site]:
    """Yield every possible change of a file's functions, in the order of the source."""
    for function in _functions(tree):
        for kind, old, new, statement in _sites(function, function):
            yield Site(file, kind, old, new, statement)


def _functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        else:
            yield from _functions(child)


_Change = tuple[str, ast.expr | ast.AugAssign, ast.AST]


def _sites(part: ast.AST, statement: ast.stmt) -> Iterator[tuple[*_Change, ast.stmt]]:
    if isinstance(part, ast.stmt):
        statement = part
    for change in _changes(part):
        yield *change, statement
    for child in _parts(part):
        yield from _sites(child, statement)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node is made of, without messages, annotations, defaults and decorators."""
    match node:
        case ast.Raise() | ast.Assert() | ast.JoinedStr():
            return
        case ast.Call() if _name(node.func) in _MESSAGES or _name(node.func).endswith("Error"):
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield from node.body
        case ast.Lambda():
            yield node.body
        case ast.AnnAssign():
            yield from [node.value] if node.value else []
        case ast.If() if _name(node.test) == "TYPE_CHECKING":
            yield from node.orelse
        case _:
            yield from ast.iter_child_nodes(node)


def _name(node: ast.AST) -> str:
    return getattr(node, "id", None) or getattr(node, "attr", "")


def _changes(node: ast.AST) -> Iterator[_Change]:
    """Yield every change of this very node: its kind, what goes, and what comes for it."""
    match node:
        case ast.BinOp() if not (_is_text(node.left) or _is_text(node.right)):
            if isinstance(node.op, ast.Add | ast.Sub):
                yield "sign", node, ast.BinOp(node.left, turned(node.op), node.right)
            yield from _one_more_or_less(node.left, node.right)
        case ast.AugAssign() if not _is_text(node.value) and node.lineno == node.end_lineno:
            if isinstance(node.op, ast.Add | ast.Sub):
                yield "sign", node, ast.AugAssign(node.target, turned(node.op), node.value)
            yield from _one_more_or_less(node.value)
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", node, node.operand
        case ast.Compare():
            yield from _one_more_or_less(node.left, *node.comparators)
            for at, op in enumerate(node.ops):
                if other := _ORDER.get(type(op)):
                    ops = [*node.ops[:at], other(), *node.ops[at + 1 :]]
                    yield "off by one", node, ast.Compare(node.left, ops, node.comparators)
        case ast.Slice():
            yield from _one_more_or_less(node.lower, node.upper, node.step)
        case ast.Subscript():
            yield from _one_more_or_less(node.slice)
        case ast.BoolOp():
            for at in range(len(node.values)):
                rest = [*node.values[:at], *node.values[at + 1 :]]
                yield "condition", node, rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
        case ast.If() | ast.IfExp() if _name(node.test) != "TYPE_CHECKING":
            yield from _dropped(node.test)
        case ast.While() if not isinstance(node.test, ast.Constant):
            yield "condition", node.test, _negated(node.test)
        case ast.comprehension():
            for test in node.ifs:
                yield from _dropped(test)
        case ast.match_case(guard=ast.expr()):
            yield from _dropped(node.guard)
        case ast.Call():
            if _name(node.func) == "range":
                yield from _one_more_or_less(*node.args)
            if _name(node.func) not in _MESSAGES | _NOT_SWAPPED:
                yield from _swapped(node)


def _is_text(node: ast.AST) -> bool:
    """Whether `-` for `+` could only fail: text and literal lists show their type."""
    literal = isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp)
    return literal or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def turned(op: ast.operator) -> ast.operator:
    return ast.Sub() if isinstance(op, ast.Add) else ast.Add()


def _one_more_or_less(*nodes: ast.AST | None) -> Iterator[_Change]:
    for node in nodes:
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value <= _LARGEST:
            yield "off by one", node, ast.Constant(node.value + 1)
            if node.value:
                yield "off by one", node, ast.Constant(node.value - 1)


def _dropped(test: ast.expr) -> Iterator[_Change]:
    yield "condition", test, _negated(test)
    yield "condition", test, ast.Constant(True)


def _negated(test: ast.expr) -> ast.expr:
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


def _swapped(call: ast.Call) -> Iterator[_Change]:
    for at, (one, other) in enumerate(zip(call.args, call.args[1:], strict=False)):
        if not any(isinstance(argument, ast.Starred) for argument in (one, other)):
            arguments = [*call.args[:at], other, one, *call.args[at + 2 :]]
            yield "swapped arguments", call, ast.Call(call.func, arguments, call.keywords)

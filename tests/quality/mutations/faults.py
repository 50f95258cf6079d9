"""Faults: where in the source one could be, drawing some, and putting one in.

A fault replaces one expression (or `x += y`) within its lines, so that the lines around it stay
what coverage knows. It is known by its place and by what stands there before and after; so it can
be put into any checkout whose source is the same.
"""

import ast
import difflib
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from quality.mutations.sites import Site, sites_of

PACKAGE = Path("platform", "graft")
TOP = "top level"


class ElsewhereError(Exception):
    """The source at the fault's place is not what it was drawn from."""


@dataclass(frozen=True)
class Fault:
    """One change of the source; columns count bytes, as ast's do."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    kind: str
    before: str
    after: str
    statement: tuple[int, int]
    """First and last line of what runs as one: a statement, or the head of a block."""

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return f"{Path(self.file).relative_to(PACKAGE)}:{self.line}"


def package_of(file: str) -> str:
    """Name the package of a file of platform/graft, or the top-level modules, all together."""
    first, *rest = Path(file).relative_to(PACKAGE).parts
    return first if rest else TOP


def draw(root: Path, seed: str, count: int, each: int = 2) -> list[Fault]:
    """Draw `count` faults or more: `each` in every package, the kinds about equally often."""
    sources, trees = {}, {}
    left: dict[str, list[Site]] = defaultdict(list)
    for path in sorted((root / PACKAGE).rglob("*.py")):
        file = path.relative_to(root).as_posix()
        sources[file] = path.read_text()
        trees[file] = ast.parse(sources[file])
        left[package_of(file)] += sites_of(file, trees[file])
    rng = random.Random(seed)
    kinds: Counter[str] = Counter()
    drawn: list[Fault] = []
    taken: set[tuple[str, int]] = set()

    def take(packages: list[str]) -> bool:
        while sites := [site for package in packages for site in left[package]]:
            kind = min(
                sorted({site.kind for site in sites}), key=lambda k: (kinds[k], rng.random())
            )
            site = rng.choice([site for site in sites if site.kind == kind])
            left[package_of(site.file)].remove(site)
            fault = fault_at(site, sources[site.file], trees[site.file])
            if fault and (fault.file, fault.line) not in taken:
                kinds[kind] += 1
                taken.add((fault.file, fault.line))
                drawn.append(fault)
                return True
        return False

    packages = sorted(left)
    for _ in range(each):
        for package in packages:
            take([package])
    while len(drawn) < count and take(packages):
        pass
    return drawn


def put_in(fault: Fault, source: str) -> str:
    """Return the source with the fault, as many lines as before."""
    lines = source.encode().split(b"\n")
    if fault.end_line > len(lines):
        raise ElsewhereError(f"{fault.place}: the file ends before")
    first = sum(len(line) + 1 for line in lines[: fault.line - 1]) + fault.column
    last = sum(len(line) + 1 for line in lines[: fault.end_line - 1]) + fault.end_column
    text = b"\n".join(lines)
    if text[first:last] != fault.before.encode():
        found = text[first:last].decode(errors="replace")
        raise ElsewhereError(f"{fault.place}: {found!r} stands where {fault.before!r} was")
    return (text[:first] + fault.after.encode() + text[last:]).decode()


def difference(fault: Fault, source: str) -> str:
    """The lines that a fault takes out and puts in."""
    changed = put_in(fault, source).splitlines()
    lines = difflib.unified_diff(source.splitlines(), changed, n=0, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def fault_at(site: Site, source: str, tree: ast.Module) -> Fault | None:
    """Write a site's change as text; none where it is the same code, or no code."""
    old, stop = site.old, site.old.end_lineno or site.old.lineno
    wanted = _dump_with(tree, old, site.new)
    if wanted == ast.dump(tree):
        return None
    text = _Text(source)
    before = text.of(old)
    for written in [_written(old, site.new, text), ast.unparse(site.new)]:
        breaks = "\n" * (before.count("\n") - written.count("\n"))
        for after in [f"({written}{breaks})"] if breaks else [written, f"({written})"]:
            fault = Fault(
                file=site.file,
                line=old.lineno,
                column=old.col_offset,
                end_line=stop,
                end_column=old.end_col_offset or 0,
                kind=site.kind,
                before=before,
                after=after,
                statement=_lines(site.statement),
            )
            if _code(put_in(fault, source)) == wanted:
                return fault
    return None


def _code(source: str) -> str | None:
    try:
        return ast.dump(ast.parse(source))
    except SyntaxError:
        return None


class _Text:
    """A source, by its nodes."""

    def __init__(self, source: str) -> None:
        self._text = source.encode()
        self._starts = [0]
        for line in self._text.split(b"\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def of(self, first: ast.expr | ast.stmt, last: ast.expr | ast.stmt | None = None) -> str:
        """Return what a node says, or from one node's begin to another's end."""
        return self._cut(self._begin(first), self._end(last or first))

    def between(self, one: ast.expr, other: ast.expr) -> str:
        return self._cut(self._end(one), self._begin(other))

    def before(self, part: ast.expr, whole: ast.expr | ast.stmt) -> str:
        return self._cut(self._begin(whole), self._begin(part))

    def after(self, part: ast.expr, whole: ast.expr | ast.stmt) -> str:
        return self._cut(self._end(part), self._end(whole))

    def _begin(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    def _cut(self, first: int, last: int) -> str:
        return self._text[first:last].decode()


def _written(old: ast.expr | ast.AugAssign, new: ast.AST, text: _Text) -> str:
    """Write what comes in the source's own words; `fault_at` sees whether that is it."""
    if isinstance(new, ast.expr) and hasattr(new, "lineno"):
        return text.of(new)
    match old, new:
        case ast.Call(), ast.Call():
            at = next(at for at, node in enumerate(new.args) if node is not old.args[at])
            one, other = old.args[at : at + 2]
            swapped = text.of(other) + text.between(one, other) + text.of(one)
            return text.before(one, old) + swapped + text.after(other, old)
        case ast.BinOp(), ast.BinOp():
            return _turned_between(old, old.left, old.right, text)
        case ast.AugAssign(), ast.AugAssign():
            return _turned_between(old, old.target, old.value, text)
        case ast.Compare(), ast.Compare():
            operands = [old.left, *old.comparators]
            at = next(at for at, op in enumerate(new.ops) if op is not old.ops[at])
            gap = text.between(operands[at], operands[at + 1])
            longer = isinstance(new.ops[at], ast.LtE | ast.GtE)
            gap = re.sub("[<>]", r"\g<0>=", gap, count=1) if longer else gap.replace("=", "", 1)
            return text.of(old, operands[at]) + gap + text.of(operands[at + 1], old)
        case ast.BoolOp(), ast.BoolOp():
            word = " and " if isinstance(new.op, ast.And) else " or "
            inner = (ast.BoolOp, ast.IfExp, ast.Lambda, ast.NamedExpr)
            values = [(text.of(value), isinstance(value, inner)) for value in new.values]
            return word.join(f"({value})" if wrap else value for value, wrap in values)
        case _, ast.UnaryOp(op=ast.Not()):
            return f"not {text.of(old)}" if _binds(old) else f"not ({text.of(old)})"
    return ast.unparse(new)


def _binds(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Compare)


def _turned_between(old: ast.expr | ast.stmt, one: ast.expr, other: ast.expr, text: _Text) -> str:
    gap = text.between(one, other).translate(str.maketrans("+-", "-+"))
    return text.before(one, old) + text.of(one) + gap + text.of(other) + text.after(other, old)


def _dump_with(tree: ast.Module, old: ast.AST, new: ast.AST) -> str:
    _Exchange(old, new).visit(tree)
    try:
        return ast.dump(tree)
    finally:
        _Exchange(new, old).visit(tree)


class _Exchange(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _lines(statement: ast.stmt) -> tuple[int, int]:
    first, last = statement.lineno, statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None) or getattr(statement, "cases", None)
    if body:
        inside = getattr(body[0], "lineno", None) or body[0].pattern.lineno
        last = max(first, inside - 1)
    return first, last

"""What no scenario can see of a module of the model, so that the mutants leave it alone.

That are annotations, imports and texts; the conditions under which the model says that it does not know
something; and whatever only speaks to the trace. The last is found by following names: a value that only
calls of the trace use, a table in which only the id of a rule is looked up, a function that does nothing
but speak, a branch around such statements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import libcst as cst
from libcst.metadata import GlobalScope, MetadataWrapper, ParentNodeProvider, ScopeProvider

TRACE_CALLS: Final = frozenset({"by", "at_step", "at_entry", "NotModelled"})
REFUSALS: Final = frozenset({"NotModelled", "EndlessError"})
DECLARED: Final = frozenset({"__slots__", "MODELLED"})
LEFT_ALONE: Final = (cst.Annotation, cst.Decorator, cst.Import, cst.ImportFrom, cst.Raise, cst.Param)
TEXTS: Final = (cst.SimpleString, cst.ConcatenatedString, cst.FormattedString)
TYPE_ALIAS: Final = re.compile(r"_?[A-Z][a-z]\w*")


def unseen(tree: MetadataWrapper) -> frozenset[cst.CSTNode]:
    """Return the nodes of a module that no scenario can see; what is within them is not named."""
    found = _Unseen(tree)
    before = -1
    while len(found.nodes) > before:  # a name that is used nowhere else cannot be seen either
        before = len(found.nodes)
        found.visit(tree.module)
    return frozenset(found.nodes)


def is_strict(argument: cst.Arg) -> bool:
    """Whether an argument is the ``strict`` of a ``zip``, which only refuses mistakes of the model itself."""
    return argument.keyword is not None and argument.keyword.value == "strict"


def refuses(node: cst.BaseSuite) -> bool:
    """Whether statements begin with saying that the model does not know something, or comes to no end."""
    match node:
        case cst.IndentedBlock(body=[cst.SimpleStatementLine(body=[cst.Raise(exc=cst.Call(func=name))]), *_]):
            return isinstance(name, cst.Name) and name.value in REFUSALS
        case _:
            return False


class _Unseen:
    def __init__(self, tree: MetadataWrapper) -> None:
        self.nodes: set[cst.CSTNode] = set()
        self._parents = tree.resolve(ParentNodeProvider)
        self._scopes = tree.resolve(ScopeProvider)
        self._functions = [each for each in tree.module.body if isinstance(each, cst.FunctionDef)]
        self._texts = {each.name.value for each in self._functions if _gives_text(each)}
        self._speakers: set[str] = set()

    def visit(self, node: cst.CSTNode) -> None:
        """Add a node, or those within it."""
        if node in self.nodes:
            return
        if self._is_left_alone(node):
            self.nodes.add(node)
            return
        if isinstance(node, cst.If) and refuses(node.body):
            self.nodes |= {node.test, node.body}
        for child in node.children:
            self.visit(child)

    def _is_left_alone(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.Assign() | cst.AnnAssign():
                return self._is_for_the_trace(node)
            case cst.Call():
                return self._is_speech(node)
            case cst.If() | cst.MatchCase():
                return self._speaks(node)
            case cst.FunctionDef():
                return _gives_text(node) or self._is_speaker(node) or self._is_used_unseen(node.name)
            case cst.IfExp():
                return self._is_text(node)
            case cst.Arg():
                return is_strict(node)
            case _:
                return isinstance(node, LEFT_ALONE)

    def _speaks(self, node: cst.CSTNode | None, *, returns: bool = False) -> bool:
        """Whether a statement does nothing but call the trace, prepare that, or end such a function."""
        match node:
            case None:
                return True
            case cst.Return(value=None):
                return returns
            case cst.Expr(value=value):
                return isinstance(value, TEXTS) or (isinstance(value, cst.Call) and self._is_speech(value))
            case cst.Assign():
                return self._is_for_the_trace(node)
            case cst.If(body=body, orelse=orelse):
                return self._speaks(body, returns=returns) and self._speaks(orelse, returns=returns)
            case cst.Else(body=body) | cst.MatchCase(body=body):
                return self._speaks(body, returns=returns)
            case cst.IndentedBlock(body=statements) | cst.SimpleStatementLine(body=statements):
                return all(self._speaks(each, returns=returns) for each in statements)
            case _:
                return False

    def _is_speaker(self, function: cst.FunctionDef) -> bool:
        if function in self._functions and self._speaks(function.body, returns=True):
            self._speakers.add(function.name.value)
            return True
        return False

    def _is_speech(self, call: cst.Call) -> bool:
        match call.func:
            case cst.Name(value=name):
                return name in TRACE_CALLS or name in self._speakers
            case cst.Attribute(attr=cst.Name(value=name)):
                return name in TRACE_CALLS
            case _:
                return False

    def _is_text(self, value: cst.BaseExpression) -> bool:
        match value:
            case cst.Call(func=cst.Name(value=name)):
                return name in self._texts
            case cst.IfExp(body=one, orelse=other):
                return self._is_text(one) and self._is_text(other)
            case _:
                return isinstance(value, TEXTS)

    def _is_for_the_trace(self, assignment: cst.Assign | cst.AnnAssign) -> bool:
        """Whether a value is a text or a type, or is used where no scenario can see it, and only there."""
        names = [*_assigned(assignment)]
        if isinstance(assignment.value, TEXTS) or any(
            name.value in DECLARED or TYPE_ALIAS.fullmatch(name.value) for name in names
        ):
            return True
        return bool(names) and all(map(self._is_used_unseen, names))

    def _is_used_unseen(self, name: cst.Name) -> bool:
        scope = self._scopes[name]
        if scope is None or (isinstance(scope, GlobalScope) and not name.value.startswith("_")):
            return False
        used = [access.node for each in scope[name.value] for access in each.references]
        return bool(used) and all(map(self._is_within, used))

    def _is_within(self, node: cst.CSTNode | None) -> bool:
        while node is not None and node not in self.nodes:
            node = self._parents.get(node)
        return node is not None


def _gives_text(function: cst.FunctionDef) -> bool:
    match function.returns:
        case cst.Annotation(annotation=cst.Name(value="str")):
            return True
        case _:
            return False


def _assigned(assignment: cst.Assign | cst.AnnAssign) -> Iterator[cst.Name]:
    """Yield the names to which a statement assigns; none if it assigns to anything else."""
    match assignment:
        case cst.AnnAssign(target=cst.Name() as name, value=cst.BaseExpression()):
            yield name
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as name)]):
            yield name
        case cst.Assign(targets=[cst.AssignTarget(target=cst.Tuple(elements=elements))]):
            names = [each.value for each in elements if isinstance(each.value, cst.Name)]
            yield from names if len(names) == len(elements) else ()

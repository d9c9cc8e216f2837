"""Row filters that a person types: `split == 'train' and duration_s < 20` as an Arrow expression."""

import ast
import difflib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.errors import InputError

_COMPARE = {
    ast.Eq: "__eq__",
    ast.NotEq: "__ne__",
    ast.Lt: "__lt__",
    ast.LtE: "__le__",
    ast.Gt: "__gt__",
    ast.GtE: "__ge__",
}


def select(rows: pa.Table, where: str) -> pa.Table:
    """Return the rows for which the expression holds.

    Args:
        rows: any table.
        where: Python's comparisons, `in [..]`, `not in`, `and`, `or`, `not` and parentheses over column names.

    Raises:
        InputError: the text is not such an expression, or names an unknown column.

    >>> select(pa.table({"n": [1, 2, 3], "s": ["a", "b", "a"]}), "s == 'a' and n > 1").to_pylist()
    [{'n': 3, 's': 'a'}]
    """
    try:
        body = ast.parse(where.strip(), mode="eval").body
    except SyntaxError as error:
        raise InputError(f"--corpus.where {where!r} is not an expression: {error.msg}") from error
    try:
        return rows.filter(_expression(body, rows.schema.names, where))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(f"--corpus.where {where!r} cannot be evaluated: {error}") from error


def _expression(node: ast.expr, names: list[str], where: str) -> Any:
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = [_expression(value, names, where) for value in values]
            combined = parts[0]
            for part in parts[1:]:
                combined = combined & part if isinstance(op, ast.And) else combined | part
            return combined
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_expression(operand, names, where)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return pc.scalar(-value)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            if isinstance(op, (ast.In, ast.NotIn)):
                if not isinstance(right, (ast.List, ast.Tuple)):
                    raise InputError(f"--corpus.where {where!r}: `in` needs a list, as in speaker in ['a', 'b']")
                values = [ast.literal_eval(item) for item in right.elts]
                inside = _expression(left, names, where).isin(values)
                return inside if isinstance(op, ast.In) else ~inside
            if type(op) in _COMPARE:
                one, other = _expression(left, names, where), _expression(right, names, where)
                return getattr(one, _COMPARE[type(op)])(other)
        case ast.Constant(value=value):
            return pc.scalar(value)
        case ast.Name(id=name):
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(names)}"
                raise InputError(f"--corpus.where {where!r}: there is no column {name}{hint}")
            return pc.field(name)
    raise InputError(
        f"--corpus.where {where!r}: {ast.unparse(node)} is not supported; use comparisons, in, and, or, not"
    )

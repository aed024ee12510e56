"""SIMD rows for numba: a fixed number of floats in vector registers, with operators, so that code reads like a formula.

Numba's vectorizer fails on short inner loops over two-dimensional arrays, so a `Row` asks for the vectors explicitly.
The width is part of the type and given by a tuple of that length; a function is compiled once for each width.
Operations are IEEE-exact and in a fixed order, so that results do not depend on the width of the machine's registers.
The only exception is `reciprocal_row`, whose last bit in float32 may differ between types of processors.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

_VECTOR_BITS = 512
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class Row(types.Type):
    """Numba type of `width` numbers of one float type, stored as vectors of power-of-two length."""

    def __init__(self, dtype: Any, width: int) -> None:
        self.dtype, self.width = dtype, width
        super().__init__(name=f"Row({dtype}, {width})")

    def lanes(self) -> list[int]:
        """Lengths of the vectors that hold the row, longest first: 40 float32 are 16 + 16 + 8."""
        lanes, left, length = [], self.width, _VECTOR_BITS // self.dtype.bitwidth
        while left:
            while length > left:
                length //= 2
            lanes.append(length)
            left -= length
        return lanes


@register_model(Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, row: Row) -> None:
        element = manager.lookup(row.dtype).get_value_type()
        super().__init__(manager, row, ir.LiteralStructType([ir.VectorType(element, n) for n in row.lanes()]))


@intrinsic
def zero_row(typing: Any, array: Any, width: Any) -> Any:
    """Row of zeros with the array's float type; `width` is a tuple of that length."""
    row = Row(array.dtype, len(width))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(row), None)

    return row(array, width), codegen


@intrinsic
def load_row(typing: Any, array: Any, index: Any, width: Any) -> Any:
    """Row `index` (unsigned) of an array of shape (rows, width), contiguous within a row."""
    row = Row(array.dtype, len(width))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = context.get_value_type(row).elements
        pointers = _part_pointers(context, builder, signature.args[0], args[0], args[1], parts)
        loads = [builder.load(pointer) for pointer in pointers]
        for load in loads:
            load.align = row.dtype.bitwidth // 8
        return _pack(builder, loads)

    return row(array, index, width), codegen


@intrinsic
def store_row(typing: Any, array: Any, index: Any, row: Any) -> Any:
    """Write a row into an array of shape (rows, width), contiguous within a row."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = _unpack(builder, args[2])
        pointers = _part_pointers(context, builder, signature.args[0], args[0], args[1], [part.type for part in parts])
        for part, pointer in zip(parts, pointers, strict=True):
            builder.store(part, pointer).align = row.dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.void(array, index, row), codegen


@intrinsic
def sum_row(typing: Any, row: Any) -> Any:
    """Sum of a row by repeated halving, in the same order on every machine."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = _unpack(builder, args[0])
        while len(parts) > 1 or parts[0].type.count > 1:
            first, *rest = parts
            if rest and rest[0].type.count == first.type.count:
                parts = [builder.fadd(first, rest[0]), *rest[1:]]
            else:
                parts = [builder.fadd(_half(builder, first, 0), _half(builder, first, 1)), *rest]
        return builder.extract_element(parts[0], _INT32(0))

    return row.dtype(row), codegen


@intrinsic
def sqrt_row(typing: Any, row: Any) -> Any:
    """Square root of each number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def sqrt(part: Any) -> Any:
            name = f"llvm.sqrt.v{part.type.count}{part.type.element.intrinsic_name}"
            function_type = ir.FunctionType(part.type, [part.type])
            return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), [part])

        return _pack(builder, [sqrt(part) for part in _unpack(builder, args[0])])

    return row(row), codegen


@intrinsic
def reciprocal_row(typing: Any, row: Any) -> Any:
    """1/z of each finite nonzero number; in float32 the processor's estimate and a Newton step, exact to about 1e-7."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def reciprocal(part: Any) -> Any:
            one = ir.Constant(part.type, [1.0] * part.type.count)
            return builder.fdiv(one, part, flags=("arcp", "nnan", "ninf", "contract", "reassoc", "nsz", "afn"))

        return _pack(builder, [reciprocal(part) for part in _unpack(builder, args[0])])

    return row(row), codegen


@intrinsic
def fma_row(typing: Any, left: Any, right: Any, addend: Any) -> Any:
    """`left * right + addend`, rounded once; each is a row or a number, and at least one is a row."""
    row = next(kind for kind in (left, right, addend) if isinstance(kind, Row))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def fma(*parts: Any) -> Any:
            kind = parts[0].type
            name = f"llvm.fma.v{kind.count}{kind.element.intrinsic_name}"
            function_type = ir.FunctionType(kind, [kind] * 3)
            return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), parts)

        operands = [
            _unpack(builder, value) if isinstance(kind, Row) else _broadcast(context, builder, value, kind, row)
            for value, kind in zip(args, signature.args, strict=True)
        ]
        return _pack(builder, [fma(*parts) for parts in zip(*operands, strict=True)])

    return row(left, right, addend), codegen


@intrinsic
def relu_row(typing: Any, row: Any) -> Any:
    """max(0, z) of each number; nan stays nan."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def relu(part: Any) -> Any:
            zero = ir.Constant(part.type, None)
            return builder.select(builder.fcmp_unordered(">", part, zero), part, zero)

        return _pack(builder, [relu(part) for part in _unpack(builder, args[0])])

    return row(row), codegen


@intrinsic
def sign_row(typing: Any, row: Any) -> Any:
    """Sign of each number: -1, 0 or 1; nan stays nan."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        def sign(part: Any) -> Any:
            zero, one, minus = (ir.Constant(part.type, [x] * part.type.count) for x in (0.0, 1.0, -1.0))
            negative = builder.select(builder.fcmp_ordered("<", part, zero), minus, part)
            return builder.select(builder.fcmp_ordered(">", part, zero), one, negative)

        return _pack(builder, [sign(part) for part in _unpack(builder, args[0])])

    return row(row), codegen


def _define_operator(function: Callable[[Any, Any], Any], instruction: str) -> None:
    """Define a Python operator for two rows, or for a row and a number."""

    @intrinsic
    def combine(typing: Any, left: Any, right: Any) -> Any:
        row = left if isinstance(left, Row) else right

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lefts, rights = (
                _unpack(builder, value) if isinstance(kind, Row) else _broadcast(context, builder, value, kind, row)
                for value, kind in zip(args, signature.args, strict=True)
            )
            return _pack(builder, [getattr(builder, instruction)(a, b) for a, b in zip(lefts, rights, strict=True)])

        return row(left, right), codegen

    @overload(function)
    def implementation(left, right):  # type: ignore[no-untyped-def]  # numba compares this signature with the lambda's
        if isinstance(left, Row) or isinstance(right, Row):
            return lambda left, right: combine(left, right)
        return None


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_function, _instruction)


def _unpack(builder: Any, row: Any) -> list[Any]:
    return [builder.extract_value(row, i) for i in range(len(row.type.elements))]


def _pack(builder: Any, parts: Sequence[Any]) -> Any:
    packed = ir.Constant(ir.LiteralStructType([part.type for part in parts]), ir.Undefined)
    for i, part in enumerate(parts):
        packed = builder.insert_value(packed, part, i)
    return packed


def _part_pointers(
    context: Any, builder: Any, array_type: Any, array: Any, index: Any, parts: Sequence[Any]
) -> list[Any]:
    """Pointers to the vectors that make up one row of an array, each typed as its vector."""
    view = context.make_array(array_type)(context, builder, array)
    stride = cgutils.unpack_tuple(builder, view.strides, 2)[0]
    index = builder.zext(index, stride.type) if index.type.width < stride.type.width else index
    data = builder.bitcast(view.data, ir.IntType(8).as_pointer())
    start = builder.bitcast(builder.gep(data, [builder.mul(index, stride)]), view.data.type)
    pointers, offset = [], 0
    for part in parts:
        pointers.append(builder.bitcast(builder.gep(start, [_INT64(offset)]), part.as_pointer()))
        offset += part.count
    return pointers


def _broadcast(context: Any, builder: Any, number: Any, kind: Any, row: Row) -> list[Any]:
    number = context.cast(builder, number, kind, row.dtype)
    parts = []
    for part in context.get_value_type(row).elements:
        empty = ir.Constant(part, ir.Undefined)
        first = builder.insert_element(empty, number, _INT32(0))
        everywhere = ir.Constant(ir.VectorType(_INT32, part.count), [0] * part.count)
        parts.append(builder.shuffle_vector(first, empty, everywhere))
    return parts


def _half(builder: Any, part: Any, which: int) -> Any:
    count = part.type.count // 2
    mask = ir.Constant(ir.VectorType(_INT32, count), list(range(which * count, (which + 1) * count)))
    return builder.shuffle_vector(part, ir.Constant(part.type, ir.Undefined), mask)

"""Reads pickles of plain values and numpy arrays without calling anything that they name.

A pickle from the internet may name any function, which unpickling calls. Even numpy's own functions are not safe: given
a made-up dtype, they take bytes of the file for addresses of objects. So a call to one of the few numpy functions that
an array needs is only recorded, and the array is made here from its bytes.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

_ARRAY, _BUFFER, _SCALAR = "multiarray._reconstruct", "numeric._frombuffer", "multiarray.scalar"
_RECORDED = {
    **{f"numpy.{core}.{function}": function for core in ("core", "_core") for function in (_ARRAY, _BUFFER, _SCALAR)},
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "_codecs.encode": "encode",  # Python 3 writes bytes so in Python 2's protocol
}


def load_plain(content: bytes) -> dict[str, Any]:
    """The dictionary in a pickle, with its arrays, and its lists of plain values and numpy scalars.

    Raises:
        ValueError: The pickle names anything else, or is not a dictionary of these.
        Exception: Whatever unpickling raises on a torn file.
    """
    values = _Reader(io.BytesIO(content), encoding="latin1").load()  # as numpy's documentation has it for Python 2
    if not isinstance(values, dict):
        raise ValueError(f"a dictionary is required, got a pickle of {type(values).__name__}")
    return {
        key: [_made(item) for item in value] if isinstance(value, list) else _made(value)
        for key, value in values.items()
    }


class _Recorded:
    """A call that a pickle makes, with the state that it then gives to the result."""

    def __init__(self, function: str, arguments: tuple[Any, ...]) -> None:
        self.function, self.arguments, self.state = function, arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., _Recorded]:
        function = _RECORDED.get(f"{module}.{name}")
        if function is None:
            raise ValueError(f"a pickle that names {module}.{name}, which no data need, is not loaded")
        # a new function each time: a pickle can change the attributes of what it names
        return lambda *arguments: _Recorded(function, arguments)


def _made(value: Any) -> Any:
    """The array or number of a recorded call; any other value as it is."""
    if not isinstance(value, _Recorded):
        return value
    order: Any = "C"
    if value.function == _ARRAY and value.state is not None:
        _, shape, dtype, is_fortran, content = value.state
        order = "F" if is_fortran else "C"
    elif value.function == _BUFFER:
        content, dtype, shape, order = value.arguments
    elif value.function == _SCALAR:
        (dtype, content), shape = value.arguments, ()
    else:
        raise ValueError(f"a pickle whose data are made by {value.function} is not loaded")
    plain = _dtype(dtype)
    return np.frombuffer(_bytes(content), plain).reshape(shape, order=order)[()]


def _dtype(recorded: Any) -> np.dtype[Any]:
    """A recorded dtype, which has to be of plain numbers."""
    code, order = recorded.arguments[0], recorded.state[1]
    if not (isinstance(code, str) and re.fullmatch(r"[biuf]\d", code) and order in ("<", ">", "|")):
        raise ValueError(f"arrays of numbers are required, got {order!r}{code!r}")
    return np.dtype(code).newbyteorder(order)


def _bytes(content: Any) -> Any:
    """The bytes of an array, as each protocol writes them."""
    if isinstance(content, _Recorded) and content.function == "encode":
        content, encoding = content.arguments
        if encoding != "latin1":
            raise ValueError(f"bytes are written as latin1, got {encoding!r}")
    return content.encode("latin1") if isinstance(content, str) else content

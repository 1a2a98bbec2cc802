"""The columns that a source has of its own, kept beside the rows that are predicted."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, List

from hf_multimodal.data.rows import class_names_of_cells


def own_columns(raw: Dataset) -> pa.Table:
    """Take all columns of a source as they can stand in a table of predictions.

    No cell is copied but those of class numbers, which become names. Of an image held as bytes its path is kept, and
    other columns that hold bytes are left out.

    Args:
        raw: The source as read.

    Returns:
        Its columns, a row for each of its rows.

    Example:

    >>> own_columns(Dataset.from_dict({"price": [3, 4], "photo": [b"...", b"..."]})).column_names
    ['price']
    """
    table = raw.with_format("arrow")[:]
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column, feature = table[name], raw.features[name]
        inner = feature.feature if isinstance(feature, List) else feature
        if isinstance(inner, ClassLabel):
            columns[name] = pa.array(class_names_of_cells(feature, column.to_pylist())[0])
        elif pa.types.is_struct(column.type) and {field.name for field in column.type} == {"bytes", "path"}:
            columns[name] = pc.struct_field(column, "path")
        elif not _holds_bytes(column.type):
            columns[name] = column
    return pa.table(columns)


def _holds_bytes(kind: pa.DataType) -> bool:
    inner = [kind.field(place).type for place in range(kind.num_fields)]
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or any(map(_holds_bytes, inner))

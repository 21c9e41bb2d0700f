"""Write a safetensors file tensor by tensor, so that no more than one is ever in memory.

The safetensors library reads lazily but writes only from a complete dictionary. The format itself is short: an 8-byte
little-endian header length, a JSON header with each tensor's dtype, shape and byte range, then the bytes.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from spunge.core.files import whole_file

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write(
    path: str | os.PathLike,
    layout: Mapping[str, tuple[torch.Size, torch.dtype]],
    tensors: Iterable[tuple[str, torch.Tensor]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write `tensors`, in the order of `layout`, to `path` as one safetensors file.

    `layout` maps each name to its shape and dtype and must be known beforehand; a tensor that comes out of order or
    with another shape or dtype raises ValueError. The same input gives the same bytes.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, (shape, dtype) in layout.items():
        size = shape.numel() * dtype.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format asks for 8-byte alignment of the data

    with whole_file(Path(path)) as temporary, open(temporary, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        expected = iter(layout.items())
        for name, tensor in tensors:
            if (name, (tensor.shape, tensor.dtype)) != (following := next(expected, None)):
                raise ValueError(
                    f"{name} with {tuple(tensor.shape)} {tensor.dtype} does not follow the layout: {following}"
                )
            file.write(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
        if missing := next(expected, None):
            raise ValueError(f"the tensors ended before {missing[0]}")
        file.flush()
        os.fsync(file.fileno())

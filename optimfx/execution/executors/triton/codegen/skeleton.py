"""The parts of a kernel that are the same for every rule."""

from __future__ import annotations

HEAD = """# {names}

import triton
import triton.language as tl

STAGES = {stages}
READS = {reads}
"""

PLACE = """
@triton.jit
def column_pointer(table, column, tensors, tensor, dtype: tl.constexpr, ALIGN: tl.constexpr):
    address = tl.load(table + column * tensors + tensor)
    # A hint on the pointer: on the integer it would be lost, and every access be of one number.
    return tl.multiple_of(address.to(tl.pointer_type(dtype)), ALIGN)


@triton.jit
def float64_of(bits):
    # As an argument, a Python float would be rounded to float32.
    return bits.to(tl.int64).to(tl.float64, bitcast=True)
"""

CHUNK = """

@triton.jit
def {kernel}_chunk({names}, offsets, mask):
    {statements}
"""

BEGIN = """

@triton.jit(do_not_specialize={unspecialized})
def {kernel}({arguments}, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    program = tl.program_id(0)
    tensor = tl.load(tensor_of + program)
    begin = tl.load(chunk_of + program).to(tl.int64) * blocks * BLOCK
    numel = tl.load(numels + tensor)
    norms = hyper + {tensors} * width + tensor
    sums = hyper + {tensors} * width + {norms} * tensors + program
    hyper += tensor % width
    {statements}
"""
"""Which elements a program takes. Addresses come first, then scalars: so that neither waits for the other's turn."""

ONCE = """\
    offsets = begin + tl.arange(0, BLOCK)
    # A mask, were it there for whole blocks too, would make every access one of a single number.
    if begin + BLOCK <= numel:
        {kernel}_chunk({names}, offsets, None)
    else:
        {kernel}_chunk({names}, offsets, offsets < numel)
"""

REPEATEDLY = """\
    end = tl.minimum(begin + blocks * BLOCK, numel)
    {zeros}
    while begin + BLOCK <= end:
        {new} = {kernel}_chunk({names}, begin + tl.arange(0, BLOCK), None)
        {add}
        begin += BLOCK
    if begin < end:
        offsets = begin + tl.arange(0, BLOCK)
        {new} = {kernel}_chunk({names}, offsets, offsets < end)
        {add}
    {stores}
"""

TOTAL = """

@triton.jit(do_not_specialize=["hyper", "begins", "width", "tensors", "programs", "first", "stride"])
def total(hyper, begins, width, tensors, programs, first, stride, BLOCK: tl.constexpr):
    tensor = tl.program_id(0)
    norm = tl.program_id(1)
    norms = hyper + {tensors} * width
    sums = norms + {norms} * tensors + norm * programs
    begin = tl.load(begins + tensor * stride)
    end = tl.load(begins + (tensor + 1) * stride)
    parts = tl.zeros([BLOCK], tl.float64)
    while begin < end:
        places = begin + tl.arange(0, BLOCK)
        parts += tl.load(sums + places, mask=places < end, other=0.0)
        begin += BLOCK
    tl.store(norms + (first + norm) * tensors + tensor, {root}(tl.sum(parts)))
"""

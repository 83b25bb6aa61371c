"""Networks as plain C99 for microcontrollers: a file of Larq Compute Engine in, C out.

`graph` reads a file as steps and fuses them, `arena` plans their memory, `source`
writes them with the functions of `kernels.c`; `compiler` runs and measures the result,
`checking` compares it with Larq Compute Engine's.
"""

from larq_nobn.deploy.c.checking import check_c
from larq_nobn.deploy.c.export import CLayer, CReport, to_c

__all__ = ["CLayer", "CReport", "check_c", "to_c"]

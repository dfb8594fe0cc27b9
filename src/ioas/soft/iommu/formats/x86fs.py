"""First-stage page tables as VT-d walks them: x86-64's own, with 4 or 5 levels.

Intel Virtualization Technology for Directed I/O, Architecture Specification, section 3.6 "First-Stage Translation" and
9.9 "First-Stage Paging Entries": P at bit 0, R/W at bit 1, U/S at bit 2, A at bit 5, D at bit 6, PS at bit 7 (2 MiB and
1 GiB pages), the address from bit 12. Requests are user-level ones as a rule, so that U/S must be set all the way.
"""

from __future__ import annotations

P = 1 << 0
RW = 1 << 1
US = 1 << 2
A = 1 << 5
D = 1 << 6
PS = 1 << 7
ADDRESS = (1 << 52) - (1 << 12)
LEVEL_BITS = 9
INDEX_MASK = (1 << LEVEL_BITS) - 1
PAGE_LG2 = 12
LAST_LEAF_LEVEL = 2
LEVELS = {48: 4, 57: 5}
"""Levels of the tables by bits of IOVA."""

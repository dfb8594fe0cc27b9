"""What any host has to do, as tests: `ioas.SoftHost`, `ioas.KernelHost`, and whatever answers the same calls.

Run it with ``pytest --pyargs ioas.testing.suite`` (see `ioas.testing.plugin` for the options). Nothing here knows which
host it talks to. What a host or a device does not have is found out by trying, and skipped with the reason. Numbers of
an errno stand for themselves where a typed exception has no name for the case.

The device is edu for the tests of DMA and interrupts, any PCI function for the others.
"""

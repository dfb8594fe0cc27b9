"""The real Linux 7.3 as a reference: a guest that runs a command beside an IOMMU and devices for VFIO.

`kernels` builds (config.py, kernel.toml: which options and why), `toolbox` finds or fetches QEMU and what building
takes, `guest` is the machine, `session` one run of it, and init.py what runs first in the guest.
"""

"""PCI functions modelled in Python, one file each, written against `ioas.soft.pci` alone.

Models outside of this repository register by entry point, group "ioas.devices".
"""

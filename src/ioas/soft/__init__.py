"""The software host: a machine with an IOMMU, made of objects."""

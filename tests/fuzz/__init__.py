"""Structure-aware fuzzing of iommufd's dispatcher, in process: `make fuzz`, and a little of it in `make test`."""

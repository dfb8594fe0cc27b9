"""The software host against the real kernel, call for call."""

"""Ways to provoke every refusal of tests/conformance/refusals.txt, each with the culprit that must be named."""

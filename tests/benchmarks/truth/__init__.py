"""The parts of tests/benchmarks/ground_truth.py: whole networks trained, and what predicts them."""

"""Helpers of the tests, one module a subject. `programs/` holds programs that tests start."""

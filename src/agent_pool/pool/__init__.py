"""The pool: which caller gets which worker, and how the worker's answer comes back."""

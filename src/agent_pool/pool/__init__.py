"""The pool: who gets which worker, and the worker's answer brought back."""

"""The pool on several machines, by Ray."""

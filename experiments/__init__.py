"""The programs that people run; each is one command, ``python -m experiments.NAME``."""

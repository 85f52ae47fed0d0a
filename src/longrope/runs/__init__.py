"""The files of a run directory. Nothing else writes them.

In a launch of several processes the main one reads and writes for all: every process makes the same call, and gets the
same result or the same error. Callers need no ``on_main`` of their own.
"""

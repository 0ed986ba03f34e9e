"""The room algorithms, pure: values in, values out. No clock, randomness, log or I/O.

Functions that need events not known beforehand are generators: they yield a set of event IDs and
are sent a mapping of those that were found.
"""

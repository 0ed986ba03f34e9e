"""`isthmus demo`: real servers as child processes, scripted people, and a view of what they say.

The scenario tests use the same servers and the same people.
"""

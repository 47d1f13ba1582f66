"""The checks behind the exercises, one module a notebook.

A check never compares with a solution: it tests properties and planted truth, so that any right
answer passes, and a wrong one is told which property fails and what the likely mistake is.
"""

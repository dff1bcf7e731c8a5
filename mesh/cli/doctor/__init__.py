"""`mesh doctor`: what is wrong with this installation, and what to do about it.

A command of its own, not one of `mesh ctl`: those ask the registry of a mesh, this one also looks where there is none.
Each check is one function that returns findings (finding.py); command.py lists them.
"""

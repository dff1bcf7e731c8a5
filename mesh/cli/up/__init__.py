"""`mesh up` and what looks after it: `mesh status`, `mesh down`, `mesh config`.

settings.py: the flags. mesh_file.py: mesh.yaml. Both become a plan (plan.py), which the supervisor (supervisor.py) runs
as children (children.py) and tells of in a file (record.py), by which the other commands find it.
"""

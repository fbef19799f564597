"""Machines that are not here: what their chips can do, and what a program compiled for them says.

`topology` names machines of known `chips`; a program that was compiled for them is read (`program`)
and its time predicted (`predict`). `jcls.tools.compile` compiles, in a process of its own.
"""

"""Machines that are not here: compile the very steps of a run for them, and predict.

A topology (`topology`) of known chips (`chips`) is compiled for (`compile`, in a process of its
own), the compiled program is read (`program`) and its time predicted (`predict`).
"""

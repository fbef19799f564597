"""Devices and processes: the mesh and its compiler; joining, comparing and watching each other."""

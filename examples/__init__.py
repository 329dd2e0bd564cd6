"""Worlds that ship with the project, small enough to try everything on."""

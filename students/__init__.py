"""Students: thin stock architectures, a start from an upstream's layers, and the folder that is published."""

from students.waveform import build_student, initialise, make_student, start

__all__ = ["build_student", "initialise", "make_student", "start"]

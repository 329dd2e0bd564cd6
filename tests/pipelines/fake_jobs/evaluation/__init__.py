"""A stand-in for the job of this name: in the folder it starts in, it is found first."""

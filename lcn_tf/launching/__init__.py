"""The processes of one job of several workers: on this machine, and on those that a scheduler has given."""

"""Arm's compiler Vela as a referee: the int8 form of a network as a TensorFlow Lite file, and its cycles by layer."""

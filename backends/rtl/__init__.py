"""Cycle models held against hardware: a unit as Verilog, simulated cycle by cycle."""

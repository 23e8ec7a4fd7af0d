"""Reinforcement-learning agents in the configurations of the papers."""

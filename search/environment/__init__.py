"""The environment of reinforcement learning: observations, actions, rewards."""

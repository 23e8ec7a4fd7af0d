"""What samples are kept as: arrays, images, sounds, ids of tokens."""

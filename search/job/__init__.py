"""From a network to a quantized file: the stages of a job, and one call for all of them."""

"""What a network costs on a target: targets, cost tables, delay files, fitting and measuring."""

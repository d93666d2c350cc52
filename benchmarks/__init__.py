"""Measurements that anyone can repeat: commands in README.md, results in results/."""

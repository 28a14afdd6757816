"""Hierarchical modular optimisation: networks grown of small modules that complement each other.

Yamins et al. 2014, Performance-optimized hierarchical models predict neural responses in higher
visual cortex. There the modules' filters are sampled; here modules are sampled and briefly trained.
"""

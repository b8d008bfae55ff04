"""The science of finding an architecture: pure functions, no I/O.

Littwin et al., *Collegial Ensembles* (NeurIPS 2020) is the source of the method; ``docs/science.md`` derives what goes
beyond it. Importing this package, its specs and its results does not load torch.
"""

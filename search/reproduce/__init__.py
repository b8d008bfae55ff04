"""The figures and tables of Littwin et al. 2020 on architecture search."""

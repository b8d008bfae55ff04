"""The families of networks that collegium has itself: one file each, named in ``collegium.search.networks.family``."""

"""Search by measuring: the whole kernel of a module at hand, as it is and regrouped, at initialization."""

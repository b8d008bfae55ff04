"""Networks of which several parts are grouped, each by a search of its own."""

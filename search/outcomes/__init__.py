"""How a search ended: what it is judged by, the rules, and the outcome."""

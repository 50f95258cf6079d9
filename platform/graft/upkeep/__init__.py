"""Looking after a store: what nothing needs, what is damaged, and copies of it elsewhere."""

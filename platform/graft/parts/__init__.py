"""Work in parts, each done once by whatever process has its turn: on Ray, and how far it is."""

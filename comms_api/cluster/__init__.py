"""The nodes: which are live, in what state, and which should serve agents. There is no leader."""
